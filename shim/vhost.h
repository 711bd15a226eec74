// vhost-net: queues of a network device that the host's kernel serves.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "failure.h"
#include "memory.h"
#include "request.h"

/** One open /dev/vhost-net: a receive queue, 0, and a transmit queue, 1, of one pair. */
struct vhost {
  int fd;
  uint64_t features; // that the kernel knows
  bool running[2];
  uint32_t base[2]; // where in the available ring it goes on
};

/** Binds it to this process's memory, its doorbells and its device's interrupt. */
int vhost_open(struct vhost *vhost, int fd, const struct guest_memory *memory,
               const struct device *device, uint32_t pair, struct failure *failure);

/**
 * Gives the kernel a queue: `rings` is a checked NET_RINGS record, `tap` where its frames come
 * from and go to. 0, or an errno.
 */
int vhost_start(struct vhost *vhost, uint32_t queue, const struct request *rings, int tap);

/** Takes the queue back: the kernel is done with guest memory when this returns. */
void vhost_stop(struct vhost *vhost, uint32_t queue);
