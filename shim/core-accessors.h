// The five accessors by which a native cage reaches guest memory: the core's only imports.
// Included by cage.c alone, before the generated code that calls them.
//
// Each checks both sides in 64 bits: the guest range against RAM, the cage range against the
// cage's memory. Guest memory changes while it is read, because vCPUs run; a copy is made once,
// and the compiler is told that it may not look again.
#pragma once

#include "cage.h"
#include "core_w2c.h"

struct w2c_guest {
  struct guest_memory memory; // a copy: one step less on the way to every byte
#ifdef CAGE_TRACED
  struct access_log *log;
#endif
};

/** The accessors know only their `guest`, and find the cage's memory behind it. */
struct cage {
  struct w2c_guest guest;
  w2c_core core;
};

#define COMPILER_BARRIER() __asm__ volatile("" ::: "memory")
#define REFUSED 1u
// Into every call, since most of these name their length: a copy of 16 bytes is two instructions.
#define INLINED inline __attribute__((always_inline))

#ifdef CAGE_TRACED
#include "core-trace.h"
#else
#define serve(...) ((void)0)
#define trace(...) ((void)0)
#endif

/** The host address of both sides, or false. */
static inline bool resolve(struct w2c_guest *guest, uint64_t address, uint32_t offset,
                           uint32_t length, uint8_t **ram, uint8_t **cage) {
  *ram = memory_at(&guest->memory, address, length);
  *cage = ((struct cage *)guest)->core.w2c_memory.data + offset;
  return *ram && (uint64_t)offset + length <= ABI_CAGE_MEMORY_BYTES;
}

/**
 * memcpy, without a call for what is copied nearly always: a descriptor or a request header. In two
 * halves, because the core reads its fields at once, and processors pass a vector store on late.
 */
static inline void copy(uint8_t *to, const uint8_t *from, uint32_t length) {
  if (length == 16) {
    uint64_t halves[2];
    memcpy(halves, from, 16);
    memcpy(to, &halves[0], 8);
    memcpy(to + 8, &halves[1], 8);
  } else {
    memcpy(to, from, length);
  }
}

INLINED uint32_t w2c_guest_read(struct w2c_guest *guest, uint64_t address, uint32_t destination,
                        uint32_t length) {
  uint8_t *ram, *cage;
  if (!resolve(guest, address, destination, length, &ram, &cage)) {
    trace(guest, ACCESS_READ | ACCESS_REFUSED, address, length, NULL);
    return REFUSED;
  }
  serve(guest, ACCESS_READ, address, length, ram);
  copy(cage, ram, length);
  COMPILER_BARRIER();
  trace(guest, ACCESS_READ, address, length, cage);
  return 0;
}

INLINED uint32_t w2c_guest_write(struct w2c_guest *guest, uint64_t address, uint32_t source,
                         uint32_t length) {
  uint8_t *ram, *cage;
  if (!resolve(guest, address, source, length, &ram, &cage)) {
    trace(guest, ACCESS_WRITE | ACCESS_REFUSED, address, length, NULL);
    return REFUSED;
  }
  memcpy(ram, cage, length);
  COMPILER_BARRIER();
  trace(guest, ACCESS_WRITE, address, length, cage);
  return 0;
}

/** NULL unless the address is aligned and RAM. */
static inline uint16_t *at16(const struct w2c_guest *guest, uint64_t address) {
  return address % 2 == 0 ? (uint16_t *)memory_at(&guest->memory, address, 2) : NULL;
}

INLINED uint32_t w2c_guest_load16(struct w2c_guest *guest, uint64_t address) {
  uint16_t *ram = at16(guest, address);
  serve(guest, ACCESS_LOAD16, address, 2, ram);
  uint16_t value = ram ? __atomic_load_n(ram, __ATOMIC_ACQUIRE) : 0;
  trace(guest, ram ? ACCESS_LOAD16 : ACCESS_LOAD16 | ACCESS_REFUSED, address, 2,
        ram ? &value : NULL);
  return ram ? value : UINT32_MAX;
}

INLINED uint32_t w2c_guest_store16(struct w2c_guest *guest, uint64_t address, uint32_t value) {
  uint16_t *ram = at16(guest, address);
  uint16_t half = (uint16_t)value;
  if (ram) __atomic_store_n(ram, half, __ATOMIC_RELEASE);
  trace(guest, ram ? ACCESS_STORE16 : ACCESS_STORE16 | ACCESS_REFUSED, address, 2,
        ram ? &half : NULL);
  return ram ? 0 : REFUSED;
}

/** Linux's own form of a full barrier: cheaper than mfence. */
INLINED void w2c_guest_fence(struct w2c_guest *guest) {
  __asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
  trace(guest, ACCESS_FENCE, 0, 0, NULL);
}
