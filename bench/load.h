// What the programs that load a guest have in common.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/** Microseconds, of a clock that nobody sets. */
static inline uint64_t now_us(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

/** Ends the program where something it needs has failed. */
static inline void check(bool good, const char *what) {
  if (good) return;
  perror(what);
  exit(1);
}
