// Counters of the kernel, eventfds: how threads and KVM tell each other that there is something.
#pragma once

#include <stdint.h>
#include <unistd.h>

/** Counts up by one: whoever waits for it, or KVM, hears that. */
static inline void counter_add(int fd) {
  const uint64_t one = 1;
  ssize_t written = write(fd, &one, sizeof one);
  (void)written; // cannot fail: nobody adds up 2^64 of these, and KVM takes each at once
}

/** Back to zero. */
static inline void counter_drain(int fd) {
  uint64_t count;
  ssize_t got = read(fd, &count, sizeof count);
  (void)got; // EAGAIN: it was drained already
}
