// The bus: places of devices, their creation, their interrupt lines and doorbells. Calls eventfd,
// and on the VM KVM_IRQFD and KVM_IOEVENTFD by way of vm.c.
#include "bus.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "counter.h"
#include "view.h"

#define WINDOW_START UINT64_C(0xd0000000)
#define QUEUE_NOTIFY 0x50 // virtio 1.2, 4.2.2: QueueNotify
#define SERIAL_PIN 4

static const struct port_plan {
  const char *name;
  uint32_t kind;
  uint16_t first, last;
} port_plans[] = {
    {"serial", ABI_KIND_SERIAL, ABI_PORT_SERIAL, ABI_PORT_SERIAL + 7},
    {"i8042", ABI_KIND_I8042, ABI_PORT_I8042_DATA, ABI_PORT_I8042_COMMAND},
    {"rtc", ABI_KIND_RTC, ABI_PORT_RTC, ABI_PORT_RTC + 1},
    {"acpi-pm", ABI_KIND_ACPI_PM, ABI_PORT_ACPI_PM, ABI_PORT_ACPI_PM + 2},
    {"pvpanic", ABI_KIND_PVPANIC, ABI_PORT_PVPANIC, ABI_PORT_PVPANIC},
    {"boot-timer", ABI_KIND_BOOT_TIMER, ABI_PORT_BOOT_TIMER, ABI_PORT_BOOT_TIMER},
};

struct device *bus_find(struct machine *machine, uint64_t address, bool port) {
  uint64_t window = (address - WINDOW_START) / PAGE_BYTES;
  uint8_t number = 0;
  if (port) {
    if (address < MACHINE_PORTS) number = machine->ports[address];
  } else if (address >= WINDOW_START && window < IMAGE_DEVICE_COUNT_MAX) {
    number = machine->windows[window];
  }
  return number ? &machine->devices[number - 1] : NULL;
}

bool bus_rings(struct device *device, uint32_t offset, uint32_t width, uint32_t value) {
  if (offset != QUEUE_NOTIFY || width != 4 || value >= device->queue_count) return false;
  counter_add(device->queues[value].kick);
  return true;
}

static int add_eventfd(int *fd, struct failure *failure) {
  *fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return *fd < 0 ? fail_errno(failure, "eventfd") : 0;
}

static int add_line(struct machine *machine, struct device *device, uint32_t pin,
                    struct failure *failure) {
  if (add_eventfd(&device->irq, failure)) return -1;
  return vm_add_irqfd(&machine->vm, device->irq, pin, failure);
}

static int add_port_device(struct machine *machine, const struct port_plan *plan,
                           struct failure *failure) {
  struct device *device = &machine->devices[machine->device_count++];
  if (device_create(device, plan->kind, plan->name, &machine->memory, NULL, 0, failure)) return -1;
  device->base = plan->first;
  for (uint32_t port = plan->first; port <= plan->last; port++) {
    // Between the i8042's two ports lie the PC speaker's and the NMI register: not ours.
    bool gap = plan->kind == ABI_KIND_I8042 && port != plan->first && port != plan->last;
    if (!gap) machine->ports[port] = (uint8_t)machine->device_count;
  }
  if (plan->kind != ABI_KIND_SERIAL) return 0;
  machine->serial = device;
  return add_line(machine, device, SERIAL_PIN, failure);
}

/** What the core was told of a disk must be what the cell may do with it. */
static bool agrees_on_disk(const struct image_device *plan) {
  uint64_t sectors;
  uint32_t flags;
  uint16_t queues;
  memcpy(&sectors, plan->config + ABI_BLK_CONFIG_CAPACITY, sizeof sectors);
  memcpy(&flags, plan->config + ABI_BLK_CONFIG_FLAGS, sizeof flags);
  memcpy(&queues, plan->config + ABI_BLK_CONFIG_QUEUE_COUNT, sizeof queues);
  bool read_only = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY;
  return plan->config_bytes == ABI_BLK_CONFIG_BYTES && sectors == plan->capacity_bytes / 512 &&
         queues == plan->queue_count && !(flags & ABI_BLK_FLAG_RO) == !read_only;
}

