// Threads of a cell: each confines itself to its role before it does anything else, and none ever
// ends before the process does, so that nobody needs what an ending thread would call.
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "failure.h"

struct thread {
  void (*body)(void *argument); // never returns
  void *argument;
  uint32_t role;  // CELL_ROLE_*
  uint32_t index; // of a vCPU
  bool patient;   // it does not take the processor from whoever wakes it
  char name[16];
  uint32_t state; // futex: 0 until it is confined, 1 from then on, or 2 where that failed
  int error;      // errno with state 2
  pid_t id;       // gettid(2)
};

/** Starts it with all signals but `open` blocked. `thread` must live as long as the process. */
int thread_start(struct thread *thread, const sigset_t *open, struct failure *failure);

/** Waits until a thread that was started is confined. */
int thread_await(struct thread *thread, struct failure *failure);
