// Receive queues of a network device: frames from its backend into the guest's buffers. Calls what
// tap.c and stream.c call.
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "net-queue.h"
#include "tap.h"

#define EXPECTED_BYTES 2048u
#define MEASURED_FRAMES 256u

static void forget_buffers(struct net *net, struct net_receive *receive, uint32_t queue) {
  if (receive->pending) net->counts[queue].drops[CELL_NET_DROP_STALE]++;
  receive->count = receive->bytes = receive->pending = 0;
  receive->range_first = receive->range_count = 0;
  receive->generation = net_generation(net, queue);
}

static void keep_buffer(struct net_receive *receive, uint32_t tag, const struct request *request) {
  uint32_t place = (receive->first + receive->count++) % NET_BUFFERS_MAX;
  uint32_t count = (uint32_t)request->range_count;
  uint32_t at = receive->range_first + receive->range_count;
  if (at + count > NET_RANGES_MAX) {
    memmove(receive->ranges, receive->ranges + receive->range_first,
            receive->range_count * sizeof *receive->ranges);
    receive->range_first = 0;
    at = receive->range_count;
  }
  memcpy(receive->ranges + at, request->ranges, count * sizeof *receive->ranges);
  receive->range_count += count;
  receive->bytes += (uint32_t)request->length;
  receive->buffers[place] = (struct net_buffer){tag, (uint32_t)request->length, count};
}

/** Keeps a record's buffer, or gives it back where it is no good. */
static void take_buffer(struct net *net, struct net_receive *receive, const uint8_t *record,
                        uint32_t size) {
  struct request request;
  uint32_t tag;
  memcpy(&tag, record + ABI_REQUEST_TAG, sizeof tag);
  if (request_read(&request, &net->machine->memory, record, size) == 0 &&
      request.kind == ABI_REQUEST_KIND_NET_RX && request.range_count > 0 &&
      request.length <= NET_WHOLE_BYTES) {
    keep_buffer(receive, tag, &request);
    net->vain = 0;
  } else {
    net->owed |= device_complete(net->device, tag, ABI_RESULT_IOERR, 0);
  }
}

/**
 * Takes buffers until the longest frame fits into them, or none is left. False: none is, and fewer
 * than `wanted` bytes are there, so that the driver was asked for its doorbell. Lock held.
 */
static bool take_buffers(struct net *net, struct net_receive *receive, uint32_t queue,
                         uint32_t wanted) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  bool ask = false, gave_way = false, more;
  // Buffers that are no good do not count, and may never end: this does.
  for (unsigned i = 0; i < NET_BUFFERS_MAX; i++) {
    if (receive->bytes >= NET_WHOLE_BYTES || receive->count == NET_BUFFERS_MAX ||
        receive->range_count + ABI_RANGE_COUNT_MAX > NET_RANGES_MAX) {
      return true;
    }
    uint32_t size = net_next(net, queue, ask, record, &more);
    if (size > 0) take_buffer(net, receive, record, size);
    if (more) continue;
    // Only who goes without needs to hear of the next one.
    if (receive->bytes >= wanted) return true;
    if (ask) return false;
    ask = gave_way;
    if (!gave_way) net_give_way(net, queue);
    gave_way = true;
    if (receive->generation != net_generation(net, queue)) return true;
  }
  return true;
}

static void drop_oldest(struct net_receive *receive) {
  const struct net_buffer *buffer = &receive->buffers[receive->first];
  receive->bytes -= buffer->bytes;
  receive->range_first += buffer->range_count;
  receive->range_count -= buffer->range_count;
  receive->first = (receive->first + 1) % NET_BUFFERS_MAX;
  receive->count--;
}

static bool mergeable(const struct net *net) {
  return device_features(net->device) >> VIRTIO_NET_F_MRG_RXBUF & 1;
}

/** How much of a frame the buffers can hold: all together, or the oldest alone. */
static uint32_t room(const struct net *net, const struct net_receive *receive) {
  if (receive->count == 0) return 0;
  return mergeable(net) ? receive->bytes : receive->buffers[receive->first].bytes;
}

/** Shows the driver a frame that lies in its buffers. Lock held. */
static void deliver(struct net *net, struct net_receive *receive, uint32_t queue,
                    uint32_t bytes) {
  bool merge = mergeable(net);
  uint32_t tag = receive->buffers[receive->first].tag;
  uint32_t left = bytes;
  do {
    uint32_t taken = receive->buffers[receive->first].bytes;
    left = left > taken ? left - taken : 0;
    drop_oldest(receive);
  } while (left > 0 && merge && receive->count > 0);
  net_passed(net, queue, IMAGE_LIMIT_RX_BYTES, bytes - ABI_NET_HEADER_BYTES);
  net->owed |= device_complete(net->device, tag, ABI_RESULT_OK, bytes);
}

/**
 * Delivers a frame that came in the first `placed` bytes of the buffers and in the spill, as soon
 * as there are buffers for all of it. False: it waits for them. Lock held.
 */
