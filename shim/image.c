// Reads, checks and loads a machine image. Calls fstat, pread, mmap.
//
// The header and its tables are copied out first; every decision is made on that copy.
#include "image.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm.h"

#define MEMORY_BYTES_MIN (1ull << 20)
#define MEMORY_BYTES_MAX (1ull << 44)
#define WINDOW_START UINT64_C(0xd0000000)
#define LIMITS (IMAGE_DEVICE_LIMITS - IMAGE_DEVICE_CONFIG)
#define LIMIT_MAX (UINT64_C(1) << 53)    // tokens of a bucket: a sum of them is no problem
#define LIMIT_MS_MAX (UINT64_C(1) << 32) // to fill it: seven weeks

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #field)
AT(struct image_header, checksum, IMAGE_HEADER_CHECKSUM);
AT(struct image_header, memory_bytes, IMAGE_HEADER_MEMORY_BYTES);
AT(struct image_header, file_count, IMAGE_HEADER_FILE_COUNT);
AT(struct image_header, file_bytes, IMAGE_HEADER_FILE_BYTES);
AT(struct image_header, registers, IMAGE_HEADER_REGISTERS);
AT(struct image_header, gdt_limit, IMAGE_HEADER_GDT_LIMIT);
AT(struct image_header, segments_of_cpu, IMAGE_HEADER_CODE);
AT(struct image_header, segments, IMAGE_SEGMENTS);
AT(struct image_header, devices, IMAGE_DEVICES);
AT(struct image_segment, file, IMAGE_SEGMENT_FILE);
AT(struct image_device, capacity_bytes, IMAGE_DEVICE_CAPACITY_BYTES);
AT(struct image_device, path_bytes, IMAGE_DEVICE_PATH_BYTES);
AT(struct image_device, name, IMAGE_DEVICE_NAME);
AT(struct image_device, config, IMAGE_DEVICE_CONFIG);
_Static_assert(LIMITS + IMAGE_LIMIT_COUNT * IMAGE_LIMIT_STRIDE == IMAGE_DEVICE_CONFIG_BYTES_MAX,
               "limits");
_Static_assert(sizeof(struct image_limit) == IMAGE_LIMIT_STRIDE, "limit");
AT(struct image_limit, one_time_burst, IMAGE_LIMIT_ONE_TIME_BURST);
AT(struct image_limit, refill_ms, IMAGE_LIMIT_REFILL_MS);
_Static_assert(sizeof(struct image_segment) == IMAGE_SEGMENT_STRIDE, "segment");
_Static_assert(sizeof(struct image_device) == IMAGE_DEVICE_STRIDE, "device");
_Static_assert(sizeof(struct image_header) == IMAGE_TABLES_END, "tables");

static int refuse(struct failure *failure, const char *field, uint64_t value) {
  return fail(failure, EINVAL, "image", "%s is %llu (0x%llx)", field, (unsigned long long)value,
              (unsigned long long)value);
}

/** CRC-32 of IEEE 802.3, a bit at a time: some kilobytes, once. */
static uint32_t checksum(const uint8_t *bytes, size_t count) {
  uint32_t sum = UINT32_MAX;
  for (size_t i = 0; i < count; i++) {
    sum ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
  }
  return ~sum;
}

static bool is_zero(const void *bytes, size_t count) {
  const uint8_t *at = bytes;
  for (size_t i = 0; i < count; i++) {
    if (at[i]) return false;
  }
  return true;
}

static int check_identity(const struct image_header *header, struct failure *failure) {
  const uint8_t *bytes = (const uint8_t *)header;
  if (header->magic != IMAGE_MAGIC) {
    return fail(failure, EINVAL, "image", "this is no machine image of Faraday's");
  }
  if (header->version != IMAGE_VERSION) return refuse(failure, "version", header->version);
  if (header->abi_version != ABI_ABI_VERSION) {
    return fail(failure, EINVAL, "image", "it was made for version %u of the core, this is %u",
                header->abi_version, ABI_ABI_VERSION);
  }
  uint32_t sum = checksum(bytes + IMAGE_CHECKED_START, IMAGE_TABLES_END - IMAGE_CHECKED_START);
  if (sum == header->checksum) return 0;
  return fail(failure, EINVAL, "image", "it is damaged: its checksum is %08x, not %08x", sum,
              header->checksum);
}

