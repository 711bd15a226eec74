// seccomp filters: which system calls each thread of a cell may make. The tables are in
// host/confine/cell-policy.ts, from which the build makes programs.
#pragma once

#include <stdint.h>

#include "failure.h"

/** What seccomp is to do, CELL_SECCOMP_*, and the descriptor of the host or -1: before all else. */
void filter_init(uint32_t seccomp, int host);

/** The first filter, for the only thread so far; every later one narrows it. */
int filter_start(struct failure *failure);

/** Narrows the calling thread to CELL_ROLE_*; `index` tells vCPUs apart. Returns 0 or an errno. */
int filter_thread(uint32_t role, uint32_t index);
