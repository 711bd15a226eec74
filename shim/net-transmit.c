// Transmit queues of a network device: the guest's frames to its backend. Calls what
// tap.c and stream.c call.
#include <errno.h>
#include <string.h>

#include "net-queue.h"
#include "tap.h"

// Where a frame has what is looked at: Ethernet header, IPv4 header.
#define ETHER_SOURCE 6
#define ETHER_TYPE 12
#define IPV4_DESTINATION 30
#define HEAD_BYTES 34u

/** Reads a record into `frame`. False: no frame that could be sent; it goes back. Lock held. */
static bool take_frame(struct net *net, struct net_frame *frame, uint32_t queue,
                       const uint8_t *record, uint32_t size) {
  struct request *request = &frame->request;
  memcpy(&frame->tag, record + ABI_REQUEST_TAG, sizeof frame->tag);
  if (request_read(request, &net->machine->memory, record, size) ||
      request->kind != ABI_REQUEST_KIND_NET_TX || request->length < ABI_NET_FRAME_BYTES_MIN ||
      request->length > ABI_NET_FRAME_BYTES_MAX || request->range_count == 0) {
    net->counts[queue].drops[CELL_NET_DROP_REFUSED]++;
    net->owed |= device_complete(net->device, frame->tag, ABI_RESULT_IOERR, 0);
    return false;
  }
  memcpy(frame->header, &request->offset, sizeof request->offset);
  memcpy(frame->header + sizeof request->offset, &request->flags, sizeof request->flags);
  net->vain = 0;
  return true;
}

/**
 * Takes frames out of the ring, at most a batch. `ask`: the driver is asked for its doorbell where
 * the ring is empty. False: it is. Lock held.
 */
static bool take_frames(struct net *net, struct net_transmit *transmit, uint32_t queue, bool ask) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  bool more = true;
  transmit->first = transmit->count = 0;
  transmit->generation = net_generation(net, queue);
  // Frames that are refused do not count, and may never end: this does.
  for (unsigned i = 0; i < NET_TURN && more && transmit->count < NET_BATCH; i++) {
    uint32_t size = net_next(net, queue, ask, record, &more);
    struct net_frame *frame = &transmit->frames[transmit->count];
    if (size > 0) transmit->count += take_frame(net, frame, queue, record, size);
  }
  return more || transmit->count > 0;
}

/** Copies a frame's first bytes out, where they cannot change any more, and off its ranges. */
static uint32_t cut_head(struct iovec **ranges, int *count, uint8_t head[HEAD_BYTES]) {
  uint32_t done = 0;
  while (done < HEAD_BYTES && *count > 0) {
    struct iovec *range = *ranges;
    uint32_t taken = HEAD_BYTES - done;
    if (taken > range->iov_len) taken = (uint32_t)range->iov_len;
    memcpy(head + done, range->iov_base, taken);
    done += taken;
    range->iov_base = (uint8_t *)range->iov_base + taken;
    range->iov_len -= taken;
    if (range->iov_len > 0) continue;
    (*ranges)++;
    (*count)--;
  }
  return done;
}

/** passt would connect this host to itself, at 127.0.0.0/8 or 0.0.0.0: that is not for guests. */
static bool to_loopback(const uint8_t head[HEAD_BYTES]) {
  bool ipv4 = head[ETHER_TYPE] == 0x08 && head[ETHER_TYPE + 1] == 0x00;
  return ipv4 && (head[IPV4_DESTINATION] == 127 || head[IPV4_DESTINATION] == 0);
}

