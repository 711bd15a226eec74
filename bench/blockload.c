// blockload DEVICE: the load of bench/block.ts, inside a guest. 4 KiB reads and writes at random
// places, one at a time and 32 at once, then 1 MiB reads in order, all past the page cache. Prints
// a line for each: NAME REQUESTS MICROSECONDS INTERRUPTS, the interrupts of all virtio devices.
// Many at once by the kernel's own asynchronous I/O, io_submit(2), without a library.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "load.h"

#define SMALL 4096
#define LARGE (1 << 20)
#define DEPTH_MAX 32
#define WARM_UP 64 // requests

static int device;
static uint64_t device_bytes;
static uint8_t *buffers;
static uint64_t limit_us = 1000000;

/** A place for a small transfer: xorshift, the same sequence in every run. */
static uint64_t random_place(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % (device_bytes / SMALL) * SMALL;
}

/** How many interrupts virtio devices have raised, on all processors. */
static uint64_t interrupts(void) {
  char line[4096];
  uint64_t sum = 0;
  FILE *file = fopen("/proc/interrupts", "r");
  check(file, "/proc/interrupts");
  while (fgets(line, sizeof line, file)) {
    if (!strstr(line, "virtio")) continue;
    char *at = strchr(line, ':') + 1, *end;
    for (;; at = end) {
      unsigned long count = strtoul(at, &end, 10);
      if (end == at || *end != ' ') break;
      sum += count;
    }
  }
  fclose(file);
  return sum;
}

static uint64_t one_at_a_time(bool write, size_t length, uint64_t until) {
  uint64_t count = 0, place = 0;
  do {
    off_t offset = (off_t)(length == SMALL ? random_place() : place);
    ssize_t done = write ? pwrite(device, buffers, length, offset)
                         : pread(device, buffers, length, offset);
    check(done == (ssize_t)length, "transfer");
    place = (place + length) % device_bytes;
    count++;
  } while (until ? now_us() < until : count < WARM_UP);
  return count;
}

static void refill(struct iocb *block, bool write) {
  block->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
  block->aio_fildes = (uint32_t)device;
  block->aio_nbytes = SMALL;
  block->aio_offset = (int64_t)random_place();
}

static uint64_t many_at_once(bool write, unsigned depth, uint64_t until) {
  static struct iocb blocks[DEPTH_MAX];
  struct iocb *submit[DEPTH_MAX];
  struct io_event events[DEPTH_MAX];
  aio_context_t context = 0;
  uint64_t count = 0;
  unsigned flying = 0, ready = depth;
  check(syscall(SYS_io_setup, depth, &context) == 0, "io_setup");
  for (unsigned i = 0; i < depth; i++) {
    blocks[i].aio_buf = (uintptr_t)(buffers + i * SMALL);
    submit[i] = &blocks[i];
  }
  do {
    for (unsigned i = 0; i < ready; i++) refill(submit[i], write);
    check(syscall(SYS_io_submit, context, (long)ready, submit) == (long)ready, "io_submit");
    flying += ready;
    long got = syscall(SYS_io_getevents, context, 1L, (long)depth, events, NULL);
    check(got > 0, "io_getevents");
    for (long i = 0; i < got; i++) {
      check(events[i].res == SMALL, "transfer");
      submit[i] = (struct iocb *)(uintptr_t)events[i].obj;
    }
    ready = (unsigned)got;
    flying -= ready;
    count += ready;
  } while (until ? now_us() < until : count < WARM_UP);
  if (flying > 0) syscall(SYS_io_getevents, context, (long)flying, (long)depth, events, NULL);
  syscall(SYS_io_destroy, context);
  return count;
}

static uint64_t load(bool write, unsigned depth, size_t length, uint64_t until) {
  return depth == 1 ? one_at_a_time(write, length, until) : many_at_once(write, depth, until);
}

static void measure(const char *name, bool write, unsigned depth, size_t length) {
  load(write, depth, length, 0);
  uint64_t before = interrupts(), begin = now_us();
  uint64_t count = load(write, depth, length, begin + limit_us);
  uint64_t elapsed = now_us() - begin;
  printf("%s %llu %llu %llu\n", name, (unsigned long long)count, (unsigned long long)elapsed,
         (unsigned long long)(interrupts() - before));
  fflush(stdout);
}

int main(int argc, char **argv) {
  check(argc >= 2, "blockload DEVICE [MILLISECONDS]");
  if (argc > 2) limit_us = strtoull(argv[2], NULL, 10) * 1000;
  device = open(argv[1], O_RDWR | O_DIRECT);
  check(device >= 0, argv[1]);
  check(ioctl(device, BLKGETSIZE64, &device_bytes) == 0, "size");
  check(posix_memalign((void **)&buffers, SMALL, LARGE) == 0, "memory");
  memset(buffers, 0x5a, LARGE);
  measure("read-1", false, 1, SMALL);
  measure("write-1", true, 1, SMALL);
  measure("read-32", false, DEPTH_MAX, SMALL);
  measure("write-32", true, DEPTH_MAX, SMALL);
  measure("stream", false, 1, LARGE);
  return 0;
}
