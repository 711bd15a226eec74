// The machine image (host/boot/image-format.ts): checked, then mapped into guest RAM.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "failure.h"
#include "memory.h"
#include "vcpu.h"

// A network device has up to two for each of its queue pairs.
#define IMAGE_FILES_MAX \
  (IMAGE_SEGMENT_COUNT_MAX + 2 * ABI_NET_QUEUE_PAIRS_MAX * IMAGE_DEVICE_COUNT_MAX)

struct image_segment {
  uint64_t address, length, offset;
  uint32_t file, reserved;
};

struct image_device {
  uint32_t kind, pin;
  uint64_t address;
  uint32_t flags, queue_count;
  uint64_t capacity_bytes;
  uint32_t config_bytes, file;
  uint64_t path_offset;
  uint32_t path_bytes, reserved;
  char name[IMAGE_DEVICE_NAME_BYTES];
  uint8_t config[IMAGE_DEVICE_CONFIG_BYTES_MAX];
  uint8_t padding[IMAGE_DEVICE_STRIDE - IMAGE_DEVICE_CONFIG - IMAGE_DEVICE_CONFIG_BYTES_MAX];
};

/** Everything before the payload: all that is checked here, copied once. */
struct image_header {
  uint32_t magic, version, abi_version, checksum;
  uint64_t memory_bytes;
  uint32_t cpu_count, flags, huge_pages, segment_count, device_count, file_count;
  uint64_t file_bytes, reserved;
  uint64_t registers[10];
  uint32_t gdt_limit, idt_limit;
  uint8_t segments_of_cpu[3][24];
  uint8_t padding[IMAGE_HEADER_BYTES - IMAGE_HEADER_TASK - 24];
  struct image_segment segments[IMAGE_SEGMENT_COUNT_MAX];
  struct image_device devices[IMAGE_DEVICE_COUNT_MAX];
};

struct image {
  int fd;
  struct image_header header;
  struct vcpu_registers registers;
};

/** A rate limiter of a network device, IMAGE_LIMIT_*. */
struct image_limit {
  uint64_t size, one_time_burst, refill_ms;
};

struct image_limit image_limit(const struct image_device *device, uint32_t index);

/** Most vCPUs of one guest. */
#define IMAGE_CPU_COUNT_MAX 32

/**
 * Reads and checks the image behind `fd`. EINVAL names the field, in `about`; whatever passes
 * keeps every promise of image-format.ts. `files_max`: how many files beside itself it may name.
 */
int image_read(struct image *image, int fd, unsigned files_max, struct failure *failure);

/** Places every segment into RAM. `files[n]` is the descriptor of file n; files[0] the image. */
int image_load(const struct image *image, const struct guest_memory *memory, const int *files,
               struct failure *failure);

/** The path of a disk given by path, with its NUL, into `path`. EINVAL. */
int image_path(const struct image *image, const struct image_device *device, char *path,
               size_t size, struct failure *failure);
