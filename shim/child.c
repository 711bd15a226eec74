// Starting a cell. Calls socketpair, open, fcntl(F_DUPFD_CLOEXEC), clone, waitpid; in the child
// setsid, chdir, dup2, close_range, sigaction, execve.
//
// clone(2) and not posix_spawn(3), which is the same but makes no namespaces.
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child-outside.h"

#define STACK_BYTES (64 * 1024)
#define EXIT_FAILED 127

/** Copies of all descriptors, above every number that a child's will get. */
static int copy_up(const int *descriptors, unsigned count, int child_end, int *copies,
                   struct failure *failure) {
  for (unsigned i = 0; i < count; i++) {
    int from = descriptors[i] == CHILD_CONTROL ? child_end : descriptors[i];
    int null = -1;
    if (from == CHILD_NULL) from = null = open("/dev/null", O_RDWR | O_CLOEXEC);
    copies[i] = fcntl(from, F_DUPFD_CLOEXEC, (int)count);
    int number = errno == EINVAL ? EMFILE : errno; // past the limit of descriptors
    if (null >= 0) close(null);
    errno = number;
    if (copies[i] < 0) return fail_errno(failure, "fcntl");
  }
  return 0;
}

/** What the child needs; it runs in this process's memory until it executes the program. */
struct plan {
  const char *path;
  char *const *arguments;
  const int *copies;
  unsigned count;
  bool session, namespaces;
  bool own_user; // it is in a user namespace of its own
  pid_t pid;
  int error; // errno, or 0
};

/**
 * Rights in the namespace that end with execve otherwise, because no user number means anything
 * there: the cell makes the other namespaces by them, then drops them.
 */
static void keep_rights(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3];
  const int kept[] = {CAP_SYS_ADMIN, CAP_SETPCAP};
  if (syscall(SYS_capget, &header, rights)) return;
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    rights[0].inheritable |= CAP_TO_MASK(kept[i]);
  }
  syscall(SYS_capset, &header, rights);
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0);
  }
}

/** Between clone and execve: nothing here may touch what the rest of this process uses. */
static int become(void *argument) {
  struct plan *plan = argument;
  char *const environment[] = {NULL};
  const struct sigaction standard = {.sa_handler = SIG_DFL};
  sigset_t none;
  for (int number = 1; number < NSIG; number++) sigaction(number, &standard, NULL);
  if (plan->own_user) keep_rights();
  bool good = (!plan->session || setsid() >= 0) && chdir("/") == 0;
  for (unsigned i = 0; i < plan->count && good; i++) {
    good = dup2(plan->copies[i], (int)i) >= 0;
  }
  // Those that were left open to this process: nothing that the child reads first may name them.
  close_range(plan->count, ~0u, 0);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (good) execve(plan->path, plan->arguments, environment);
  plan->error = errno;
  _exit(EXIT_FAILED);
}

static pid_t clone_child(struct plan *plan, int namespaces) {
  uint8_t *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  sigset_t all, mask;
  if (stack == MAP_FAILED) return -1;
  sigfillset(&all); // a handler of Node's must not run on the child's stack
  pthread_sigmask(SIG_SETMASK, &all, &mask);
  int flags = CLONE_VM | CLONE_VFORK | SIGCHLD | namespaces;
  pid_t pid = clone(become, stack + STACK_BYTES, flags, plan);
  int number = errno;
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  munmap(stack, STACK_BYTES);
  errno = number;
  return pid;
}

/**
 * The child gets process numbers of its own where that is to be had: root makes them as it is,
 * everybody else needs a user namespace for it. What else the child leaves is its own affair.
 */
static void clone_outside(void *argument) {
  struct plan *plan = argument;
  int wanted = geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWUSER | CLONE_NEWPID;
  plan->own_user = plan->namespaces && wanted & CLONE_NEWUSER;
  plan->pid = plan->namespaces ? clone_child(plan, wanted) : -1;
  if (plan->pid < 0) {
    plan->own_user = false;
    plan->pid = clone_child(plan, 0);
  }
  if (plan->pid < 0) plan->error = errno;
}

static int start(struct child *child, struct plan *plan, struct failure *failure) {
  outside_run(clone_outside, plan);
  child->pid = plan->pid;
  errno = plan->error;
  if (child->pid < 0) return fail_errno(failure, "clone");
  if (plan->error == 0) return 0;
  while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR) {
  }
  return fail(failure, plan->error, "execve", "%s", plan->path);
}

int child_start(struct child *child, const char *path, char *const *arguments,
                const int *descriptors, unsigned count, bool session, bool namespaces,
                struct failure *failure) {
  int ends[2];
  int copies[CHILD_DESCRIPTORS_MAX];
  if (count > CHILD_DESCRIPTORS_MAX) {
    return fail(failure, EINVAL, "spawn", "%u descriptors, more than %d", count,
                CHILD_DESCRIPTORS_MAX);
  }
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
    return fail_errno(failure, "socketpair");
  }
  for (unsigned i = 0; i < count; i++) copies[i] = -1;
  int status = copy_up(descriptors, count, ends[1], copies, failure);
  struct plan plan = {
      .path = path,
      .arguments = arguments,
      .copies = copies,
      .count = count,
      .session = session,
      .namespaces = namespaces,
  };
  if (status == 0) status = start(child, &plan, failure);
  for (unsigned i = 0; i < count; i++) {
    if (copies[i] >= 0) close(copies[i]);
  }
  close(ends[1]);
  if (status) {
    close(ends[0]);
    return -1;
  }
  child->control = ends[0];
  return 0;
}

int child_reap(pid_t pid, int *status, struct failure *failure) {
  pid_t done;
  do {
    done = waitpid(pid, status, WNOHANG);
  } while (done < 0 && errno == EINTR);
  if (done < 0) return fail_errno(failure, "waitpid");
  return done == pid ? 1 : 0;
}
