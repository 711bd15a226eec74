// The watcher. Calls eventfd, timerfd_create, timerfd_settime, poll, read, write, sigaction, and
// starts one thread.
//
// Why a native thread: an idle guest keeps its vCPU's thread, which is also Node's, inside
// KVM_RUN. Nothing on that thread can notice a key or a signal.
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "abi.h"
#include "counter.h"

#define THREAD_STACK_BYTES (64 * 1024)

static const struct {
  int number;
  uint32_t event;
} watched[] = {
    {SIGINT, SHIM_EVENT_SIGINT},
    {SIGTERM, SHIM_EVENT_SIGTERM},
    {SIGHUP, SHIM_EVENT_SIGHUP},
};
#define WATCHED_COUNT (sizeof watched / sizeof *watched)

// A handler may run on any thread at any time, even while its watcher is being stopped. So what
// it touches is never freed: these bits, and an eventfd that stays open once it was needed.
static uint32_t signal_events;
static int signal_wake = -1;
static int signals_taken;
static struct sigaction before[WATCHED_COUNT];

static void on_signal(int number) {
  int saved_errno = errno;
  for (size_t i = 0; i < WATCHED_COUNT; i++) {
    if (watched[i].number == number) {
      __atomic_fetch_or(&signal_events, watched[i].event, __ATOMIC_SEQ_CST);
    }
  }
  counter_add(signal_wake);
  errno = saved_errno;
}

static int take_signals(struct failure *failure) {
  if (__atomic_exchange_n(&signals_taken, 1, __ATOMIC_SEQ_CST)) {
    return fail(failure, EBUSY, "createWatcher", "another watcher has the signals");
  }
  if (signal_wake < 0) signal_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signal_wake < 0) {
    __atomic_store_n(&signals_taken, 0, __ATOMIC_SEQ_CST);
    return fail_errno(failure, "eventfd");
  }
  __atomic_store_n(&signal_events, 0, __ATOMIC_SEQ_CST);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  for (size_t i = 0; i < WATCHED_COUNT; i++) sigaction(watched[i].number, &action, &before[i]);
  return 0;
}

static void give_signals_back(void) {
  for (size_t i = 0; i < WATCHED_COUNT; i++) {
    struct sigaction now;
    sigaction(watched[i].number, NULL, &now);
    // Somebody else's handler, installed in the meantime, stays.
    if (now.sa_handler == on_signal) sigaction(watched[i].number, &before[i], NULL);
  }
  __atomic_store_n(&signals_taken, 0, __ATOMIC_SEQ_CST);
}

/** First the bits, then the eventfd, then the kick: whoever wakes up finds what it is about. */
static void publish(struct watcher *watcher, uint32_t events) {
  __atomic_fetch_or(&watcher->events, events, __ATOMIC_SEQ_CST);
  counter_add(watcher->pending);
  pthread_mutex_lock(&watcher->lock);
  if (watcher->vcpu) vcpu_kick(watcher->vcpu);
  pthread_mutex_unlock(&watcher->lock);
}

static void *watch(void *argument) {
  struct watcher *watcher = argument;
  for (;;) {
    int armed = __atomic_load_n(&watcher->armed, __ATOMIC_SEQ_CST);
    // poll(2) skips negative descriptors.
    struct pollfd fds[] = {
        {.fd = watcher->wake, .events = POLLIN},
        {.fd = watcher->signals ? signal_wake : -1, .events = POLLIN},
        {.fd = armed ? watcher->input : -1, .events = POLLIN},
        {.fd = watcher->timer, .events = POLLIN},
    };
    if (poll(fds, sizeof fds / sizeof *fds, -1) < 0) continue; // EINTR: stopped and continued
    uint32_t events = 0;
    if (fds[0].revents) counter_drain(watcher->wake);
    if (__atomic_load_n(&watcher->stopping, __ATOMIC_SEQ_CST)) return NULL;
    if (fds[1].revents) {
      counter_drain(signal_wake);
      events |= __atomic_exchange_n(&signal_events, 0, __ATOMIC_SEQ_CST);
    }
    if (fds[2].revents) {
      // Disarmed until asked again: unread bytes and the end of input stay 'ready' for ever.
      __atomic_store_n(&watcher->armed, 0, __ATOMIC_SEQ_CST);
      events |= SHIM_EVENT_INPUT;
    }
    if (fds[3].revents) {
      counter_drain(watcher->timer); // a timer counts expirations just as an eventfd does
      events |= SHIM_EVENT_REMINDER;
    }
    if (events) publish(watcher, events);
  }
}

/** Starts the thread with every signal blocked, so that none is ever delivered to it. */
static int start_thread(struct watcher *watcher, struct failure *failure) {
  pthread_attr_t attributes;
  sigset_t all, mask;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &mask);
  int error = pthread_create(&watcher->thread, &attributes, watch, watcher);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_attr_destroy(&attributes);
  if (error) return fail(failure, error, "pthread_create", "cannot start the watcher's thread");
  watcher->started = true;
  pthread_setname_np(watcher->thread, "faraday-watch");
  return 0;
}

