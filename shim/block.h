// Executes virtio-blk request records between a file and guest RAM.
#pragma once

#include <stdbool.h>

#include "request.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SECTOR_BYTES 512

/** What a device may do: decided by the host when it opened the disk, never by the cage. */
struct disk {
  int fd;
  uint64_t capacity_bytes;
  bool read_only;
};

/**
 * Checks the record against the disk and guest RAM, then executes it to the end: partial
 * transfers are continued. Results:
 *   ABI_RESULT_OK           done; `bytes` were moved
 *   ABI_RESULT_IOERR        `error` is the file's errno (EIO too where the file ends early),
 *                           EROFS for a write to a read-only disk, or REQUEST_HOSTILE
 *   ABI_RESULT_UNSUPPORTED  not a kind of request that a disk takes; `error` is REQUEST_HOSTILE
 */
struct request_result block_execute(const struct guest_memory *memory, const struct disk *disk,
                                    const uint8_t *record, size_t bytes);

#ifdef __cplusplus
}
#endif
