// Bytes that a guest polls out over its UART, without an exit each: KVM keeps writes to the
// transmit register in a ring, and the next access to the UART finds them there.
//
// A kernel's console reads the line status before each byte, so a ring in front of the transmit
// register halves the exits of a boot and loses nothing: that read exits, and whoever handles it
// takes the ring's bytes first. It is used while a guest is seen to do just that, and no longer
// than until it asks for transmit interrupts, which would wait for bytes that nobody has seen.
// Everything here wants the UART's lock held.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vcpu.h"
#include "vm.h"

#define COALESCE_BYTES_MAX 256u

struct coalesce {
  struct kvm_coalesced_mmio_ring *ring; // NULL: this KVM has none for ports
  int vm;
  bool on;            // atomic for those without the lock
  bool polled;        // the last access was a read of the line status
  uint32_t pairs;     // how often in a row a byte followed such a read
  uint32_t taken;     // bytes that came by the ring, wrapping
};

/** Finds the ring. Without one nothing is ever coalesced. */
void coalesce_init(struct coalesce *coalesce, const struct vm *vm, const struct vcpu *vcpu);

/** Takes bytes out of the ring, COALESCE_BYTES_MAX at most; returns their number. */
uint32_t coalesce_take(struct coalesce *coalesce, uint8_t *bytes);

/** Looks at an access to the UART and switches the ring on or off. True: it is on from now. */
bool coalesce_watch(struct coalesce *coalesce, uint32_t offset, bool reads, uint32_t value);

/** Switches the ring off: the guest has sent nothing by it for a while. */
void coalesce_off(struct coalesce *coalesce);
