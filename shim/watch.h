// Watches console input and signals on a thread of its own, and kicks a vCPU when one arrives.
// Also the console's descriptors: reading and writing that never hide an event.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "failure.h"
#include "vcpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct watcher {
  pthread_t thread;
  pthread_mutex_t lock; // guards `vcpu`
  struct vcpu *vcpu;    // NULL once detached
  int input;            // -1: none
  int output;           // -1: none
  int wake;             // eventfd towards the thread: stop, or look at the input again
  int pending;          // eventfd from the thread: readable while events wait
  int timer;            // timerfd of watcher_remind()
  bool signals;
  bool started;
  uint32_t events; // atomic: SHIM_EVENT_* bits not yet taken
  int armed;       // atomic: the thread looks at the input
  int stopping;    // atomic
};

/**
 * Starts the thread. `signals` takes SIGINT, SIGTERM and SIGHUP over, for one watcher of the
 * process at a time (EBUSY). EBADF for a descriptor that is not open. watcher_stop() also undoes
 * a failed start.
 */
int watcher_start(struct watcher *watcher, struct vcpu *vcpu, int input, int output, bool signals,
                  struct failure *failure);

/** Returns and clears the event bits. */
uint32_t watcher_take_events(struct watcher *watcher);

/** Looks at the input again. The thread stops looking after each SHIM_EVENT_INPUT. */
void watcher_arm_input(struct watcher *watcher);

/** Reports SHIM_EVENT_REMINDER once, so many milliseconds from now; 0 takes a reminder back. */
int watcher_remind(struct watcher *watcher, uint32_t milliseconds, struct failure *failure);

/** Reads without waiting: the byte count, 0 at the end of input, -2 where nothing is there. */
ssize_t watcher_read(const struct watcher *watcher, void *bytes, size_t count,
                     struct failure *failure);
#define WATCHER_NOTHING -2

/**
 * Writes it all, waiting while the reader is slow, but not past an event: then it returns what
 * went out. A reader that is gone swallows everything. -1: failed.
 */
ssize_t watcher_write(struct watcher *watcher, const uint8_t *bytes, size_t count,
                      struct failure *failure);

/** Kicks nobody from now on: the vCPU is about to go. */
void watcher_detach(struct watcher *watcher);

/** Ends the thread, gives the signals back, closes its own descriptors. */
void watcher_stop(struct watcher *watcher);

#ifdef __cplusplus
}
#endif
