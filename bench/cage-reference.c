// The reference for bench/cage.ts: what a cage does for a register read and for a block request of
// three descriptors, written as plain C on a device structure and on guest memory that is simply
// there. Same queues, same features, same checks of the guest's numbers, same in-flight table, same
// record; no sandbox, no step budget, no trap to catch.
#include "cage-workload.h"

#include "memory.h"

enum {
  QUEUE_COUNT_MAX = 8,
  RANGE_COUNT_MAX = 256,
  DESC_F_NEXT = 1,
  DESC_F_WRITE = 2,
  DESC_F_INDIRECT = 4,
  AVAIL_F_NO_INTERRUPT = 1,
  NEEDS_RESET = 0x40,
  REQUEST_IN = 1,
  TYPE_IN = 0,
};
#define F_SEG_MAX (1ull << 2)
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
  uint64_t status_address;
  uint32_t payload_bytes;
  uint16_t generation;
  uint8_t kind;
};

struct virtq {
  uint64_t desc_table, avail_ring, used_ring;
  uint16_t size, avail_next, used_next;
  uint8_t ready;
};

struct chain {
  uint32_t count, readable;
  uint64_t readable_bytes, writable_bytes;
  struct range segments[RANGE_COUNT_MAX];
};

struct disk {
  uint64_t capacity, features;
  uint32_t status, interrupt_status, queue_sel, generation, seg_max, queue_count;
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

static int guest_read(uint64_t address, void *to, uint32_t length) {
  const uint8_t *from = memory_at(&memory, address, length);
  if (!from) return -1;
  memcpy(to, from, length);
  COPIED();
  return 0;
}

static int guest_write(uint64_t address, const void *from, uint32_t length) {
  uint8_t *to = memory_at(&memory, address, length);
  if (!to) return -1;
  memcpy(to, from, length);
  COPIED();
  return 0;
}

static int guest_load16(uint64_t address) {
  const uint16_t *at = (const uint16_t *)memory_at(&memory, address, 2);
  return at && address % 2 == 0 ? __atomic_load_n(at, __ATOMIC_ACQUIRE) : -1;
}

static int guest_store16(uint64_t address, uint16_t value) {
  uint16_t *at = (uint16_t *)memory_at(&memory, address, 2);
  if (!at || address % 2 != 0) return -1;
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  return 0;
}

// A locked add below the stack pointer: Linux's full barrier, cheaper than the builtin's mfence.
static void guest_fence(void) {
#ifdef __x86_64__
  __asm__ volatile("lock; addl $0,-4(%%rsp)" ::: "memory", "cc");
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static uint32_t read_register(struct disk *disk, uint32_t offset, uint32_t width) {
  if (offset >= 0x100 || width != 4 || offset & 3) return ~0u;
  switch (offset >> 2) {
    case 0x00 >> 2: return 0x74726976;
    case 0x04 >> 2: return 2;
    case 0x08 >> 2: return 2;
    case 0x10 >> 2: return (uint32_t)disk->features;
    case 0x34 >> 2: return disk->queue_sel < disk->queue_count ? QUEUE_SIZE : 0;
    case 0x60 >> 2: return disk->interrupt_status;
    case 0x70 >> 2: return disk->status;
    case 0xfc >> 2: return disk->generation;
    default: return ~0u;
  }
}

/** Takes the next head off the available ring; -1: there is none, -2: the ring is broken. */
static int pop(struct disk *disk, struct virtq *queue, struct in_flight *heads) {
  int index = guest_load16(queue->avail_ring + 2);
  if (index == queue->avail_next) {
    if (!(disk->features & F_EVENT_IDX)) return -1;
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
static int walk(struct disk *disk, const struct virtq *queue, uint32_t head) {
  struct chain *chain = &disk->chain;
  uint64_t table = queue->desc_table, total = 0;
  uint32_t table_size = queue->size, limit = table_size, next = head, count = 0, readable = 0;
  int indirect = 0;
  chain->readable_bytes = 0;
  for (;;) {
    struct descriptor at;
    if (guest_read(table + 16ull * next, &at, sizeof at)) return -1;
    if (at.flags & DESC_F_INDIRECT) {
      if (indirect || at.flags & DESC_F_NEXT || !(disk->features & F_INDIRECT_DESC)) return -1;
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
static int gather(const struct chain *chain, void *to, uint32_t length) {
  for (uint32_t i = 0; length > 0; i++) {
    const struct range *segment = &chain->segments[i];
    uint32_t taken = segment->length < length ? (uint32_t)segment->length : length;
    if (guest_read(segment->address, to, taken)) return -1;
    to = (uint8_t *)to + taken;
    length -= taken;
  }
  return 0;
}

/** Turns the walked chain into a record. 0: it is no request that a host could carry out. */
static int request(struct disk *disk, uint32_t queue_index, uint32_t head) {
  struct chain *chain = &disk->chain;
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  if (chain->count == chain->readable || !chain->segments[chain->count - 1].length) return 0;
  if (chain->readable_bytes < sizeof header || gather(chain, &header, sizeof header)) return 0;
  if (header.type != TYPE_IN || chain->readable_bytes != sizeof header) return 0;
  const struct range *last = &chain->segments[chain->count - 1];
  uint64_t left = chain->writable_bytes - 1, length = left;
  if (!left || left & 511 || header.sector > disk->capacity) return 0;
  if (left >> 9 > disk->capacity - header.sector) return 0;
  uint32_t count = 0;
  for (uint32_t i = chain->readable; left; i++) {
    uint64_t taken = chain->segments[i].length < left ? chain->segments[i].length : left;
    if (taken == 0) continue;
    disk->record.ranges[count++] = (struct range){chain->segments[i].address, taken};
    left -= taken;
  }
  if (disk->features & F_SEG_MAX && count > disk->seg_max) return 0;
  struct in_flight *entry = &disk->in_flight[queue_index][head];
  entry->generation = (entry->generation + 1) & 0xfff;
  entry->kind = REQUEST_IN;
  entry->payload_bytes = (uint32_t)length;
  entry->status_address = last->address + last->length - 1;
  disk->record.kind = REQUEST_IN;
  disk->record.tag = (uint32_t)entry->generation << 20 | queue_index << 16 | head;
  disk->record.offset = header.sector << 9;
  disk->record.length = length;
  disk->record.count = count;
  disk->record.flags = 0;
  return 1;
}

static int notified(struct disk *disk, uint32_t index) {
  if (index >= disk->queue_count) return 0;
  struct virtq *queue = &disk->queues[index];
  if ((disk->status & (RUNNING | NEEDS_RESET)) != RUNNING || !queue->ready) return 0;
  int head = pop(disk, queue, disk->in_flight[index]);
  if (head < 0 || walk(disk, queue, (uint32_t)head)) return 0;
  return request(disk, index, (uint32_t)head);
}

/** Writes the status byte and the used element, publishes it, and looks whether to interrupt. */
static int completed(struct disk *disk, uint32_t tag, uint8_t status, uint32_t bytes) {
  uint32_t index = tag >> 16 & 0xf, head = tag & 0xffff;
  struct virtq *queue = &disk->queues[index];
  if (index >= disk->queue_count || head >= queue->size) return -1;
  struct in_flight *entry = &disk->in_flight[index][head];
  if (!entry->kind || entry->generation != tag >> 20) return -1;
  entry->kind = 0;
  if ((disk->status & (RUNNING | NEEDS_RESET)) != RUNNING || !queue->ready) return 0;
  uint32_t written = bytes < entry->payload_bytes ? bytes : entry->payload_bytes;
  uint64_t element = head | (uint64_t)(written + 1) << 32;
  if (guest_write(entry->status_address, &status, 1)) return -1;
  uint16_t before = queue->used_next++;
  uint64_t slot = queue->used_ring + 4 + 8 * (before & (queue->size - 1u));
  if (guest_write(slot, &element, 8)) return -1;
  if (guest_store16(queue->used_ring + 2, queue->used_next)) return -1;
  guest_fence();
  int wanted;
  if (disk->features & F_EVENT_IDX) {
    wanted = guest_load16(queue->avail_ring + 4 + 2 * (uint64_t)queue->size) == before;
  } else {
    wanted = !(guest_load16(queue->avail_ring) & AVAIL_F_NO_INTERRUPT);
  }
  if (wanted) disk->interrupt_status |= 1;
  return wanted;
}

static struct disk disk = {
    .capacity = 2048,
    .features = F_EVENT_IDX,
    .status = RUNNING,
    .queue_count = 1,
    .queues = {{DESC_TABLE, AVAIL_RING, USED_RING, QUEUE_SIZE, 0, 0, 1}},
};
// The compiler must not know which device it is.
static struct disk *volatile the_disk = &disk;

static uint32_t read_status(uint32_t offset) { return read_register(the_disk, offset, 4); }

static int notify(uint32_t queue) { return notified(the_disk, queue); }

static uint32_t tag(void) { return the_disk->record.tag; }

static int complete(uint32_t tag, uint32_t bytes) { return completed(the_disk, tag, 0, bytes); }

int main(void) {
  static const struct device calls = {read_status, notify, tag, complete};
  memory.base = calloc(1, MEMORY_BYTES);
  memory.bytes = MEMORY_BYTES;
  return memory.base ? measure(memory.base, &calls) : 5;
}
