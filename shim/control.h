// What a cell says to its host, and hears from it: host/engine/cell-protocol.ts.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "confine.h"
#include "failure.h"
#include "machine.h"
#include "net.h"

struct control {
  int fd; // -1: no host, messages become lines on standard error
  uint8_t received[CELL_COMMAND_BYTES];
  size_t received_bytes;
};

struct command {
  uint32_t type; // CELL_COMMAND_*
  uint32_t value;
};

/** Takes the socket that a host handed over; SIGPIPE must be ignored. */
void control_open(struct control *control, int fd);

/** What confines this cell. */
void control_confined(const struct control *control, const struct confined *confined);

/** A message without payload. */
void control_tell(const struct control *control, uint32_t type);

/** A line of text for the log; CELL_LOG_LEVEL_*. */
void control_log(const struct control *control, uint32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Why the cell ends before its guest starts, and with which exit code. */
void control_failed(const struct control *control, int exit_code, const struct failure *failure);

/** What each network device of a machine that is over did. */
void control_networks(const struct control *control, const struct network *network);

/** The report of a machine that is over. `phases`: CELL_PHASE_COUNT times, see there. */
void control_ended(const struct control *control, const struct machine *machine,
                   const uint64_t *phases);

/** The next command: 1, 0 where none is there, -1 where the host is gone. */
int control_receive(struct control *control, struct command *command);
