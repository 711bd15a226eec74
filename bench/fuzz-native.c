// The fuzz machine as C in bench/fuzz.ts: wasm2c makes it of the very module that V8 runs, with the
// same coverage map, driver, mutator and rules. Takes the machine's memory as the search left it.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "wasm-rt.h"

static jmp_buf trapped;

void wasm_rt_trap(wasm_rt_trap_t why) { longjmp(trapped, 1 + (int)why); }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
// As in shim/cage.c: the bound of every check is the same number.
#define inline inline __attribute__((always_inline))
#define size size * 0 + ABI_CAGE_MEMORY_BYTES
#include "core_w2c.c"
#undef size
#undef inline
#pragma GCC diagnostic pop

static w2c_core machine;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint32_t number(const char *word) { return (uint32_t)strtoul(word, NULL, 10); }

// IMAGE TARGET EDGES VIRGIN CORPUS DICTIONARY VARIANTS QUEUE_SIZE... ROUNDS: prints programs a
// second of processor time.
int main(int count, char **words) {
  if (count < 9) return 2;
  FILE *image = fopen(words[1], "rb");
  static uint8_t bytes[ABI_CAGE_MEMORY_BYTES];
  if (!image || fread(bytes, 1, sizeof bytes, image) != sizeof bytes) return 2;
  fclose(image);
  uint32_t edges = number(words[3]), virgin = number(words[4]), variants = number(words[7]);
  if (count != 9 + (int)variants) return 2;
  uint32_t rounds = number(words[8 + variants]);
  wasm2c_core_instantiate(&machine);
  memcpy(machine.w2c_memory.data, bytes, sizeof bytes);
  w2c_core_setTarget(&machine, number(words[2]));
  w2c_core_resetCoverage(&machine, edges);
  memcpy(machine.w2c_memory.data + virgin, bytes + virgin, edges);
  w2c_core_setCounts(&machine, number(words[5]), number(words[6]));
  w2c_core_seed(&machine, 7);
  if (setjmp(trapped)) return 4;
  double start = seconds();
  for (volatile uint32_t round = 0; round < rounds; round++) {
    uint32_t variant = round % variants;
    w2c_core_useVariant(&machine, variant, number(words[8 + variant]));
    for (int batch = 0; batch < 64; batch++) {
      if (w2c_core_run(&machine, 64) > 1) return 5;
    }
  }
  double elapsed = seconds() - start;
  printf("%.0f\n", (double)w2c_core_takeExecutions(&machine) / elapsed);
  return 0;
}
