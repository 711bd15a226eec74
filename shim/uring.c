// io_uring, as far as the I/O thread needs it. Calls io_uring_setup, io_uring_register,
// io_uring_enter, mmap, munmap.
//
// Raw system calls: three operations on registered files need no library. Ring layout and memory
// order: io_uring(7), io_uring_setup(2).
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Newer than the oldest headers this builds with.
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1u << 8)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1u << 12)
#endif

static int setup(struct io_uring_params *params) {
  // The second time without what older kernels do not know. Disabled until it is restricted.
  const uint32_t flags[] = {
      IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
      IORING_SETUP_R_DISABLED,
  };
  int fd = -1;
  for (size_t i = 0; i < sizeof flags / sizeof *flags && fd < 0; i++) {
    *params = (struct io_uring_params){.flags = flags[i]};
    fd = (int)syscall(SYS_io_uring_setup, URING_ENTRIES, params);
    if (fd < 0 && errno != EINVAL) break;
  }
  return fd;
}

static void *map(int fd, size_t bytes, uint64_t offset) {
  return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
}

/** From here on: three operations, on registered files only, and nothing more to register. */
static int restrict_ring(int fd, struct failure *failure) {
  struct io_uring_restriction rules[] = {
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
      {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
  };
  if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, rules,
              sizeof rules / sizeof *rules) < 0) {
    return fail_errno(failure, "IORING_REGISTER_RESTRICTIONS");
  }
  if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0) return 0;
  return fail_errno(failure, "IORING_REGISTER_ENABLE_RINGS");
}

int uring_create(struct uring *ring, const int *files, unsigned count, struct failure *failure) {
  struct io_uring_params params;
  *ring = (struct uring){.fd = setup(&params)};
  if (ring->fd < 0) return fail_errno(failure, "io_uring_setup");
  if (!(params.features & IORING_FEAT_SINGLE_MMAP) ||
      !(params.features & IORING_FEAT_SUBMIT_STABLE)) {
    return fail(failure, ENOTSUP, "io_uring_setup", "this kernel's io_uring is too old");
  }
  size_t submit = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  size_t complete = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  ring->rings_bytes = submit > complete ? submit : complete;
  ring->rings = map(ring->fd, ring->rings_bytes, IORING_OFF_SQ_RING);
  if (ring->rings == MAP_FAILED) {
    ring->rings = NULL;
    return fail_errno(failure, "mmap");
  }
  void *entries = map(ring->fd, params.sq_entries * sizeof *ring->entries, IORING_OFF_SQES);
  if (entries == MAP_FAILED) return fail_errno(failure, "mmap");
  ring->entries = entries;
  ring->submit_head = (uint32_t *)(ring->rings + params.sq_off.head);
  ring->submit_tail = (uint32_t *)(ring->rings + params.sq_off.tail);
  ring->submit_array = (uint32_t *)(ring->rings + params.sq_off.array);
  ring->submit_mask = params.sq_entries - 1;
  ring->complete_head = (uint32_t *)(ring->rings + params.cq_off.head);
  ring->complete_tail = (uint32_t *)(ring->rings + params.cq_off.tail);
  ring->completions = (struct io_uring_cqe *)(ring->rings + params.cq_off.cqes);
  ring->complete_mask = params.cq_entries - 1;
  if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_FILES, files, count) < 0) {
    return fail_errno(failure, "io_uring_register");
  }
  return restrict_ring(ring->fd, failure);
}

static uint8_t operation(uint32_t kind) {
  switch (kind) {
    case ABI_REQUEST_KIND_BLK_IN:
      return IORING_OP_READV;
    case ABI_REQUEST_KIND_BLK_OUT:
      return IORING_OP_WRITEV;
    default:
      return IORING_OP_FSYNC;
  }
}

void uring_prepare(struct uring *ring, unsigned file, const struct request *request,
                   uint32_t slot) {
  uint32_t tail = *ring->submit_tail + ring->prepared;
  uint32_t index = tail & ring->submit_mask;
  struct io_uring_sqe *entry = &ring->entries[index];
  memset(entry, 0, sizeof *entry);
  entry->opcode = operation(request->kind);
  entry->flags = IOSQE_FIXED_FILE;
  entry->fd = (int32_t)file;
  entry->user_data = slot;
  if (entry->opcode == IORING_OP_FSYNC) {
    entry->fsync_flags = IORING_FSYNC_DATASYNC;
  } else {
    entry->off = request->offset;
    entry->addr = (uintptr_t)request->ranges;
    entry->len = (uint32_t)request->range_count;
    if (request->flags & ABI_REQUEST_FLAG_SYNC) entry->rw_flags = RWF_DSYNC;
  }
  ring->submit_array[index] = index;
  ring->prepared++;
}

static int enter(const struct uring *ring, uint32_t submit, uint32_t wait) {
  uint32_t flags = wait ? IORING_ENTER_GETEVENTS : 0;
  long taken;
  do {
    taken = syscall(SYS_io_uring_enter, ring->fd, submit, wait, flags, NULL, 0);
  } while (taken < 0 && errno == EINTR);
  return taken < 0 ? errno : 0;
}

int uring_submit(struct uring *ring) {
  if (ring->prepared > 0) {
    __atomic_store_n(ring->submit_tail, *ring->submit_tail + ring->prepared, __ATOMIC_RELEASE);
    ring->prepared = 0;
  }
  uint32_t left = *ring->submit_tail - __atomic_load_n(ring->submit_head, __ATOMIC_ACQUIRE);
  return left == 0 ? 0 : enter(ring, left, 0);
}

bool uring_complete(struct uring *ring, struct uring_completion *completion) {
  uint32_t head = *ring->complete_head;
  if (head == __atomic_load_n(ring->complete_tail, __ATOMIC_ACQUIRE)) return false;
  const struct io_uring_cqe *entry = &ring->completions[head & ring->complete_mask];
  completion->slot = (uint32_t)entry->user_data;
  completion->result = entry->res;
  __atomic_store_n(ring->complete_head, head + 1, __ATOMIC_RELEASE);
  return true;
}

int uring_wait(struct uring *ring) { return enter(ring, 0, 1); }

void uring_close(struct uring *ring) {
  if (ring->entries) munmap(ring->entries, (ring->submit_mask + 1) * sizeof *ring->entries);
  if (ring->rings) munmap(ring->rings, ring->rings_bytes);
  if (ring->fd >= 0) close(ring->fd);
  *ring = (struct uring){.fd = -1};
}
