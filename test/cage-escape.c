// What test/planted-bugs.test.ts runs: the devices of a cell, without KVM, driven by a script on
// the standard input. After every call into a device it looks whether anything but that device's
// own memory and guest RAM has changed in the whole process.
//
// Everything here but the script is what a cell is made of: the cages (of a core with a bug planted
// in it), device.c with its policy of traps, serve.c with the checks of request records, disks as
// files. Guest RAM and each cage lie between guards wider than any 32-bit offset reaches: an access
// that leaves them is a SIGSEGV. What else is mapped for writing is compared byte by byte, except
// for a short list of what a call may change: allow_call().
//
// The script, one word after the other, numbers as strtoull() takes them, bytes as hexadecimal:
//   device KIND CONFIGURATION [PATH CAPACITY READ_ONLY]    first of all, in the order of numbers
//   ram ADDRESS BYTES           the guest writes its own memory
//   read D OFFSET WIDTH         a register access; says the value
//   write D OFFSET WIDTH VALUE
//   serve D QUEUE               the doorbell: the I/O thread serves the queue
//   hold D QUEUE                the same for one request, which stays in flight
//   finish                      that one is carried out
//   output D                    says what the UART sends
//   spoil D ADDRESS BYTES       changes the state that check D then takes as restored; a device
//   check D                     whose state is refused does not run any more
//   peek ADDRESS LENGTH         says bytes of guest RAM
//   stray WHERE                 a write that is none of device 0's: this program must notice it
// Ends with 0 and a line of JSON; with 3 after an escape; by a signal where a guard was met.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#if __GLIBC_PREREQ(2, 35)
#include <sys/rseq.h>
#endif
#include <unistd.h>

#include "core_w2c.h"
#include "device.h"
#include "serve.h"

#define GUARD_BYTES (UINT64_C(8) << 30)
#define RAM_BYTES 0x100000
#define DEVICES_MAX 8
#define REGIONS_MAX 64
#define TURNS_MAX 4      // of the I/O thread for one doorbell
#define SECONDS_MAX 30   // a call that never returns
#define STATUS_ESCAPE 3
#define STATUS_SCRIPT 4

static struct device devices[DEVICES_MAX];
static unsigned device_count;
static bool state_refused[DEVICES_MAX];
static unsigned trap_reports[DEVICES_MAX];
static struct server server;
static struct guest_memory ram;
static uint8_t *heap;
static uint8_t record[ABI_REQUEST_BYTES_MAX];
static uint32_t held; // slot of the request in flight, plus 1
static char script[256 << 10], said[64 << 10];
static size_t said_bytes;

/** The instance around a cage's memory. */
static w2c_core *core_of(const struct device *device) {
  return (w2c_core *)(cage_memory(device->cage) - offsetof(w2c_core, w2c_memory.data));
}

static void broken(const char *what) {
  fprintf(stderr, "script: %s\n", what);
  _exit(STATUS_SCRIPT);
}

// --- Guards -------------------------------------------------------------------------------------

// The linker puts these in front of the shim's calls (with 64-bit offsets mmap() is mmap64()).
void *__real_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t bytes);

static unsigned guarded_mappings;

void *__wrap_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (address) return __real_mmap64(address, bytes, protection, flags, fd, offset);
  uint8_t *wide = __real_mmap64(NULL, bytes + 2 * GUARD_BYTES, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return MAP_FAILED;
  guarded_mappings++;
  return __real_mmap64(wide + GUARD_BYTES, bytes, protection, flags | MAP_FIXED, fd, offset);
}

/** What guest RAM is cut out of becomes part of its guards. */
int __wrap_munmap(void *address, size_t bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  void *guard = __real_mmap64(address, bytes, PROT_NONE, flags, -1, 0);
  return guard == MAP_FAILED ? -1 : 0;
}

// --- What may change, and what did --------------------------------------------------------------

struct region {
  uint8_t *start, *end;
  uint8_t *copy;
  bool stack;
};

static struct region regions[REGIONS_MAX];
static unsigned region_count;
static uint8_t *copies;
static size_t copies_bytes;
static struct {
  const uint8_t *start, *end;
} allowed[96];
static unsigned allowed_count;

