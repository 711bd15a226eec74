// Taps. Calls readv, writev, ioctl(TUNSETOFFLOAD, TUNSETQUEUE).
#include "tap.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <sys/ioctl.h>

// Of Linux 6.2.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#define USO (TUN_F_USO4 | TUN_F_USO6) // both or none
#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#endif

int64_t tap_receive(int fd, const struct iovec *ranges, int range_count) {
  ssize_t count = readv(fd, ranges, range_count);
  if (count >= 0) return count;
  return errno == EINTR ? -EAGAIN : -errno;
}

int tap_send(int fd, const struct iovec *ranges, int range_count) {
  if (writev(fd, ranges, range_count) >= 0) return 0;
  return errno == EINTR ? EAGAIN : errno;
}

int tap_set_offloads(int fd, uint64_t offloads) {
  static const struct {
    int feature;
    unsigned flag;
  } pairs[] = {
      {VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM}, {VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
      {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6}, {VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
      {VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO},   {VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4},
      {VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6},
  };
  unsigned long flags = 0;
  for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    if (offloads >> pairs[i].feature & 1) flags |= pairs[i].flag;
  }
  // The kernel refuses what makes no sense without the rest, and a driver may have asked for that.
  if (!(flags & TUN_F_CSUM)) flags = 0;
  if (!(flags & (TUN_F_TSO4 | TUN_F_TSO6))) flags &= ~(unsigned long)TUN_F_TSO_ECN;
  if ((flags & USO) != USO) flags &= ~(unsigned long)USO;
  return ioctl(fd, TUNSETOFFLOAD, flags) == 0 ? 0 : errno;
}

int tap_set_queue(int fd, bool attached) {
  struct ifreq request = {.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
  return ioctl(fd, TUNSETQUEUE, &request) == 0 ? 0 : errno;
}