static int check_machine(const struct image *image, uint64_t bytes, unsigned files_max,
                         struct failure *failure) {
  const struct image_header *header = &image->header;
  uint64_t memory = header->memory_bytes;
  if (memory < MEMORY_BYTES_MIN || memory > MEMORY_BYTES_MAX || memory % PAGE_BYTES != 0) {
    return refuse(failure, "memory bytes", memory);
  }
  if (header->cpu_count == 0 || header->cpu_count > IMAGE_CPU_COUNT_MAX) {
    return refuse(failure, "CPU count", header->cpu_count);
  }
  if (header->flags & ~(IMAGE_FLAG_BOOT_TIMER | IMAGE_FLAG_PREFAULT)) {
    return refuse(failure, "flags", header->flags);
  }
  if (header->huge_pages > IMAGE_HUGE_PAGES_2M) {
    return refuse(failure, "huge pages", header->huge_pages);
  }
  if (header->huge_pages == IMAGE_HUGE_PAGES_2M && memory % HUGE_PAGE_BYTES != 0) {
    return refuse(failure, "memory bytes, in pages of 2 MiB,", memory);
  }
  if (header->segment_count > IMAGE_SEGMENT_COUNT_MAX) {
    return refuse(failure, "segment count", header->segment_count);
  }
  if (header->device_count > IMAGE_DEVICE_COUNT_MAX) {
    return refuse(failure, "device count", header->device_count);
  }
  if (header->file_count > files_max) {
    return refuse(failure, "file count", header->file_count);
  }
  if (header->file_bytes != bytes) return refuse(failure, "length of the image", bytes);
  if (header->reserved || !is_zero(header->padding, sizeof header->padding)) {
    return refuse(failure, "reserved field", header->reserved);
  }
  return 0;
}

static int check_segment(const struct image *image, unsigned index, struct failure *failure) {
  const struct image_header *header = &image->header;
  const struct image_segment *segment = &header->segments[index];
  // The mapping does not exist yet; its bounds do.
  const struct guest_memory ram = {.base = (uint8_t *)1, .bytes = header->memory_bytes};
  if (segment->length == 0 || !memory_at(&ram, segment->address, segment->length)) {
    return refuse(failure, "address of a segment", segment->address);
  }
  if (segment->file > header->file_count) {
    return refuse(failure, "file of a segment", segment->file);
  }
  if (segment->reserved) return refuse(failure, "reserved field of a segment", segment->reserved);
  uint64_t end = segment->offset + segment->length;
  bool inside = segment->offset >= IMAGE_PAYLOAD && end <= header->file_bytes;
  if (end < segment->offset || end > INT64_MAX || (segment->file == 0 && !inside)) {
    return refuse(failure, "offset of a segment", segment->offset);
  }
  return 0;
}

static int check_disk(const struct image *image, const struct image_device *device,
                      struct failure *failure) {
  const struct image_header *header = &image->header;
  uint64_t end = device->path_offset + device->path_bytes;
  if (device->flags & ~(IMAGE_DEVICE_FLAG_READ_ONLY | IMAGE_DEVICE_FLAG_IO_URING)) {
    return refuse(failure, "flags of a disk", device->flags);
  }
  if (device->capacity_bytes == 0 || device->capacity_bytes % 512 != 0 ||
      device->capacity_bytes > INT64_MAX) {
    return refuse(failure, "capacity of a disk", device->capacity_bytes);
  }
  if (device->file > header->file_count) return refuse(failure, "file of a disk", device->file);
  if (device->file != 0) return 0;
  if (device->path_bytes == 0 || device->path_offset < IMAGE_PAYLOAD ||
      end < device->path_offset || end > header->file_bytes) {
    return refuse(failure, "path of a disk", device->path_offset);
  }
  return 0;
}

struct image_limit image_limit(const struct image_device *device, uint32_t index) {
  struct image_limit limit;
  memcpy(&limit, device->config + LIMITS + index * sizeof limit, sizeof limit);
  return limit;
}

