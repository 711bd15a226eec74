// What the parts of test/net-hostile.c share.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "../shim/machine.h"

#define RAM_BYTES (UINT64_C(1) << 20)
#define FIRST_VHOST 1000 // a descriptor that net-hostile-vhost.c plays, and those behind it

extern struct machine machine;

uint32_t random_below(uint32_t limit);
void wrong(const char *what);

static inline void put(uint8_t *at, uint64_t value, size_t bytes) { memcpy(at, &value, bytes); }

/** Whether the tap is as the cage said last. */
bool lent_as_told(void);

/** Nearly a record of rings: its bytes. */
uint32_t rings_record(uint8_t *record);

/** Prints how many rings the kernel got. */
void tell_vhost(void);