static void allow(const volatile void *start, size_t bytes) {
  const uint8_t *first = (const uint8_t *)start;
  if (allowed_count == sizeof allowed / sizeof *allowed) broken("too much is allowed");
  allowed[allowed_count].start = first;
  allowed[allowed_count++].end = first + bytes;
}

static int allow_thread(struct dl_phdr_info *info, size_t bytes, void *unused) {
  (void)bytes;
  (void)unused;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    if (header->p_type != PT_TLS) continue;
    size_t size = (header->p_memsz + header->p_align - 1) / header->p_align * header->p_align;
    allow((uint8_t *)__builtin_thread_pointer() - size, size);
  }
  return 0;
}

/** What a call into `device` and the service of its queues may change, beside guest RAM. */
static void allow_call(struct device *device) {
  allowed_count = 0;
  allow(cage_memory(device->cage), ABI_CAGE_MEMORY_BYTES);
  allow(&core_of(device)->w2c_g0, sizeof core_of(device)->w2c_g0); // the step budget
  // Bookkeeping of device.c and serve.c for this device.
  allow(&device->dead, sizeof device->dead);
  allow(&device->traps, sizeof device->traps);
  allow(&device->last_trap_ns, sizeof device->last_trap_ns);
  allow(device->lost_incidents, sizeof device->lost_incidents);
  allow(&device->counts, sizeof device->counts);
  for (unsigned i = 0; i < ABI_QUEUE_COUNT_MAX; i++) {
    struct device_queue *queue = &device->queues[i];
    allow(&queue->waiting, sizeof queue->waiting);
    allow(&queue->vain, sizeof queue->vain);
    allow(&queue->in_flight, sizeof queue->in_flight + sizeof queue->generation);
  }
  allow(&trap_reports[device - devices], sizeof *trap_reports);
  // The I/O thread's own: requests on their way, and a record that was copied out.
  allow(&server.free_count, sizeof server.free_count);
  allow(server.free_slots, sizeof server.free_slots);
  allow(server.jobs, sizeof server.jobs);
  allow(record, sizeof record);
  dl_iterate_phdr(allow_thread, NULL); // errno, and where a trap leaves a call for
#if __GLIBC_PREREQ(2, 35)
  // The kernel says there on which processor the thread is.
  allow((uint8_t *)__builtin_thread_pointer() + __rseq_offset, sizeof(struct rseq));
#endif
}

static bool may_change(const uint8_t *at) {
  for (unsigned i = 0; i < allowed_count; i++) {
    if (at >= allowed[i].start && at < allowed[i].end) return true;
  }
  return false;
}

static void escaped(const struct region *region, const uint8_t *at, const struct device *device) {
  const char *what = region->stack ? "the stack" : "the process's data";
  for (unsigned i = 0; i < device_count; i++) {
    const uint8_t *own = (const uint8_t *)&devices[i];
    if ((uint8_t *)devices[i].cage == region->start) what = "an instance";
    if (at >= own && at < own + sizeof *device) what = "a device's bookkeeping";
  }
  fprintf(stderr, "escape: a call into device %d changed a byte of %s at %p\n",
          (int)(device - devices), what, (const void *)at);
  _exit(STATUS_ESCAPE);
}

/** All that is mapped for writing by now, but guest RAM, is looked after from here on. */
static void find_regions(void) {
  static char maps[64 << 10];
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  size_t used = 0;
  ssize_t count;
  if (guarded_mappings != device_count + 1) broken("a cage or guest RAM has no guards");
  while ((count = read(fd, maps + used, sizeof maps - 1 - used)) > 0) used += (size_t)count;
  close(fd);
  for (char *line = maps; *line; line = strchr(line, '\n') + 1) {
    unsigned long start, end;
    char rights[5];
    if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) != 3) broken("/proc/self/maps");
    if (rights[1] != 'w' || (uint8_t *)start == ram.base) continue;
    if (region_count == REGIONS_MAX) broken("too many mappings");
    struct region *region = &regions[region_count++];
    *region = (struct region){.start = (uint8_t *)start, .end = (uint8_t *)end};
    region->stack = (uint8_t *)&region >= region->start && (uint8_t *)&region < region->end;
    copies_bytes += end - start;
  }
  copies = mmap(NULL, copies_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (region_count < 4 || copies == MAP_FAILED) broken("mappings");
  uint8_t *copy = copies;
  for (unsigned i = 0; i < region_count; i++) {
    regions[i].copy = copy;
    copy += regions[i].end - regions[i].start;
  }
}

