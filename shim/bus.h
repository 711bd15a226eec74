// Which device answers at which port or address, and how each is made: docs/memory-map.md.
#pragma once

#include "machine.h"

/** The device at a port, or at a guest-physical address; NULL: nobody is there. */
struct device *bus_find(struct machine *machine, uint64_t address, bool port);

/**
 * A doorbell that KVM did not take by itself: tells the I/O thread as KVM would have. False: the
 * access is none. Requests leave a cage on the I/O thread only.
 */
bool bus_rings(struct device *device, uint32_t offset, uint32_t width, uint32_t value);
