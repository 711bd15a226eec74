// Disks. Calls open, fcntl, fstat, ioctl(BLKGETSIZE64), and io_uring's by way of uring.c.
#include "disks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock.h"

#define PATH_BYTES 4096

static int disk_failed(const struct image_device *plan, const char *what,
                       struct failure *failure) {
  return fail(failure, EINVAL, "disk", "%s: %s", plan->name, what);
}

/** What the command line has for a disk: a path or 'fd:N'; NULL: nothing. */
static const char *named(const struct options *options, const char *id) {
  size_t length = strlen(id);
  for (unsigned i = 0; i < options->disk_count; i++) {
    const char *word = options->disks[i];
    if (strncmp(word, id, length) == 0 && word[length] == '=') return word + length + 1;
  }
  return NULL;
}

/** Opens a disk by hand: as the command line has it, else by its path in the image. */
static int open_disk(const struct options *options, const struct image *image,
                     const struct image_device *plan, struct failure *failure) {
  char stored[PATH_BYTES];
  const char *path = named(options, plan->name);
  bool read_only = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY;
  if (path && options_descriptor(path) >= 0) return options_descriptor(path);
  if (!path && image_path(image, plan, stored, sizeof stored, failure)) return -1;
  if (!path) path = stored;
  int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail(failure, errno, "disk", "%s: %s", plan->name, path);
  return fd;
}

/** Whether the descriptor is a disk of that size, with those rights and no more. */
static int check_disk(const struct machine *machine, const struct image_device *plan, int fd,
                      struct failure *failure) {
  struct stat stats;
  uint64_t bytes = 0;
  int mode = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY ? O_RDONLY : O_RDWR;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fstat(fd, &stats)) return fail(failure, errno, "disk", "%s", plan->name);
  if ((flags & O_ACCMODE) != mode || flags & O_APPEND) { // which would ignore every offset
    return disk_failed(plan, "its descriptor has other rights than the disk", failure);
  }
  if (S_ISREG(stats.st_mode)) {
    bytes = (uint64_t)stats.st_size;
  } else if (!S_ISBLK(stats.st_mode) || ioctl(fd, BLKGETSIZE64, &bytes)) {
    return disk_failed(plan, "is neither a file nor a block device", failure);
  }
  if (bytes < plan->capacity_bytes) {
    return disk_failed(plan, "is smaller than when the image was composed", failure);
  }
  for (uint32_t i = 0; i < machine->device_count; i++) {
    struct stat other; // the lock does not tell two devices of one process apart
    int before = machine->devices[i].disk.fd;
    if (before < 0 || fstat(before, &other)) continue;
    if (other.st_dev == stats.st_dev && other.st_ino == stats.st_ino) {
      return disk_failed(plan, "is given twice", failure);
    }
  }
  int taken = lock_file(fd, mode == O_RDWR, failure);
  if (taken == 1) return 0;
  return taken < 0 ? -1 : fail(failure, EBUSY, "lock", "%s", plan->name);
}

/** A disk of the command line that the image does not have is a mistake, not a wish. */
static int check_names(const struct options *options, const struct image *image,
                       struct failure *failure) {
  for (unsigned i = 0; i < options->disk_count; i++) {
    const char *word = options->disks[i];
    size_t length = (size_t)(strchr(word, '=') - word);
    bool known = false;
    for (uint32_t disk = 0; disk < image->header.device_count; disk++) {
      const struct image_device *plan = &image->header.devices[disk];
      known |= plan->kind == ABI_KIND_VIRTIO_BLK && strlen(plan->name) == length &&
               strncmp(plan->name, word, length) == 0;
    }
    if (!known) return fail(failure, EINVAL, "disk", "--disk %s: the image has no such ID", word);
  }
  return 0;
}

/** Those that want io_uring get it together, or none does. */
static void add_ring(struct machine *machine, struct server *server, const int *registered,
                     unsigned count, const struct control *control) {
  struct failure failure;
  if (count == 0 || uring_create(&server->ring, registered, count, &failure) == 0) return;
  control_log(control, CELL_LOG_LEVEL_WARN, "io_uring cannot be used (%s: %s); disks use sync",
              failure.call, errno_name(failure.number));
  uring_close(&server->ring);
  for (uint32_t i = 0; i < machine->device_count; i++) machine->devices[i].uring = false;
}

int disks_add(struct machine *machine, struct server *server, const struct image *image,
              const int *files, const struct options *options, const struct control *control,
              struct failure *failure) {
  int registered[IMAGE_DEVICE_COUNT_MAX];
  unsigned ring_files = 0;
  if (check_names(options, image, failure)) return -1;
  for (uint32_t i = 0; i < image->header.device_count; i++) {
    const struct image_device *plan = &image->header.devices[i];
    // Devices of the image come last on the bus, in its order.
    struct device *device =
        &machine->devices[machine->device_count - image->header.device_count + i];
    if (plan->kind != ABI_KIND_VIRTIO_BLK) continue;
    int fd = plan->file ? files[plan->file] : open_disk(options, image, plan, failure);
    if (fd < 0 || check_disk(machine, plan, fd, failure)) return -1;
    device->disk = (struct disk){
        .fd = fd,
        .capacity_bytes = plan->capacity_bytes,
        .read_only = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY,
    };
    device->uring = plan->flags & IMAGE_DEVICE_FLAG_IO_URING;
    device->ring_index = ring_files;
    if (device->uring) registered[ring_files++] = fd;
  }
  add_ring(machine, server, registered, ring_files, control);
  return 0;
}
