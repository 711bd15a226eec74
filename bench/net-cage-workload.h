// What bench/net-cage.ts measures in C: a driver that sends frames of 1,514 bytes, in one
// descriptor and in an indirect table of two, as Linux lays them out, and one whose mergeable
// buffers are filled with such frames, and with frames of 64 KiB. Included by each of the programs
// that are compared, which say by struct device what a device of theirs is.
#pragma once

#include "cage-samples.h"

enum {
  RECEIVE = 0, // queues
  TRANSMIT = 1,
  HEADER_BYTES = 12,
  FRAME_BYTES = 1514,
  LARGE_BYTES = 1 << 16,
  SENT = 128, // frames in a batch
  BUFFER_BYTES = 1536,
  BUFFERS = 215, // in a batch: five large frames
  LARGE_BUFFERS = 43,
  ROUNDS = 200, // batches in a sample
  QUEUE_BASE = 0x10000, // a queue's table, then its available and its used ring
  QUEUE_AREA = 0x4000,
  AVAIL_RING = 0x1000,
  USED_RING = 0x2000,
  DATA = 0x40000,
  INDIRECT = 0x30000,
};
#define FEATURE_CSUM (1u << 0)
#define FEATURE_HOST_TSO4 (1u << 11)
#define FEATURE_MRG_RXBUF (1u << 15)
#define FEATURE_INDIRECT_DESC (1u << 28)
#define FEATURE_EVENT_IDX (1u << 29)
#define FEATURES \
  (FEATURE_CSUM | FEATURE_HOST_TSO4 | FEATURE_MRG_RXBUF | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX)

/** Called through pointers, as a monitor calls a device: the compiler cannot fold loops. */
struct device {
  int (*notify)(uint32_t queue); // 1: a request stands in the record
  int (*next)(uint32_t queue); // likewise
  uint32_t (*tag)(void); // of that request
  uint64_t (*length)(void);
  int (*complete)(uint32_t tag, uint32_t bytes); // negative: it went wrong
};

struct load {
  const char *name;
  uint32_t queue, chains, frames; // in a batch
  uint32_t bytes; // of a frame, its header among them
  int indirect;
};

static const struct load loads[] = {
    {"transmit-1", TRANSMIT, SENT, SENT, HEADER_BYTES + FRAME_BYTES, 0},
    {"transmit-2", TRANSMIT, SENT, SENT, HEADER_BYTES + FRAME_BYTES, 1},
    {"receive", RECEIVE, BUFFERS, BUFFERS, HEADER_BYTES + FRAME_BYTES, 0},
    {"receive-large", RECEIVE, BUFFERS, BUFFERS / LARGE_BUFFERS, HEADER_BYTES + LARGE_BYTES, 0},
};

/** A header as Linux has it on TCP: the checksum is left to the device (virtio 1.2, 5.1.6.2). */
static void write_header(uint8_t *at) {
  static const uint8_t header[HEADER_BYTES] = {1, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0};
  memcpy(at, header, sizeof header);
}

static void set_up_chains(uint8_t *memory, const struct load *load) {
  uint8_t *table = memory + QUEUE_BASE + QUEUE_AREA * load->queue;
  for (uint32_t i = 0; i < load->chains; i++) {
    uint64_t data = DATA + BUFFER_BYTES * i;
    if (load->queue == RECEIVE) {
      write_descriptor(table, i, data, BUFFER_BYTES, 2);
      continue;
    }
    write_header(memory + data);
    if (load->indirect) {
      uint8_t *indirect = memory + INDIRECT + 32 * i;
      write_descriptor(indirect, 0, data, HEADER_BYTES, 1);
      write_descriptor(indirect, 1, data + HEADER_BYTES, FRAME_BYTES, 0);
      write_descriptor(table, i, INDIRECT + 32 * i, 32, 4);
    } else {
      write_descriptor(table, i, data, load->bytes, 0);
    }
  }
}

static void offer_batch(uint8_t *memory, const struct load *load, uint16_t *index) {
  uint8_t *ring = memory + QUEUE_BASE + QUEUE_AREA * load->queue + AVAIL_RING;
  for (uint32_t i = 0; i < load->chains; i++) {
    uint16_t head = (uint16_t)i;
    memcpy(ring + 4 + 2 * (*index & (QUEUE_SIZE - 1)), &head, 2);
    ++*index;
  }
  memcpy(ring + 2, index, 2);
}

/** What the driver finds after a batch. 0: all of it came back, and as it should. */
static int judge(const uint8_t *memory, const struct load *load, uint16_t index) {
  const uint8_t *ring = memory + QUEUE_BASE + QUEUE_AREA * load->queue + USED_RING;
  uint32_t last = (load->frames - 1) * (load->chains / load->frames), length;
  uint16_t used, buffers;
  memcpy(&used, ring + 2, 2);
  memcpy(&length, ring + 4 + 8 * ((index - 1) & (QUEUE_SIZE - 1)) + 4, 4);
  memcpy(&buffers, memory + DATA + BUFFER_BYTES * last + 10, 2);
  if (used != index) return 1;
  if (load->queue == TRANSMIT) return length != 0;
  uint32_t each = load->chains / load->frames;
  return length != load->bytes - (each - 1) * BUFFER_BYTES || buffers != each;
}

/** Fetches what a batch holds, as the cell does: until there is no more. 0: it worked. */
static int take(const struct device *device, const struct load *load, uint32_t *tags) {
  for (uint32_t i = 0; i < load->chains; i++) {
    if (!(i == 0 ? device->notify(load->queue) : device->next(load->queue))) return 1;
    tags[i] = device->tag();
  }
  uint64_t length = load->queue == TRANSMIT ? FRAME_BYTES : BUFFER_BYTES;
  return device->next(load->queue) || device->length() != length;
}

static int finish(const struct device *device, const struct load *load, const uint32_t *tags) {
  uint32_t each = load->chains / load->frames;
  uint32_t bytes = load->queue == TRANSMIT ? 0 : load->bytes;
  for (uint32_t i = 0; i < load->chains; i += each) {
    if (device->complete(tags[i], bytes) < 0) return 1;
  }
  return 0;
}

/** Prints nanoseconds a frame for fetching and for completing. 0: it all worked. */
static int measure_load(uint8_t *memory, const struct device *volatile device,
                        const struct load *load, uint16_t *index) {
  static double fetches[SAMPLES], completions[SAMPLES];
  static uint32_t tags[QUEUE_SIZE];
  set_up_chains(memory, load);
  for (int sample = 0; sample < SAMPLES; sample++) {
    double fetching = 0, completing = 0;
    for (int round = 0; round < ROUNDS; round++) {
      offer_batch(memory, load, index);
      double start = now();
      if (take(device, load, tags)) return 2;
      double middle = now();
      if (finish(device, load, tags)) return 3;
      completing += now() - middle;
      fetching += middle - start;
      if (judge(memory, load, *index)) return 4;
    }
    fetches[sample] = fetching / (load->frames * ROUNDS);
    completions[sample] = completing / (load->frames * ROUNDS);
  }
  printf("%s %.3f %.3f\n", load->name, median(fetches), median(completions));
  return 0;
}

static int measure(uint8_t *memory, const struct device *device) {
  uint16_t indexes[2] = {0, 0};
  for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
    int status = measure_load(memory, device, &loads[i], &indexes[loads[i].queue]);
    if (status) return status;
  }
  return 0;
}
