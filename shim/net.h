// Network devices of a cell: where their frames come from and go to, and the thread that moves
// them. Their cages only ever see where frames lie.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "failure.h"
#include "image.h"
#include "limit.h"
#include "machine.h"
#include "stream.h"
#include "thread.h"
#include "vhost.h"

#define NET_DEVICES_MAX IMAGE_DEVICE_COUNT_MAX
#define NET_BUFFERS_MAX 256u // held by one receive queue: as many as the longest ring has
#define NET_RANGES_MAX 768u  // of those together
#define NET_BATCH 16u        // frames of the guest between two looks at the device's lock
#define NET_PENDING_NS UINT64_C(100000000) // then a frame without enough buffers is dropped
#define NET_WHOLE_BYTES (ABI_NET_HEADER_BYTES + ABI_NET_FRAME_BYTES_MAX)

/** What a queue did, in the order of the report. Written by the network thread alone. */
struct net_counts {
  uint64_t frames, bytes;
  uint64_t drops[CELL_NET_DROP_COUNT];
};

struct net_buffer {
  uint32_t tag, bytes, range_count;
};

/** A receive queue: the guest's buffers, taken from its ring before there is a frame for them. */
struct net_receive {
  uint32_t generation;  // of the device's queue when they were taken
  bool ready;           // there may be a frame, and buffers
  bool starved;         // no buffer: the driver's doorbell tells of the next
  uint32_t count;       // buffers held, in the order in which they are used
  uint32_t first;       // place of the oldest; they go round
  uint32_t range_count; // of all of them
  uint32_t range_first;
  uint32_t bytes;       // that they hold together
  uint32_t expected;    // bytes of the longest frame lately: what a read offers the guest's memory
  uint32_t lately;      // frames since that was measured
  uint32_t longest;
  uint32_t pending;     // bytes of a frame that was read and for which buffers are missing, or 0
  uint32_t placed;      // how many of those lie in buffers; the rest is in `spill`
  uint64_t pending_ns;  // since when
  struct net_buffer buffers[NET_BUFFERS_MAX];
  struct iovec ranges[NET_RANGES_MAX];
  uint8_t spill[NET_WHOLE_BYTES];
};

/** A frame of the guest, out of its ring and not yet given back. */
struct net_frame {
  uint32_t tag;
  uint8_t header[ABI_NET_HEADER_BYTES];
  struct request request;
};

struct net_transmit {
  uint32_t generation;
  bool ready;     // there may be frames
  bool blocked;   // the backend takes none now
  uint32_t count; // frames taken and not sent: from `first` on
  uint32_t first;
  struct net_frame frames[NET_BATCH];
};

struct net {
  struct machine *machine;
  uint32_t index; // among the network devices
  int epoll;      // of the network thread
  struct device *device;
  uint32_t pair_count;
  int fds[ABI_NET_QUEUE_PAIRS_MAX];
  uint32_t watched[ABI_NET_QUEUE_PAIRS_MAX]; // the events that epoll looks for
  bool mac_filter;
  uint8_t mac[6];
  bool gone;              // the backend went away; read by the I/O thread too
  bool down;              // so its driver was told
  bool timed;             // it has a limit: the time counts
  bool running;           // its driver is there
  uint32_t generation;    // of the first queue: another driver goes without frames until set up
  uint32_t active_pairs;  // that the driver uses
  uint64_t offloads;      // in force at the backend
  struct bucket changes;  // of those two that it may still make
  uint64_t held_until;    // then the driver gets the ones it wants, and frames; 0: it has them
  uint32_t vain;          // answers that wanted another look, since a doorbell or a good request
  uint32_t owed;          // effects of calls into the cage: an interrupt is still to be made
  uint32_t control;       // the control queue, while commands may wait there; else 0
  struct bucket limits[IMAGE_LIMIT_COUNT];
  struct stream *stream;  // of a socket that carries frames; NULL: a tap
  struct vhost *vhost;    // one for each pair where the kernel serves the queues, or NULL
  uint32_t lent[CELL_NET_QUEUE_COUNT_MAX]; // generation of each queue when the kernel got it
  struct net_receive *receive; // one for each pair
  struct net_transmit *transmit;
  struct net_counts counts[CELL_NET_QUEUE_COUNT_MAX]; // by queue
};

/** The network thread and all that it serves. */
struct network {
  struct machine *machine;
  uint32_t count; // of devices
  int epoll;
  uint32_t wanted; // futex: 1 while the thread shall stand still
  uint32_t still;  // futex: 1 while it does
  struct thread thread;
  struct net nets[NET_DEVICES_MAX];
};

/** Gives the network devices of the image their descriptors, `files` as in image_load(). */
int network_add(struct network *network, struct machine *machine, const struct image *image,
                const int *files, struct failure *failure);

/** Starts the thread where there is a device; it stands still until network_resume(). */
int network_start(struct network *network, struct failure *failure);

/** Returns once no frame is under way, and the kernel has given back its queues. */
void network_pause(struct network *network);
void network_resume(struct network *network);

/** Whether the descriptor is one of a network device. */
bool network_has(const struct network *network, int fd);

// --- net-receive.c, net-transmit.c, net-queue.c: one queue, a turn at a time --------------------

/** Receives frames. True: there may be more at once. */
bool net_receive(struct net *net, uint32_t pair, uint64_t now);

/** Sends frames. True: there may be more at once. */
bool net_transmit(struct net *net, uint32_t pair, uint64_t now);

/** Reads what the tap holds from before the driver was there, and drops it. */
void net_discard(struct net *net, uint32_t pair);

/** When a queue of the pair waits for time to pass: nanoseconds until then, else UINT64_MAX. */
uint64_t net_delay(struct net *net, uint32_t pair, uint64_t now);
