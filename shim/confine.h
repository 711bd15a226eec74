// What shuts a cell in beside its seccomp filters: namespaces, user, capabilities, Landlock,
// limits. Everything here is done by the only thread there is, before it starts others.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi.h"
#include "failure.h"

struct confine_wish {
  uint32_t seccomp;              // CELL_SECCOMP_*
  uint32_t landlock, namespaces; // CELL_MODE_*
  bool has_user;                 // `user` and `group` were given
  uid_t user;
  gid_t group;
  bool spawned; // so that it can have process numbers of its own
  int death_signal; // at the end of the process that started this one; 0: none
};

/** What came of it: the message CELL_CONFINED. */
struct confined {
  uint32_t namespaces, namespaces_errno;
  uint32_t landlock_abi, landlock_errno;
  uint32_t seccomp;
  uint32_t user, group;
  uint32_t capabilities;
  uint32_t no_new_privs, dumpable;
  uint64_t processes, files, address_space; // limits
};

/**
 * Everything that a cell can do without once nothing is left to be opened by path, the first
 * seccomp filter last. Fails where a layer that is required, or was asked for, cannot be had.
 */
int confine_process(const struct confine_wish *wish, struct confined *confined,
                    struct failure *failure);

/**
 * The last limits, once all threads and descriptors exist: no further descriptor, no further
 * process (`processes`: but io_uring's own threads), no memory past `address_space` bytes.
 */
int confine_limits(bool processes, uint64_t address_space, struct confined *confined,
                   struct failure *failure);