static int check_descriptor(int fd, const char *name, struct failure *failure) {
  if (fd < 0 || fcntl(fd, F_GETFD) >= 0) return 0;
  return fail(failure, errno, "fcntl", "%s is not open", name);
}

int watcher_start(struct watcher *watcher, struct vcpu *vcpu, int input, int output, bool signals,
                  struct failure *failure) {
  *watcher = (struct watcher){
      .vcpu = vcpu,
      .input = input,
      .output = output,
      .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
      .pending = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
      .timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
      .armed = 1,
  };
  pthread_mutex_init(&watcher->lock, NULL);
  if (watcher->wake < 0 || watcher->pending < 0) return fail_errno(failure, "eventfd");
  if (watcher->timer < 0) return fail_errno(failure, "timerfd_create");
  if (check_descriptor(input, "inputFd", failure)) return -1;
  if (check_descriptor(output, "outputFd", failure)) return -1;
  if (signals && take_signals(failure)) return -1;
  watcher->signals = signals;
  return start_thread(watcher, failure);
}

uint32_t watcher_take_events(struct watcher *watcher) {
  uint32_t events = __atomic_exchange_n(&watcher->events, 0, __ATOMIC_SEQ_CST);
  if (events) counter_drain(watcher->pending);
  return events;
}

void watcher_arm_input(struct watcher *watcher) {
  __atomic_store_n(&watcher->armed, 1, __ATOMIC_SEQ_CST);
  counter_add(watcher->wake);
}

int watcher_remind(struct watcher *watcher, uint32_t milliseconds, struct failure *failure) {
  const struct itimerspec once = {.it_value = {.tv_sec = milliseconds / 1000,
                                               .tv_nsec = milliseconds % 1000 * 1000000L}};
  if (timerfd_settime(watcher->timer, 0, &once, NULL) == 0) return 0;
  return fail_errno(failure, "timerfd_settime");
}

ssize_t watcher_read(const struct watcher *watcher, void *bytes, size_t count,
                     struct failure *failure) {
  struct pollfd fd = {.fd = watcher->input, .events = POLLIN};
  if (poll(&fd, 1, 0) <= 0) return WATCHER_NOTHING;
  ssize_t got = read(watcher->input, bytes, count);
  if (got >= 0) return got;
  if (errno == EAGAIN || errno == EINTR) return WATCHER_NOTHING;
  if (errno == EIO) return 0; // a terminal that hung up
  return fail_errno(failure, "read");
}

ssize_t watcher_write(struct watcher *watcher, const uint8_t *bytes, size_t count,
                      struct failure *failure) {
  size_t written = 0;
  while (written < count && watcher->output >= 0) {
    struct pollfd fds[] = {
        {.fd = watcher->output, .events = POLLOUT},
        {.fd = watcher->pending, .events = POLLIN},
    };
    // The bits decide, not the eventfd, which may have been drained with an older event.
    bool waiting = __atomic_load_n(&watcher->events, __ATOMIC_SEQ_CST) == 0;
    if (poll(fds, 2, waiting ? -1 : 0) < 0) continue;
    if (!fds[0].revents) return (ssize_t)written;
    // A pipe that is writable takes this much without blocking; the descriptor is shared with
    // other processes, so O_NONBLOCK is not ours to set.
    size_t chunk = count - written < PIPE_BUF ? count - written : PIPE_BUF;
    ssize_t moved = write(watcher->output, bytes + written, chunk);
    if (moved >= 0) {
      written += (size_t)moved;
      continue;
    }
    // The reader is gone, or its terminal hung up.
    if (errno == EPIPE || errno == EIO) return (ssize_t)count;
    if (errno != EAGAIN && errno != EINTR) return fail_errno(failure, "write");
  }
  return (ssize_t)count;
}

void watcher_detach(struct watcher *watcher) {
  pthread_mutex_lock(&watcher->lock);
  watcher->vcpu = NULL;
  pthread_mutex_unlock(&watcher->lock);
}

void watcher_stop(struct watcher *watcher) {
  if (watcher->started) {
    __atomic_store_n(&watcher->stopping, 1, __ATOMIC_SEQ_CST);
    counter_add(watcher->wake);
    pthread_join(watcher->thread, NULL);
  }
  if (watcher->signals) give_signals_back();
  if (watcher->wake >= 0) close(watcher->wake);
  if (watcher->pending >= 0) close(watcher->pending);
  if (watcher->timer >= 0) close(watcher->timer);
  pthread_mutex_destroy(&watcher->lock);
  *watcher = (struct watcher){
      .input = -1, .output = -1, .wake = -1, .pending = -1, .timer = -1};
}
