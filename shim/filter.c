// seccomp. Calls seccomp, sigaction, getpid; after a forbidden call write and _exit.
//
// A forbidden call raises SIGSYS before it does anything: the handler says which call it was and
// ends the process. Calls that are only ever an attack kill the process at once.
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/vhost.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "abi.h"
#include "filters.h"
#include "terminal.h"

#define EXIT_INTERNAL 5
#define ROLE_COUNT (sizeof filters / sizeof *filters)

static uint32_t mode;
static int host_fd;
static __thread uint32_t thread_role; // the first thread's is CELL_ROLE_START
static __thread uint32_t thread_index;

struct violation {
  uint32_t type, length; // of the message
  uint32_t call, role, index, reserved;
  uint64_t arguments[CELL_VIOLATION_ARGUMENT_COUNT];
};

_Static_assert(sizeof(struct violation) == 8 + CELL_VIOLATION_BYTES, "violation");
_Static_assert(offsetof(struct violation, arguments) == 8 + CELL_VIOLATION_ARGUMENTS, "arguments");

static char *add_text(char *to, const char *text) {
  while (*text) *to++ = *text++;
  return to;
}

static char *add_number(char *to, uint32_t number) {
  if (number >= 10) to = add_number(to, number / 10);
  *to++ = (char)('0' + number % 10);
  return to;
}

/** The line that a host would make of it. */
static size_t describe(char *line, const struct violation *violation) {
  static const char *const names[ROLE_COUNT] = {
      [CELL_ROLE_START] = "start",
      [CELL_ROLE_VCPU] = "vcpu ",
      [CELL_ROLE_IO] = "io",
      [CELL_ROLE_CONSOLE] = "console",
      [CELL_ROLE_NET] = "net",
  };
  char *to = add_text(line, "faraday-cell: ended by its seccomp filter: system call ");
  to = add_text(add_number(to, violation->call), " on thread ");
  to = add_text(to, names[violation->role]);
  if (violation->role == CELL_ROLE_VCPU) to = add_number(to, violation->index);
  return (size_t)(add_text(to, "\n") - line);
}

static void on_violation(int number, siginfo_t *info, void *context) {
  const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const struct violation violation = {
      .type = CELL_VIOLATION,
      .length = CELL_VIOLATION_BYTES,
      .call = (uint32_t)info->si_syscall,
      .role = thread_role,
      .index = thread_index,
      .arguments = {(uint64_t)registers[REG_RDI], (uint64_t)registers[REG_RSI],
                    (uint64_t)registers[REG_RDX], (uint64_t)registers[REG_R10],
                    (uint64_t)registers[REG_R8], (uint64_t)registers[REG_R9]},
  };
  char line[128];
  ssize_t written;
  (void)number;
  written = host_fd >= 0 ? write(host_fd, &violation, sizeof violation) : -1;
  // By hand, or with the host gone, nobody else says it.
  if (written < 0) written = write(STDERR_FILENO, line, describe(line, &violation));
  (void)written;
  terminal_restore();
  _exit(EXIT_INTERNAL);
}

void filter_init(uint32_t seccomp, int host) {
  struct sigaction action = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO};
  mode = seccomp;
  host_fd = host;
  if (seccomp == CELL_SECCOMP_ENFORCE) sigaction(SIGSYS, &action, NULL);
}

static bool denies(const struct sock_filter *instruction) {
  return instruction->code == (BPF_RET | BPF_K) && (instruction->k == SECCOMP_RET_TRAP ||
                                                    instruction->k == SECCOMP_RET_KILL_PROCESS);
}

/** Installs a role's filter for the calling thread; 0 or an errno. */
static int install(uint32_t role) {
  struct sock_filter program[FILTER_INSTRUCTIONS_MAX];
  const struct sock_fprog whole = {.len = filters[role].length, .filter = program};
  if (mode == CELL_SECCOMP_OFF) return 0;
  memcpy(program, filters[role].program, whole.len * sizeof *program);
  int process_at = filters[role].process_at;
  if (process_at >= 0) program[process_at].k = (uint32_t)getpid();
  for (unsigned i = 0; i < whole.len && mode == CELL_SECCOMP_LOG; i++) {
    if (denies(&program[i])) program[i].k = SECCOMP_RET_LOG;
  }
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole) == 0 ? 0 : errno;
}

int filter_start(struct failure *failure) {
  int error = install(CELL_ROLE_START);
  return error ? fail(failure, error, "seccomp", "%s", "this kernel takes no filter") : 0;
}

int filter_thread(uint32_t role, uint32_t index) {
  thread_role = role;
  thread_index = index;
  return install(role);
}
