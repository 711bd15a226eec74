// Guest RAM. Calls mmap, madvise, munmap, pread.
#include "memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

/**
 * Maps RAM so that host and guest addresses agree in their low 21 bits: only then can the host's
 * transparent huge pages back the guest, where its policy allows them. NULL: see errno.
 */
static uint8_t *map_aligned(uint64_t bytes) {
  if (bytes > UINT64_MAX - HUGE_PAGE_BYTES) {
    errno = ENOMEM;
    return NULL;
  }
  // NORESERVE: a guest may be larger than what the host could commit; pages come when touched.
  uint8_t *wide = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return NULL;
  size_t before = -(uintptr_t)wide % HUGE_PAGE_BYTES;
  size_t after = HUGE_PAGE_BYTES - before;
  if (before > 0) munmap(wide, before);
  munmap(wide + before + bytes, after);
  return wide + before;
}

int memory_map(struct guest_memory *memory, uint64_t bytes, struct failure *failure) {
  if (bytes == 0 || bytes % PAGE_BYTES != 0) {
    return fail(failure, EINVAL, "mmap", "memory of %llu bytes is not a multiple of 4096",
                (unsigned long long)bytes);
  }
  uint8_t *base = map_aligned(bytes);
  if (!base) {
    return fail(failure, errno, "mmap", "the host cannot map %llu bytes of guest memory",
                (unsigned long long)bytes);
  }
  // A child process has no use for guest RAM, and a fork would make every page copy-on-write
  // under the running guest. Core files must not hold a guest's secrets. Both are best effort.
  madvise(base, bytes, MADV_DONTFORK);
  madvise(base, bytes, MADV_DONTDUMP);
  memory->base = base;
  memory->bytes = bytes;
  return 0;
}

/** From the host's pool, all of it at once: a page that is missing later would kill the cell. */
static int map_pool(struct guest_memory *memory, uint64_t bytes, struct failure *failure) {
  uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
  if (base == MAP_FAILED) {
    return fail(failure, errno, "mmap",
                "the host has no %llu free pages of 2 MiB; see /proc/sys/vm/nr_hugepages",
                (unsigned long long)(bytes / HUGE_PAGE_BYTES));
  }
  madvise(base, bytes, MADV_DONTDUMP);
  memory->base = base;
  memory->bytes = bytes;
  return 0;
}

/** Every page has its place before the guest runs. */
static int populate(const struct guest_memory *memory, struct failure *failure) {
  if (madvise(memory->base, memory->bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) {
    return fail(failure, errno, "madvise", "the host cannot give %llu bytes of guest memory",
                (unsigned long long)memory->bytes);
  }
  // Kernels before 5.14: by hand.
  for (uint64_t at = 0; at < memory->bytes; at += PAGE_BYTES) {
    __atomic_store_n(memory->base + at, 0, __ATOMIC_RELAXED);
  }
  return 0;
}

/**
 * Large pages but for the first: of that a guest's boot uses a few kilobytes, and clearing two
 * megabytes for them would take longer than all the rest of a small guest's start.
 */
static void advise_huge(const struct guest_memory *memory) {
  uint64_t low = memory->bytes < HUGE_PAGE_BYTES ? memory->bytes : HUGE_PAGE_BYTES;
  madvise(memory->base, low, MADV_NOHUGEPAGE);
  if (memory->bytes > low) madvise(memory->base + low, memory->bytes - low, MADV_HUGEPAGE);
}

int memory_map_pages(struct guest_memory *memory, uint64_t bytes, uint32_t huge_pages,
                     bool prefault, struct failure *failure) {
  int status = huge_pages == IMAGE_HUGE_PAGES_2M ? map_pool(memory, bytes, failure)
                                                 : memory_map(memory, bytes, failure);
  if (status) return -1;
  // Advice: a kernel without transparent huge pages goes on with small ones.
  if (huge_pages == IMAGE_HUGE_PAGES_OFF) madvise(memory->base, bytes, MADV_NOHUGEPAGE);
  if (huge_pages == IMAGE_HUGE_PAGES_TRANSPARENT) advise_huge(memory);
  return prefault ? populate(memory, failure) : 0;
}

void memory_unmap(struct guest_memory *memory) {
  if (memory->base) munmap(memory->base, memory->bytes);
  memory->base = NULL;
  memory->bytes = 0;
}

int memory_load_bytes(const struct guest_memory *memory, const void *bytes, uint64_t length,
                      uint64_t address, struct failure *failure) {
  uint8_t *target = memory_at(memory, address, length);
  if (!target) {
    return fail(failure, ERANGE, "loadBytes", "%llu bytes at 0x%llx are not all in guest memory",
                (unsigned long long)length, (unsigned long long)address);
  }
  if (length > 0) memcpy(target, bytes, length);
  return 0;
}

int memory_load_file(const struct guest_memory *memory, int fd, uint64_t offset, uint64_t length,
                     uint64_t address, struct failure *failure) {
  uint8_t *target = memory_at(memory, address, length);
  if (!target) {
    return fail(failure, ERANGE, "loadFile", "%llu bytes at 0x%llx are not all in guest memory",
                (unsigned long long)length, (unsigned long long)address);
  }
  while (length > 0) {
    ssize_t count = pread(fd, target, length, (off_t)offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(failure, "pread");
    if (count == 0) {
      return fail(failure, EIO, "pread", "the file ends %llu bytes early",
                  (unsigned long long)length);
    }
    target += count;
    offset += (uint64_t)count;
    length -= (uint64_t)count;
  }
  return 0;
}
