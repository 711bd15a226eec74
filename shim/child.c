// Starting a cell. Calls socketpair, open, fcntl(F_DUPFD_CLOEXEC), posix_spawn, waitpid.
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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

static int start(struct child *child, const char *path, char *const *arguments,
                 const int *copies, unsigned count, bool session, struct failure *failure) {
  char *const environment[] = {NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_init(&actions);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, session ? flags | POSIX_SPAWN_SETSID : flags);
  int error = posix_spawn_file_actions_addchdir_np(&actions, "/");
  for (unsigned i = 0; i < count && error == 0; i++) {
    error = posix_spawn_file_actions_adddup2(&actions, copies[i], (int)i);
  }
  if (error == 0) {
    error = posix_spawn(&child->pid, path, &actions, &attributes, arguments, environment);
  }
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error ? fail(failure, error, "posix_spawn", "%s", path) : 0;
}

int child_start(struct child *child, const char *path, char *const *arguments,
                  const int *descriptors, unsigned count, bool session,
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
  if (status == 0) status = start(child, path, arguments, copies, count, session, failure);
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
