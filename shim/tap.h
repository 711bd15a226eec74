// Taps and macvtaps: frames between their descriptors and guest memory, each behind its
// struct virtio_net_hdr.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/** A frame into the ranges: its bytes, header among them, or minus an errno; EAGAIN: none. */
int64_t tap_receive(int fd, const struct iovec *ranges, int range_count);

/** Sends header and frame. 0, or an errno; EAGAIN: the tap is full. */
int tap_send(int fd, const struct iovec *ranges, int range_count);

/** `offloads`: VIRTIO_NET_F_GUEST_* of what received frames may be left with. 0, or an errno. */
int tap_set_offloads(int fd, uint64_t offloads);

/** Whether the kernel gives this queue of a tap any frames. 0, or an errno. */
int tap_set_queue(int fd, bool attached);
