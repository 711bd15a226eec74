// Randomness for the guest. Calls getrandom.
#include "entropy.h"

#include <errno.h>
#include <sys/random.h>

/** Fills one buffer; 0, or an errno. */
static int fill(uint8_t *target, size_t length) {
  while (length > 0) {
    ssize_t count = getrandom(target, length, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    target += count;
    length -= (size_t)count;
  }
  return 0;
}

struct request_result entropy_execute(const struct guest_memory *memory, const uint8_t *record,
                                      size_t bytes) {
  struct request request;
  struct request_result result = {.result = ABI_RESULT_OK};
  if (request_read(&request, memory, record, bytes) ||
      request.kind != ABI_REQUEST_KIND_ENTROPY || request.flags != 0) {
    return request_refused(ABI_RESULT_IOERR, REQUEST_HOSTILE);
  }
  for (int i = 0; i < request.range_count && result.bytes < ABI_ENTROPY_BYTES_MAX; i++) {
    size_t left = ABI_ENTROPY_BYTES_MAX - result.bytes;
    size_t length = request.ranges[i].iov_len < left ? request.ranges[i].iov_len : left;
    int error = fill(request.ranges[i].iov_base, length);
    if (error) return request_refused(ABI_RESULT_IOERR, error);
    result.bytes += length;
  }
  return result;
}