/** Sends one frame. 0, or an errno; EPERM: from another address than the device's. */
static int send_frame(struct net *net, uint32_t pair, struct net_frame *frame) {
  struct iovec ranges[ABI_RANGE_COUNT_MAX + 2];
  uint8_t head[HEAD_BYTES] = {0};
  struct iovec *first = ranges + 2; // with room for header and head in front
  int count = frame->request.range_count;
  memcpy(first, frame->request.ranges, (size_t)count * sizeof *first);
  if (net->mac_filter || net->stream) {
    // The driver may write its frame while it is sent: what is looked at is what is sent.
    uint32_t bytes = cut_head(&first, &count, head);
    if (net->mac_filter && memcmp(head + ETHER_SOURCE, net->mac, sizeof net->mac) != 0) {
      return EPERM;
    }
    if (net->stream && to_loopback(head)) return EACCES;
    *--first = (struct iovec){.iov_base = head, .iov_len = bytes};
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
  bool ours = transmit->generation == net_generation(net, queue);
  for (; transmit->first < until; transmit->first++) {
    if (!ours) continue;
    uint32_t tag = transmit->frames[transmit->first].tag;
    net->owed |= device_complete(net->device, tag, ABI_RESULT_OK, 0);
  }
}

/** Sends what was taken, as far as the backend and the limits let it. */
static void send_frames(struct net *net, uint32_t pair, uint64_t now) {
  struct net_transmit *transmit = &net->transmit[pair];
  uint32_t queue = 2 * pair + 1, at = transmit->first;
  net_begin(net, queue);
  for (; at < transmit->count && !net_limited(net, IMAGE_LIMIT_TX_BYTES, now); at++) {
    struct net_frame *frame = &transmit->frames[at];
    uint64_t bytes = frame->request.length;
    int error = net->gone ? ENODEV : send_frame(net, pair, frame);
    transmit->blocked = error == EAGAIN;
    if (transmit->blocked) break;
    if (error == 0) {
      net_passed(net, queue, IMAGE_LIMIT_TX_BYTES, bytes);
    } else {
      uint32_t reason = error == EPERM ? CELL_NET_DROP_SPOOFED : net_reason(net, error);
      net->counts[queue].drops[reason]++;
    }
  }
  net_end(net, queue);
  give_back(net, transmit, queue, at);
}

/** Frames that a driver does not want to hear of any more: it has reset the device. Lock held. */
static void drop_stale(struct net *net, struct net_transmit *transmit, uint32_t queue) {
  if (transmit->generation == net_generation(net, queue)) return;
  net->counts[queue].drops[CELL_NET_DROP_STALE] += transmit->count - transmit->first;
  transmit->first = transmit->count = 0;
}

/** The next batch. False: the ring is empty, and its driver was asked for its doorbell. */
static bool refill(struct net *net, struct net_transmit *transmit, uint32_t queue) {
  if (take_frames(net, transmit, queue, false)) return true;
  net_give_way(net, queue);
  return take_frames(net, transmit, queue, false) || take_frames(net, transmit, queue, true);
}

/** Sends what the socket did not take of a frame that was given back, as far as it does now. */
static void send_rest(struct net *net, uint32_t pair) {
  struct net_transmit *transmit = &net->transmit[pair];
  int error = net->gone ? 0 : stream_flush(net->stream, net->fds[pair]);
  transmit->blocked |= error == EAGAIN;
  if (error && error != EAGAIN) net_reason(net, error);
}

bool net_transmit(struct net *net, uint32_t pair, uint64_t now) {
  struct net_transmit *transmit = &net->transmit[pair];
  uint32_t queue = 2 * pair + 1;
  bool more = true, left = false;
  pthread_mutex_lock(&net->device->lock);
  for (unsigned sent = 0; sent < NET_TURN && more && !left; sent += NET_BATCH) {
    drop_stale(net, transmit, queue);
    if (transmit->first == transmit->count) more = refill(net, transmit, queue);
    if (transmit->first < transmit->count) send_frames(net, pair, now);
    left = transmit->first < transmit->count; // blocked, or over a limit
  }
  pthread_mutex_unlock(&net->device->lock);
  if (net->stream) send_rest(net, pair);
  transmit->ready = left || more;
  return transmit->ready && !transmit->blocked && !net_limited(net, IMAGE_LIMIT_TX_BYTES, now);
}
