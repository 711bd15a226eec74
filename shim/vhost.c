// vhost-net. Calls ioctl(VHOST_*).
//
// Ring addresses come from the guest by way of its cage. request_read() has found that they lie
// inside guest RAM; here their lengths are held against the queue's size, because the kernel takes
// that number for granted. Buffers it looks up in the table below.
#include "vhost.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <sys/ioctl.h>

// Of what the kernel can do: no logging of its writes, no header of its own.
#define KNOWN_FEATURES                                                              \
  (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX | \
   UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF)
#define RINGS 3 // of a record: descriptor table, available ring, used ring

struct memory_table {
  uint32_t count, padding;
  struct vhost_memory_region regions[2];
};

_Static_assert(offsetof(struct memory_table, regions) == offsetof(struct vhost_memory, regions),
               "struct vhost_memory");

/** Guest RAM below its hole, and above. */
static struct memory_table table_of(const struct guest_memory *memory) {
  uint64_t low = memory->bytes < HOLE_START ? memory->bytes : HOLE_START;
  struct memory_table table = {.count = 1};
  table.regions[0] = (struct vhost_memory_region){
      .memory_size = low,
      .userspace_addr = (uint64_t)(uintptr_t)memory->base,
  };
  if (memory->bytes > low) {
    table.count = 2;
    table.regions[1] = (struct vhost_memory_region){
        .guest_phys_addr = HOLE_END,
        .memory_size = memory->bytes - low,
        .userspace_addr = (uint64_t)(uintptr_t)(memory->base + low),
    };
  }
  return table;
}

int vhost_open(struct vhost *vhost, int fd, const struct guest_memory *memory,
               const struct device *device, uint32_t pair, struct failure *failure) {
  const struct memory_table table = table_of(memory);
  *vhost = (struct vhost){.fd = fd};
  if (ioctl(fd, VHOST_GET_FEATURES, &vhost->features)) {
    return fail_errno(failure, "VHOST_GET_FEATURES");
  }
  if (ioctl(fd, VHOST_SET_OWNER)) return fail_errno(failure, "VHOST_SET_OWNER");
  if (ioctl(fd, VHOST_SET_MEM_TABLE, &table)) return fail_errno(failure, "VHOST_SET_MEM_TABLE");
  for (uint32_t queue = 0; queue < 2; queue++) {
    const struct vhost_vring_file kick = {queue, device->queues[2 * pair + queue].kick};
    // The interrupt goes from kernel to kernel; the core's interrupt status says so at all times.
    const struct vhost_vring_file call = {queue, device->irq};
    if (ioctl(fd, VHOST_SET_VRING_KICK, &kick)) return fail_errno(failure, "VHOST_SET_VRING_KICK");
    if (ioctl(fd, VHOST_SET_VRING_CALL, &call)) return fail_errno(failure, "VHOST_SET_VRING_CALL");
  }
  return 0;
}

static int set_backend(const struct vhost *vhost, uint32_t queue, int tap) {
  const struct vhost_vring_file backend = {queue, tap};
  return ioctl(vhost->fd, VHOST_NET_SET_BACKEND, &backend) == 0 ? 0 : errno;
}

/** Whether the three rings are as long as a queue of that size needs them. */
static bool fits(const struct request *rings) {
  size_t size = rings->flags;
  if (rings->range_count != RINGS || size == 0 || size > ABI_QUEUE_SIZE_MAX) return false;
  return (size & (size - 1)) == 0 && rings->ranges[0].iov_len == 16 * size &&
         rings->ranges[1].iov_len == 6 + 2 * size && rings->ranges[2].iov_len == 6 + 8 * size;
}

int vhost_start(struct vhost *vhost, uint32_t queue, const struct request *rings, int tap) {
  uint64_t features = rings->offset & vhost->features & KNOWN_FEATURES;
  const struct vhost_vring_state size = {queue, rings->flags};
  const struct vhost_vring_state base = {queue, vhost->base[queue]};
  if (!fits(rings)) return EPROTO;
  const struct vhost_vring_addr address = {
      .index = queue,
      .desc_user_addr = (uint64_t)(uintptr_t)rings->ranges[0].iov_base,
      .avail_user_addr = (uint64_t)(uintptr_t)rings->ranges[1].iov_base,
      .used_user_addr = (uint64_t)(uintptr_t)rings->ranges[2].iov_base,
  };
  if (ioctl(vhost->fd, VHOST_SET_FEATURES, &features)) return errno;
  if (ioctl(vhost->fd, VHOST_SET_VRING_NUM, &size)) return errno;
  if (ioctl(vhost->fd, VHOST_SET_VRING_BASE, &base)) return errno;
  if (ioctl(vhost->fd, VHOST_SET_VRING_ADDR, &address)) return errno;
  int error = set_backend(vhost, queue, tap);
  vhost->running[queue] = error == 0;
  return error;
}

void vhost_stop(struct vhost *vhost, uint32_t queue) {
  struct vhost_vring_state base = {.index = queue};
  if (!vhost->running[queue]) return;
  set_backend(vhost, queue, -1);
  vhost->running[queue] = false;
  if (ioctl(vhost->fd, VHOST_GET_VRING_BASE, &base) == 0) vhost->base[queue] = base.num;
}
