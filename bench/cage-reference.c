// The reference for bench/cage.ts: what a cage does for a register read and for a three-descriptor
// block request, written as plain C on guest memory that is simply there. Same checks of the
// guest's numbers, same in-flight table, same record; no sandbox.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  MEMORY_BYTES = 1 << 20,
  QUEUE_SIZE = 256,
  BATCH = 80, // requests of three descriptors in one queue
  ROUNDS = 400, // batches in a sample
  SAMPLES = 31,
  DESC_TABLE = 0x10000,
  AVAIL_RING = 0x11000,
  USED_RING = 0x12000,
  DATA = 0x40000,
  DESC_F_NEXT = 1,
  DESC_F_WRITE = 2,
};

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

static uint8_t *memory;
static struct {
  uint64_t capacity;
  uint64_t features;
  uint32_t status, interrupt_status, queue_sel, generation;
  uint16_t avail_next, used_next;
  struct in_flight in_flight[QUEUE_SIZE];
} device = {.capacity = 2048, .status = 15};
static struct {
  uint32_t kind, tag;
  uint64_t offset, length;
  uint32_t count, flags;
  struct range ranges[QUEUE_SIZE];
} record;

static int inside(uint64_t address, uint64_t length) {
  return address <= MEMORY_BYTES && length <= MEMORY_BYTES - address;
}

static int guest_read(uint64_t address, void *to, uint32_t length) {
  if (!inside(address, length)) return -1;
  memcpy(to, memory + address, length);
  return 0;
}

static int guest_write(uint64_t address, const void *from, uint32_t length) {
  if (!inside(address, length)) return -1;
  memcpy(memory + address, from, length);
  return 0;
}

static int guest_load16(uint64_t address) {
  if (!inside(address, 2)) return -1;
  return __atomic_load_n((uint16_t *)(memory + address), __ATOMIC_ACQUIRE);
}

