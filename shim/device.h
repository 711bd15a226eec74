// One emulated device of the cell: its cage, its lock, and what happens when the cage traps.
//
// Every function here wants the device's lock held, unless it says otherwise. No thread ever holds
// two of these locks, and none is held across file I/O.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "block.h"
#include "cage.h"
#include "failure.h"

#define DEVICE_CONFIG_BYTES_MAX 128
#define DEVICE_NO_IRQ (-1)

/** What a queue of a virtio device has for its service by the I/O thread. */
struct device_queue {
  int kick;            // ioeventfd of its doorbell
  bool waiting;        // work is left that no doorbell will tell of; the I/O thread's alone
  bool vain;           // and so it was said for a whole turn without a request
  uint32_t in_flight;  // requests taken from the cage and not yet given back
  uint32_t generation; // goes up whenever those are cancelled
};

/** How requests of one disk went; written by the I/O thread alone. */
struct disk_counts {
  uint64_t requests, bytes_read, bytes_written, errors;
  uint32_t last_errno;
  uint32_t read_latency[CELL_LATENCY_BUCKETS];
  uint32_t write_latency[CELL_LATENCY_BUCKETS];
};

struct device {
  pthread_mutex_t lock;
  bool awaited;  // a vCPU waits until queues have no request in flight any more
  uint32_t idle; // futex: goes up when that may be so
  char name[CELL_DEVICE_NAME_BYTES];
  uint32_t kind;   // ABI_KIND_*
  uint32_t rights; // the effects that its kind of device may answer
  uint64_t base;   // first port, or address of its window
  int irq;         // irqfd of its pin, or DEVICE_NO_IRQ
  struct cage *cage;
  struct guest_memory memory; // that its cage reaches
  uint32_t *view; // its registers, as its driver reads them without an exit; or NULL
  uint8_t config[DEVICE_CONFIG_BYTES_MAX];
  uint32_t config_bytes;
  bool dead; // a second trap soon after the first: out of service
  uint32_t traps;
  uint64_t last_trap_ns;
  uint32_t lost_incidents[ABI_COUNTER_COUNT]; // of instances before the last trap
  uint64_t exits;
  uint32_t queue_count;
  struct device_queue queues[ABI_QUEUE_COUNT_MAX];
  bool uring;          // its transfers go by io_uring,
  unsigned ring_index; // where its descriptor is registered under this number
  struct disk disk; // of a block device; fd -1 elsewhere
  struct disk_counts counts;
};

/**
 * Makes the device of `kind` with that configuration, over `memory`. Its lock need not be held.
 * EINVAL: the core refuses the configuration.
 */
int device_create(struct device *device, uint32_t kind, const char *name,
                  const struct guest_memory *memory, const uint8_t *config, uint32_t config_bytes,
                  struct failure *failure);

/** Called at a trap, once the device is what it is from then on. */
typedef void device_trap_listener(const struct device *device);
extern device_trap_listener *device_on_trap;

// Each makes one call into the cage and answers its effects, cut to the device's rights. A trap
// restarts the instance: a virtio device then needs a reset, a port device carries on.
uint32_t device_read(struct device *device, uint32_t offset, uint32_t width);
uint32_t device_write(struct device *device, uint32_t offset, uint32_t width, uint32_t value);
uint32_t device_notify(struct device *device, uint32_t queue);
uint32_t device_next(struct device *device, uint32_t queue);
uint32_t device_complete(struct device *device, uint32_t tag, uint32_t result, uint32_t bytes);

/** Offers bytes, at most ABI_INBOX_BYTES; *taken says how many the device accepted. */
uint32_t device_input(struct device *device, const void *bytes, uint32_t length, uint32_t *taken);

/** What the last call left at OUTBOX_VALUE; all ones from a dead device. */
uint64_t device_value(const struct device *device);

/**
 * Copies the request record out: its size, or 0 where the cage claims a size that its place does
 * not hold, which counts as a trap. The effects of that trap go to *effects.
 */
uint32_t device_record(struct device *device, uint8_t *record, uint32_t *effects);

/** Raises an edge on the device's line, for EFFECT_IRQ. */
void device_interrupt(const struct device *device, uint32_t effects);

/**
 * EFFECT_CANCEL: what is in flight of the queues in question goes back to nobody. Answers their
 * bits: the driver may reuse its memory only once device_busy() says no.
 */
uint32_t device_cancel(struct device *device);

/** Wakes who waits for queues to be idle. */
void device_tell_idle(struct device *device);

/** Whether one of those queues has a request in flight. */
bool device_busy(const struct device *device, uint32_t queues);

/** Whether its driver is there, and the device is not in need of a reset. */
bool device_running(const struct device *device);

/** The features that its driver accepted. */
uint64_t device_features(const struct device *device);

/** What a network device and its driver agreed on; ABI_NET_STATE. Not checked. */
struct device_net_state {
  uint64_t offloads;
  uint16_t queue_pairs;
};
struct device_net_state device_net_state(const struct device *device);

/** All incidents since the start. */
void device_incidents(const struct device *device, uint32_t counts[ABI_COUNTER_COUNT]);

/** CLOCK_MONOTONIC, nanoseconds. */
uint64_t monotonic_ns(void);