static void take_copies(uint8_t *frame) {
  mprotect(copies, copies_bytes, PROT_READ | PROT_WRITE);
  for (unsigned i = 0; i < region_count; i++) {
    if (regions[i].stack) regions[i].start = frame; // below, calls come and go
  }
  for (unsigned i = 0; i < region_count; i++) {
    memcpy(regions[i].copy, regions[i].start, (size_t)(regions[i].end - regions[i].start));
  }
  mprotect(copies, copies_bytes, PROT_READ);
}

static void compare(const struct device *device) {
  for (unsigned i = 0; i < region_count; i++) {
    const struct region *region = &regions[i];
    size_t bytes = (size_t)(region->end - region->start);
    if (memcmp(region->start, region->copy, bytes) == 0) continue;
    for (size_t at = 0; at < bytes; at++) {
      const uint8_t *byte = region->start + at;
      if (*byte != region->copy[at] && !may_change(byte)) escaped(region, byte, device);
    }
  }
}

// --- Calls --------------------------------------------------------------------------------------

struct call {
  enum { READ, WRITE, SERVE, HOLD, FINISH, OUTPUT, CHECK, STRAY } what;
  struct device *device;
  uint32_t numbers[3];
};

static void count_trap(const struct device *device) { trap_reports[device - devices]++; }

/** As the I/O thread does with a disk on io_uring: the request is checked, and under way. */
static uint32_t hold(struct device *device, uint32_t queue) {
  uint32_t more = 0;
  pthread_mutex_lock(&device->lock);
  uint32_t effects = device_notify(device, queue);
  uint32_t size = effects & ABI_EFFECT_REQUEST ? device_record(device, record, &more) : 0;
  uint32_t slot = 0;
  if (size > 0) {
    slot = server.free_slots[--server.free_count];
    struct job *job = &server.jobs[slot++];
    struct request_result refusal;
    job->device = device;
    job->queue = queue;
    job->generation = device->queues[queue].generation;
    memcpy(&job->tag, record + ABI_REQUEST_TAG, sizeof job->tag);
    if (block_check(&job->request, &ram, &device->disk, record, size, &refusal)) slot = 0;
    device->queues[queue].in_flight++;
  }
  pthread_mutex_unlock(&device->lock);
  return slot;
}

static void finish(struct device *device, uint32_t slot) {
  struct job *job = &server.jobs[slot - 1];
  struct device_queue *queue = &device->queues[job->queue];
  struct request_result result = block_run(&device->disk, &job->request, 0);
  pthread_mutex_lock(&device->lock);
  if (job->generation == queue->generation) {
    uint32_t bytes = job->request.kind == ABI_REQUEST_KIND_BLK_IN ? (uint32_t)result.bytes : 0;
    device_interrupt(device, device_complete(device, job->tag, result.result, bytes));
  }
  queue->in_flight--;
  pthread_mutex_unlock(&device->lock);
  server.free_slots[server.free_count++] = (uint16_t)(slot - 1);
}

static uint32_t serve(struct device *device, uint32_t queue) {
  unsigned turns = 0;
  do {
    server_serve(&server, device, queue, turns == 0);
  } while (device->queues[queue].waiting && ++turns < TURNS_MAX);
  return 0;
}

static uint32_t output(struct device *device) {
  uint32_t more = 0;
  return device_next(device, 0) & ABI_EFFECT_REQUEST ? device_record(device, record, &more) : 0;
}

/** The other half of this program's word: each of these must be seen. */
static uint32_t stray(const struct call *call) {
  static uint8_t data = 1;
  static uint8_t zeros;
  uint8_t *places[] = {
      cage_memory(devices[1].cage) + ABI_STATE,
      (uint8_t *)&core_of(&devices[0])->w2c_memory.size, // in the instance, not in its memory
      (uint8_t *)&devices[0].rights,
      (uint8_t *)&devices[1].traps,
      (uint8_t *)&server.memory,
      &data,
      &zeros,
      heap,
      (uint8_t *)call, // on the stack of the caller
  };
  uint32_t where = call->numbers[0];
  if (where >= sizeof places / sizeof *places) return 0;
  *places[where] ^= 1;
  return 1;
}

