// Executes virtio-rng request records.
#pragma once

#include "request.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Fills the record's ranges and says in `bytes` how many. No more than ABI_ENTROPY_BYTES_MAX, which
 * bounds the time a request takes: a device may give less than was asked for (virtio 1.2, 5.4.6).
 */
struct request_result entropy_execute(const struct guest_memory *memory, const uint8_t *record,
                                      size_t bytes);

#ifdef __cplusplus
}
#endif
