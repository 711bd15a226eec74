// What Landlock's versions can take away, for headers older than the kernel: uapi/linux/landlock.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct landlock_attributes {
  uint64_t files;  // handled_access_fs
  uint64_t net;    // handled_access_net, ABI 4
  uint64_t scoped; // ABI 6
};

// All bits up to the newest of an ABI, and how many bytes of the structure it knows.
static const struct {
  struct landlock_attributes all;
  size_t bytes;
} landlock_abis[] = {
    {{0x1fff, 0, 0}, 8},  // 1: Linux 5.13
    {{0x3fff, 0, 0}, 8},  // 2: 5.19, refer
    {{0x7fff, 0, 0}, 8},  // 3: 6.2, truncate
    {{0x7fff, 3, 0}, 16}, // 4: 6.7, TCP
    {{0xffff, 3, 0}, 16}, // 5: 6.10, ioctl on devices
    {{0xffff, 3, 3}, 24}, // 6: 6.12, abstract sockets and signals
};

#define LANDLOCK_ABI_FULL (sizeof landlock_abis / sizeof *landlock_abis)

/** The row of an ABI, which is at least 1. */
static inline size_t landlock_row(long abi) {
  return ((size_t)abi < LANDLOCK_ABI_FULL ? (size_t)abi : LANDLOCK_ABI_FULL) - 1;
}
