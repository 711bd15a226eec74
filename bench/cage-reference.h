// The virtio part of the reference devices (bench/cage-reference.c, bench/net-cage-reference.c), in
// plain C: a queue's chains in, its used elements out, guest memory that is simply there.
#pragma once

#include "cage-samples.h"

#include "memory.h"

enum {
  QUEUE_COUNT_MAX = 17,
  RANGE_COUNT_MAX = 256,
  DESC_F_NEXT = 1,
  DESC_F_WRITE = 2,
  DESC_F_INDIRECT = 4,
  AVAIL_F_NO_INTERRUPT = 1,
  NEEDS_RESET = 0x40,
  EMPTY = -1,
};
#define F_INDIRECT_DESC (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define CHAIN_BYTES_MAX (1ull << 32)

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

struct range {
  uint64_t address;
  uint64_t length;
};

struct in_flight {
  uint64_t status_address; // or, of a receive buffer, that of num_buffers
  uint32_t payload_bytes;
  uint16_t generation;
  uint8_t kind, next; // the head of the receive buffer that was handed out after this one
};

struct virtq {
  uint64_t desc_table, avail_ring, used_ring;
  uint16_t size, avail_next, used_next;
  uint8_t ready;
  uint16_t oldest, newest, held; // receive buffers that were handed out
};

struct chain {
  uint32_t count, readable;
  uint64_t readable_bytes, writable_bytes;
  struct range segments[RANGE_COUNT_MAX];
};

/** What every virtio device has: the transport's state, its queues, and the record it hands out. */
struct virtio {
  uint64_t features;
  uint32_t status, interrupt_status, queue_count;
  struct virtq queues[QUEUE_COUNT_MAX];
  struct in_flight in_flight[QUEUE_COUNT_MAX][QUEUE_SIZE];
  struct chain chain;
  struct {
    uint32_t kind, tag;
    uint64_t offset, length;
    uint32_t count, flags;
    struct range ranges[RANGE_COUNT_MAX];
  } record;
};

static struct guest_memory memory;

// Guest memory changes while a device looks at it, so what was copied in must not be read again;
// and RAM lies on both sides of the hole below 4 GiB. memory_at() is the shim's own.
#define COPIED() __asm__ volatile("" ::: "memory")

static inline int guest_read(uint64_t address, void *to, uint32_t length) {
  const uint8_t *from = memory_at(&memory, address, length);
  if (!from) return -1;
  memcpy(to, from, length);
  COPIED();
  return 0;
}

static inline int guest_write(uint64_t address, const void *from, uint32_t length) {
  uint8_t *to = memory_at(&memory, address, length);
  if (!to) return -1;
  memcpy(to, from, length);
  COPIED();
  return 0;
}

static inline int guest_load16(uint64_t address) {
  const uint16_t *at = (const uint16_t *)memory_at(&memory, address, 2);
  return at && address % 2 == 0 ? __atomic_load_n(at, __ATOMIC_ACQUIRE) : -1;
}

static inline int guest_store16(uint64_t address, uint16_t value) {
  uint16_t *at = (uint16_t *)memory_at(&memory, address, 2);
  if (!at || address % 2 != 0) return -1;
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  return 0;
}

