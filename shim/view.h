// A driver's view of its device's registers: a page of memory that it reads without an exit. Its
// writes exit as ever, and after each the page shows what the cage then answers.
//
// An interrupt of a virtio-mmio device costs its driver two exits, to read the interrupt status and
// to acknowledge it. With a view it costs none of the first kind, and the second ends in the kernel.
#pragma once

#include "device.h"
#include "failure.h"
#include "image.h"
#include "vm.h"

/**
 * Makes a page for each network device of the image, to be given to vm_create(). Answers how many,
 * or -1; none where this host's KVM has no read-only memory: devices then do without.
 */
int view_pages(const struct image *image, int kvm, struct vm_page *pages, struct failure *failure);

/** Makes one of these pages the device's view, where one of them is for it. */
int view_open(struct device *device, const struct vm *vm, const struct vm_page *pages,
              uint32_t page_count, struct failure *failure);

/** Shows what the registers hold now. Uses the outbox: after all that is to be read there. */
void view_show(struct device *device);
