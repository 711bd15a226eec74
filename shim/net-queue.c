// Queues of a network device. Calls what tap.c and stream.c call, and write on an irqfd.
//
// Buffers of the guest are host addresses here: they were checked when their record was read, and
// count only as long as the queue's generation is the one they were taken in. While a call may touch
// them the queue has a request in flight, so that a driver that resets the device waits for it.
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "net.h"
#include "tap.h"

#define TURN 64u // frames of one queue before the others get theirs
#define ETHERNET_BYTES ABI_NET_FRAME_BYTES_MIN
#define SOURCE_ADDRESS 6 // in a frame
#define EXPECTED_BYTES 2048u
#define MEASURED_FRAMES 256u
#define PENDING_NS UINT64_C(100000000) // after that a frame without enough buffers is dropped

static struct device_queue *queue_of(const struct net *net, uint32_t queue) {
  return &net->device->queues[queue];
}

/** Between these two the lock is free, and the queue's driver waits before it takes memory back. */
static void begin(const struct net *net, uint32_t queue) {
  queue_of(net, queue)->in_flight++;
  pthread_mutex_unlock(&net->device->lock);
}

static void end(const struct net *net, uint32_t queue) {
  pthread_mutex_lock(&net->device->lock);
  if (--queue_of(net, queue)->in_flight == 0) device_tell_idle(net->device);
}

/** What an errno of the backend makes of a frame; a backend that is gone is noticed. */
static uint32_t reason_of(struct net *net, int error) {
  bool gone = error == EBADFD || error == ENODEV || error == ESHUTDOWN || error == EPIPE ||
              error == ECONNRESET || error == EPROTO;
  net->gone |= gone;
  return gone || error == EIO ? CELL_NET_DROP_DOWN : CELL_NET_DROP_REFUSED;
}

static bool limited(struct net *net, uint32_t first, uint64_t now) {
  return bucket_wait(&net->limits[first], now) || bucket_wait(&net->limits[first + 1], now);
}

static void spend(struct net *net, uint32_t first, uint64_t bytes) {
  bucket_take(&net->limits[first], bytes);
  bucket_take(&net->limits[first + 1], 1);
}

static void count_frame(struct net *net, uint32_t queue, uint64_t bytes) {
  net->counts[queue].frames++;
  net->counts[queue].bytes += bytes;
}

// --- Receive ------------------------------------------------------------------------------------

static void forget_buffers(struct net *net, struct net_receive *receive, uint32_t queue) {
  if (receive->pending) net->counts[queue].drops[CELL_NET_DROP_STALE]++;
  receive->count = receive->bytes = receive->pending = 0;
  receive->range_first = receive->range_count = 0;
  receive->generation = queue_of(net, queue)->generation;
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

/** Takes buffers until the longest frame fits into them, or none is left. Lock held. */
static void take_buffers(struct net *net, struct net_receive *receive, uint32_t queue) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  struct request request;
  while (receive->bytes < NET_WHOLE_BYTES && receive->count < NET_BUFFERS_MAX &&
         receive->range_count + ABI_RANGE_COUNT_MAX <= NET_RANGES_MAX) {
    uint32_t tag;
    uint32_t effects = device_next(net->device, queue);
    uint32_t size = 0;
    if (effects & ABI_EFFECT_REQUEST) size = device_record(net->device, record, &effects);
    device_interrupt(net->device, effects);
    if (size == 0) {
      if (effects & ABI_EFFECT_MORE) continue; // a turn's worth of buffers that were no good
      return;
    }
    memcpy(&tag, record + ABI_REQUEST_TAG, sizeof tag);
    bool good = request_read(&request, &net->machine->memory, record, size) == 0 &&
                request.kind == ABI_REQUEST_KIND_NET_RX && request.range_count > 0 &&
                request.length <= NET_WHOLE_BYTES;
    if (good) {
      keep_buffer(receive, tag, &request);
    } else {
      effects = device_complete(net->device, tag, ABI_RESULT_IOERR, 0);
      device_interrupt(net->device, effects);
    }
  }
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
  count_frame(net, queue, bytes - ABI_NET_HEADER_BYTES);
  device_interrupt(net->device, device_complete(net->device, tag, ABI_RESULT_OK, bytes));
}

