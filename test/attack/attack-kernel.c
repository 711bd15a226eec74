// Attacks on the kernel by what few programs need: large interfaces, KVM, io_uring.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attack.h"

#define KEYCTL_JOIN_SESSION_KEYRING 1
#define FREE_SLOT 100
#define SETTLE_MICROSECONDS 20000 // in which the start is over for the I/O thread
#define FREE_ADDRESS (UINT64_C(1) << 40)

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/** No module, which only a kernel that would load one looks at. */
int attack_init_module(void) { return outcome(syscall(SYS_init_module, "none", 4, "")); }

int attack_bpf(void) {
  union bpf_attr plan;
  memset(&plan, 0, sizeof plan);
  plan.map_type = BPF_MAP_TYPE_LPM_TRIE;
  plan.key_size = 8;
  plan.value_size = 8;
  plan.max_entries = 1;
  plan.map_flags = BPF_F_NO_PREALLOC;
  return outcome(syscall(SYS_bpf, BPF_MAP_CREATE, &plan, sizeof plan));
}

int attack_keyctl(void) {
  return outcome(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL, 0, 0, 0));
}

/** Everything that happens on a processor, the kernel's part too. */
int attack_perf_event_open(void) {
  struct perf_event_attr plan = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof plan, .config = PERF_COUNT_SW_CPU_CLOCK};
  return outcome(syscall(SYS_perf_event_open, &plan, -1, 0, -1, 0));
}

int attack_userfaultfd(void) {
  return outcome(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC));
}

// --- io_uring -----------------------------------------------------------------------------------

int attack_io_uring_setup(void) {
  struct io_uring_params plan = {0};
  return outcome(syscall(SYS_io_uring_setup, 4, &plan));
}

static int enter_ring(unsigned count) {
  return outcome(syscall(SYS_io_uring_enter, ring->fd, count, count, IORING_ENTER_GETEVENTS, NULL,
                         0));
}

/**
 * An operation that the cell's own ring does not have: it opens a file. The entry is taken back
 * where the thread may not submit it, for the I/O thread would, and stumble over its completion.
 */
int attack_io_uring_open(void) {
  int error = enter_ring(0); // ended here where the thread may not enter it at all
  if (error) return error;
  if (!on_io_thread) usleep(SETTLE_MICROSECONDS);
  uint32_t tail = *ring->submit_tail;
  uint32_t index = tail & ring->submit_mask;
  uint32_t head = *ring->complete_head;
  struct io_uring_sqe *entry = &ring->entries[index];
  memset(entry, 0, sizeof *entry);
  entry->opcode = IORING_OP_OPENAT;
  entry->fd = AT_FDCWD;
  entry->addr = (uintptr_t)in_folder("secret");
  entry->open_flags = O_RDONLY | O_CLOEXEC;
  ring->submit_array[index] = index;
  __atomic_store_n(ring->submit_tail, tail + 1, __ATOMIC_RELEASE);
  error = enter_ring(1);
  if (error) {
    __atomic_store_n(ring->submit_tail, tail, __ATOMIC_RELEASE);
    return error;
  }
  int result = ring->completions[head & ring->complete_mask].res;
  __atomic_store_n(ring->complete_head, head + 1, __ATOMIC_RELEASE);
  return result < 0 ? -result : 0;
}

// --- KVM and other devices ----------------------------------------------------------------------

int attack_kvm_create_vm(void) { return outcome(ioctl(kvm_fd, KVM_CREATE_VM, 0)); }

/** Memory of the cell's for its guest: its own code and data would do as well. */
int attack_kvm_memory(void) {
  static uint8_t page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
  const struct kvm_userspace_memory_region region = {
      .slot = FREE_SLOT,
      .guest_phys_addr = FREE_ADDRESS,
      .memory_size = sizeof page,
      .userspace_addr = (uintptr_t)page,
  };
  return outcome(ioctl(target->vm.fd, KVM_SET_USER_MEMORY_REGION, &region));
}

/** One that every descriptor knows. */
int attack_ioctl(void) { return outcome(ioctl(STDERR_FILENO, FIOCLEX)); }
