// Attacks on other processes, on the cell's own rights and limits, and code that is not its own.
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attack.h"
#include "tiny-program.h"

#define X32_BIT 0x40000000

// --- Other processes ----------------------------------------------------------------------------

int attack_ptrace(void) { return outcome(ptrace(PTRACE_SEIZE, known.victim, NULL, NULL)); }

int attack_process_vm_readv(void) {
  uint64_t word;
  const struct iovec here = {.iov_base = &word, .iov_len = sizeof word};
  const struct iovec there = {.iov_base = (void *)known.address, .iov_len = sizeof word};
  return outcome(process_vm_readv(known.parent, &here, 1, &there, 1, 0));
}

int attack_pidfd_getfd(void) {
  long process = syscall(SYS_pidfd_open, known.victim, 0);
  return process < 0 ? errno : outcome(syscall(SYS_pidfd_getfd, process, STDERR_FILENO, 0));
}

// SIGURG and not SIGCONT, which everybody may send within a session. tgkill is the one call by
// which the I/O thread may signal: threads of its own process.
int attack_kill(void) { return outcome(kill(known.victim, SIGURG)); }

int attack_tgkill(void) {
  return outcome(syscall(SYS_tgkill, known.victim, known.victim, SIGURG));
}

// --- New processes and new code -----------------------------------------------------------------

static char *const nothing[] = {NULL};

/** What is executed says itself that it was. */
int attack_execve(void) { return outcome(execve(known.program, nothing, nothing)); }

static int parent_of(long child) {
  if (child == 0) syscall(SYS_exit_group, 0);
  return outcome(child);
}

int attack_fork(void) { return parent_of(syscall(SYS_fork)); }

int attack_clone(void) { return parent_of(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

int attack_clone3(void) {
  struct clone_args plan = {.exit_signal = SIGCHLD};
  return parent_of(syscall(SYS_clone3, &plan, sizeof plan));
}

int attack_mprotect_exec(void) {
  static uint8_t page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
  return outcome(mprotect(page, sizeof page, PROT_READ | PROT_WRITE | PROT_EXEC));
}

int attack_mmap_exec(void) {
  void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? errno : 0;
}

int attack_memfd_exec(void) {
  int fd = memfd_create("program", MFD_CLOEXEC);
  if (fd < 0) return errno;
  if (write(fd, tiny_program, sizeof tiny_program) < 0) return errno;
  return outcome(syscall(SYS_execveat, fd, "", nothing, nothing, AT_EMPTY_PATH));
}

// --- Rights and limits --------------------------------------------------------------------------

int attack_setresuid(void) { return outcome(syscall(SYS_setresuid, 0, 0, 0)); }

/** That of core dumps, which the cell lowers to none in any case. */
int attack_raise_limit(void) {
  const struct rlimit more = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  return outcome(setrlimit(RLIMIT_CORE, &more));
}

int attack_map_memory(void) {
  const size_t bytes = 1 << 30;
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? errno : 0;
}

int attack_unshare(void) { return outcome(unshare(CLONE_NEWNET)); }

/** In which it would have all capabilities. */
int attack_user_namespace(void) {
  return parent_of(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
}

// --- The other doors into the kernel ------------------------------------------------------------

/** getpid of the 32-bit interface, whose calls have other numbers. */
int attack_int80(void) {
  long result = 20;
  __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
  return result < 0 ? (int)-result : 0;
}

/** getpid of the x32 interface. */
int attack_x32(void) { return outcome(syscall(SYS_getpid | X32_BIT)); }

// --- What is left to it -------------------------------------------------------------------------

/** Nothing that its host would understand. */
int attack_lie(void) {
  static const uint32_t message[2] = {77, 0};
  return outcome(write(control_fd, message, sizeof message));
}

/** Deaf to signals, and busy for ever. */
int attack_burn(void) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  tell("attack burn: OK\n");
  for (;;) __asm__ volatile("pause");
}
