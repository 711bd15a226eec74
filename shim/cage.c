// The native engine's cages: the accessors that the core imports, and the calls into it.
// Calls mmap, munmap.
//
// The generated file is included, so that the accessors are inlined into the walk of a descriptor
// chain, and compiled as it is: its own checks are not ours to tidy.
#include "cage.h"

#include <errno.h>
#include <sys/mman.h>

#include "wasm-rt.h"

// A fill of zeros reads before it writes: the core clears its whole state when a device starts,
// and a page that nobody has written to should stay one that the host need not have.
static inline void *fill(void *target, int value, size_t bytes);
#define memset fill
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include "core-accessors.h"
// Its helpers are one instruction each once their checks are gone, yet too many for gcc to inline.
#define inline inline __attribute__((always_inline))
// The generated checks compare with `memory->size`, which is the same number for every cage: said
// here, a check of a constant address costs nothing, and any other one is a comparison.
#define size size * 0 + ABI_CAGE_MEMORY_BYTES
#include "core_w2c.c"
#undef size
#undef inline
#pragma GCC diagnostic pop
#undef memset

_Static_assert(ABI_CAGE_MEMORY_BYTES % WASM_RT_PAGE_BYTES == 0, "a cage is made of whole pages");

static bool is_zero(const uint8_t *bytes, size_t count) {
  // Each byte equals the next, and the first is zero.
  return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

static inline void *fill(void *target, int value, size_t bytes) {
  uint8_t *at = target;
  if (value != 0 || bytes < WASM_RT_PAGE_BYTES) return __builtin_memset(target, value, bytes);
  while (bytes > 0) {
    size_t part = bytes < WASM_RT_PAGE_BYTES ? bytes : WASM_RT_PAGE_BYTES;
    if (!is_zero(at, part)) __builtin_memset(at, 0, part);
    at += part;
    bytes -= part;
  }
  return target;
}

struct cage *cage_create(const struct guest_memory *memory, struct failure *failure) {
  struct cage *cage = mmap(NULL, sizeof *cage, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (cage == MAP_FAILED) {
    fail(failure, errno, "mmap", "%zu bytes for a device", sizeof *cage);
    return NULL;
  }
  cage->guest.memory = *memory;
  wasm2c_core_instantiate(&cage->core, &cage->guest);
  return cage;
}

void cage_destroy(struct cage *cage) {
  if (cage) munmap(cage, sizeof *cage);
}

void cage_clear(struct cage *cage) { fill(cage_memory(cage), 0, ABI_CAGE_MEMORY_BYTES); }

uint8_t *cage_memory(struct cage *cage) { return cage->core.w2c_memory.data; }

void cage_log_accesses(struct cage *cage, struct access_log *log) {
#ifdef CAGE_TRACED
  cage->guest.log = log;
#else
  (void)cage;
  (void)log;
#endif
}

// --- Calls --------------------------------------------------------------------------------------

// Where a trap on this thread goes: set by the call that is under way. GCC's own setjmp saves no
// signal mask and three registers, which costs a nanosecond per call.
static __thread void *trap_frame[5];

void wasm_rt_trap(wasm_rt_trap_t why) {
  (void)why;
  __builtin_longjmp(trap_frame, 1);
}

#define CALL(call) (__builtin_setjmp(trap_frame) ? CAGE_TRAPPED : (call))

uint32_t cage_init(struct cage *cage, uint32_t kind) {
  return CALL(w2c_core_init(&cage->core, kind));
}

uint32_t cage_read(struct cage *cage, uint32_t offset, uint32_t width) {
  return CALL(w2c_core_read(&cage->core, offset, width));
}

uint32_t cage_write(struct cage *cage, uint32_t offset, uint32_t width, uint32_t value) {
  return CALL(w2c_core_write(&cage->core, offset, width, value));
}

uint32_t cage_notify(struct cage *cage, uint32_t queue) {
  return CALL(w2c_core_notify(&cage->core, queue));
}

uint32_t cage_next(struct cage *cage, uint32_t queue) {
  return CALL(w2c_core_next(&cage->core, queue));
}

uint32_t cage_complete(struct cage *cage, uint32_t tag, uint32_t result, uint32_t bytes) {
  return CALL(w2c_core_complete(&cage->core, tag, result, bytes));
}

uint32_t cage_input(struct cage *cage, uint32_t length) {
  return CALL(w2c_core_input(&cage->core, length));
}

uint32_t cage_reset(struct cage *cage) { return CALL(w2c_core_reset(&cage->core)); }

uint32_t cage_check(struct cage *cage) { return CALL(w2c_core_check(&cage->core)); }

uint32_t cage_fail(struct cage *cage) { return CALL(w2c_core_fail(&cage->core)); }

uint32_t cage_u32(const struct cage *cage, uint32_t offset) {
  uint32_t value;
  memcpy(&value, cage->core.w2c_memory.data + offset, sizeof value);
  return value;
}

uint64_t cage_u64(const struct cage *cage, uint32_t offset) {
  uint64_t value;
  memcpy(&value, cage->core.w2c_memory.data + offset, sizeof value);
  return value;
}