/** A network device has its descriptors in a row, and limits behind its configuration. */
static int check_net(const struct image *image, const struct image_device *device,
                     struct failure *failure) {
  const uint32_t known = IMAGE_DEVICE_FLAG_VHOST | IMAGE_DEVICE_FLAG_STREAM |
                         IMAGE_DEVICE_FLAG_MAC_FILTER;
  uint32_t pairs = (device->queue_count - 1) / 2;
  bool vhost = device->flags & IMAGE_DEVICE_FLAG_VHOST;
  bool stream = device->flags & IMAGE_DEVICE_FLAG_STREAM;
  if (device->flags & ~known || (stream && (vhost || pairs > 1))) {
    return refuse(failure, "flags of a network device", device->flags);
  }
  if (device->queue_count % 2 == 0 || pairs == 0) {
    return refuse(failure, "queue count of a network device", device->queue_count);
  }
  uint64_t last = (uint64_t)device->file + pairs * (vhost ? 2 : 1) - 1;
  if (device->file == 0 || last > image->header.file_count) {
    return refuse(failure, "file of a network device", device->file);
  }
  for (unsigned i = 0; i < IMAGE_LIMIT_COUNT; i++) {
    const struct image_limit limit = image_limit(device, i);
    if (limit.size > LIMIT_MAX || limit.one_time_burst > LIMIT_MAX) {
      return refuse(failure, "limit of a network device", limit.size);
    }
    if (limit.size > 0 && (limit.refill_ms == 0 || limit.refill_ms > LIMIT_MS_MAX)) {
      return refuse(failure, "refill time of a network device", limit.refill_ms);
    }
  }
  return is_zero(device->config + ABI_NET_CONFIG_BYTES, LIMITS - ABI_NET_CONFIG_BYTES)
             ? 0
             : refuse(failure, "configuration of a network device", 0);
}

static int check_device(const struct image *image, unsigned index, struct failure *failure) {
  const struct image_device *device = &image->header.devices[index];
  bool disk = device->kind == ABI_KIND_VIRTIO_BLK;
  bool net = device->kind == ABI_KIND_VIRTIO_NET;
  uint32_t queues = disk ? ABI_BLK_QUEUE_COUNT_MAX : net ? ABI_QUEUE_COUNT_MAX : 1;
  if (!disk && !net && device->kind != ABI_KIND_VIRTIO_RNG) {
    return refuse(failure, "kind of a device", device->kind);
  }
  // Each window is its own page and each pin its own line: neither is given twice.
  uint64_t slot = (device->address - WINDOW_START) / PAGE_BYTES;
  if (device->address < WINDOW_START || device->address % PAGE_BYTES != 0 ||
      slot >= IMAGE_DEVICE_COUNT_MAX) {
    return refuse(failure, "address of a device", device->address);
  }
  if (device->pin < 5 || device->pin >= IOAPIC_PINS) {
    return refuse(failure, "pin of a device", device->pin);
  }
  for (unsigned i = 0; i < index; i++) {
    const struct image_device *other = &image->header.devices[i];
    if (other->address == device->address) {
      return refuse(failure, "address of two devices", device->address);
    }
    if (other->pin == device->pin) return refuse(failure, "pin of two devices", device->pin);
  }
  if (device->queue_count == 0 || device->queue_count > queues) {
    return refuse(failure, "queue count of a device", device->queue_count);
  }
  if (device->config_bytes > IMAGE_DEVICE_CONFIG_BYTES_MAX) {
    return refuse(failure, "configuration bytes of a device", device->config_bytes);
  }
  if (device->name[sizeof device->name - 1] != 0 || device->reserved ||
      !is_zero(device->padding, sizeof device->padding)) {
    return refuse(failure, "name of a device", index);
  }
  if (net) return check_net(image, device, failure);
  return disk ? check_disk(image, device, failure) : 0;
}

static uint32_t number(const uint8_t *bytes, unsigned count) {
  uint32_t value = 0;
  memcpy(&value, bytes, count);
  return value;
}

