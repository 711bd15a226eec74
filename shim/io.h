// The I/O thread: waits for doorbells, completions, console input, signals and commands, and does
// what each asks for, until the guest is over.
#pragma once

#include "control.h"
#include "machine.h"
#include "net.h"
#include "serve.h"

struct io {
  struct machine *machine;
  struct server *server;
  struct network *network;
  struct control *control;
  bool host_needed; // its end is the guest's
  int epoll;
  int signals; // signalfd
  bool paused;
  uint32_t turn; // the queue that gets the next free slots of io_uring
  bool input_watched;  // by epoll
  bool input_always;   // it cannot be: a file, or /dev/null
  bool input_over;
  bool input_lent;     // it is another job's terminal for now
  bool marker_told;
  uint32_t traps_told[MACHINE_DEVICES_MAX];
  bool losses_told[NET_DEVICES_MAX];
};

/** Makes everything that is waited for. */
int io_create(struct io *io, struct failure *failure);

/** Serves until the guest is over and its vCPUs have stopped. */
void io_run(struct io *io);

/**
 * Waits until the console's output is out, or so many milliseconds have passed; -1: until it is,
 * or somebody asks to stop.
 */
void io_farewell(struct io *io, int patience_ms);
