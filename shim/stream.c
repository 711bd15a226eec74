// Frames on a stream socket. Calls read, writev, write.
#include "stream.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "request.h"

static const uint8_t header[ABI_NET_HEADER_BYTES];

static uint32_t frame_length(const struct stream *stream) {
  const uint8_t *at = stream->bytes + stream->begin;
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/** Reads more, behind what is there. 0, or an errno. */
static int read_more(struct stream *stream, int fd) {
  memmove(stream->bytes, stream->bytes + stream->begin, stream->end - stream->begin);
  stream->end -= stream->begin;
  stream->begin = 0;
  ssize_t got = read(fd, stream->bytes + stream->end, sizeof stream->bytes - stream->end);
  if (got == 0) return ESHUTDOWN;
  if (got < 0) return errno == EINTR ? EAGAIN : errno;
  stream->end += (size_t)got;
  return 0;
}

int64_t stream_receive(struct stream *stream, int fd, const struct iovec *ranges,
                       int range_count) {
  for (;;) {
    size_t there = stream->end - stream->begin;
    if (there >= STREAM_LENGTH_BYTES) {
      uint32_t length = frame_length(stream);
      if (length < ABI_NET_FRAME_BYTES_MIN || length > ABI_NET_FRAME_BYTES_MAX) return -EPROTO;
      if (there - STREAM_LENGTH_BYTES >= length) {
        const uint8_t *frame = stream->bytes + stream->begin + STREAM_LENGTH_BYTES;
        request_fill(ranges, range_count, 0, header, sizeof header);
        request_fill(ranges, range_count, sizeof header, frame, length);
        stream->begin += STREAM_LENGTH_BYTES + length;
        return (int64_t)(sizeof header + length);
      }
    }
    int error = read_more(stream, fd);
    if (error) return -error;
  }
}

int stream_flush(struct stream *stream, int fd) {
  while (stream->rest_begin < stream->rest_end) {
    ssize_t sent =
        write(fd, stream->rest + stream->rest_begin, stream->rest_end - stream->rest_begin);
    if (sent < 0) return errno == EINTR ? EAGAIN : errno;
    stream->rest_begin += (size_t)sent;
  }
  return 0;
}

int stream_send(struct stream *stream, int fd, const struct iovec *ranges, int range_count) {
  struct iovec all[ABI_RANGE_COUNT_MAX + 2];
  uint32_t length = 0;
  int error = stream_flush(stream, fd);
  if (error) return error;
  for (int i = 0; i < range_count; i++) {
    length += (uint32_t)ranges[i].iov_len;
    all[i + 1] = ranges[i];
  }
  uint8_t prefix[STREAM_LENGTH_BYTES] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
                                         (uint8_t)(length >> 8), (uint8_t)length};
  all[0] = (struct iovec){.iov_base = prefix, .iov_len = sizeof prefix};
  ssize_t sent = writev(fd, all, range_count + 1);
  if (sent < 0) return errno == EINTR ? EAGAIN : errno;
  // What did not fit is kept: the frame's buffers go back to the guest.
  stream->rest_begin = stream->rest_end = 0;
  size_t skip = (size_t)sent;
  for (int i = 0; i <= range_count; i++) {
    if (skip >= all[i].iov_len) {
      skip -= all[i].iov_len;
      continue;
    }
    size_t left = all[i].iov_len - skip;
    memcpy(stream->rest + stream->rest_end, (uint8_t *)all[i].iov_base + skip, left);
    stream->rest_end += left;
    skip = 0;
  }
  return 0;
}