static struct vcpu_segment to_segment(const uint8_t *bytes) {
  struct vcpu_segment segment = {
      .limit = number(bytes + IMAGE_REGISTER_LIMIT, 4),
      .selector = (uint16_t)number(bytes + IMAGE_REGISTER_SELECTOR, 2),
      .type = bytes[IMAGE_REGISTER_TYPE],
      .present = bytes[IMAGE_REGISTER_PRESENT],
      .dpl = bytes[IMAGE_REGISTER_DPL],
      .db = bytes[IMAGE_REGISTER_DB],
      .s = bytes[IMAGE_REGISTER_S],
      .l = bytes[IMAGE_REGISTER_L],
      .g = bytes[IMAGE_REGISTER_G],
  };
  memcpy(&segment.base, bytes + IMAGE_REGISTER_BASE, sizeof segment.base);
  return segment;
}

/** KVM checks the registers themselves; what cannot be one of a segment's is refused here. */
static int take_registers(struct image *image, struct failure *failure) {
  const struct image_header *header = &image->header;
  const uint64_t *r = header->registers;
  if (header->gdt_limit > UINT16_MAX) return refuse(failure, "GDT limit", header->gdt_limit);
  if (header->idt_limit > UINT16_MAX) return refuse(failure, "IDT limit", header->idt_limit);
  image->registers = (struct vcpu_registers){
      .rip = r[0], .rsp = r[1], .rbx = r[2], .rsi = r[3], .cr0 = r[4], .cr3 = r[5],
      .cr4 = r[6], .efer = r[7], .gdt_base = r[8], .idt_base = r[9],
      .gdt_limit = (uint16_t)header->gdt_limit,
      .idt_limit = (uint16_t)header->idt_limit,
      .code = to_segment(header->segments_of_cpu[0]),
      .data = to_segment(header->segments_of_cpu[1]),
      .task = to_segment(header->segments_of_cpu[2]),
  };
  const struct vcpu_segment *all[] = {&image->registers.code, &image->registers.data,
                                      &image->registers.task};
  for (int i = 0; i < 3; i++) {
    const struct vcpu_segment *s = all[i];
    if (s->type > 15 || s->dpl > 3 || s->present > 1 || s->db > 1 || s->s > 1 || s->l > 1 ||
        s->g > 1) {
      return refuse(failure, "segment register", (uint64_t)i);
    }
  }
  return 0;
}

int image_read(struct image *image, int fd, unsigned files_max, struct failure *failure) {
  struct stat stats;
  image->fd = fd;
  if (fstat(fd, &stats)) return fail(failure, errno, "fstat", "the machine image");
  if (!S_ISREG(stats.st_mode)) return fail(failure, EINVAL, "image", "this is no regular file");
  ssize_t got = pread(fd, &image->header, sizeof image->header, 0);
  if (got < 0) return fail(failure, errno, "pread", "the machine image");
  if ((size_t)got < sizeof image->header) {
    return fail(failure, EINVAL, "image", "this is no machine image: it has %zd bytes", got);
  }
  if (check_identity(&image->header, failure)) return -1;
  if (check_machine(image, (uint64_t)stats.st_size, files_max, failure)) return -1;
  for (unsigned i = 0; i < image->header.segment_count; i++) {
    if (check_segment(image, i, failure)) return -1;
  }
  for (unsigned i = 0; i < image->header.device_count; i++) {
    if (check_device(image, i, failure)) return -1;
  }
  return take_registers(image, failure);
}

int image_load(const struct image *image, const struct guest_memory *memory, const int *files,
               struct failure *failure) {
  for (unsigned i = 0; i < image->header.segment_count; i++) {
    const struct image_segment *segment = &image->header.segments[i];
    if (memory_load_file(memory, files[segment->file], segment->offset, segment->length,
                         segment->address, failure)) {
      return -1;
    }
  }
  return 0;
}

int image_path(const struct image *image, const struct image_device *device, char *path,
               size_t size, struct failure *failure) {
  uint32_t bytes = device->path_bytes;
  if (bytes >= size) return refuse(failure, "length of a disk's path", bytes);
  ssize_t got = pread(image->fd, path, bytes, (off_t)device->path_offset);
  if (got != (ssize_t)bytes) return fail(failure, EIO, "pread", "the path of a disk");
  path[bytes] = 0;
  if (strlen(path) != bytes) return refuse(failure, "byte in a disk's path", 0);
  return 0;
}
