// Views. Calls mmap, eventfd, and by way of vm.c KVM_CHECK_EXTENSION and KVM_IOEVENTFD.
#include "view.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

// Registers that can be read (virtio 1.2, 4.2.2); the others read as what is absent.
static const uint16_t registers[] = {
    VIRTIO_MMIO_MAGIC_VALUE,     VIRTIO_MMIO_VERSION,          VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_VENDOR_ID,       VIRTIO_MMIO_DEVICE_FEATURES,  VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_READY,     VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_CONFIG_GENERATION,
};

/** Its configuration space is shown from one word to another: of a network device, three. */
#define CONFIG_BYTES 12

static void show_register(struct device *device, uint32_t offset) {
  device_read(device, offset, sizeof *device->view);
  uint32_t value = (uint32_t)device_value(device);
  // Acknowledgements end in the kernel, and nobody looks here for each used buffer: whoever looks
  // at its queues in vain has lost little.
  if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && device_running(device)) {
    value |= VIRTIO_MMIO_INT_VRING;
  }
  __atomic_store_n(&device->view[offset / sizeof value], value, __ATOMIC_RELEASE);
}

void view_show(struct device *device) {
  uint32_t traps;
  if (!device->view) return;
  do { // a device that traps over this starts anew, and at the second time stays out of service
    traps = device->traps;
    for (size_t i = 0; i < sizeof registers / sizeof *registers; i++) {
      show_register(device, registers[i]);
    }
    for (uint32_t at = 0; at < CONFIG_BYTES; at += sizeof *device->view) {
      show_register(device, VIRTIO_MMIO_CONFIG + at);
    }
  } while (device->traps != traps);
}

int view_pages(const struct image *image, int kvm, struct vm_page *pages,
               struct failure *failure) {
  int count = 0;
  if (!vm_has_pages(kvm)) return 0;
  for (uint32_t i = 0; i < image->header.device_count; i++) {
    const struct image_device *plan = &image->header.devices[i];
    if (plan->kind != ABI_KIND_VIRTIO_NET) continue;
    void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return fail_errno(failure, "mmap");
    memset(page, 0xff, PAGE_BYTES);
    pages[count++] = (struct vm_page){.address = plan->address, .host = page};
  }
  return count;
}

int view_open(struct device *device, const struct vm *vm, const struct vm_page *pages,
              uint32_t page_count, struct failure *failure) {
  for (uint32_t i = 0; i < page_count && !device->view; i++) {
    if (pages[i].address == device->base) device->view = (uint32_t *)(uintptr_t)pages[i].host;
  }
  if (!device->view) return 0;
  view_show(device);
  // A counter that nobody waits for.
  int acknowledged = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (acknowledged < 0) return fail_errno(failure, "eventfd");
  uint64_t address = device->base + VIRTIO_MMIO_INTERRUPT_ACK;
  return vm_add_ioeventfd(vm, acknowledged, address, VIRTIO_MMIO_INT_VRING, failure);
}
