// Locks on disk images.
#pragma once

#include <stdbool.h>

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Takes an OFD lock on the whole file without waiting: it belongs to the open file, so it ends
 * with the last descriptor of it, whichever process has that. 1: taken, 0: somebody else holds
 * it, -1: failed.
 */
int lock_file(int fd, bool exclusive, struct failure *failure);

#ifdef __cplusplus
}
#endif