static __attribute__((noinline)) uint32_t perform(const struct call *call) {
  struct device *device = call->device;
  const uint32_t *numbers = call->numbers;
  uint32_t effects;
  switch (call->what) {
    case READ:
      return device_read(device, numbers[0], numbers[1]);
    case WRITE:
      effects = device_write(device, numbers[0], numbers[1], numbers[2]);
      if (effects & ABI_EFFECT_CANCEL) device_cancel(device);
      device_interrupt(device, effects);
      return effects;
    case SERVE:
      return serve(device, numbers[0]);
    case HOLD:
      return hold(device, numbers[0]);
    case FINISH:
      finish(device, numbers[0]);
      return 0;
    case OUTPUT:
      return output(device);
    case CHECK:
      return cage_check(device->cage);
    default:
      return stray(call);
  }
}

/** One call, and the look at all that it may not have touched. */
static __attribute__((noinline)) uint32_t guarded(const struct call *call) {
  if (region_count == 0) find_regions();
  allow_call(call->device);
  take_copies((uint8_t *)__builtin_frame_address(0));
  uint32_t answer = perform(call);
  compare(call->device);
  return answer;
}

static void finish_held(void) {
  if (held == 0) return;
  const struct call call = {FINISH, server.jobs[held - 1].device, {held, 0, 0}};
  held = 0;
  guarded(&call);
}

// --- The script ---------------------------------------------------------------------------------

static char *word(void) {
  char *next = strtok(NULL, " \n");
  if (!next) broken("a word is missing");
  return next;
}

static uint64_t number(void) { return strtoull(word(), NULL, 0); }

static uint32_t hex(uint8_t *bytes, size_t most) {
  const char *text = word();
  size_t length = strcmp(text, "-") == 0 ? 0 : strlen(text) / 2;
  if (length > most) broken("too many bytes");
  for (size_t i = 0; i < length; i++) {
    const char digits[] = {text[2 * i], text[2 * i + 1], 0};
    bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
  }
  return (uint32_t)length;
}

static __attribute__((format(printf, 1, 2))) void say(const char *format, ...) {
  va_list values;
  va_start(values, format);
  said_bytes += (size_t)vsnprintf(said + said_bytes, sizeof said - said_bytes, format, values);
  va_end(values);
  if (said_bytes >= sizeof said) broken("too much was said");
}

static void say_bytes(const uint8_t *bytes, size_t count) {
  say("\"");
  for (size_t i = 0; i < count; i++) say("%02x", bytes[i]);
  say("\",");
}

static void make_device(void) {
  struct failure failure;
  struct device *device = &devices[device_count++];
  uint32_t kind = (uint32_t)number();
  uint8_t config[DEVICE_CONFIG_BYTES_MAX];
  if (region_count > 0 || device_count > DEVICES_MAX) broken("a device too much");
  uint32_t bytes = hex(config, sizeof config);
  if (device_create(device, kind, "device", &ram, config, bytes, &failure)) broken(failure.about);
  device->irq = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  device->queue_count = 1;
  if (kind != ABI_KIND_VIRTIO_BLK) return;
  // Open for writing even where the disk is read-only: the check of the record is on its own.
  device->disk.fd = open(word(), O_RDWR | O_CLOEXEC);
  device->disk.capacity_bytes = number();
  device->disk.read_only = number() != 0;
  if (device->disk.fd < 0) broken("open");
}

static uint8_t *guest_bytes(uint64_t address, uint64_t length) {
  uint8_t *at = memory_at(&ram, address, length);
  if (!at) broken("an address outside guest RAM");
  return at;
}

static void write_ram(void) {
  static uint8_t bytes[64 << 10];
  uint64_t address = number();
  uint32_t length = hex(bytes, sizeof bytes);
  memcpy(guest_bytes(address, length), bytes, length);
}

static void spoil(struct device *device) {
  uint64_t address = number();
  if (address > ABI_CAGE_MEMORY_BYTES) broken("an address outside the cage");
  hex(cage_memory(device->cage) + address, ABI_CAGE_MEMORY_BYTES - address);
}

