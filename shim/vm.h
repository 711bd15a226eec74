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

/**
 * Creates the machine around `memory`, which must outlive it. Takes over `kvm` whether it
 * succeeds or not: vm_close() closes it. ENOTSUP names a KVM extension the host lacks.
 */
int vm_create(struct vm *vm, int kvm, const struct guest_memory *memory, struct failure *failure);

/** Raises one edge on an IOAPIC pin, 0 to 23. EINVAL. */
int vm_pulse_irq(const struct vm *vm, uint32_t pin, struct failure *failure);

/** A write to `fd` raises one edge on the pin, without a system call of ours on the VM. */
int vm_add_irqfd(const struct vm *vm, int fd, uint32_t pin, struct failure *failure);

/** A guest's 4-byte write of `value` to the address counts up `fd` and does not exit. */
int vm_add_ioeventfd(const struct vm *vm, int fd, uint64_t address, uint32_t value,
                     struct failure *failure);

/** Whether the guest can be given memory whose writes exit. */
bool vm_has_read_only_memory(const struct vm *vm);

/** Memory that the guest reads and whose writes exit; `number` tells pieces of it apart. */
int vm_add_read_only(const struct vm *vm, uint32_t number, uint64_t address, const void *host,
                     uint64_t bytes, struct failure *failure);

void vm_close(struct vm *vm);

#ifdef __cplusplus
}
#endif