static bool settle(struct net *net, struct net_receive *receive, uint32_t queue, uint32_t bytes,
                   uint32_t placed) {
  if (bytes > placed && room(net, receive) < bytes) {
    uint64_t now = monotonic_ns();
    bool late = receive->pending && now - receive->pending_ns >= NET_PENDING_NS;
    if (late || !mergeable(net)) {
      receive->pending = 0;
      net->counts[queue].drops[CELL_NET_DROP_OVERSIZE]++;
      return true;
    }
    if (!receive->pending) receive->pending_ns = now;
    receive->pending = bytes;
    receive->placed = placed;
    return false;
  }
  if (bytes > placed) { // the rest follows out of the spill
    request_fill(receive->ranges + receive->range_first, (int)receive->range_count, placed,
                 receive->spill, bytes - placed);
  }
  receive->pending = 0;
  deliver(net, receive, queue, bytes);
  return true;
}

/** The ranges for a read: those of the buffers that frames lately took, then the spill. */
static int offer(const struct net *net, struct net_receive *receive, struct iovec *ranges,
                 uint32_t *placed) {
  uint32_t most = mergeable(net) ? receive->range_count
                                 : receive->buffers[receive->first].range_count;
  uint32_t count = 0;
  *placed = 0;
  while (count < most && *placed < receive->expected) {
    ranges[count] = receive->ranges[receive->range_first + count];
    *placed += (uint32_t)ranges[count++].iov_len;
  }
  ranges[count] = (struct iovec){.iov_base = receive->spill, .iov_len = sizeof receive->spill};
  return (int)count + 1;
}

/** Frames of one length come in bursts: reads are offered no more of the guest than those take. */
static void measure(struct net_receive *receive, uint32_t bytes) {
  if (bytes > receive->longest) receive->longest = bytes;
  if (bytes > receive->expected) receive->expected = bytes;
  if (++receive->lately < MEASURED_FRAMES) return;
  receive->expected = receive->longest > EXPECTED_BYTES ? receive->longest : EXPECTED_BYTES;
  receive->lately = receive->longest = 0;
}

static int64_t receive_frame(struct net *net, uint32_t pair, const struct iovec *ranges,
                             int count) {
  if (net->stream) return stream_receive(net->stream, net->fds[pair], ranges, count);
  return tap_receive(net->fds[pair], ranges, count);
}

/** One frame. False: there is none, or nothing to put it into. The lock is given up meanwhile. */
static bool receive_one(struct net *net, uint32_t pair) {
  struct net_receive *receive = &net->receive[pair];
  struct iovec ranges[NET_RANGES_MAX + 1];
  uint32_t queue = 2 * pair, placed;
  if (receive->generation != net_generation(net, queue)) {
    forget_buffers(net, receive, queue);
  }
  bool more = take_buffers(net, receive, queue, receive->pending ? receive->pending : 1);
  if (receive->generation != net_generation(net, queue)) return true;
  if (receive->pending) {
    return settle(net, receive, queue, receive->pending, receive->placed);
  }
  receive->starved = !more;
  if (receive->count == 0) return more;
  int count = offer(net, receive, ranges, &placed);
  net_begin(net, queue);
  int64_t bytes = receive_frame(net, pair, ranges, count);
  net_end(net, queue);
  if (bytes == -EAGAIN) return false;
  if (bytes < 0) {
    net->counts[queue].drops[net_reason(net, (int)-bytes)]++;
    return false;
  }
  bool stale = receive->generation != net_generation(net, queue);
  if (stale || bytes < ABI_NET_HEADER_BYTES) {
    net->counts[queue].drops[stale ? CELL_NET_DROP_STALE : CELL_NET_DROP_REFUSED]++;
    return true;
  }
  measure(receive, (uint32_t)bytes);
  return settle(net, receive, queue, (uint32_t)bytes, placed < bytes ? placed : (uint32_t)bytes);
}

bool net_receive(struct net *net, uint32_t pair, uint64_t now) {
  struct net_receive *receive = &net->receive[pair];
  bool more = true;
  pthread_mutex_lock(&net->device->lock);
  for (unsigned i = 0; i < NET_TURN && more && !net->gone; i++) {
    if (net_limited(net, IMAGE_LIMIT_RX_BYTES, now)) break;
    // Another driver gets frames once the backend is as it wants it.
    bool known = net->generation == net_generation(net, 0);
    if (!known) receive->starved = true;
    more = known && receive_one(net, pair);
  }
  pthread_mutex_unlock(&net->device->lock);
  receive->ready = more && !net->gone;
  return receive->ready && !net_limited(net, IMAGE_LIMIT_RX_BYTES, now);
}

void net_discard(struct net *net, uint32_t pair) {
  struct net_receive *receive = &net->receive[pair];
  const struct iovec spill = {.iov_base = receive->spill, .iov_len = sizeof receive->spill};
  if (receive->pending) net->counts[2 * pair].drops[CELL_NET_DROP_STALE]++;
  receive->pending = 0;
  // As many as a tap's queue holds by default, and some: whoever floods it gets no further.
  for (int i = 0; i < 4096 && receive_frame(net, pair, &spill, 1) >= 0; i++) {
    net->counts[2 * pair].drops[CELL_NET_DROP_STALE]++;
  }
}
