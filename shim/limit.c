// Token buckets. Calls nothing: the time comes from the caller.
#include "limit.h"

#define NS_PER_MS UINT64_C(1000000)

struct bucket bucket_create(uint64_t size, uint64_t one_time_burst, uint64_t refill_ms) {
  return (struct bucket){
      .size = size,
      .refill_ns = refill_ms * NS_PER_MS,
      .burst = one_time_burst,
      .tokens = (int64_t)size,
  };
}

/** Adds what has come since the last time, in whole tokens: the rest of the time still counts. */
static void fill(struct bucket *bucket, uint64_t now) {
  uint64_t since = now - bucket->filled_ns;
  uint64_t lacking = (uint64_t)((int64_t)bucket->size - bucket->tokens);
  // Past this the bucket is full, and nothing below can overflow.
  __uint128_t whole = (__uint128_t)since * bucket->size / bucket->refill_ns;
  if (whole >= lacking) {
    bucket->tokens = (int64_t)bucket->size;
    bucket->filled_ns = now;
  } else {
    bucket->tokens += (int64_t)whole;
    bucket->filled_ns += (uint64_t)(whole * bucket->refill_ns / bucket->size);
  }
}

uint64_t bucket_wait(struct bucket *bucket, uint64_t now) {
  if (bucket->size == 0 || bucket->burst > 0) return 0;
  fill(bucket, now);
  if (bucket->tokens > 0) return 0;
  uint64_t lacking = (uint64_t)(1 - bucket->tokens);
  return (uint64_t)((__uint128_t)lacking * bucket->refill_ns / bucket->size) + 1;
}

void bucket_take(struct bucket *bucket, uint64_t tokens) {
  if (bucket->size == 0) return;
  uint64_t spent = tokens < bucket->burst ? tokens : bucket->burst;
  bucket->burst -= spent;
  bucket->tokens -= (int64_t)(tokens - spent);
}
