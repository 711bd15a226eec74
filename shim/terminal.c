// The terminal. Calls ioctl(TCGETS, TCSETS), tcgetpgrp, kill, raise, sigaction, atexit.
#include "terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

// struct termios of asm-generic/termbits.h, which the C library's own hides. tcsetattr(3) would
// read the attributes back, by a call that a confined cell may not make.
struct attributes {
  uint32_t iflag, oflag, cflag, lflag;
  uint8_t line, cc[19];
};

// Written by one thread, with `raw_fd` last; read in signal handlers.
static struct attributes cooked;
static struct attributes raw;
static int raw_fd = -1;
static int remembered_fd = -1; // `cooked` is of this one, which another process makes raw
static pid_t own_group;

/** Does not stop the process when it is in the background. */
static int set_attributes(int fd, const struct attributes *attributes) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  int status;
  do {
    status = ioctl(fd, TCSETS, attributes);
  } while (status != 0 && errno == EINTR);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

static void on_abort(int number) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  terminal_restore();
  // Returning from a signal that abort() did not send must not save the process.
  sigaction(number, &standard, NULL);
  raise(number);
}

static void on_continue(int number) {
  (void)number;
  int saved_errno = errno;
  int fd = __atomic_load_n(&raw_fd, __ATOMIC_SEQ_CST);
  if (fd < 0) fd = __atomic_load_n(&remembered_fd, __ATOMIC_SEQ_CST);
  // Continued in the background: the terminal belongs to somebody else until the next SIGCONT.
  if (fd >= 0 && tcgetpgrp(fd) == own_group) set_attributes(fd, &raw);
  errno = saved_errno;
}

/** True where the terminal is ours to use but lent to another job of the shell's. */
static bool in_background(int fd) {
  pid_t owner = tcgetpgrp(fd);
  return owner >= 0 && owner != own_group;
}

/** Fills in `cooked`, which is put back at exit, and `raw`. */
static int remember(int fd, struct failure *failure) {
  static bool at_exit;
  if (ioctl(fd, TCGETS, &cooked)) return fail_errno(failure, "TCGETS");
  // What cfmakeraw(3) does, but that output stays processed: messages of the host on the same
  // terminal begin at column 1.
  raw = cooked;
  raw.iflag &= ~(uint32_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  raw.oflag |= OPOST;
  raw.lflag &= ~(uint32_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
  raw.cflag = (raw.cflag & ~(uint32_t)(CSIZE | PARENB)) | CS8;
  raw.cc[VMIN] = 1;
  raw.cc[VTIME] = 0;
  if (!at_exit && atexit(terminal_restore) != 0) return fail(failure, ENOMEM, "atexit", "%s", "");
  at_exit = true;
  return 0;
}

/** Waits until the terminal is ours to use. */
static int take(int fd, const char *call, struct failure *failure) {
  own_group = getpgrp();
  // What every program does that a shell starts with '&' and that wants its terminal: it stops
  // until it is brought to the foreground. Taking the terminal would make the shell's own raw.
  // The whole job stops, as when the terminal itself stops it: the cell's host is part of it.
  if (in_background(fd)) kill(0, SIGTTOU);
  if (in_background(fd)) return fail(failure, EIO, call, "another job has the terminal");
  return remember(fd, failure);
}

/** Raw again after a stop, since shells change a stopped job's terminal. */
static void follow(void) {
  struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
  sigaction(SIGCONT, &action, NULL);
}

static int make_raw(int fd, struct failure *failure) {
  struct sigaction action = {.sa_handler = on_abort, .sa_flags = SA_RESTART};
  struct sigaction now;
  __atomic_store_n(&raw_fd, fd, __ATOMIC_SEQ_CST);
  sigaction(SIGABRT, NULL, &now);
  if (now.sa_handler == SIG_DFL) sigaction(SIGABRT, &action, NULL); // else its owner restores
  if (set_attributes(fd, &raw) == 0) return 0;
  fail_errno(failure, "TCSETS");
  terminal_restore();
  return -1;
}

int terminal_remember(int fd, struct failure *failure) {
  if (remembered_fd == fd) return 0;
  if (raw_fd >= 0 || remembered_fd >= 0) {
    return fail(failure, EBUSY, "terminalRemember", "another terminal is in use already");
  }
  if (take(fd, "terminalRemember", failure)) return -1;
  __atomic_store_n(&remembered_fd, fd, __ATOMIC_SEQ_CST);
  follow();
  return 0;
}

int terminal_raw(int fd, struct failure *failure) {
  if (raw_fd == fd) return 0;
  if (raw_fd >= 0 || remembered_fd >= 0) {
    return fail(failure, EBUSY, "terminalRaw", "another terminal is in use already");
  }
  if (take(fd, "terminalRaw", failure)) return -1;
  follow();
  return make_raw(fd, failure);
}

int terminal_raw_for_host(int fd, struct failure *failure) {
  return remember(fd, failure) ? -1 : make_raw(fd, failure);
}

void terminal_restore(void) {
  int saved_errno = errno;
  // Exactly one caller gets a descriptor, should a signal or a second thread come in between.
  int other_fd = __atomic_exchange_n(&remembered_fd, -1, __ATOMIC_SEQ_CST);
  if (other_fd >= 0) set_attributes(other_fd, &cooked);
  int fd = __atomic_exchange_n(&raw_fd, -1, __ATOMIC_SEQ_CST);
  if (fd >= 0) set_attributes(fd, &cooked);
  // Its handlers stay: they do nothing now, and a confined cell may not change them any more.
  errno = saved_errno;
}
