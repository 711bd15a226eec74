// The recording cell: build/faraday-cell-recording, which `faraday run --record` starts in place of
// the release cell. Its objects are the cell's own, with the cages that log their accesses, and
// this file, which the linker puts in the way of the calls into a cage (--wrap). docs/replay.md has
// the format; the host has written preamble and machine. Calls write, fcntl, mmap, poll, sigaction.
//
// A call is noted under its device's lock, so that a device's events stand in their true order; the
// block that all threads write to has a lock of its own, held while it is written out. No buffer
// grows. Once the recording cannot go on the guest does, and its host is told at the end.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control.h"
#include "machine.h"
#include "options.h"

#define BLOCK_BYTES 0x10000u // a block is written once it holds as many
// What one call may log: a queue of 256 chains of 256 descriptors takes half of it.
#define LOG_BYTES (UINT32_C(4) << 20)
#define HEAD_BYTES_MAX 128u // an event's numbers
#define EVENT_BYTES_MAX (HEAD_BYTES_MAX + ABI_INBOX_BYTES + ABI_REQUEST_BYTES_MAX + LOG_BYTES)
// Of address space, beside what a cell has: the logs, this file's own, and some room.
#define RECORDING_BYTES (MACHINE_DEVICES_MAX * (uint64_t)LOG_BYTES + (UINT64_C(8) << 20))
#define LAST_WORD_MS 5000

_Static_assert(CAGE_TRAPPED == RECORD_TRAPPED, "a trap is the same number in a recording");
_Static_assert(EVENT_BYTES_MAX + BLOCK_BYTES < RECORD_BLOCK_BYTES_MAX, "a block holds any event");

struct recorded {
  struct cage *cage;
  struct access_log log;
  uint8_t input[ABI_INBOX_BYTES];
  bool over; // its state is taken: nothing that it does from then on counts
};

/** A call into a cage, from its beginning to its end. */
struct call {
  struct recorded *device;
  uint64_t began_us;
  uint8_t number; // RECORD_CALL_*
  uint8_t argument_count;
  uint32_t arguments[3];
  uint32_t input_bytes;
};

// Each is changed by one thread under its device's lock.
static struct recorded devices[MACHINE_DEVICES_MAX];
static uint32_t device_count;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of all that follows
static int recording = -1; // the descriptor
static int failure_number; // errno: nothing is recorded from there on
static uint64_t last_us;   // of the last event
static struct {
  uint32_t length, checksum;
  uint8_t payload[BLOCK_BYTES + EVENT_BYTES_MAX];
} block;

_Static_assert(offsetof(typeof(block), payload) == RECORD_BLOCK_HEADER_BYTES, "block");
_Static_assert(offsetof(typeof(block), checksum) == RECORD_BLOCK_CHECKSUM, "block");

// --- Checksums ----------------------------------------------------------------------------------

#define LANES 8 // bytes at once

static uint32_t remainders[LANES][256]; // [n][b]: of the byte b with n bytes of zero behind it

static void make_remainders(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; bit++) {
      remainder = remainder >> 1 ^ (remainder & 1 ? UINT32_C(0xedb88320) : 0);
    }
    remainders[0][byte] = remainder;
  }
  for (uint32_t lane = 1; lane < LANES; lane++) {
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t before = remainders[lane - 1][byte];
      remainders[lane][byte] = before >> 8 ^ remainders[0][before & 0xff];
    }
  }
}

/** CRC-32 of IEEE 802.3: `remainder` of what came before, ~0 at first, and to be inverted. */
static uint32_t crc(uint32_t remainder, const uint8_t *bytes, size_t count) {
  for (; count >= LANES; bytes += LANES, count -= LANES) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    word ^= remainder;
    remainder = 0;
    for (int i = 0; i < LANES; i++) {
      remainder ^= remainders[LANES - 1 - i][word >> 8 * i & 0xff];
    }
  }
  for (; count > 0; bytes++, count--) {
    remainder = remainder >> 8 ^ remainders[0][(remainder ^ *bytes) & 0xff];
  }
  return remainder;
}

// --- The block ----------------------------------------------------------------------------------

static void put_byte(uint8_t byte) { block.payload[block.length++] = byte; }

static void put_varint(uint32_t value) {
  for (; value > 0x7f; value >>= 7) put_byte((uint8_t)(value | 0x80));
  put_byte((uint8_t)value);
}

static void put_bytes(const uint8_t *bytes, uint32_t count) {
  put_varint(count);
  if (count > 0) memcpy(block.payload + block.length, bytes, count);
  block.length += count;
}

static void write_block(void) {
  block.checksum = ~crc(UINT32_MAX, block.payload, block.length);
  const uint8_t *at = (const uint8_t *)&block;
  size_t left = RECORD_BLOCK_HEADER_BYTES + block.length;
  while (left > 0) {
    ssize_t written = write(recording, at, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      failure_number = written < 0 ? errno : EIO;
      break;
    }
    at += written;
    left -= (size_t)written;
  }
  block.length = 0;
}

