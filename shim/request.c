// Reads a cage's request record, trusting nothing in it. Calls nothing.
//
// The record may lie in memory that somebody else still writes: every byte is read exactly once,
// into `header` and `ranges`, and all decisions are made on those copies.
#include "request.h"

#include <string.h>

struct header {
  uint32_t kind, tag;
  uint64_t offset, length;
  uint32_t range_count, flags;
};

struct range {
  uint64_t address;
  uint32_t length, padding;
};

_Static_assert(sizeof(struct header) == ABI_REQUEST_RANGES, "header");
_Static_assert(offsetof(struct header, kind) == ABI_REQUEST_KIND, "kind");
_Static_assert(offsetof(struct header, tag) == ABI_REQUEST_TAG, "tag");
_Static_assert(offsetof(struct header, offset) == ABI_REQUEST_OFFSET, "offset");
_Static_assert(offsetof(struct header, length) == ABI_REQUEST_LENGTH, "length");
_Static_assert(offsetof(struct header, range_count) == ABI_REQUEST_RANGE_COUNT, "range count");
_Static_assert(offsetof(struct header, flags) == ABI_REQUEST_FLAGS, "flags");
_Static_assert(sizeof(struct range) == ABI_RANGE_STRIDE, "range");
_Static_assert(offsetof(struct range, address) == ABI_RANGE_ADDRESS, "range address");
_Static_assert(offsetof(struct range, length) == ABI_RANGE_LENGTH, "range length");

struct request_result request_refused(uint32_t result, int error) {
  return (struct request_result){.result = result, .error = error};
}

/** Turns ranges into host addresses; empty ones vanish. The sum cannot wrap: 256 times 4 GiB. */
static int resolve(struct request *request, const struct guest_memory *memory,
                   const struct range *ranges, uint32_t count) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (ranges[i].padding != 0) return -1;
    uint8_t *host = memory_at(memory, ranges[i].address, ranges[i].length);
    if (!host) return -1;
    sum += ranges[i].length;
    if (ranges[i].length == 0) continue;
    request->ranges[request->range_count++] =
        (struct iovec){.iov_base = host, .iov_len = ranges[i].length};
  }
  return count > 0 && sum != request->length ? -1 : 0;
}

int request_read(struct request *request, const struct guest_memory *memory,
                 const uint8_t *record, size_t bytes) {
  struct header header;
  struct range ranges[ABI_RANGE_COUNT_MAX];
  if (bytes < sizeof header) return -1;
  memcpy(&header, record, sizeof header);
  if (header.range_count > ABI_RANGE_COUNT_MAX) return -1;
  size_t range_bytes = header.range_count * sizeof *ranges;
  if (range_bytes > bytes - sizeof header) return -1;
  memcpy(ranges, record + sizeof header, range_bytes);
  request->kind = header.kind;
  request->flags = header.flags;
  request->offset = header.offset;
  request->length = header.length;
  request->range_count = 0;
  return resolve(request, memory, ranges, header.range_count);
}

void request_fill(const struct iovec *ranges, int range_count, size_t skip, const uint8_t *bytes,
                  size_t count) {
  for (int i = 0; i < range_count && count > 0; i++) {
    size_t length = ranges[i].iov_len;
    if (length <= skip) {
      skip -= length;
      continue;
    }
    size_t taken = length - skip < count ? length - skip : count;
    memcpy((uint8_t *)ranges[i].iov_base + skip, bytes, taken);
    bytes += taken;
    count -= taken;
    skip = 0;
  }
}
