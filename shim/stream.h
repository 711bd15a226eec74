// A stream socket that carries frames, each behind its length in four bytes, the highest first:
// what passt speaks. It knows no struct virtio_net_hdr.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "abi.h"

#define STREAM_LENGTH_BYTES 4
#define STREAM_BYTES (128u * 1024)

_Static_assert(STREAM_BYTES >= STREAM_LENGTH_BYTES + ABI_NET_FRAME_BYTES_MAX, "one frame fits");

struct stream {
  size_t begin, end;              // of what was read and not yet delivered
  size_t rest_begin, rest_end;    // of a frame that the socket took in part
  uint8_t bytes[STREAM_BYTES];
  uint8_t rest[STREAM_LENGTH_BYTES + ABI_NET_FRAME_BYTES_MAX];
};

/**
 * The next frame, behind a header of zeros, into the ranges: its bytes with that header, or minus
 * an errno. EAGAIN: no whole one is there; ESHUTDOWN: the other end is gone; EPROTO: it sends a
 * frame of an impossible length.
 */
int64_t stream_receive(struct stream *stream, int fd, const struct iovec *ranges,
                       int range_count);

/** Sends a frame (without a header). 0, or an errno; EAGAIN: the socket is full. */
int stream_send(struct stream *stream, int fd, const struct iovec *ranges, int range_count);
