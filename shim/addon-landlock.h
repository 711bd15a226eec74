// What Faraday's own process gives up: Landlock for its files, capabilities, no_new_privs. The
// cell's half of this is confine.c, which is no part of the addon's.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A path and what stays allowed with it and all below it: SHIM_PATH_* bits. */
struct path_rule {
  const char *path;
  uint32_t rights;
};

/** What came of it: the ABI of the kernel, or 0 and why (an errno). */
struct landlock_result {
  uint32_t abi;
  int error;
};

/** No program that this thread, or a thread or process it starts, executes gains rights by it. */
int set_no_new_privs(struct failure *failure);

/**
 * Restricts the calling thread, and all that it starts from then on, to `rules`: every right that
 * the kernel's Landlock knows is handled. A path that is not there is left out. `outside`: a thread
 * stays out of the rules for files, to start a cell (child-outside.h).
 */
struct landlock_result enter_landlock(const struct path_rule *rules, unsigned count, bool outside);

/**
 * The same once more, narrower, when the cell is started, for the thread outside too. 0 or an
 * errno.
 */
int narrow_landlock(const struct path_rule *rules, unsigned count);

/**
 * Gives up all capabilities but those whose bits are in `keep`, also of the thread outside, and
 * takes the others from the bounding set as far as this user may.
 */
int drop_capabilities_but(uint32_t keep, struct failure *failure);

#ifdef __cplusplus
}
#endif
