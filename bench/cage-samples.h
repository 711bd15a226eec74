// Clock, medians and descriptors for the C programs of bench/cage.ts and bench/net-cage.ts, which
// measure alike.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  MEMORY_BYTES = 1 << 20,
  QUEUE_SIZE = 256,
  SAMPLES = 31,
  RUNNING = 15, // what the status register of a device reads that its driver has brought up
};

static inline double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

static inline double median(double *samples) {
  qsort(samples, SAMPLES, sizeof *samples, ascending);
  return samples[SAMPLES / 2];
}

/** Descriptor `index` of the table at `table`, whose next one is the one behind it. */
static inline void write_descriptor(uint8_t *table, uint32_t index, uint64_t address,
                                    uint32_t length, uint16_t flags) {
  uint16_t next = (uint16_t)(index + 1);
  uint8_t *at = table + 16 * index;
  memcpy(at, &address, 8);
  memcpy(at + 8, &length, 4);
  memcpy(at + 12, &flags, 2);
  memcpy(at + 14, &next, 2);
}
