// The network as far as the boot needs it: is there a device, and the `ip=` of the command line.

#pragma once

// True where a virtio device has that id, written as sysfs does ("0x0001": network, virtio 1.2 §5).
// Its transport's driver has to be there, or it is not seen.
int has_virtio_device(const char *id);

// Sets every interface up that an `ip=` on the command line names. What cannot be done is a line on
// the console each, and the boot goes on.
void configure_network(const char *cmdline);