static int guest_store16(uint64_t address, uint16_t value) {
  if (!inside(address, 2)) return -1;
  __atomic_store_n((uint16_t *)(memory + address), value, __ATOMIC_RELEASE);
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

static uint32_t read_register(uint32_t offset, uint32_t width) {
  if (offset >= 0x100 || width != 4 || offset & 3) return ~0u;
  switch (offset >> 2) {
    case 0x00 >> 2: return 0x74726976;
    case 0x04 >> 2: return 2;
    case 0x08 >> 2: return 2;
    case 0x10 >> 2: return (uint32_t)device.features;
    case 0x34 >> 2: return device.queue_sel ? 0 : QUEUE_SIZE;
    case 0x60 >> 2: return device.interrupt_status;
    case 0x70 >> 2: return device.status;
    case 0xfc >> 2: return device.generation;
    default: return ~0u;
  }
}

// Takes the next chain, walks it, reads its header and writes the record. 0: there is none.
static int parse(void) {
  struct descriptor chain[QUEUE_SIZE];
  int index = guest_load16(AVAIL_RING + 2);
  if (index < 0 || index == device.avail_next) return 0;
  if ((uint16_t)(index - device.avail_next) > QUEUE_SIZE) return 0;
  int head = guest_load16(AVAIL_RING + 4 + 2 * (device.avail_next & (QUEUE_SIZE - 1)));
  if (head < 0 || head >= QUEUE_SIZE || device.in_flight[head].kind) return 0;
  device.avail_next++;

  uint32_t count = 0, readable = 0, next = head;
  uint64_t total = 0, readable_bytes = 0;
  for (;;) {
    if (count == QUEUE_SIZE) return 0;
    struct descriptor *at = &chain[count++];
    if (guest_read(DESC_TABLE + 16 * next, at, sizeof *at)) return 0;
    if (at->address + at->length < at->address) return 0;
    total += at->length;
    if (total > 1ull << 32) return 0;
    if (!(at->flags & DESC_F_WRITE)) {
      if (readable + 1 != count) return 0;
      readable = count;
      readable_bytes = total;
    }
    if (!(at->flags & DESC_F_NEXT)) break;
    next = at->next;
    if (next >= QUEUE_SIZE) return 0;
  }
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  if (readable_bytes != sizeof header || chain[0].length < sizeof header) return 0;
  if (guest_read(chain[0].address, &header, sizeof header) || header.type != 0) return 0;
  uint64_t left = total - readable_bytes - 1;
  uint64_t sectors = left >> 9;
  if (!left || left & 511 || header.sector > device.capacity) return 0;
  if (sectors > device.capacity - header.sector) return 0;

  record.kind = 1;
  record.offset = header.sector << 9;
  record.length = left;
  record.count = 0;
  for (uint32_t i = readable; left; i++) {
    uint64_t taken = chain[i].length < left ? chain[i].length : left;
    record.ranges[record.count++] = (struct range){chain[i].address, taken};
    left -= taken;
  }
  struct in_flight *entry = &device.in_flight[head];
  entry->generation = (entry->generation + 1) & 0xfff;
  entry->kind = 1;
  entry->payload_bytes = (uint32_t)record.length;
  entry->status_address = chain[count - 1].address + chain[count - 1].length - 1;
  record.tag = (uint32_t)entry->generation << 20 | (uint32_t)head;
  return 1;
}

// Writes the status byte and the used element, publishes it, and looks whether to interrupt.
static int complete(uint32_t tag, uint8_t status, uint32_t bytes) {
  uint32_t head = tag & 0xffff;
  if (head >= QUEUE_SIZE) return -1;
  struct in_flight *entry = &device.in_flight[head];
  if (!entry->kind || entry->generation != tag >> 20) return -1;
  entry->kind = 0;
  uint32_t written = bytes < entry->payload_bytes ? bytes : entry->payload_bytes;
  uint32_t element[2] = {head, written + 1};
  if (guest_write(entry->status_address, &status, 1)) return -1;
  uint64_t slot = USED_RING + 4 + 8 * (device.used_next & (QUEUE_SIZE - 1));
  if (guest_write(slot, element, 8)) return -1;
  if (guest_store16(USED_RING + 2, ++device.used_next)) return -1;
  guest_fence();
  int used_event = guest_load16(AVAIL_RING + 4 + 2 * QUEUE_SIZE);
  if (used_event != (uint16_t)(device.used_next - 1)) return 0;
  device.interrupt_status |= 1;
  return 1;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

static double median(double *samples) {
  qsort(samples, SAMPLES, sizeof *samples, ascending);
  return samples[SAMPLES / 2];
}

static void set_up(void) {
  for (uint32_t i = 0; i < BATCH; i++) {
    struct descriptor chain[3] = {
      {DATA + 64 * i, 16, DESC_F_NEXT, 3 * i + 1},
      {DATA + 0x10000 + 512 * i, 512, DESC_F_NEXT | DESC_F_WRITE, 3 * i + 2},
      {DATA + 64 * i + 32, 1, DESC_F_WRITE, 0},
    };
    memcpy(memory + DESC_TABLE + 48 * i, chain, sizeof chain);
    uint64_t sector = i;
    memcpy(memory + DATA + 64 * i + 8, &sector, 8);
  }
}

static void offer_batch(uint16_t *index) {
  for (uint32_t i = 0; i < BATCH; i++) {
    uint16_t head = 3 * i;
    memcpy(memory + AVAIL_RING + 4 + 2 * (*index & (QUEUE_SIZE - 1)), &head, 2);
    ++*index;
  }
  memcpy(memory + AVAIL_RING + 2, index, 2);
}

// Called through volatile pointers, as a monitor calls a device: the compiler cannot fold loops.
static uint32_t (*volatile read_call)(uint32_t, uint32_t) = read_register;
static int (*volatile parse_call)(void) = parse;
static int (*volatile complete_call)(uint32_t, uint8_t, uint32_t) = complete;

int main(void) {
  static double reads[SAMPLES], parses[SAMPLES], completions[SAMPLES];
  static uint32_t tags[BATCH];
  uint16_t index = 0;
  uint32_t sum = 0;
  memory = calloc(1, MEMORY_BYTES);
  if (!memory) return 1;
  set_up();
  for (int sample = 0; sample < SAMPLES; sample++) {
    double start = now();
    for (int i = 0; i < BATCH * ROUNDS; i++) sum += read_call(0x70, 4);
    reads[sample] = (now() - start) / (BATCH * ROUNDS);
    double parsing = 0, completing = 0;
    for (int round = 0; round < ROUNDS; round++) {
      offer_batch(&index);
      start = now();
      for (int i = 0; i < BATCH; i++) {
        if (!parse_call()) return 2;
        tags[i] = record.tag;
      }
      double middle = now();
      for (int i = 0; i < BATCH; i++) {
        if (complete_call(tags[i], 0, 512) < 0) return 3;
      }
      completing += now() - middle;
      parsing += middle - start;
    }
    parses[sample] = parsing / (BATCH * ROUNDS);
    completions[sample] = completing / (BATCH * ROUNDS);
  }
  if (sum != 15u * BATCH * ROUNDS * SAMPLES) return 4;
  printf("%.3f %.3f %.3f\n", median(reads), median(parses), median(completions));
  free(memory);
  return 0;
}
