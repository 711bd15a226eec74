// Starting a cell from Node. Node's own child processes would cost a start more than all else that
// Faraday does before its guest runs: they copy Node's page tables by fork(2), and their modules
// load Node's whole network stack.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "abi.h"
#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CHILD_DESCRIPTORS_MAX 128
#define CHILD_NULL SHIM_CHILD_NULL       // /dev/null
#define CHILD_CONTROL SHIM_CHILD_CONTROL // the child's end of a socket pair

struct child {
  pid_t pid;
  int control; // the caller's end of the socket pair
};

/**
 * Starts the program with an empty environment, in '/', with the signals as a fresh process has
 * them. `descriptors[n]` becomes number n: a descriptor, CHILD_NULL or, once, CHILD_CONTROL.
 * `session`: it gets a session of its own. `namespaces`: where possible, process
 * numbers of its own.
 */
int child_start(struct child *child, const char *path, char *const *arguments,
                const int *descriptors, unsigned count, bool session, bool namespaces,
                struct failure *failure);

/**
 * Whether the child is over: 1, with its wait status, 0 while it is not, -1 for a failure. Does
 * not wait.
 */
int child_reap(pid_t pid, int *status, struct failure *failure);

#ifdef __cplusplus
}
#endif
