// The network thread: waits for frames and doorbells, gives each queue its turn, and keeps the
// backends as the drivers want them. Calls epoll_ctl, epoll_wait, read, futex, and what
// net-queue.c, tap.c and vhost.c call.
#include "net-queue.h"
#include "net-source.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "counter.h"
#include "futex.h"
#include "tap.h"
#include "view.h"

#define EVENTS 32
#define NS_PER_MS UINT64_C(1000000)
#define DELAY_MS_MAX 1000
#define CONTROL_TURN 4
#define NEWS (ABI_EFFECT_IRQ | ABI_EFFECT_SETUP)

// --- What drivers want of the backends ----------------------------------------------------------

/** Gives the kernel a queue whose rings are there, and takes one back whose rings are not. */
static void lend_queue(struct net *net, uint32_t queue, bool wanted) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  struct request rings;
  struct device *device = net->device;
  struct vhost *vhost = &net->vhost[queue / 2];
  struct device_queue *place = &device->queues[queue];
  bool more;
  uint32_t size = wanted ? net_next(net, queue, false, record, &more) : 0;
  bool there = size > 0 && request_read(&rings, &device->memory, record, size) == 0 &&
               rings.kind == ABI_REQUEST_KIND_NET_RINGS;
  bool same = net->lent[queue] == place->generation;
  if (vhost->running[queue % 2] && !(there && same)) {
    vhost_stop(vhost, queue % 2);
    if (--place->in_flight == 0) device_tell_idle(device);
  }
  if (!there || vhost->running[queue % 2]) return;
  if (!same) vhost->base[queue % 2] = 0;
  net->lent[queue] = place->generation;
  if (vhost_start(vhost, queue % 2, &rings, net->fds[queue / 2])) {
    net->gone = true;
  } else {
    place->in_flight++; // a driver that stops the queue waits until it is taken back
  }
}

/** Gives the kernel the first `count` queues and no other. */
static void lend_queues(struct net *net, uint32_t count) {
  // The lock is held while the kernel finishes what it has begun: the device has nothing else to do
  // for its driver than to stop or start.
  pthread_mutex_lock(&net->device->lock);
  for (uint32_t queue = 0; queue < 2 * net->pair_count; queue++) {
    lend_queue(net, queue, queue < count);
  }
  pthread_mutex_unlock(&net->device->lock);
}

/**
 * Attaches the queues of the tap that the driver uses: the kernel spreads frames over those. And
 * says which frames it can take: to one queue, for the whole tap.
 */
static void set_tap(struct net *net, uint32_t pairs, uint64_t offloads) {
  for (uint32_t pair = 0; pair < net->pair_count; pair++) {
    bool before = pair < net->active_pairs, after = pair < pairs;
    struct epoll_event event = {.data.u64 = net_tag(SOURCE_BACKEND, net->index, pair)};
    if (before == after) continue;
    tap_set_queue(net->fds[pair], after);
    bucket_take(&net->changes, 1);
    // Detached, it would look like one that is gone.
    epoll_ctl(net->epoll, after ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, net->fds[pair], &event);
    net->watched[pair] = 0;
  }
  net->active_pairs = pairs;
  if (net->offloads == offloads) return;
  tap_set_offloads(net->fds[0], offloads);
  bucket_take(&net->changes, 1);
  net->offloads = offloads;
}

/**
 * Brings the tap to what its driver wants, unless that changed too often lately: each call takes a
 * lock that the whole host shares. False: it is held, until then, with all its queues: frames
 * would come as this driver may not know them, or on queues that it does not look at.
 */
static bool suit_driver(struct net *net, uint32_t pairs, uint64_t offloads) {
  if (net->active_pairs == pairs && net->offloads == offloads) return true;
  uint64_t now = monotonic_ns(), wait = bucket_wait(&net->changes, now);
  if (wait > 0) net->held_until = now + wait;
  else set_tap(net, pairs, offloads);
  return wait == 0;
}

/** Whatever the driver did: brings the backend to that. */
static void set_up(struct net *net, bool still) {
  struct device *device = net->device;
  pthread_mutex_lock(&device->lock);
  const struct device_net_state state = device_net_state(device);
  bool running = device_running(device) && !net->gone;
  uint32_t generation = net_generation(net, 0);
  view_show(device); // its cage may have started anew
  pthread_mutex_unlock(&device->lock);
  uint32_t pairs = state.queue_pairs;
  if (pairs == 0 || pairs > net->pair_count) pairs = 1; // whatever a cage says
  net->held_until = 0;
  if (running && !net->stream) running = suit_driver(net, pairs, state.offloads);
  // Frames from before were for nobody, or for another driver that may have gone before anybody
  // looked; and they may need what this one cannot do.
  bool anew = running && (!net->running || net->generation != generation);
  if (anew && net->vhost) lend_queues(net, 0);
  for (uint32_t pair = 0; pair < net->active_pairs; pair++) {
    if (anew) net_discard(net, pair);
    net->receive[pair].ready = net->transmit[pair].ready = running;
  }
  if (net->vhost) lend_queues(net, running && !still ? 2 * pairs : 0);
  net->running = running;
  net->generation = generation;
}