// A locked add below the stack pointer: Linux's full barrier, cheaper than the builtin's mfence.
static inline void guest_fence(void) {
#ifdef __x86_64__
  __asm__ volatile("lock; addl $0,-4(%%rsp)" ::: "memory", "cc");
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/**
 * Takes the next head off the available ring; -1: there is none, -2: the ring is broken. `ask`: for
 * the doorbell, where there is none.
 */
static inline int pop(struct virtio *virtio, struct virtq *queue, struct in_flight *heads,
                      int ask) {
  int index = guest_load16(queue->avail_ring + 2);
  if (index == queue->avail_next) {
    if (!ask || !(virtio->features & F_EVENT_IDX)) return -1;
    uint64_t avail_event = queue->used_ring + 4 + 8 * (uint64_t)queue->size;
    if (guest_store16(avail_event, queue->avail_next)) return -2;
    guest_fence();
    index = guest_load16(queue->avail_ring + 2);
    if (index == queue->avail_next) return -1;
  }
  if (index < 0 || (uint16_t)(index - queue->avail_next) > queue->size) return -2;
  int head = guest_load16(queue->avail_ring + 4 + 2 * (queue->avail_next & (queue->size - 1u)));
  if (head < 0 || head >= queue->size || heads[head].kind) return -2;
  queue->avail_next++;
  return head;
}

/** Copies a chain in, descriptor by descriptor, and describes it. 0: it is sound. */
static inline int walk(struct virtio *virtio, const struct virtq *queue, uint32_t head) {
  struct chain *chain = &virtio->chain;
  uint64_t table = queue->desc_table, total = 0;
  uint32_t table_size = queue->size, limit = table_size, next = head, count = 0, readable = 0;
  int indirect = 0;
  chain->readable_bytes = 0;
  for (;;) {
    struct descriptor at;
    if (guest_read(table + 16ull * next, &at, sizeof at)) return -1;
    if (at.flags & DESC_F_INDIRECT) {
      if (indirect || at.flags & DESC_F_NEXT || !(virtio->features & F_INDIRECT_DESC)) return -1;
      if (at.length == 0 || at.length % 16) return -1;
      indirect = 1;
      table = at.address;
      table_size = at.length / 16;
      limit = RANGE_COUNT_MAX;
      next = 0;
      continue;
    }
    if (count == limit || at.address + at.length < at.address) return -1;
    chain->segments[count++] = (struct range){at.address, at.length};
    total += at.length;
    if (total > CHAIN_BYTES_MAX) return -1;
    if (!(at.flags & DESC_F_WRITE)) {
      if (readable + 1 != count) return -1;
      readable = count;
      chain->readable_bytes = total;
    }
    if (!(at.flags & DESC_F_NEXT)) break;
    next = at.next;
    if (next >= table_size) return -1;
  }
  chain->count = count;
  chain->readable = readable;
  chain->writable_bytes = total - chain->readable_bytes;
  return 0;
}

/** Copies the first bytes of the readable part, however they are split. */
static inline int gather(const struct chain *chain, void *to, uint32_t length) {
  for (uint32_t i = 0; length > 0; i++) {
    const struct range *segment = &chain->segments[i];
    uint32_t taken = segment->length < length ? (uint32_t)segment->length : length;
    if (guest_read(segment->address, to, taken)) return -1;
    to = (uint8_t *)to + taken;
    length -= taken;
  }
  return 0;
}

/** Writes the element `ahead` places behind the last one published. 0: done. */
static inline int fill(const struct virtq *queue, uint32_t ahead, uint32_t head, uint32_t bytes) {
  uint64_t element = head | (uint64_t)bytes << 32;
  uint64_t slot = 8 * (uint64_t)((queue->used_next + ahead) & (queue->size - 1u));
  return guest_write(queue->used_ring + 4 + slot, &element, 8);
}

/** Shows the driver `count` elements; 1: it wants an interrupt, -1: the ring is broken. */
static inline int publish(struct virtio *virtio, struct virtq *queue, uint32_t count) {
  uint16_t after = (uint16_t)(queue->used_next + count);
  if (guest_store16(queue->used_ring + 2, after)) return -1;
  queue->used_next = after;
  guest_fence();
  int wanted;
  if (virtio->features & F_EVENT_IDX) {
    int event = guest_load16(queue->avail_ring + 4 + 2 * (uint64_t)queue->size);
    if (event < 0) return -1;
    wanted = (uint16_t)(after - event - 1) < count;
  } else {
    int flags = guest_load16(queue->avail_ring);
    if (flags < 0) return -1;
    wanted = !(flags & AVAIL_F_NO_INTERRUPT);
  }
  if (wanted) virtio->interrupt_status |= 1;
  return wanted;
}

static inline int running(const struct virtio *virtio, const struct virtq *queue) {
  return (virtio->status & (RUNNING | NEEDS_RESET)) == RUNNING && queue->ready;
}

/** Describes `length` bytes of the chain, from `skip` into segment `first` on: how many ranges. */
static inline uint32_t emit_ranges(struct virtio *virtio, uint32_t first, uint64_t skip,
                                   uint64_t length) {
  uint32_t count = 0;
  for (uint32_t i = first; length; i++) {
    struct range segment = virtio->chain.segments[i];
    if (segment.length <= skip) {
      skip -= segment.length;
      continue;
    }
    uint64_t rest = segment.length - skip, taken = rest < length ? rest : length;
    virtio->record.ranges[count++] = (struct range){segment.address + skip, taken};
    length -= taken;
    skip = 0;
  }
  return count;
}

/** Enters a request into the table and its record, whose ranges stand already. */
static inline struct in_flight *submit(struct virtio *virtio, uint32_t queue, uint32_t head,
                                       uint8_t kind, uint64_t offset, uint64_t length,
                                       uint32_t count, uint32_t flags) {
  struct in_flight *entry = &virtio->in_flight[queue][head];
  entry->generation = (entry->generation + 1) & 0xfff;
  entry->kind = kind;
  virtio->record.kind = kind;
  virtio->record.tag = (uint32_t)entry->generation << 20 | queue << 15 | head;
  virtio->record.offset = offset;
  virtio->record.length = length;
  virtio->record.count = count;
  virtio->record.flags = flags;
  return entry;
}

/** The request that a tag names; NULL: none is in flight. */
static inline struct in_flight *find(struct virtio *virtio, uint32_t tag) {
  uint32_t index = tag >> 15 & 0x1f, head = tag & 0x7fff;
  if (index >= virtio->queue_count || head >= virtio->queues[index].size) return NULL;
  struct in_flight *entry = &virtio->in_flight[index][head];
  return entry->kind && entry->generation == tag >> 20 ? entry : NULL;
}
