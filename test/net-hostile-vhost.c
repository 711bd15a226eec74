// The kernel's side of vhost-net for test/net-hostile.c, and a cage that lies about where the rings
// of its queues are. Linked with --wrap=ioctl: what the cell asks of the kernel is checked here.
//
// The kernel reads and writes as many bytes of a ring as the number of its places takes, whatever
// anybody thought of its length: all of them have to lie in guest RAM.
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stdio.h>

#include "net-hostile.h"

#define FEATURES                                                                         \
  (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX | \
   UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF)
#define VHOST_IOCTLS 0xaf

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static struct {
  unsigned places; // VHOST_SET_VRING_NUM
  bool addressed;
  int backend;
} rings[ABI_NET_QUEUE_PAIRS_MAX][2];
static unsigned long lent, lies;

// --- The cage -----------------------------------------------------------------------------------

/** Inside guest RAM, up to its end, past it, or nowhere. */
static uint64_t place_of(uint64_t length) {
  switch (random_below(5)) {
    case 0:
      return RAM_BYTES - length;
    case 1:
      return RAM_BYTES - length + 1 + random_below(64);
    case 2:
      return random_below(4) ? 16 * random_below(RAM_BYTES / 32) : UINT64_MAX - random_below(4096);
    default:
      return 16 * random_below(RAM_BYTES / 32);
  }
}

uint32_t rings_record(uint8_t *record) {
  static const uint32_t odd[] = {0, 3, 255, 257, 512, 65535, 65536, 1u << 28, UINT32_MAX};
  uint32_t size = random_below(4) ? 4u << random_below(7) : odd[random_below(9)];
  uint32_t count = random_below(12) ? 3 : random_below(5);
  uint64_t sum = 0;
  memset(record, 0, ABI_REQUEST_RANGES + 5 * ABI_RANGE_STRIDE);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t length = i == 0 ? 16 * size : i == 1 ? 6 + 2 * size : 6 + 8 * size;
    if (random_below(6) == 0) length = random_below(length < 4096 ? length + 2 : 4096);
    uint8_t *range = record + ABI_REQUEST_RANGES + i * ABI_RANGE_STRIDE;
    put(range + ABI_RANGE_ADDRESS, place_of(length), 8);
    put(range + ABI_RANGE_LENGTH, length, 4);
    sum += length;
  }
  uint32_t kind = random_below(20) ? ABI_REQUEST_KIND_NET_RINGS : ABI_REQUEST_KIND_NET_RX;
  put(record + ABI_REQUEST_KIND, kind, 4);
  put(record + ABI_REQUEST_OFFSET, random_below(4) ? FEATURES : UINT64_MAX, 8);
  put(record + ABI_REQUEST_LENGTH, sum, 8);
  put(record + ABI_REQUEST_RANGE_COUNT, count, 4);
  put(record + ABI_REQUEST_FLAGS, size, 4);
  lies++;
  return ABI_REQUEST_RANGES + count * ABI_RANGE_STRIDE;
}

// --- The kernel ---------------------------------------------------------------------------------

static void check_inside(uint64_t address, uint64_t bytes) {
  uint64_t base = (uint64_t)(uintptr_t)machine.memory.base;
  if (address < base || address - base > RAM_BYTES || RAM_BYTES - (address - base) < bytes) {
    wrong("a ring outside guest RAM");
  }
}

static void set_address(unsigned pair, const struct vhost_vring_addr *address) {
  uint64_t places = rings[pair][address->index].places;
  if (places == 0 || places > ABI_QUEUE_SIZE_MAX) wrong("the size of a ring");
  check_inside(address->desc_user_addr, 16 * places);
  check_inside(address->avail_user_addr, 6 + 2 * places);
  check_inside(address->used_user_addr, 6 + 8 * places);
  if (address->flags) wrong("flags of a ring");
  rings[pair][address->index].addressed = true;
}

static void set_backend(unsigned pair, const struct vhost_vring_file *backend) {
  if (backend->fd >= 0) {
    if (!rings[pair][backend->index].addressed) wrong("a ring without a place");
    if (!lent_as_told()) wrong("a ring of a tap that is not as its driver wants it");
    lent++;
  }
  rings[pair][backend->index].addressed = false;
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (_IOC_TYPE(request) != VHOST_IOCTLS) return __real_ioctl(fd, request, argument);
  unsigned pair = (unsigned)(fd - FIRST_VHOST);
  const struct vhost_vring_state *state = argument;
  switch (request) {
    case VHOST_GET_FEATURES:
      *(uint64_t *)argument = UINT64_MAX;
      return 0;
    case VHOST_SET_FEATURES:
      if (*(const uint64_t *)argument & ~FEATURES) wrong("a feature of the kernel's own");
      return 0;
    case VHOST_SET_VRING_NUM:
      rings[pair][state->index].places = state->num;
      return 0;
    case VHOST_SET_VRING_ADDR:
      set_address(pair, argument);
      return 0;
    case VHOST_NET_SET_BACKEND:
      set_backend(pair, argument);
      return 0;
    default:
      return 0;
  }
}

void tell_vhost(void) { printf("%lu %lu\n", lies, lent); }