/** Likewise of a network device. */
static bool agrees_on_net(const struct image_device *plan) {
  uint16_t pairs;
  uint32_t flags;
  memcpy(&pairs, plan->config + ABI_NET_CONFIG_QUEUE_PAIRS, sizeof pairs);
  memcpy(&flags, plan->config + ABI_NET_CONFIG_FLAGS, sizeof flags);
  bool vhost = plan->flags & IMAGE_DEVICE_FLAG_VHOST;
  bool filter = plan->flags & IMAGE_DEVICE_FLAG_MAC_FILTER;
  return plan->config_bytes == ABI_NET_CONFIG_BYTES && plan->queue_count == 2 * pairs + 1u &&
         !(flags & ABI_NET_FLAG_VHOST) == !vhost && !(flags & ABI_NET_FLAG_FIXED_MAC) == !filter;
}

static int add_window(struct machine *machine, const struct image_device *plan,
                      struct failure *failure) {
  char name[CELL_DEVICE_NAME_BYTES] = "virtio-rng";
  struct device *device = &machine->devices[machine->device_count++];
  bool disk = plan->kind == ABI_KIND_VIRTIO_BLK;
  bool net = plan->kind == ABI_KIND_VIRTIO_NET;
  if (disk || net) snprintf(name, sizeof name, "%s:%s", disk ? "disk" : "net", plan->name);
  if (device_create(device, plan->kind, name, &machine->memory, plan->config, plan->config_bytes,
                    failure)) {
    return -1;
  }
  device->base = plan->address;
  device->queue_count = plan->queue_count;
  machine->windows[(plan->address - WINDOW_START) / PAGE_BYTES] =
      (uint8_t)machine->device_count;
  if ((disk && !agrees_on_disk(plan)) || (net && !agrees_on_net(plan))) {
    return fail(failure, EINVAL, "image", "the configuration of device %s contradicts its entry",
                device->name);
  }
  for (uint32_t queue = 0; queue < device->queue_count; queue++) {
    if (add_eventfd(&device->queues[queue].kick, failure)) return -1;
    if (vm_add_ioeventfd(&machine->vm, device->queues[queue].kick, plan->address + QUEUE_NOTIFY,
                         queue, failure)) {
      return -1;
    }
  }
  if (view_open(device, &machine->vm, machine->pages, machine->page_count, failure)) return -1;
  return add_line(machine, device, plan->pin, failure);
}

int machine_add_devices(struct machine *machine, const struct image *image,
                        struct failure *failure) {
  bool timer = image->header.flags & IMAGE_FLAG_BOOT_TIMER;
  for (size_t i = 0; i < sizeof port_plans / sizeof *port_plans; i++) {
    if (port_plans[i].kind == ABI_KIND_BOOT_TIMER && !timer) continue;
    if (add_port_device(machine, &port_plans[i], failure)) return -1;
  }
  for (uint32_t i = 0; i < image->header.device_count; i++) {
    if (add_window(machine, &image->header.devices[i], failure)) return -1;
  }
  return 0;
}

int machine_add_cpus(struct machine *machine, const struct image *image,
                     struct failure *failure) {
  uint32_t count = image->header.cpu_count;
  for (uint32_t i = 0; i < count; i++) {
    struct cpu *cpu = &machine->cpus[i];
    cpu->machine = machine;
    machine->cpu_count = i + 1;
    if (vcpu_create(&cpu->vcpu, &machine->vm, i, count, &cpu->record, failure)) return -1;
  }
  if (vcpu_set_registers(&machine->cpus[0].vcpu, &image->registers, failure) == 0) return 0;
  if (failure->number != EINVAL) return -1;
  return fail(failure, EINVAL, "image", "KVM refuses its registers (%s)", failure->call);
}
