// A driver's view of its device's registers: a page of memory that it reads without an exit. Its
// writes exit as ever, and after each the page shows what the cage then answers.
//
// An interrupt of a virtio-mmio device costs its driver two exits, to read the interrupt status and
// to acknowledge it. With a view it costs none of the first kind, and the second ends in the kernel.
#pragma once

#include "device.h"
#include "failure.h"
#include "vm.h"

/**
 * Puts a view over the device's window, in the n-th memory slot of its kind. Where this host's KVM
 * has no read-only memory the device does without.
 */
int view_open(struct device *device, const struct vm *vm, uint32_t number,
              struct failure *failure);

/** Shows what the registers hold now. Uses the outbox: after all that is to be read there. */
void view_show(struct device *device);