/** The backend is gone for good: the driver sees its link go down, and its frames are dropped. */
static void lose(struct net *net) {
  static const uint8_t news[ABI_NET_INPUT_BYTES];
  uint32_t taken;
  for (uint32_t pair = 0; pair < net->pair_count; pair++) net->transmit[pair].blocked = false;
  pthread_mutex_lock(&net->device->lock);
  uint32_t effects = device_input(net->device, news, sizeof news, &taken);
  view_show(net->device);
  device_interrupt(net->device, effects);
  pthread_mutex_unlock(&net->device->lock);
  machine_wake(net->machine); // the I/O thread tells the host
  net->down = true;
  net->held_until = 0;
}

// --- The loop -----------------------------------------------------------------------------------

/** Commands are answered by the cage, a few at a time. True: there may be more. */
static bool obey_driver(struct net *net) {
  pthread_mutex_lock(&net->device->lock);
  for (int turn = 0; turn < CONTROL_TURN && net->control > 0; turn++) {
    uint32_t effects = device_notify(net->device, net->control);
    net->owed |= effects;
    if (!net_hears(net, effects)) net->control = 0;
  }
  pthread_mutex_unlock(&net->device->lock);
  return net->control > 0;
}

static bool is_control(const struct net *net, uint32_t queue) {
  uint64_t features = device_features(net->device);
  bool many = features >> VIRTIO_NET_F_MQ & 1;
  return features >> VIRTIO_NET_F_CTRL_VQ & 1 && queue == (many ? 2 * net->pair_count : 2);
}

static void handle(struct network *network, const struct epoll_event *event) {
  uint64_t data = event->data.u64;
  uint32_t index = data & 0xffff;
  struct net *net = &network->nets[data >> 16 & 0xffff];
  switch ((enum net_source)(data >> 32)) {
    case SOURCE_WAKE:
      counter_drain(network->machine->network);
      for (uint32_t i = 0; i < network->count; i++) set_up(&network->nets[i], false);
      return;
    case SOURCE_BACKEND:
      // An error is read like a frame, where frames are read; elsewhere it would come for ever.
      if (!(net->watched[index] & EPOLLIN) && event->events & (EPOLLERR | EPOLLHUP)) {
        net->gone = true;
      }
      if (event->events & ~(uint32_t)EPOLLOUT) net->receive[index].ready = true;
      if (event->events & EPOLLOUT) {
        net->transmit[index].blocked = false;
        net->transmit[index].ready = true; // the rest of a frame at least
      }
      return;
    case SOURCE_KICK:
      net->vain = 0;
      if (is_control(net, index)) {
        net->control = index;
      } else if (index < 2 * net->pair_count && !net->vhost) {
        if (index % 2) net->transmit[index / 2].ready = true;
        else net->receive[index / 2].ready = true;
      }
      return;
  }
}

/** Has epoll look at a backend exactly as far as something could be done then. */
static void net_watch(struct net *net, uint32_t pair, bool limited) {
  const struct net_receive *receive = &net->receive[pair];
  bool wants = net->running && !receive->starved && !receive->pending && !limited;
  uint32_t events = (wants ? EPOLLIN : 0) | (net->transmit[pair].blocked ? EPOLLOUT : 0);
  uint64_t data = net_tag(SOURCE_BACKEND, net->index, pair);
  struct epoll_event event = {.events = events, .data.u64 = data};
  if (net->watched[pair] == events) return;
  if (epoll_ctl(net->epoll, EPOLL_CTL_MOD, net->fds[pair], &event) == 0) {
    net->watched[pair] = events;
  }
}

/**
 * Interrupts for what calls into the cage have answered since the last time. Where the device
 * broke or a command was obeyed, its driver sees what became of it, and the thread looks at it once
 * more: not for ever either, where the cage says so whenever it is looked at.
 */
static void interrupt(struct net *net) {
  uint32_t effects = net->owed & NEWS;
  net->owed = 0;
  if (effects & ABI_EFFECT_SETUP) {
    pthread_mutex_lock(&net->device->lock);
    view_show(net->device);
    pthread_mutex_unlock(&net->device->lock);
    if (net->vain++ < NET_VAIN_MAX) machine_wake_network(net->machine);
  }
  device_interrupt(net->device, effects);
}

