// smpload DEVICE PROCESSES: the load of bench/smp.ts, inside a guest. So many processes share a
// fixed amount of computing, then each reads 4 KiB at random places of the device for a while.
// Prints 'compute MICROSECONDS' and 'block REQUESTS MICROSECONDS'.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

#define ROUNDS 150000000u // of the computation, in all
#define BLOCK 4096
#define LIMIT_US 1500000
#define PROCESSES_MAX 32

static uint64_t *counts; // one for each process, shared by them

static uint64_t next(uint64_t state) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^ state << 17;
}

static void compute(unsigned number, unsigned processes) {
  uint64_t state = number + 1;
  for (uint32_t i = 0; i < ROUNDS / processes; i++) state = next(state);
  counts[number] = state;
}

static void read_blocks(unsigned number, const char *path) {
  uint64_t bytes, state = number + 1, count = 0, until = now_us() + LIMIT_US;
  void *buffer;
  int device = open(path, O_RDONLY | O_DIRECT);
  check(device >= 0, path);
  check(ioctl(device, BLKGETSIZE64, &bytes) == 0, "size");
  check(posix_memalign(&buffer, BLOCK, BLOCK) == 0, "memory");
  do {
    state = next(state);
    off_t place = (off_t)(state % (bytes / BLOCK) * BLOCK);
    check(pread(device, buffer, BLOCK, place) == BLOCK, "read");
    count++;
  } while (now_us() < until);
  counts[number] = count;
}

/** Runs a job in each of the processes; returns how long they took. */
static uint64_t run(unsigned processes, const char *path) {
  uint64_t begin = now_us();
  for (unsigned number = 0; number < processes; number++) {
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child > 0) continue;
    if (path) read_blocks(number, path);
    else compute(number, processes);
    _exit(0);
  }
  for (unsigned number = 0; number < processes; number++) {
    int status;
    check(wait(&status) > 0 && status == 0, "job");
  }
  return now_us() - begin;
}

int main(int argc, char **argv) {
  check(argc == 3, "smpload DEVICE PROCESSES");
  unsigned processes = (unsigned)atoi(argv[2]);
  check(processes >= 1 && processes <= PROCESSES_MAX, "processes");
  counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(counts != MAP_FAILED, "mmap");
  printf("compute %llu\n", (unsigned long long)run(processes, NULL));
  uint64_t elapsed = run(processes, argv[1]), sum = 0;
  for (unsigned number = 0; number < processes; number++) sum += counts[number];
  printf("block %llu %llu\n", (unsigned long long)sum, (unsigned long long)elapsed);
  return 0;
}