/** The size of the record in the outbox; 0 where its own numbers would be a trap (device.c). */
static uint32_t record_bytes(const struct cage *cage) {
  uint32_t kind = cage_u32(cage, ABI_REQUEST + ABI_REQUEST_KIND);
  uint64_t tail = kind == ABI_REQUEST_KIND_CONSOLE_OUT
                      ? cage_u64(cage, ABI_REQUEST + ABI_REQUEST_LENGTH)
                      : (uint64_t)cage_u32(cage, ABI_REQUEST + ABI_REQUEST_RANGE_COUNT) *
                            ABI_RANGE_STRIDE;
  if (tail > ABI_REQUEST_BYTES_MAX - ABI_REQUEST_RANGES) return 0;
  return ABI_REQUEST_RANGES + (uint32_t)tail;
}

static void put_event(const struct call *call) {
  put_byte(call->number);
  put_byte((uint8_t)(call->device - devices));
  // The event in front may have begun later than this one, on another thread.
  uint64_t passed_us = call->began_us > last_us ? call->began_us - last_us : 0;
  if (passed_us > RECORD_TIME_MAX_US) passed_us = RECORD_TIME_MAX_US;
  last_us += passed_us;
  put_varint((uint32_t)passed_us);
  for (uint8_t i = 0; i < call->argument_count; i++) put_varint(call->arguments[i]);
  if (call->number == RECORD_CALL_INPUT) put_bytes(call->device->input, call->input_bytes);
}

static void put_answer(const struct recorded *device, uint32_t effects) {
  put_varint(effects);
  if (effects != CAGE_TRAPPED) {
    put_varint(cage_u32(device->cage, ABI_OUTBOX_VALUE));
    if (effects & ABI_EFFECT_REQUEST) {
      put_bytes(cage_memory(device->cage) + ABI_REQUEST, record_bytes(device->cage));
    }
  }
  put_bytes(device->log.bytes, (uint32_t)device->log.used);
}

// --- Calls --------------------------------------------------------------------------------------

static uint64_t now_us(void) { return monotonic_ns() / 1000; }

/** NULL for a cage that is still being made. */
static struct recorded *find(const struct cage *cage) {
  for (uint32_t i = 0; i < device_count; i++) {
    if (devices[i].cage == cage) return &devices[i];
  }
  return NULL;
}

static struct call begin(struct cage *cage, uint8_t number) {
  struct call call = {.device = find(cage), .began_us = now_us(), .number = number};
  if (call.device) call.device->log.used = 0;
  return call;
}

static void note(const struct call *call, uint32_t effects) {
  const struct recorded *device = call->device;
  if (!device || device->over) return;
  pthread_mutex_lock(&lock);
  // Only a core that is not ours can get there.
  if (device->log.used > device->log.capacity && failure_number == 0) failure_number = EOVERFLOW;
  if (failure_number == 0) {
    put_event(call);
    if (call->number != RECORD_CALL_RESTART) put_answer(device, effects);
    if (block.length >= BLOCK_BYTES) write_block();
  }
  pthread_mutex_unlock(&lock);
}

#define WRAPPED(answer, name, ...) \
  answer __real_##name(__VA_ARGS__); \
  answer __wrap_##name(__VA_ARGS__)

/** A call with numbers for arguments. */
#define NUMBERS(name, call_number, count, parameters, ...) \
  uint32_t __real_##name parameters; \
  uint32_t __wrap_##name parameters; \
  uint32_t __wrap_##name parameters { \
    struct call call = begin(cage, call_number); \
    call.argument_count = count; \
    const uint32_t numbers[] = {__VA_ARGS__}; \
    memcpy(call.arguments, numbers, count * sizeof *numbers); \
    uint32_t effects = __real_##name(cage, __VA_ARGS__); \
    note(&call, effects); \
    return effects; \
  }

NUMBERS(cage_read, RECORD_CALL_READ, 2, (struct cage * cage, uint32_t offset, uint32_t width),
        offset, width)
NUMBERS(cage_write, RECORD_CALL_WRITE, 3,
        (struct cage * cage, uint32_t offset, uint32_t width, uint32_t value), offset, width, value)
NUMBERS(cage_notify, RECORD_CALL_NOTIFY, 1, (struct cage * cage, uint32_t queue), queue)
NUMBERS(cage_next, RECORD_CALL_NEXT, 1, (struct cage * cage, uint32_t queue), queue)
NUMBERS(cage_complete, RECORD_CALL_COMPLETE, 3,
        (struct cage * cage, uint32_t tag, uint32_t result, uint32_t bytes), tag, result, bytes)

WRAPPED(uint32_t, cage_input, struct cage *, uint32_t);
WRAPPED(uint32_t, cage_fail, struct cage *);
WRAPPED(uint32_t, cage_init, struct cage *, uint32_t);