/**
 * Gives each queue its turn. Returns the nanoseconds until one is due again; UINT64_MAX: never.
 *
 * Frames that came in are told of together. Frames that went out are told of with those, or in the
 * next turn, which is due at once: an answer that is on its way needs no interrupt of its own.
 */
static uint64_t serve(struct net *net) {
  uint64_t now = net->timed || net->held_until ? monotonic_ns() : 0;
  if (net->held_until && net->held_until <= now) set_up(net, false);
  bool held = net->held_until > 0;
  uint64_t delay = obey_driver(net) ? 0 : held ? net->held_until - now : UINT64_MAX;
  for (uint32_t pair = 0; pair < net->active_pairs && !net->vhost; pair++) {
    struct net_receive *receive = &net->receive[pair];
    struct net_transmit *transmit = &net->transmit[pair];
    bool more = false;
    if (!held && (receive->ready || receive->pending)) more |= net_receive(net, pair, now);
    interrupt(net);
    if (!held && transmit->ready && !transmit->blocked) more |= net_transmit(net, pair, now);
    uint64_t wait = more ? 0 : held ? UINT64_MAX : net_delay(net, pair, now);
    if (wait < delay) delay = wait;
    if (!net->gone) net_watch(net, pair, net->timed && receive->ready && !more);
  }
  if (net->vhost) interrupt(net);
  if (net->owed & NEWS) delay = 0;
  if (net->gone && !net->down) {
    for (uint32_t pair = 0; pair < net->active_pairs; pair++) {
      net->transmit[pair].ready = true; // also what came while the device was held
      epoll_ctl(net->epoll, EPOLL_CTL_DEL, net->fds[pair], NULL);
    }
    if (net->vhost) set_up(net, false); // takes back what the kernel has
    lose(net);
    return 0; // frames that waited for it are dropped
  }
  return delay;
}

/**
 * Holds still while somebody wants that, with nothing of the guest's in anybody's hands. True: it
 * did, and all queues are due.
 */
static bool stand_still(struct network *network) {
  bool stood = false;
  while (__atomic_load_n(&network->wanted, __ATOMIC_SEQ_CST)) {
    for (uint32_t i = 0; i < network->count; i++) {
      set_up(&network->nets[i], true);
      interrupt(&network->nets[i]);
    }
    __atomic_store_n(&network->still, 1, __ATOMIC_SEQ_CST);
    futex_wake(&network->still);
    futex_wait(&network->wanted, 1, NULL);
    // First this: who wants it again and finds it still standing has said so before the next line.
    __atomic_store_n(&network->still, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&network->wanted, __ATOMIC_SEQ_CST)) continue;
    for (uint32_t i = 0; i < network->count; i++) set_up(&network->nets[i], false);
    stood = true;
  }
  return stood;
}

static int milliseconds(uint64_t delay) {
  if (delay == UINT64_MAX) return -1;
  uint64_t whole = (delay + NS_PER_MS - 1) / NS_PER_MS; // too early would be once more in vain
  return whole < DELAY_MS_MAX ? (int)whole : DELAY_MS_MAX;
}

static void net_run(void *argument) {
  struct network *network = argument;
  struct epoll_event events[EVENTS];
  uint64_t delay = UINT64_MAX;
  for (;;) {
    if (stand_still(network)) delay = 0;
    int count = epoll_wait(network->epoll, events, EVENTS, milliseconds(delay));
    for (int i = 0; i < count; i++) handle(network, &events[i]);
    delay = UINT64_MAX;
    for (uint32_t i = 0; i < network->count; i++) {
      uint64_t wait = serve(&network->nets[i]);
      if (wait < delay) delay = wait;
    }
  }
}

int network_start(struct network *network, struct failure *failure) {
  if (network->count == 0) return 0;
  network->wanted = 1;
  network->thread = (struct thread){
      .body = net_run,
      .argument = network,
      .role = CELL_ROLE_NET,
      // A guest that shares its processor fills its ring, and does not wait for each frame.
      .patient = true,
      .name = "net",
  };
  if (thread_start(&network->thread, NULL, failure)) return -1;
  return thread_await(&network->thread, failure);
}

void network_pause(struct network *network) {
  if (network->count == 0) return;
  __atomic_store_n(&network->wanted, 1, __ATOMIC_SEQ_CST);
  machine_wake_network(network->machine);
  while (__atomic_load_n(&network->still, __ATOMIC_SEQ_CST) == 0) {
    futex_wait(&network->still, 0, NULL);
  }
}

void network_resume(struct network *network) {
  __atomic_store_n(&network->wanted, 0, __ATOMIC_SEQ_CST);
  futex_wake(&network->wanted);
}
