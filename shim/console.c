// The console. Calls read, write, futex, and starts one thread.
//
// Why a thread of its own for output: a terminal or pipe that nobody reads makes write(2) wait, and
// its descriptor is shared with other processes, so O_NONBLOCK is not ours to set.
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "counter.h"
#include "futex.h"

#define CTRL_A 0x01
#define READ_BYTES 4096
#define RECORD_TAIL_MAX (ABI_REQUEST_BYTES_MAX - ABI_REQUEST_RANGES)
// A guest sends byte by byte. Once woken the thread looks again only this much later, so that a
// flood costs a system call per batch and not per byte; the first byte goes out at once.
#define BATCH_NS 3000000L

_Static_assert((CONSOLE_RING_BYTES & (CONSOLE_RING_BYTES - 1)) == 0, "ring size");

// --- Output -------------------------------------------------------------------------------------

static uint32_t waiting(const struct console *console) {
  return __atomic_load_n(&console->head, __ATOMIC_SEQ_CST) -
         __atomic_load_n(&console->tail, __ATOMIC_SEQ_CST);
}

static void put(struct console *console, const uint8_t *bytes, uint32_t count) {
  uint32_t head = console->head;
  for (uint32_t i = 0; i < count; i++) {
    console->ring[(head + i) % CONSOLE_RING_BYTES] = bytes[i];
  }
  __atomic_store_n(&console->head, head + count, __ATOMIC_SEQ_CST);
  // The thread says that it sleeps and then looks at the head once more: one of the two sees it.
  if (__atomic_exchange_n(&console->sleeping, 0, __ATOMIC_SEQ_CST)) {
    futex_wake(&console->sleeping);
  }
}

void console_output(struct console *console) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  uint32_t kind;
  // Room first: what the UART gave out cannot go back into it.
  __atomic_store_n(&console->held, true, __ATOMIC_SEQ_CST);
  if (CONSOLE_RING_BYTES - waiting(console) < RECORD_TAIL_MAX) return;
  __atomic_store_n(&console->held, false, __ATOMIC_SEQ_CST);
  uint32_t effects = device_next(console->serial, 0);
  if (effects & ABI_EFFECT_REQUEST) {
    uint32_t size = device_record(console->serial, record, &effects);
    memcpy(&kind, record + ABI_REQUEST_KIND, sizeof kind);
    if (size > 0 && kind == ABI_REQUEST_KIND_CONSOLE_OUT) {
      put(console, record + ABI_REQUEST_RANGES, size - ABI_REQUEST_RANGES);
    }
  }
  device_interrupt(console->serial, effects);
}

/** Writes some of what waits; what cannot be written is dropped, as the guest must go on. */
static void write_some(struct console *console, uint32_t count) {
  uint32_t start = console->tail % CONSOLE_RING_BYTES;
  uint32_t chunk = CONSOLE_RING_BYTES - start < count ? CONSOLE_RING_BYTES - start : count;
  ssize_t moved = chunk;
  if (console->output >= 0) moved = write(console->output, console->ring + start, chunk);
  if (moved < 0 && errno == EINTR) return;
  if (moved < 0 && errno == EAGAIN) { // somebody else made it non-blocking
    struct pollfd ready = {.fd = console->output, .events = POLLOUT};
    poll(&ready, 1, -1);
    return;
  }
  if (moved < 0) {
    // A reader that is gone, or a terminal that hung up, is nothing to tell of.
    if (errno == EPIPE || errno == EIO) {
      console->output = -1;
    } else {
      __atomic_store_n(&console->lost_errno, errno, __ATOMIC_SEQ_CST);
      counter_add(console->wake);
    }
    moved = chunk;
  }
  __atomic_store_n(&console->tail, console->tail + (uint32_t)moved, __ATOMIC_SEQ_CST);
}

/** Lets the UART give out what found no room before. */
static void release(struct console *console) {
  if (!__atomic_load_n(&console->held, __ATOMIC_SEQ_CST)) return;
  pthread_mutex_lock(&console->serial->lock);
  if (console->held) console_output(console);
  pthread_mutex_unlock(&console->serial->lock);
}

static void write_out(void *argument) {
  struct console *console = argument;
  const struct timespec batch = {.tv_nsec = BATCH_NS};
  for (;;) {
    uint32_t count = waiting(console);
    if (count > 0) {
      write_some(console, count);
      release(console);
      if (waiting(console) == 0) futex_wait(&console->stopping, 0, &batch);
      continue;
    }
    if (__atomic_load_n(&console->stopping, __ATOMIC_SEQ_CST)) break;
    __atomic_store_n(&console->sleeping, 1, __ATOMIC_SEQ_CST);
    if (waiting(console) == 0 && !__atomic_load_n(&console->stopping, __ATOMIC_SEQ_CST)) {
      futex_wait(&console->sleeping, 1, NULL);
    }
    __atomic_store_n(&console->sleeping, 0, __ATOMIC_SEQ_CST);
  }
  __atomic_store_n(&console->drained, 1, __ATOMIC_SEQ_CST);
  futex_wake(&console->drained);
  for (;;) futex_wait(&console->drained, 1, NULL);
}

