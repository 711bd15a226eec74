// The console beside the UART: a bounded ring of output with a thread that writes it, and a bounded
// buffer of input. Nothing the guest sends is lost and nothing grows: a full ring leaves the UART
// busy, and the vCPU goes on.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "failure.h"
#include "thread.h"

#define CONSOLE_RING_BYTES 16384u // a power of two
#define CONSOLE_PENDING_BYTES 65536u

enum console_input {
  CONSOLE_TAKEN,
  CONSOLE_NOTHING,
  CONSOLE_END,
  CONSOLE_LENT, // another job has the terminal
  CONSOLE_FAILED, // see errno
  CONSOLE_QUIT,
};

struct console {
  struct device *serial;
  int input;  // -1: none
  int output; // -1: none, output is dropped
  int wake;   // eventfd towards the I/O thread, for lost_errno
  bool terminal;     // Ctrl-A is the user's
  bool escaping;     // the last byte was a Ctrl-A
  struct thread thread;
  uint32_t head;     // atomic: bytes put into the ring; by the holder of the serial's lock
  uint32_t tail;     // atomic: bytes written out; by the console's thread
  uint32_t sleeping; // futex: the thread waits for output
  uint32_t stopping; // futex
  uint32_t drained;  // futex: the thread has written everything out and does nothing more
  bool held;         // atomic: the UART has output for which there was no room
  int lost_errno;    // atomic: why output was dropped, or 0
  bool loss_told;    // the I/O thread's
  uint8_t ring[CONSOLE_RING_BYTES];
  uint32_t pending_start, pending_count; // under the serial's lock
  uint8_t pending[CONSOLE_PENDING_BYTES];
};

/** Starts the thread that writes. `serial`, `input`, `output`, `terminal` and `wake` are set. */
int console_start(struct console *console, struct failure *failure);

/** EFFECT_OUTPUT: moves what the UART has into the ring, if there is room. Serial lock held. */
void console_output(struct console *console);

/**
 * EFFECT_INPUT_SPACE, and after a read: gives the UART what waits. Serial lock held. True once
 * nothing waits any more, so that the input may be read on.
 */
bool console_feed(struct console *console);

/**
 * Reads what has been typed or sent and feeds the UART; CONSOLE_NOTHING where a read would have
 * waited. Without the lock. After CONSOLE_END and CONSOLE_FAILED no more will come.
 */
enum console_input console_read(struct console *console);

/** Whether to read the input now: a terminal always, a pipe once its last bytes are taken. */
bool console_wants_input(struct console *console);

/** Waits until all output is out, but at most so many milliseconds. True: all is out. */
bool console_stop(struct console *console, int patience_ms);
