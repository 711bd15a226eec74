// One KVM virtual machine: memory slots, interrupt controllers, timer, interrupt lines.
#pragma once

#include <stdbool.h>

#include "failure.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IOAPIC_PINS 24

struct vm {
  int kvm; // /dev/kvm, owned
  int fd;  // -1: none
};

/** Opens the KVM device and checks its API version. Returns the descriptor, or -1. */
int kvm_open(const char *path, struct failure *failure);

/** A page that the guest reads and whose writes exit. */
struct vm_page {
  uint64_t address;
  const void *host;
};

/**
 * Creates the machine around `memory`, which must outlive it, and those pages. Takes over `kvm`
 * whether it succeeds or not: vm_close() closes it. ENOTSUP names a KVM extension the host lacks.
 */
int vm_create(struct vm *vm, int kvm, const struct guest_memory *memory,
              const struct vm_page *pages, uint32_t page_count, struct failure *failure);

/** Raises one edge on an IOAPIC pin, 0 to 23. EINVAL. */
int vm_pulse_irq(const struct vm *vm, uint32_t pin, struct failure *failure);

/** A write to `fd` raises one edge on the pin, without a system call of ours on the VM. */
int vm_add_irqfd(const struct vm *vm, int fd, uint32_t pin, struct failure *failure);

/** A guest's 4-byte write of `value` to the address counts up `fd` and does not exit. */
int vm_add_ioeventfd(const struct vm *vm, int fd, uint64_t address, uint32_t value,
                     struct failure *failure);

/** Whether this KVM has such pages. */
bool vm_has_pages(int kvm);

void vm_close(struct vm *vm);

#ifdef __cplusplus
}
#endif
