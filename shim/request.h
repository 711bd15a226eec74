// The request record of a cage (assembly/abi.ts, REQUEST), as its executors take it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "abi.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

struct request {
  uint32_t kind;
  uint32_t flags;
  uint64_t offset;
  uint64_t length; // of the ranges together, or of the disk where there are none
  int range_count;
  struct iovec ranges[ABI_RANGE_COUNT_MAX]; // host addresses, all inside guest RAM
};

struct request_result {
  uint32_t result; // ABI_RESULT_*
  uint64_t bytes;  // moved
  int error;       // the errno behind ABI_RESULT_IOERR, 0 for none
};

// The errno of a record that breaks the rules: no file system call gives this one, so it always
// means that the cage is at fault.
#define REQUEST_HOSTILE EPROTO

struct request_result request_refused(uint32_t result, int error);

/**
 * Copies the record out and checks all that can be checked without knowing its kind: size,
 * count, padding, every range, the sum of their lengths. `bytes` may exceed the record's size.
 * Returns -1 where anything is wrong.
 */
int request_read(struct request *request, const struct guest_memory *memory,
                 const uint8_t *record, size_t bytes);

/** Copies bytes over the ranges, from `skip` bytes into them on; what does not fit is left out. */
void request_fill(const struct iovec *ranges, int range_count, size_t skip, const uint8_t *bytes,
                  size_t count);

#ifdef __cplusplus
}
#endif
