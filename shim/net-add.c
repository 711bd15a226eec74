// Network devices of a cell get their descriptors. Calls epoll_create1, epoll_ctl, eventfd, mmap,
// fcntl, fstat, and what vhost.c calls.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "net-source.h"

// Settings of a tap, each a call that takes a lock of the whole host: a driver that loads with all
// pairs makes 15, so it can do so twice at once; from then on four a second.
#define CHANGES 32
#define CHANGES_MS 8000

static int watch(const struct network *network, int fd, uint32_t events, uint64_t data,
                 struct failure *failure) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  if (epoll_ctl(network->epoll, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  return fail(failure, errno, "net", "a descriptor cannot be waited for");
}

static void *map(size_t bytes, struct failure *failure) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory != MAP_FAILED) return memory;
  fail(failure, errno, "mmap", "%zu bytes for a network device", bytes);
  return NULL;
}

static int check_descriptor(const struct image_device *plan, int fd, struct failure *failure) {
  struct stat stats;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fstat(fd, &stats)) return fail(failure, errno, "net", "%s", plan->name);
  bool stream = plan->flags & IMAGE_DEVICE_FLAG_STREAM;
  if (stream ? S_ISSOCK(stats.st_mode) : S_ISCHR(stats.st_mode)) {
    if (flags & O_NONBLOCK) return 0;
    return fail(failure, EINVAL, "net", "%s: its descriptor would wait", plan->name);
  }
  return fail(failure, EINVAL, "net", "%s: its descriptor is no %s", plan->name,
              stream ? "socket" : "tap");
}

static int add_queues(struct network *network, struct net *net, uint32_t index,
                      struct failure *failure) {
  net->receive = map(net->pair_count * sizeof *net->receive, failure);
  net->transmit = map(net->pair_count * sizeof *net->transmit, failure);
  if (!net->receive || !net->transmit) return -1;
  for (uint32_t queue = 0; queue < net->device->queue_count; queue++) {
    // The kernel hears its doorbells itself; where there is one pair only, the third is ours.
    if (net->vhost && queue < 2 * net->pair_count && queue != 2) continue;
    int kick = net->device->queues[queue].kick;
    // By edges: each ring of the bell counts once, and nobody has to empty the counter.
    uint64_t data = net_tag(SOURCE_KICK, index, queue);
    if (watch(network, kick, EPOLLIN | EPOLLET, data, failure)) return -1;
  }
  // Of one whose queues the kernel serves, it tells when it is gone.
  for (uint32_t pair = 0; pair < net->pair_count; pair++) {
    uint64_t data = net_tag(SOURCE_BACKEND, index, pair);
    if (watch(network, net->fds[pair], 0, data, failure)) return -1;
  }
  return 0;
}

static int add_net(struct network *network, const struct image_device *plan, struct device *device,
                   const int *files, struct failure *failure) {
  uint32_t index = network->count++;
  struct net *net = &network->nets[index];
  uint32_t pairs = (plan->queue_count - 1) / 2;
  const struct guest_memory *memory = &network->machine->memory;
  net->machine = network->machine;
  net->index = index;
  net->epoll = network->epoll;
  net->device = device;
  net->pair_count = net->active_pairs = pairs;
  net->offloads = UINT64_MAX; // not known
  net->changes = bucket_create(CHANGES, 0, CHANGES_MS);
  net->mac_filter = plan->flags & IMAGE_DEVICE_FLAG_MAC_FILTER;
  memcpy(net->mac, plan->config + ABI_NET_CONFIG_MAC, sizeof net->mac);
  for (uint32_t i = 0; i < IMAGE_LIMIT_COUNT; i++) {
    const struct image_limit limit = image_limit(plan, i);
    net->limits[i] = bucket_create(limit.size, limit.one_time_burst, limit.refill_ms);
    net->timed |= limit.size > 0;
  }
  for (uint32_t pair = 0; pair < pairs; pair++) {
    net->fds[pair] = files[plan->file + pair];
    if (check_descriptor(plan, net->fds[pair], failure)) return -1;
  }
  if (plan->flags & IMAGE_DEVICE_FLAG_STREAM) {
    net->stream = map(sizeof *net->stream, failure);
    if (!net->stream) return -1;
  }
  if (plan->flags & IMAGE_DEVICE_FLAG_VHOST) {
    net->vhost = map(pairs * sizeof *net->vhost, failure);
    if (!net->vhost) return -1;
    for (uint32_t pair = 0; pair < pairs; pair++) {
      int fd = files[plan->file + pairs + pair];
      if (vhost_open(&net->vhost[pair], fd, memory, device, pair, failure)) return -1;
    }
  }
  return add_queues(network, net, index, failure);
}

int network_add(struct network *network, struct machine *machine, const struct image *image,
                const int *files, struct failure *failure) {
  uint32_t count = image->header.device_count;
  network->machine = machine;
  machine->network = -1;
  for (uint32_t i = 0; i < count; i++) {
    const struct image_device *plan = &image->header.devices[i];
    if (plan->kind != ABI_KIND_VIRTIO_NET) continue;
    if (network->count == 0) {
      machine->network = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      network->epoll = epoll_create1(EPOLL_CLOEXEC);
      if (machine->network < 0 || network->epoll < 0) return fail_errno(failure, "epoll_create1");
      uint64_t data = net_tag(SOURCE_WAKE, 0, 0);
      if (watch(network, machine->network, EPOLLIN, data, failure)) return -1;
    }
    // Devices of the image come last on the bus, in its order.
    struct device *device = &machine->devices[machine->device_count - count + i];
    if (add_net(network, plan, device, files, failure)) return -1;
  }
  return 0;
}

bool network_has(const struct network *network, int fd) {
  for (uint32_t i = 0; i < network->count; i++) {
    const struct net *net = &network->nets[i];
    for (uint32_t pair = 0; pair < net->pair_count; pair++) {
      if (net->fds[pair] == fd || (net->vhost && net->vhost[pair].fd == fd)) return true;
    }
  }
  return false;
}
