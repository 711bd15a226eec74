// What both kinds of a network device's queues share. Calls sched_yield,
// and what device.c calls.
#include "net-queue.h"

#include <errno.h>
#include <sched.h>

void net_begin(const struct net *net, uint32_t queue) {
  net->device->queues[queue].in_flight++;
  pthread_mutex_unlock(&net->device->lock);
}

void net_end(const struct net *net, uint32_t queue) {
  pthread_mutex_lock(&net->device->lock);
  if (--net->device->queues[queue].in_flight == 0) device_tell_idle(net->device);
}

void net_give_way(const struct net *net, uint32_t queue) {
  net_begin(net, queue);
  sched_yield();
  net_end(net, queue);
}

uint32_t net_generation(const struct net *net, uint32_t queue) {
  return net->device->queues[queue].generation;
}

bool net_hears(struct net *net, uint32_t effects) {
  return effects & ABI_EFFECT_MORE && net->vain++ < NET_VAIN_MAX;
}

uint32_t net_next(struct net *net, uint32_t queue, bool ask, uint8_t *record, bool *more) {
  uint32_t now = ask ? device_notify(net->device, queue) : device_next(net->device, queue);
  uint32_t size = now & ABI_EFFECT_REQUEST ? device_record(net->device, record, &now) : 0;
  *more = net_hears(net, now);
  net->owed |= now;
  return size;
}

uint32_t net_reason(struct net *net, int error) {
  bool gone = error == EBADFD || error == ENODEV || error == ESHUTDOWN || error == EPIPE ||
              error == ECONNRESET || error == EPROTO;
  if (gone) __atomic_store_n(&net->gone, true, __ATOMIC_SEQ_CST);
  return gone || error == EIO ? CELL_NET_DROP_DOWN : CELL_NET_DROP_REFUSED;
}

uint64_t net_limited(struct net *net, uint32_t first, uint64_t now) {
  uint64_t bytes = bucket_wait(&net->limits[first], now);
  uint64_t frames = bucket_wait(&net->limits[first + 1], now);
  return bytes > frames ? bytes : frames;
}

void net_passed(struct net *net, uint32_t queue, uint32_t first, uint64_t bytes) {
  net->counts[queue].frames++;
  net->counts[queue].bytes += bytes;
  bucket_take(&net->limits[first], bytes);
  bucket_take(&net->limits[first + 1], 1);
}

uint64_t net_delay(struct net *net, uint32_t pair, uint64_t now) {
  const struct net_receive *receive = &net->receive[pair];
  const struct net_transmit *transmit = &net->transmit[pair];
  uint64_t delay = UINT64_MAX;
  uint64_t waits[3] = {0};
  if (receive->pending) waits[0] = NET_PENDING_NS;
  if (receive->ready) waits[1] = net_limited(net, IMAGE_LIMIT_RX_BYTES, now);
  if (transmit->ready && !transmit->blocked) {
    waits[2] = net_limited(net, IMAGE_LIMIT_TX_BYTES, now);
  }
  for (int i = 0; i < 3; i++) {
    if (waits[i] > 0 && waits[i] < delay) delay = waits[i];
  }
  return delay;
}