uint32_t __wrap_cage_input(struct cage *cage, uint32_t length) {
  struct call call = begin(cage, RECORD_CALL_INPUT);
  // Taken before the call, after which the inbox is the core's.
  if (call.device) memcpy(call.device->input, cage_memory(cage) + ABI_INBOX, length);
  call.input_bytes = length;
  uint32_t effects = __real_cage_input(cage, length);
  note(&call, effects);
  return effects;
}

uint32_t __wrap_cage_fail(struct cage *cage) {
  struct call call = begin(cage, RECORD_CALL_FAIL);
  uint32_t effects = __real_cage_fail(cage);
  note(&call, effects);
  return effects;
}

/** The first one of a device is no event: a replay makes the devices before anything else. */
uint32_t __wrap_cage_init(struct cage *cage, uint32_t kind) {
  struct call call = begin(cage, RECORD_CALL_RESTART);
  uint32_t answer = __real_cage_init(cage, kind);
  note(&call, 0);
  return answer;
}

// --- Start --------------------------------------------------------------------------------------

WRAPPED(int, options_parse, struct options *, int, char **, struct failure *);
WRAPPED(int, close_range, unsigned, unsigned, int);
WRAPPED(int, device_create, struct device *, uint32_t, const char *, const struct guest_memory *,
        const uint8_t *, uint32_t, struct failure *);
WRAPPED(int, confine_limits, bool, uint64_t, struct confined *, struct failure *);

int __wrap_options_parse(struct options *options, int count, char **words,
                         struct failure *failure) {
  make_remainders();
  last_us = now_us();
  if (__real_options_parse(options, count, words, failure)) return -1;
  if (options->spawned) return 0;
  return options_usage(failure, "a recording needs a host: faraday run --record FILE");
}

/** The descriptor behind those of the files is the recording: it stays. */
int __wrap_close_range(unsigned first, unsigned last, int flags) {
  if (fcntl((int)first, F_GETFD) >= 0) recording = (int)first;
  return __real_close_range(first + 1, last, flags);
}

int __wrap_device_create(struct device *device, uint32_t kind, const char *name,
                         const struct guest_memory *memory, const uint8_t *config,
                         uint32_t config_bytes, struct failure *failure) {
  if (recording < 0) return fail(failure, EBADF, "recording", "%s", "its descriptor is missing");
  if (__real_device_create(device, kind, name, memory, config, config_bytes, failure)) return -1;
  uint8_t *bytes = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bytes == MAP_FAILED) return fail(failure, errno, "mmap", "the recording of %s", name);
  struct recorded *recorded = &devices[device_count++];
  recorded->cage = device->cage;
  recorded->log = (struct access_log){.bytes = bytes, .capacity = LOG_BYTES};
  cage_log_accesses(device->cage, &recorded->log);
  return 0;
}

int __wrap_view_pages(const struct image *image, int kvm, struct vm_page *pages,
                      struct failure *failure);
/** A recording has every read: none goes past its cage. */
int __wrap_view_pages(const struct image *image, int kvm, struct vm_page *pages,
                      struct failure *failure) {
  (void)image, (void)kvm, (void)pages, (void)failure;
  return 0;
}

int __wrap_confine_limits(bool processes, uint64_t address_space, struct confined *confined,
                          struct failure *failure) {
  return __real_confine_limits(processes, address_space + RECORDING_BYTES, confined, failure);
}

// --- End ----------------------------------------------------------------------------------------

WRAPPED(void, control_ended, const struct control *, const struct machine *, const uint64_t *);

/**
 * The end of it: 0, or the errno that kept it from being whole. The console's thread may still be
 * about to call the UART: whatever a device does once its state is taken is not recorded any more.
 */
static int finish(const struct machine *machine) {
  uint32_t states[MACHINE_DEVICES_MAX];
  for (uint32_t i = 0; i < device_count; i++) {
    pthread_mutex_t *own = (pthread_mutex_t *)&machine->devices[i].lock;
    pthread_mutex_lock(own);
    states[i] = ~crc(UINT32_MAX, cage_memory(devices[i].cage) + ABI_STATE, ABI_STATE_BYTES);
    devices[i].over = true;
    pthread_mutex_unlock(own);
  }
  pthread_mutex_lock(&lock);
  put_byte(RECORD_CALL_END);
  memcpy(block.payload + block.length, states, device_count * sizeof *states);
  block.length += device_count * (uint32_t)sizeof *states;
  if (failure_number == 0) write_block();
  int number = failure_number;
  pthread_mutex_unlock(&lock);
  return number;
}

/** Exit codes, causes, whatever: every guest that is over comes by here. */
void __wrap_control_ended(const struct control *control, const struct machine *machine,
                          const uint64_t *phases) {
  const struct {
    uint32_t type, length, number;
  } message = {CELL_RECORDED, CELL_RECORDED_BYTES, (uint32_t)finish(machine)};
  struct pollfd room = {.fd = control->fd, .events = POLLOUT};
  poll(&room, 1, LAST_WORD_MS);
  ssize_t written = write(control->fd, &message, sizeof message);
  (void)written; // a host that is gone hears nothing
  __real_control_ended(control, machine, phases);
}
