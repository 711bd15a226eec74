// Token buckets, which limit what goes through a network device: Firecracker's, with its fields.
#pragma once

#include <stdbool.h>
#include <stdint.h>

/** Tokens are bytes or frames. All zero: no limit. */
struct bucket {
  uint64_t size;      // tokens that it holds; 0: no limit
  uint64_t refill_ns; // in which it fills from empty
  uint64_t burst;     // tokens on top of that, which are spent first and come once
  int64_t tokens;     // below zero: what was taken ahead, because a frame is not cut
  uint64_t filled_ns; // when it was last filled up
};

/** A full bucket. */
struct bucket bucket_create(uint64_t size, uint64_t one_time_burst, uint64_t refill_ms);

/** 0 where something may pass at the time `now`, else the nanoseconds until it may. */
uint64_t bucket_wait(struct bucket *bucket, uint64_t now);

/** What passed. */
void bucket_take(struct bucket *bucket, uint64_t tokens);
