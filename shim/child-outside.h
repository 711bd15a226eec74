// A thread that stays outside of what the calling thread is about to enter. A Landlock domain that
// handles files forbids mount(2) to all that is started inside it, and a cell needs that for its
// empty root: so the cell is started from here, and then this thread follows its process in.
#pragma once

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Starts the thread, once; it lives as long as the process. */
int outside_start(struct failure *failure);

/**
 * Runs `job` on that thread and waits for it; on the calling thread where there is none. One caller
 * at a time.
 */
void outside_run(void (*job)(void *argument), void *argument);

/** Whether there is such a thread. */
int outside_exists(void);

#ifdef __cplusplus
}
#endif
