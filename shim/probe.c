// Probes. Calls KVM_CHECK_EXTENSION, landlock_create_ruleset, seccomp, prctl, io_uring_setup,
// io_uring_register, clone, unshare.
#include "probe.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Newer than the oldest headers this builds with.
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif

#define EXTENSION(name) {name, #name}

const struct probe_extension probe_extensions[] = {
    EXTENSION(KVM_CAP_IRQCHIP),
    EXTENSION(KVM_CAP_USER_MEMORY),
    EXTENSION(KVM_CAP_SET_TSS_ADDR),
    EXTENSION(KVM_CAP_SET_IDENTITY_MAP_ADDR),
    EXTENSION(KVM_CAP_EXT_CPUID),
    EXTENSION(KVM_CAP_PIT2),
    EXTENSION(KVM_CAP_IMMEDIATE_EXIT),
    EXTENSION(KVM_CAP_NR_VCPUS),
    EXTENSION(KVM_CAP_MAX_VCPUS),
    EXTENSION(KVM_CAP_NR_MEMSLOTS),
    EXTENSION(KVM_CAP_TSC_DEADLINE_TIMER),
    EXTENSION(KVM_CAP_ADJUST_CLOCK),
    EXTENSION(KVM_CAP_KVMCLOCK_CTRL),
    EXTENSION(KVM_CAP_X2APIC_API),
    EXTENSION(KVM_CAP_IRQFD),
    EXTENSION(KVM_CAP_IOEVENTFD),
    EXTENSION(KVM_CAP_SPLIT_IRQCHIP),
    EXTENSION(KVM_CAP_DIRTY_LOG_RING),
    EXTENSION(KVM_CAP_USER_MEMORY2),
    EXTENSION(KVM_CAP_GUEST_MEMFD),
};

const size_t probe_extension_count = sizeof probe_extensions / sizeof *probe_extensions;

int probe_extension(int kvm, int number) {
  int answer = ioctl(kvm, KVM_CHECK_EXTENSION, number);
  return answer < 0 ? 0 : answer;
}

int probe_landlock(int *error) {
  long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  *error = version < 0 ? errno : 0;
  return version < 0 ? 0 : (int)version;
}

static bool has_action(uint32_t action) {
  return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

unsigned probe_seccomp(void) {
  return (has_action(SECCOMP_RET_KILL_PROCESS) ? PROBE_KILL : 0) |
         (has_action(SECCOMP_RET_TRAP) ? PROBE_TRAP : 0) |
         (has_action(SECCOMP_RET_LOG) ? PROBE_LOG : 0);
}

int probe_uring(void) {
  struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED};
  struct io_uring_restriction read = {
      .opcode = IORING_RESTRICTION_SQE_OP,
      .sqe_op = IORING_OP_READV,
  };
  int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
  if (ring < 0) return errno;
  long done = syscall(SYS_io_uring_register, ring, IORING_REGISTER_RESTRICTIONS, &read, 1);
  int error = done < 0 ? errno : 0;
  close(ring);
  return error;
}

// --- Namespaces ---------------------------------------------------------------------------------

#define STACK_BYTES (64 * 1024)

const struct probe_namespace probe_namespaces[PROBE_NAMESPACES] = {
    {"user", CLONE_NEWUSER}, {"pid", CLONE_NEWPID}, {"mount", CLONE_NEWNS},
    {"net", CLONE_NEWNET},   {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS},
    {"cgroup", CLONE_NEWCGROUP},
};

struct trial {
  int made;    // those the child begins in
  int *errors; // by probe_namespaces
};

/** In the child, which shares this process's memory: takes every other namespace by itself. */
static int take_namespaces(void *argument) {
  const struct trial *trial = argument;
  for (unsigned i = PROBE_NAMESPACES; i-- > 0;) { // the user's last: root has less after it
    int flag = probe_namespaces[i].flag;
    if (!(trial->made & flag)) trial->errors[i] = unshare(flag) ? errno : 0;
  }
  _exit(0);
}

void probe_try_namespaces(int errors[PROBE_NAMESPACES]) {
  const int made = geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWUSER | CLONE_NEWPID;
  struct trial trial = {.made = made, .errors = errors};
  sigset_t all, mask;
  uint8_t *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  for (unsigned i = 0; i < PROBE_NAMESPACES; i++) errors[i] = ENOMEM;
  if (stack == MAP_FAILED) return;
  for (unsigned i = 0; i < PROBE_NAMESPACES; i++) errors[i] = 0;
  sigfillset(&all); // a handler of Node's must not run on the child's stack
  sigprocmask(SIG_SETMASK, &all, &mask);
  pid_t pid = clone(take_namespaces, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD | made,
                    &trial);
  int error = pid < 0 ? errno : 0;
  if (pid > 0) waitpid(pid, NULL, 0);
  sigprocmask(SIG_SETMASK, &mask, NULL);
  munmap(stack, STACK_BYTES);
  for (unsigned i = 0; i < PROBE_NAMESPACES && error; i++) errors[i] = error;
}

bool probe_no_new_privs(void) {
  return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
}