int console_start(struct console *console, struct failure *failure) {
  console->thread = (struct thread){
      .body = write_out,
      .argument = console,
      .role = CELL_ROLE_CONSOLE,
      .name = "console",
  };
  return thread_start(&console->thread, NULL, failure);
}

bool console_stop(struct console *console, int patience_ms) {
  const uint64_t start_ns = monotonic_ns();
  const uint64_t patience_ns = (uint64_t)patience_ms * 1000000u;
  __atomic_store_n(&console->stopping, 1, __ATOMIC_SEQ_CST);
  futex_wake(&console->stopping);
  if (__atomic_exchange_n(&console->sleeping, 0, __ATOMIC_SEQ_CST)) {
    futex_wake(&console->sleeping);
  }
  while (!__atomic_load_n(&console->drained, __ATOMIC_SEQ_CST)) {
    uint64_t passed_ns = monotonic_ns() - start_ns;
    if (passed_ns >= patience_ns) return false;
    uint64_t left_ns = patience_ns - passed_ns;
    const struct timespec left = {
        .tv_sec = (time_t)(left_ns / 1000000000u),
        .tv_nsec = (long)(left_ns % 1000000000u),
    };
    futex_wait(&console->drained, 0, &left);
  }
  return true;
}

// --- Input --------------------------------------------------------------------------------------

bool console_feed(struct console *console) {
  while (console->pending_count > 0) {
    uint32_t taken;
    const uint8_t *bytes = console->pending + console->pending_start;
    uint32_t effects = device_input(console->serial, bytes, console->pending_count, &taken);
    device_interrupt(console->serial, effects);
    if (taken == 0) return false;
    console->pending_start += taken;
    console->pending_count -= taken;
  }
  console->pending_start = 0;
  return true;
}

/** What finds no room is lost: only a terminal is read while bytes wait. */
static void add(struct console *console, uint8_t byte) {
  if (console->pending_start + console->pending_count == CONSOLE_PENDING_BYTES) {
    memmove(console->pending, console->pending + console->pending_start, console->pending_count);
    console->pending_start = 0;
  }
  if (console->pending_count == CONSOLE_PENDING_BYTES) return;
  console->pending[console->pending_start + console->pending_count++] = byte;
}

/** Ctrl-A x leaves, Ctrl-A Ctrl-A sends one, anything else goes to the guest with its Ctrl-A. */
static bool parse_typed(struct console *console, const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (!console->escaping) {
      console->escaping = bytes[i] == CTRL_A;
      if (!console->escaping) add(console, bytes[i]);
      continue;
    }
    console->escaping = false;
    if (bytes[i] == 'x' || bytes[i] == 'X') return true;
    add(console, CTRL_A);
    if (bytes[i] != CTRL_A) add(console, bytes[i]);
  }
  return false;
}

bool console_wants_input(struct console *console) {
  if (console->input < 0) return false;
  if (console->terminal) return true;
  pthread_mutex_lock(&console->serial->lock);
  bool empty = console->pending_count == 0;
  pthread_mutex_unlock(&console->serial->lock);
  return empty;
}

enum console_input console_read(struct console *console) {
  uint8_t bytes[READ_BYTES];
  struct pollfd ready = {.fd = console->input, .events = POLLIN};
  if (poll(&ready, 1, 0) <= 0) return CONSOLE_NOTHING;
  ssize_t count = read(console->input, bytes, sizeof bytes);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return CONSOLE_NOTHING;
  if (count < 0 && errno != EIO) return CONSOLE_FAILED;
  // EIO: a terminal that hung up, or one that is another job's for now.
  if (count < 0 && console->terminal && !(ready.revents & POLLHUP)) return CONSOLE_LENT;
  if (count <= 0) return CONSOLE_END;
  bool quit = false;
  pthread_mutex_lock(&console->serial->lock);
  if (console->terminal) {
    quit = parse_typed(console, bytes, (size_t)count);
  } else {
    for (ssize_t i = 0; i < count; i++) add(console, bytes[i]);
  }
  console_feed(console);
  pthread_mutex_unlock(&console->serial->lock);
  return quit ? CONSOLE_QUIT : CONSOLE_TAKEN;
}
