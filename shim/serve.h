// Serves the queues of virtio devices, on the I/O thread: takes requests out of the cages, has them
// carried out, gives the results back. Two engines behind one seam: one request after the other
// by preadv and pwritev, or many at once by io_uring.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "uring.h"

#define SERVE_SLOTS URING_ENTRIES

/** A request out of a cage, until its result is in. */
struct job {
  struct device *device;
  uint32_t tag, generation, queue;
  uint64_t start_ticks;
  struct request request;
};

struct server {
  const struct guest_memory *memory;
  uint64_t ticks_per_ms; // of the time stamp counter; 0: unknown, CLOCK_MONOTONIC is used
  struct uring ring;     // fd -1: none
  bool refused;          // the ring did not take what was prepared: server_advance() again soon
  uint32_t free_count;
  uint16_t free_slots[SERVE_SLOTS];
  struct job jobs[SERVE_SLOTS];
};

void server_init(struct server *server, const struct guest_memory *memory, uint64_t ticks_per_ms);

/**
 * The doorbell of a queue rang, or work was left there: serves it for a while. What remains then
 * is marked in the queue's `waiting`. Without the device's lock.
 */
void server_serve(struct server *server, struct device *device, uint32_t queue, bool rang);

/**
 * Whether a request of the device could be taken now. A disk that hangs may not hold all slots: one
 * gets so many at most, and the last are for those that need theirs for a moment only.
 */
bool server_ready(const struct server *server, const struct device *device);

/** Submits what server_serve() prepared and takes what is complete. Returns how many were. */
unsigned server_advance(struct server *server);

/** Waits until no request is in flight. False: io_uring does not say any more. */
bool server_drain(struct server *server);