/** Moves what did not fit from the spill into buffers, `placed` bytes behind their start. */
static void place_rest(struct net_receive *receive, uint32_t placed, uint32_t bytes) {
  const uint8_t *from = receive->spill;
  uint32_t skip = placed, left = bytes - placed;
  for (uint32_t i = 0; left > 0; i++) {
    struct iovec *range = &receive->ranges[receive->range_first + i];
    if (range->iov_len <= skip) {
      skip -= (uint32_t)range->iov_len;
      continue;
    }
    uint32_t taken = (uint32_t)range->iov_len - skip;
    if (taken > left) taken = left;
    memcpy((uint8_t *)range->iov_base + skip, from, taken);
    from += taken;
    left -= taken;
    skip = 0;
  }
}

/**
 * Delivers a frame that came in the first `placed` bytes of the buffers and in the spill, as soon
 * as there are buffers for all of it. False: it waits for them. Lock held.
 */
static bool settle(struct net *net, struct net_receive *receive, uint32_t queue, uint32_t bytes,
                   uint32_t placed) {
  if (bytes > placed && room(net, receive) < bytes) {
    uint64_t now = monotonic_ns();
    bool late = receive->pending && now - receive->pending_ns >= PENDING_NS;
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
  if (bytes > placed) place_rest(receive, placed, bytes);
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

/** One frame. False: there is none, or nothing to put it into. Lock held, and given up meanwhile. */
static bool receive_one(struct net *net, uint32_t pair) {
  struct net_receive *receive = &net->receive[pair];
  struct iovec ranges[NET_RANGES_MAX + 1];
  uint32_t queue = 2 * pair, placed;
  if (receive->generation != queue_of(net, queue)->generation) {
    forget_buffers(net, receive, queue);
  }
  take_buffers(net, receive, queue);
  if (receive->pending) {
    return settle(net, receive, queue, receive->pending, receive->placed);
  }
  receive->starved = receive->count == 0;
  if (receive->starved) return false;
  int count = offer(net, receive, ranges, &placed);
  begin(net, queue);
  int64_t bytes = receive_frame(net, pair, ranges, count);
  end(net, queue);
  if (bytes == -EAGAIN) return false;
  if (bytes < 0) {
    net->counts[queue].drops[reason_of(net, (int)-bytes)]++;
    return false;
  }
  bool stale = receive->generation != queue_of(net, queue)->generation;
  if (stale || bytes < ABI_NET_HEADER_BYTES) {
    net->counts[queue].drops[stale ? CELL_NET_DROP_STALE : CELL_NET_DROP_REFUSED]++;
    return true;
  }
  measure(receive, (uint32_t)bytes);
  spend(net, IMAGE_LIMIT_RX_BYTES, (uint64_t)bytes - ABI_NET_HEADER_BYTES);
  return settle(net, receive, queue, (uint32_t)bytes, placed < bytes ? placed : (uint32_t)bytes);
}

bool net_receive(struct net *net, uint32_t pair, uint64_t now) {
  struct net_receive *receive = &net->receive[pair];
  bool more = true;
  pthread_mutex_lock(&net->device->lock);
  for (unsigned i = 0; i < TURN && more && !net->gone; i++) {
    if (limited(net, IMAGE_LIMIT_RX_BYTES, now)) break;
    more = receive_one(net, pair);
  }
  pthread_mutex_unlock(&net->device->lock);
  receive->ready = more && !net->gone;
  return receive->ready && !limited(net, IMAGE_LIMIT_RX_BYTES, now);
}

void net_discard(struct net *net, uint32_t pair) {
  struct net_receive *receive = &net->receive[pair];
  const struct iovec spill = {.iov_base = receive->spill, .iov_len = sizeof receive->spill};
  // As many as a tap's queue holds by default, and some: whoever floods it gets no further.
  for (int i = 0; i < 4096 && receive_frame(net, pair, &spill, 1) >= 0; i++) {
    net->counts[2 * pair].drops[CELL_NET_DROP_STALE]++;
  }
}

// --- Transmit -----------------------------------------------------------------------------------

/** Takes frames out of the ring. True: there may be more. Lock held. */
static bool take_frames(struct net *net, struct net_transmit *transmit, uint32_t queue) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  transmit->first = transmit->count = 0;
  transmit->generation = queue_of(net, queue)->generation;
  while (transmit->count < NET_BATCH) {
    struct net_frame *frame = &transmit->frames[transmit->count];
    struct request *request = &frame->request;
    uint32_t effects = device_next(net->device, queue);
    uint32_t size = 0;
    if (effects & ABI_EFFECT_REQUEST) size = device_record(net->device, record, &effects);
    device_interrupt(net->device, effects);
    if (size == 0) return effects & ABI_EFFECT_MORE;
    memcpy(&frame->tag, record + ABI_REQUEST_TAG, sizeof frame->tag);
    if (request_read(request, &net->machine->memory, record, size) ||
        request->kind != ABI_REQUEST_KIND_NET_TX || request->length < ABI_NET_FRAME_BYTES_MIN ||
        request->length > ABI_NET_FRAME_BYTES_MAX || request->range_count == 0) {
      net->counts[queue].drops[CELL_NET_DROP_REFUSED]++;
      effects = device_complete(net->device, frame->tag, ABI_RESULT_IOERR, 0);
      device_interrupt(net->device, effects);
      continue;
    }
    memcpy(frame->header, &request->offset, sizeof request->offset);
    memcpy(frame->header + sizeof request->offset, &request->flags, sizeof request->flags);
    transmit->count++;
  }
  return true;
}

/** Copies a frame's first bytes out, where they cannot change any more, and off its ranges. */
static void cut_head(struct iovec **ranges, int *count, uint8_t head[ETHERNET_BYTES]) {
  for (uint32_t done = 0; done < ETHERNET_BYTES;) {
    struct iovec *range = *ranges;
    uint32_t taken = ETHERNET_BYTES - done;
    if (taken > range->iov_len) taken = (uint32_t)range->iov_len;
    memcpy(head + done, range->iov_base, taken);
    done += taken;
    range->iov_base = (uint8_t *)range->iov_base + taken;
    range->iov_len -= taken;
    if (range->iov_len > 0) continue;
    (*ranges)++;
    (*count)--;
  }
}

/** Sends one frame. 0, or an errno; EPERM: from another address than the device's. */
static int send_frame(struct net *net, uint32_t pair, struct net_frame *frame) {
  struct iovec ranges[ABI_RANGE_COUNT_MAX + 2];
  uint8_t head[ETHERNET_BYTES];
  struct iovec *first = ranges + 2; // with room for header and head in front
  int count = frame->request.range_count;
  memcpy(first, frame->request.ranges, (size_t)count * sizeof *first);
  if (net->mac_filter) {
    // The driver may write its frame while it is sent: what is looked at is what is sent.
    cut_head(&first, &count, head);
    if (memcmp(head + SOURCE_ADDRESS, net->mac, sizeof net->mac) != 0) return EPERM;
    *--first = (struct iovec){.iov_base = head, .iov_len = sizeof head};
    count++;
  }
  if (net->stream) {
    // Nothing was offered that such a frame would leave undone.
    if (frame->header[0] || frame->header[1]) return EINVAL;
    return stream_send(net->stream, net->fds[pair], first, count);
  }
  *--first = (struct iovec){.iov_base = frame->header, .iov_len = sizeof frame->header};
  return tap_send(net->fds[pair], first, count + 1);
}

/** Gives frames back to the driver: those before `until`. Lock held. */
static void give_back(struct net *net, struct net_transmit *transmit, uint32_t queue,
                      uint32_t until) {
  bool ours = transmit->generation == queue_of(net, queue)->generation;
  uint32_t effects = 0;
  for (; transmit->first < until; transmit->first++) {
    if (!ours) continue;
    uint32_t tag = transmit->frames[transmit->first].tag;
    effects |= device_complete(net->device, tag, ABI_RESULT_OK, 0);
  }
  device_interrupt(net->device, effects);
}

/** Sends what was taken, as far as the backend and the limits let it. */
static void send_frames(struct net *net, uint32_t pair, uint64_t now) {
  struct net_transmit *transmit = &net->transmit[pair];
  uint32_t queue = 2 * pair + 1, at = transmit->first;
  begin(net, queue);
  for (; at < transmit->count && !limited(net, IMAGE_LIMIT_TX_BYTES, now); at++) {
    struct net_frame *frame = &transmit->frames[at];
    uint64_t bytes = frame->request.length;
    int error = net->gone ? ENODEV : send_frame(net, pair, frame);
    transmit->blocked = error == EAGAIN;
    if (transmit->blocked) break;
    if (error == 0) {
      count_frame(net, queue, bytes);
      spend(net, IMAGE_LIMIT_TX_BYTES, bytes);
    } else {
      uint32_t reason = error == EPERM ? CELL_NET_DROP_SPOOFED : reason_of(net, error);
      net->counts[queue].drops[reason]++;
    }
  }
  end(net, queue);
  give_back(net, transmit, queue, at);
}

bool net_transmit(struct net *net, uint32_t pair, uint64_t now) {
  struct net_transmit *transmit = &net->transmit[pair];
  uint32_t queue = 2 * pair + 1;
  bool more = true;
  pthread_mutex_lock(&net->device->lock);
  for (unsigned turn = 0; turn < TURN / NET_BATCH && more; turn++) {
    if (transmit->first < transmit->count &&
        transmit->generation != queue_of(net, queue)->generation) {
      net->counts[queue].drops[CELL_NET_DROP_STALE] += transmit->count - transmit->first;
      transmit->first = transmit->count;
    }
    if (transmit->first == transmit->count) more = take_frames(net, transmit, queue);
    if (transmit->count > transmit->first) send_frames(net, pair, now);
    if (transmit->first < transmit->count) break; // blocked, or over a limit
  }
  pthread_mutex_unlock(&net->device->lock);
  bool left = transmit->first < transmit->count;
  transmit->ready = left || more;
  return transmit->ready && !transmit->blocked && !limited(net, IMAGE_LIMIT_TX_BYTES, now);
}

uint64_t net_delay(struct net *net, uint32_t pair, uint64_t now) {
  const struct net_receive *receive = &net->receive[pair];
  const struct net_transmit *transmit = &net->transmit[pair];
  uint64_t delay = UINT64_MAX;
  uint64_t waits[3] = {0};
  if (receive->pending) waits[0] = PENDING_NS;
  if (receive->ready) {
    uint64_t bytes = bucket_wait(&net->limits[IMAGE_LIMIT_RX_BYTES], now);
    uint64_t frames = bucket_wait(&net->limits[IMAGE_LIMIT_RX_FRAMES], now);
    waits[1] = bytes > frames ? bytes : frames;
  }
  if (transmit->ready && !transmit->blocked) {
    uint64_t bytes = bucket_wait(&net->limits[IMAGE_LIMIT_TX_BYTES], now);
    uint64_t frames = bucket_wait(&net->limits[IMAGE_LIMIT_TX_FRAMES], now);
    waits[2] = bytes > frames ? bytes : frames;
  }
  for (int i = 0; i < 3; i++) {
    if (waits[i] > 0 && waits[i] < delay) delay = waits[i];
  }
  return delay;
}
