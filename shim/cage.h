// One device in one native instance of the core: core.wasm as wasm2c translates it to C.
//
// Calls answer the core's effect bits (abi.ts), or CAGE_TRAPPED alone where the call trapped: the
// instance must then be restarted before its next call. One call at a time per cage; different
// cages may run on different threads.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "failure.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CAGE_TRAPPED ((uint32_t)SHIM_CAGE_TRAPPED) // no effect of the core's

struct cage;

/** Every access to guest memory of the calls into one cage, as replay compares them. */
struct access_log {
  uint8_t *bytes; // struct access_entry and, for reads and writes that were allowed, the data
  size_t capacity;
  size_t used; // beyond `capacity`: entries were lost
  const uint8_t *script; // such entries, from which reads are served; script_bytes 0: none
  size_t script_bytes, script_at;
};

enum access_kind {
  ACCESS_READ = SHIM_ACCESS_READ,
  ACCESS_WRITE = SHIM_ACCESS_WRITE,
  ACCESS_LOAD16 = SHIM_ACCESS_LOAD16,
  ACCESS_STORE16 = SHIM_ACCESS_STORE16,
  ACCESS_FENCE = SHIM_ACCESS_FENCE,
  ACCESS_REFUSED = SHIM_ACCESS_REFUSED, // a bit of its own
};

struct access_entry {
  uint32_t kind; // enum access_kind, plus ACCESS_REFUSED
  uint32_t length;
  uint64_t address;
};

/**
 * An instance over `memory`, whose mapping must outlive it; no call may follow memory_unmap(). It
 * takes memory of its own only once that is touched.
 */
struct cage *cage_create(const struct guest_memory *memory, struct failure *failure);
void cage_destroy(struct cage *cage);

/** All zero again, as created; without a system call, and without touching what is zero. */
void cage_clear(struct cage *cage);

/** ABI_CAGE_MEMORY_BYTES: where inbox, outbox and state lie. */
uint8_t *cage_memory(struct cage *cage);

/** Only in the builds for tests, replay and recording (CAGE_TRACED): NULL stops it. */
void cage_log_accesses(struct cage *cage, struct access_log *log);

uint32_t cage_init(struct cage *cage, uint32_t kind);
uint32_t cage_read(struct cage *cage, uint32_t offset, uint32_t width);
uint32_t cage_write(struct cage *cage, uint32_t offset, uint32_t width, uint32_t value);
uint32_t cage_notify(struct cage *cage, uint32_t queue);
uint32_t cage_next(struct cage *cage, uint32_t queue);
uint32_t cage_complete(struct cage *cage, uint32_t tag, uint32_t result, uint32_t bytes);
uint32_t cage_input(struct cage *cage, uint32_t length);
uint32_t cage_reset(struct cage *cage);
uint32_t cage_check(struct cage *cage);
uint32_t cage_fail(struct cage *cage);

/** The number at a place of the cage's memory, for offsets of abi.h. */
uint32_t cage_u32(const struct cage *cage, uint32_t offset);
uint64_t cage_u64(const struct cage *cage, uint32_t offset);

#ifdef __cplusplus
}
#endif
