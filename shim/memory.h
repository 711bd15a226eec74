// Guest RAM: one host mapping, seen by the guest on both sides of the hole below 4 GiB.
//
//   guest-physical              mapping
//   0        .. 3 GiB           +0
//   3 GiB    .. 4 GiB           nothing: devices, IOAPIC, local APIC, KVM's own pages
//   4 GiB    .. 1 GiB + bytes   +3 GiB
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PAGE_BYTES UINT64_C(4096)
#define HUGE_PAGE_BYTES UINT64_C(0x200000)
#define HOLE_START UINT64_C(0xc0000000)
#define HOLE_END UINT64_C(0x100000000)

struct guest_memory {
  uint8_t *base; // NULL: not mapped
  uint64_t bytes;
};

/** Maps `bytes` (a multiple of 4 KiB, not 0) without reserving them. EINVAL, ENOMEM. */
int memory_map(struct guest_memory *memory, uint64_t bytes, struct failure *failure);

/**
 * The same with a choice of pages, IMAGE_HUGE_PAGES_*. ENOMEM where the host's pool of 2 MiB pages
 * is too small. `prefault`: all of it is there before the call returns.
 */
int memory_map_pages(struct guest_memory *memory, uint64_t bytes, uint32_t huge_pages,
                     bool prefault, struct failure *failure);

/** Gives the mapping back; does nothing where there is none. */
void memory_unmap(struct guest_memory *memory);

/**
 * The host address of `length` bytes of guest RAM at `address`; NULL unless every byte is RAM.
 * A range may not cross the hole even where the mapping is contiguous. Safe with any numbers.
 */
static inline uint8_t *memory_at(const struct guest_memory *memory, uint64_t address,
                                 uint64_t length) {
  // Branches, not selections: a predicted branch takes the checks off the way to the data.
  if (__builtin_expect(address >= HOLE_END, 0)) {
    uint64_t offset = address - (HOLE_END - HOLE_START);
    if (offset > memory->bytes || length > memory->bytes - offset) return NULL;
    return memory->base + offset;
  }
  // Written so that nothing can wrap: address is at most the limit before it is subtracted.
  uint64_t limit = memory->bytes < HOLE_START ? memory->bytes : HOLE_START;
  if (__builtin_expect(address > limit || length > limit - address, 0)) return NULL;
  return memory->base + address;
}

/** Copies bytes into RAM. ERANGE where they do not fit. */
int memory_load_bytes(const struct guest_memory *memory, const void *bytes, uint64_t length,
                      uint64_t address, struct failure *failure);

/** Reads a file range into RAM. ERANGE where it does not fit, EIO where the file ends before. */
int memory_load_file(const struct guest_memory *memory, int fd, uint64_t offset, uint64_t length,
                     uint64_t address, struct failure *failure);

#ifdef __cplusplus
}
#endif
