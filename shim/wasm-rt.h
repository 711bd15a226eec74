// What the C that wasm2c makes of the core asks of its runtime: a memory, and a way to trap.
//
// A cage's memory lies inside its instance, is never grown, and every access is checked by
// comparison: as fast as guard pages, without a signal handler. There are no tables, exceptions or
// indirect calls in the core; what the generated file mentions of them is declared and unused.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"

#define WASM_RT_PAGE_BYTES 4096

#define WASM_RT_USE_SEGUE 0
#define WASM_RT_SEGUE_FREE_SEGMENT 0
#define WASM_RT_STACK_DEPTH_COUNT 0
#define WASM_RT_MEMCHECK_GUARD_PAGES 0
#define WASM_RT_SANITY_CHECKS 0
#define WABT_BIG_ENDIAN 0
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define wasm_rt_memcpy memcpy
#define wasm_rt_unreachable __builtin_unreachable

typedef struct {
  uint64_t size;
  uint8_t data[ABI_CAGE_MEMORY_BYTES] __attribute__((aligned(WASM_RT_PAGE_BYTES)));
} wasm_rt_memory_t;

typedef enum {
  WASM_RT_TRAP_OOB,
  WASM_RT_TRAP_INT_OVERFLOW,
  WASM_RT_TRAP_DIV_BY_ZERO,
  WASM_RT_TRAP_INVALID_CONVERSION,
  WASM_RT_TRAP_UNREACHABLE,
  WASM_RT_TRAP_CALL_INDIRECT,
  WASM_RT_TRAP_EXHAUSTION,
} wasm_rt_trap_t;

/** Leaves the call into the core that this thread is in. */
void wasm_rt_trap(wasm_rt_trap_t why) __attribute__((noreturn, cold));

static inline bool wasm_rt_is_initialized(void) { return true; }

/** The memory is zero already: it comes with its instance, from mmap. */
static inline void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, uint64_t pages, uint64_t most,
                                           bool wide, uint32_t page_bytes) {
  (void)most;
  (void)wide;
  memory->size = pages * page_bytes;
}

static inline void wasm_rt_free_memory(wasm_rt_memory_t *memory) { (void)memory; }

// --- Named by the generated file, never used by the core ----------------------------------------

typedef enum { WASM_RT_I32, WASM_RT_I64, WASM_RT_F32, WASM_RT_F64 } wasm_rt_type_t;
typedef const char *wasm_rt_func_type_t;
typedef void (*wasm_rt_function_ptr_t)(void);
typedef struct {
  wasm_rt_function_ptr_t fn;
} wasm_rt_tailcallee_t;
typedef struct {
  wasm_rt_func_type_t func_type;
  wasm_rt_function_ptr_t func;
  wasm_rt_tailcallee_t func_tailcallee;
  void *module_instance;
} wasm_rt_funcref_t;
typedef struct {
  wasm_rt_funcref_t *data;
  uint32_t size;
} wasm_rt_funcref_table_t;
typedef wasm_rt_funcref_t wasm_rt_externref_t;
typedef wasm_rt_funcref_table_t wasm_rt_externref_table_t;
static const wasm_rt_funcref_t wasm_rt_funcref_null_value;
static const wasm_rt_externref_t wasm_rt_externref_null_value;
