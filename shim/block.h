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

/**
 * The same in two steps, for an engine that carries the transfer out itself. block_check() copies
 * and checks the record: 0, or -1 with the refusal in *refusal.
 */
int block_check(struct request *request, const struct guest_memory *memory,
                const struct disk *disk, const uint8_t *record, size_t bytes,
                struct request_result *refusal);

/** Carries a checked request out, of which `moved` bytes are done already. Uses its ranges up. */
struct request_result block_run(const struct disk *disk, struct request *request, uint64_t moved);

#ifdef __cplusplus
}
#endif
