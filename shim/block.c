// Block requests. Calls preadv, pwritev, fdatasync, fallocate.
#include "block.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const uint8_t zeros[64 * 1024];

static struct request_result done(uint64_t bytes) {
  return (struct request_result){.result = ABI_RESULT_OK, .bytes = bytes};
}

static struct request_result io_error(uint64_t bytes, int error) {
  return (struct request_result){.result = ABI_RESULT_IOERR, .bytes = bytes, .error = error};
}

/** Drops `count` bytes from the front of the ranges; returns how many ranges are left. */
static int advance(struct iovec **ranges, int range_count, size_t count) {
  while (range_count > 0 && count >= (*ranges)->iov_len) {
    count -= (*ranges)->iov_len;
    (*ranges)++;
    range_count--;
  }
  if (range_count > 0) {
    (*ranges)->iov_base = (uint8_t *)(*ranges)->iov_base + count;
    (*ranges)->iov_len -= count;
  }
  return range_count;
}

typedef ssize_t transfer_call(int fd, const struct iovec *ranges, int count, off_t offset);

static struct request_result transfer(const struct disk *disk, struct request *request,
                                      uint64_t moved, transfer_call *call) {
  struct iovec *ranges = request->ranges;
  int left = advance(&ranges, request->range_count, moved);
  while (left > 0) {
    ssize_t count = call(disk->fd, ranges, left, (off_t)(request->offset + moved));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(moved, errno);
    // The file became shorter than the disk it was opened as.
    if (count == 0) return io_error(moved, EIO);
    moved += (uint64_t)count;
    left = advance(&ranges, left, (size_t)count);
  }
  return done(moved);
}

static struct request_result sync_data(const struct disk *disk, uint64_t bytes) {
  while (fdatasync(disk->fd) != 0) {
    if (errno != EINTR) return io_error(bytes, errno);
  }
  return done(bytes);
}

/** The end of every write: on stable storage where the record asks for that. */
static struct request_result settle(const struct disk *disk, const struct request *request,
                                    struct request_result result) {
  if (result.result != ABI_RESULT_OK || !(request->flags & ABI_REQUEST_FLAG_SYNC)) return result;
  return sync_data(disk, result.bytes);
}

/** 0, or an errno; EOPNOTSUPP where this kind of file cannot do it at all. */
static int allocate(const struct disk *disk, const struct request *request, int mode) {
  if (request->length == 0) return 0; // fallocate(2) refuses an empty range
  while (fallocate(disk->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
                   (off_t)request->length) != 0) {
    if (errno == ENODEV || errno == ENOSYS) return EOPNOTSUPP;
    if (errno != EINTR) return errno;
  }
  return 0;
}

static struct request_result discard(const struct disk *disk, const struct request *request) {
  int error = allocate(disk, request, FALLOC_FL_PUNCH_HOLE);
  // A discard is advice: a file that cannot have holes keeps its bytes (virtio 1.2, 5.2.6.2).
  if (error == 0 || error == EOPNOTSUPP) return done(0);
  return io_error(0, error);
}

static struct request_result write_zeros_slowly(const struct disk *disk,
                                                const struct request *request) {
  uint64_t moved = 0;
  while (moved < request->length) {
    uint64_t left = request->length - moved;
    const struct iovec range = {
        .iov_base = (void *)zeros,
        .iov_len = left < sizeof zeros ? left : sizeof zeros,
    };
    ssize_t written = pwritev(disk->fd, &range, 1, (off_t)(request->offset + moved));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return io_error(0, errno);
    if (written == 0) return io_error(0, EIO);
    moved += (uint64_t)written;
  }
  return done(0);
}

static struct request_result write_zeroes(const struct disk *disk,
                                          const struct request *request) {
  int unmap = request->flags & ABI_REQUEST_FLAG_UNMAP;
  int error = allocate(disk, request, unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  if (error == EOPNOTSUPP) return write_zeros_slowly(disk, request);
  return error ? io_error(0, error) : done(0);
}

static bool writes(uint32_t kind) {
  return kind == ABI_REQUEST_KIND_BLK_OUT || kind == ABI_REQUEST_KIND_BLK_DISCARD ||
         kind == ABI_REQUEST_KIND_BLK_WRITE_ZEROES;
}

/** Which flags a kind may carry; abi.ts. */
static uint32_t allowed_flags(uint32_t kind) {
  if (kind == ABI_REQUEST_KIND_BLK_WRITE_ZEROES) {
    return ABI_REQUEST_FLAG_UNMAP | ABI_REQUEST_FLAG_SYNC;
  }
  return kind == ABI_REQUEST_KIND_BLK_OUT ? ABI_REQUEST_FLAG_SYNC : 0;
}

static bool within_disk(const struct disk *disk, const struct request *request) {
  return request->offset % SECTOR_BYTES == 0 && request->length % SECTOR_BYTES == 0 &&
         request->offset <= disk->capacity_bytes &&
         request->length <= disk->capacity_bytes - request->offset;
}

/** 0, or the errno of the refusal. */
static int check(const struct disk *disk, const struct request *request) {
  bool has_data = request->kind == ABI_REQUEST_KIND_BLK_IN ||
                  request->kind == ABI_REQUEST_KIND_BLK_OUT;
  if (request->flags & ~allowed_flags(request->kind)) return REQUEST_HOSTILE;
  if (!has_data && request->range_count > 0) return REQUEST_HOSTILE;
  if (has_data && request->range_count == 0 && request->length > 0) return REQUEST_HOSTILE;
  if (!within_disk(disk, request)) return REQUEST_HOSTILE;
  return disk->read_only && writes(request->kind) ? EROFS : 0;
}

int block_check(struct request *request, const struct guest_memory *memory,
                const struct disk *disk, const uint8_t *record, size_t bytes,
                struct request_result *refusal) {
  int error = REQUEST_HOSTILE;
  if (request_read(request, memory, record, bytes) == 0) error = check(disk, request);
  if (error) *refusal = request_refused(ABI_RESULT_IOERR, error);
  return error ? -1 : 0;
}

struct request_result block_run(const struct disk *disk, struct request *request,
                                uint64_t moved) {
  switch (request->kind) {
    case ABI_REQUEST_KIND_BLK_IN:
      return transfer(disk, request, moved, preadv);
    case ABI_REQUEST_KIND_BLK_OUT:
      return settle(disk, request, transfer(disk, request, moved, pwritev));
    case ABI_REQUEST_KIND_BLK_FLUSH:
      return sync_data(disk, 0);
    case ABI_REQUEST_KIND_BLK_DISCARD:
      return discard(disk, request);
    case ABI_REQUEST_KIND_BLK_WRITE_ZEROES:
      return settle(disk, request, write_zeroes(disk, request));
    default:
      return request_refused(ABI_RESULT_UNSUPPORTED, REQUEST_HOSTILE);
  }
}

struct request_result block_execute(const struct guest_memory *memory, const struct disk *disk,
                                    const uint8_t *record, size_t bytes) {
  struct request request;
  struct request_result refusal;
  if (block_check(&request, memory, disk, record, bytes, &refusal)) return refusal;
  return block_run(disk, &request, 0);
}
