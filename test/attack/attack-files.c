// Attacks on files of the host, by path and by descriptor.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attack.h"

#define SECTOR_BYTES 512

int attack_open(void) { return outcome(open(in_folder("secret"), O_RDONLY | O_CLOEXEC)); }

int attack_create(void) {
  return outcome(open(in_folder("created"), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

int attack_unlink(void) { return outcome(unlink(in_folder("secret"))); }

int attack_truncate(void) { return outcome(truncate(in_folder("secret"), 0)); }

int attack_chmod(void) { return outcome(chmod(in_folder("secret"), 0777)); }

/** With write(2), which both threads may call; the disk is there already, for reading. */
int attack_write_read_only_disk(void) {
  return outcome(write(find_disk(true)->fd, "overwritten", 11));
}

int attack_pwritev_read_only_disk(void) {
  const struct iovec part = {.iov_base = "overwritten", .iov_len = 11};
  return outcome(pwritev(find_disk(true)->fd, &part, 1, 0));
}

/** The same file once more, with the right that its descriptor lacks. */
int attack_reopen_read_only_disk(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", find_disk(true)->fd);
  return outcome(open(path, O_RDWR | O_CLOEXEC));
}

/** On the run's own folder, and gone at once. */
int attack_mount(void) {
  if (mount("none", known.folder, "tmpfs", 0, NULL)) return errno;
  umount2(known.folder, MNT_DETACH);
  return 0;
}

// --- Descriptors over the control socket --------------------------------------------------------

union rights {
  struct cmsghdr header;
  uint8_t bytes[CMSG_SPACE(sizeof(int))];
};

/** A descriptor of the cell's for the host, beside a message that means what it says. */
int attack_send_descriptor(void) {
  union rights rights = {0};
  uint32_t marker[] = {CELL_MARKER, 0};
  struct iovec part = {.iov_base = marker, .iov_len = sizeof marker};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
  rights.header = (struct cmsghdr){
      .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(&rights.header), &(const int){STDERR_FILENO}, sizeof(int));
  return outcome(sendmsg(control_fd, &message, 0));
}

/** A descriptor of the host's, where it sends one. */
int attack_take_descriptor(void) {
  union rights rights;
  uint8_t byte;
  ssize_t got;
  struct iovec part = {.iov_base = &byte, .iov_len = 1};
  struct msghdr message;
  do {
    message = (struct msghdr){.msg_iov = &part,
                              .msg_iovlen = 1,
                              .msg_control = &rights,
                              .msg_controllen = sizeof rights};
    got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EAGAIN);
  if (got <= 0) return got < 0 ? errno : ENODATA;
  // What did not fit was dropped by the kernel: here, that no number is free.
  if (message.msg_flags & MSG_CTRUNC) return EMFILE;
  return CMSG_FIRSTHDR(&message) ? 0 : ENODATA;
}

// --- What is left to it -------------------------------------------------------------------------

int attack_write_own_disk(void) {
  return outcome(write(find_disk(false)->fd, "overwritten", 11));
}

int attack_read_own_disk(void) {
  uint8_t sector[SECTOR_BYTES];
  const struct iovec part = {.iov_base = sector, .iov_len = sizeof sector};
  return outcome(preadv(find_disk(true)->fd, &part, 1, 0));
}

/** Past the end that the guest's disk has. */
int attack_grow_own_disk(void) {
  const struct disk *disk = find_disk(false);
  uint8_t sector[SECTOR_BYTES] = {0};
  const struct iovec part = {.iov_base = sector, .iov_len = sizeof sector};
  return outcome(pwritev(disk->fd, &part, 1, (off_t)disk->capacity_bytes));
}
