// What bench/cage.ts measures in C: a driver in a guest of 1 MiB that reads a status register, and
// one that offers block reads of 4 KiB, three descriptors each, in batches. Included by each of the
// programs that are compared, which say by struct device what a device of theirs is.
#pragma once

#include "cage-samples.h"

enum {
  BLOCK_BYTES = 4096,
  BATCH = 80, // requests of three descriptors in one queue
  ROUNDS = 400, // batches in a sample
  DESC_TABLE = 0x10000,
  AVAIL_RING = 0x11000,
  USED_RING = 0x12000,
  DATA = 0x40000,
  STATUS_REGISTER = 0x70,
};

/** Called through pointers, as a monitor calls a device: the compiler cannot fold loops. */
struct device {
  uint32_t (*read)(uint32_t offset); // 32 bits wide; the value
  int (*notify)(uint32_t queue); // 1: a request stands in the record
  uint32_t (*tag)(void); // of that request
  int (*complete)(uint32_t tag, uint32_t bytes); // 0: done, and an answer of the device's own
};

static void set_up_requests(uint8_t *memory) {
  for (uint32_t i = 0; i < BATCH; i++) {
    write_descriptor(memory + DESC_TABLE, 3 * i, DATA + 64 * i, 16, 1);
    uint64_t data = DATA + 0x10000 + BLOCK_BYTES * i;
    write_descriptor(memory + DESC_TABLE, 3 * i + 1, data, BLOCK_BYTES, 3);
    write_descriptor(memory + DESC_TABLE, 3 * i + 2, DATA + 64 * i + 32, 1, 2);
    uint64_t sector = i;
    memcpy(memory + DATA + 64 * i + 8, &sector, 8);
  }
}

static void offer_batch(uint8_t *memory, uint16_t *index) {
  for (uint32_t i = 0; i < BATCH; i++) {
    uint16_t head = (uint16_t)(3 * i);
    memcpy(memory + AVAIL_RING + 4 + 2 * (*index & (QUEUE_SIZE - 1)), &head, 2);
    ++*index;
  }
  memcpy(memory + AVAIL_RING + 2, index, 2);
}

/** Prints nanoseconds for a read, a notification with its parse, a completion. 0: it all worked. */
static int measure(uint8_t *memory, const struct device *volatile device) {
  static double reads[SAMPLES], parses[SAMPLES], completions[SAMPLES];
  static uint32_t tags[BATCH];
  uint16_t index = 0, used;
  set_up_requests(memory);
  for (int sample = 0; sample < SAMPLES; sample++) {
    uint32_t sum = 0;
    double start = now();
    for (int i = 0; i < BATCH * ROUNDS; i++) sum += device->read(STATUS_REGISTER);
    reads[sample] = (now() - start) / (BATCH * ROUNDS);
    if (sum != RUNNING * BATCH * ROUNDS) return 1;
    double parsing = 0, completing = 0;
    for (int round = 0; round < ROUNDS; round++) {
      offer_batch(memory, &index);
      start = now();
      for (int i = 0; i < BATCH; i++) {
        if (!device->notify(0)) return 2;
        tags[i] = device->tag();
      }
      double middle = now();
      for (int i = 0; i < BATCH; i++) {
        if (device->complete(tags[i], BLOCK_BYTES) < 0) return 3;
      }
      completing += now() - middle;
      parsing += middle - start;
      memcpy(&used, memory + USED_RING + 2, 2);
      if (used != index) return 4;
    }
    parses[sample] = parsing / (BATCH * ROUNDS);
    completions[sample] = completing / (BATCH * ROUNDS);
  }
  printf("%.3f %.3f %.3f\n", median(reads), median(parses), median(completions));
  return 0;
}