static void call_device(const char *name, struct device *device) {
  static const struct {
    const char *name;
    int what, numbers;
  } calls[] = {{"read", READ, 2}, {"write", WRITE, 3},   {"serve", SERVE, 1},
               {"hold", HOLD, 1}, {"output", OUTPUT, 0}, {"check", CHECK, 0}};
  unsigned i = 0;
  while (i < sizeof calls / sizeof *calls && strcmp(name, calls[i].name) != 0) i++;
  if (i == sizeof calls / sizeof *calls) broken(name);
  struct call call = {.what = calls[i].what, .device = device};
  for (int n = 0; n < calls[i].numbers; n++) call.numbers[n] = (uint32_t)number();
  if (state_refused[device - devices]) {
    if (call.what == READ || call.what == OUTPUT) say("\"\",");
    return;
  }
  uint32_t answer = guarded(&call);
  if (call.what == READ) say("\"%llu\",", (unsigned long long)device_value(device));
  if (call.what == HOLD) held = answer;
  // The driver's write waits until what it cancelled is under way no more.
  if (call.what == WRITE && answer & ABI_EFFECT_CANCEL) finish_held();
  if (call.what == OUTPUT) {
    say_bytes(record + ABI_REQUEST_RANGES, answer > 0 ? answer - ABI_REQUEST_RANGES : 0);
  }
  if (call.what == CHECK) state_refused[device - devices] = answer != ABI_VALID;
}

static void run(char *name) {
  if (strcmp(name, "device") == 0) {
    make_device();
  } else if (strcmp(name, "ram") == 0) {
    write_ram();
  } else if (strcmp(name, "peek") == 0) {
    uint64_t address = number(), length = number();
    say_bytes(guest_bytes(address, length), length);
  } else if (strcmp(name, "finish") == 0) {
    finish_held();
  } else if (strcmp(name, "stray") == 0) {
    struct call call = {STRAY, &devices[0], {(uint32_t)number(), 0, 0}};
    if (!guarded(&call)) broken("no such place");
  } else {
    uint64_t index = number();
    if (index >= device_count) broken("no such device");
    if (strcmp(name, "spoil") == 0) {
      spoil(&devices[index]);
    } else {
      call_device(name, &devices[index]);
    }
  }
}

// --- The report ---------------------------------------------------------------------------------

static void report_device(struct device *device, unsigned index) {
  uint32_t counts[ABI_COUNTER_COUNT];
  uint64_t interrupts = 0;
  if (read(device->irq, &interrupts, sizeof interrupts) < 0) interrupts = 0;
  device_incidents(device, counts);
  say("%s{\"traps\":%u,\"trapReports\":%u,\"dead\":%s,\"stateRefused\":%s,\"waiting\":%s,",
      index ? "," : "", device->traps, trap_reports[index], device->dead ? "true" : "false",
      state_refused[index] ? "true" : "false", device->queues[0].waiting ? "true" : "false");
  say("\"requests\":%llu,\"errors\":%llu,\"lastError\":\"%s\",\"interrupts\":%llu,",
      (unsigned long long)device->counts.requests, (unsigned long long)device->counts.errors,
      device->counts.last_errno ? errno_name((int)device->counts.last_errno) : "",
      (unsigned long long)interrupts);
  say("\"incidents\":[");
  for (unsigned i = 0; i < ABI_COUNTER_COUNT; i++) say("%s%u", i ? "," : "", counts[i]);
  say("]}");
}

int main(void) {
  struct failure failure;
  size_t used = 0;
  ssize_t count;
  while ((count = read(0, script + used, sizeof script - 1 - used)) > 0) used += (size_t)count;
  if (used == sizeof script - 1) broken("too long");
  alarm(SECONDS_MAX);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); // ends by a signal where a test wants it to
  if (memory_map(&ram, RAM_BYTES, &failure)) broken(failure.about);
  heap = calloc(1, 64);
  server_init(&server, &ram, 0);
  device_on_trap = count_trap;
  say("{\"said\":[");
  for (char *name = strtok(script, " \n"); name; name = strtok(NULL, " \n")) run(name);
  finish_held();
  say("null],\"devices\":[");
  for (unsigned i = 0; i < device_count; i++) report_device(&devices[i], i);
  say("]}\n");
  return write(1, said, said_bytes) == (ssize_t)said_bytes ? 0 : STATUS_SCRIPT;
}
