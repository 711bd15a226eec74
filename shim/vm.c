// The virtual machine. Calls open, and on KVM: KVM_GET_API_VERSION, KVM_CHECK_EXTENSION,
// KVM_CREATE_VM, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR, KVM_CREATE_IRQCHIP,
// KVM_CREATE_PIT2, KVM_SET_USER_MEMORY_REGION, KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD.
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Intel hosts without unrestricted guest mode run real mode in a task of KVM's own; its pages
// must lie where the guest has neither RAM nor devices. One page, then three.
#define IDENTITY_MAP_ADDRESS UINT64_C(0xfffbc000)
#define TSS_ADDRESS 0xfffbd000u

// KVM_CREATE_VM gives up with EINTR when a signal meets it; V8's own signals are rare.
#define CREATE_ATTEMPTS 16

static const struct {
  int number;
  const char *name;
} required[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

int kvm_open(const char *path, struct failure *failure) {
  int kvm = open(path, O_RDWR | O_CLOEXEC);
  if (kvm < 0) return fail(failure, errno, "open", "%s", path);
  int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
  if (version == KVM_API_VERSION) return kvm;
  int number = version < 0 ? errno : ENOTSUP;
  close(kvm);
  return fail(failure, number, "KVM_GET_API_VERSION", "%s does not speak KVM API version %d", path,
              KVM_API_VERSION);
}

static int require_extensions(int kvm, struct failure *failure) {
  for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
    if (ioctl(kvm, KVM_CHECK_EXTENSION, required[i].number) <= 0) {
      return fail(failure, ENOTSUP, "KVM_CHECK_EXTENSION", "this host's KVM lacks %s",
                  required[i].name);
    }
  }
  return 0;
}

static int set_slot(int vm, uint32_t slot, uint32_t flags, uint64_t address, const void *host,
                    uint64_t bytes, struct failure *failure) {
  struct kvm_userspace_memory_region region = {
      .slot = slot,
      .flags = flags,
      .guest_phys_addr = address,
      .memory_size = bytes,
      .userspace_addr = (uintptr_t)host,
  };
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0) return 0;
  return fail(failure, errno, "KVM_SET_USER_MEMORY_REGION", "%llu bytes at 0x%llx",
              (unsigned long long)bytes, (unsigned long long)address);
}

static int set_slots(int vm, const struct guest_memory *memory, struct failure *failure) {
  uint64_t low = memory->bytes < HOLE_START ? memory->bytes : HOLE_START;
  if (set_slot(vm, 0, 0, 0, memory->base, low, failure)) return -1;
  if (memory->bytes == low) return 0;
  return set_slot(vm, 1, 0, HOLE_END, memory->base + low, memory->bytes - low, failure);
}

bool vm_has_pages(int kvm) { return ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_READONLY_MEM) > 0; }

static int set_pages(int vm, const struct vm_page *pages, uint32_t count,
                     struct failure *failure) {
  const uint32_t first = 2; // behind the slots of RAM
  for (uint32_t i = 0; i < count; i++) {
    if (set_slot(vm, first + i, KVM_MEM_READONLY, pages[i].address, pages[i].host, PAGE_BYTES,
                 failure)) {
      return -1;
    }
  }
  return 0;
}

static int create_machine(int kvm, struct failure *failure) {
  for (int attempt = 1;; attempt++) {
    int fd = ioctl(kvm, KVM_CREATE_VM, 0);
    if (fd >= 0) return fd;
    if (errno != EINTR || attempt == CREATE_ATTEMPTS) return fail_errno(failure, "KVM_CREATE_VM");
  }
}

/**
 * A guest whose local APIC has the TSC deadline mode needs no other timer, and the PIT's thread
 * takes milliseconds to start. Without that mode a guest measures its APIC timer with the PIT.
 */
static int create_timer(int kvm, int vm, struct failure *failure) {
  // Without the dummy speaker, port 0x61 would exit to user space on every timer calibration.
  struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) return 0;
  if (ioctl(vm, KVM_CREATE_PIT2, &pit)) return fail_errno(failure, "KVM_CREATE_PIT2");
  return 0;
}

static int create_controllers(int kvm, int vm, struct failure *failure) {
  uint64_t identity = IDENTITY_MAP_ADDRESS;
  if (ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity)) {
    return fail_errno(failure, "KVM_SET_IDENTITY_MAP_ADDR");
  }
  if (ioctl(vm, KVM_SET_TSS_ADDR, TSS_ADDRESS)) return fail_errno(failure, "KVM_SET_TSS_ADDR");
  if (ioctl(vm, KVM_CREATE_IRQCHIP, 0)) return fail_errno(failure, "KVM_CREATE_IRQCHIP");
  return create_timer(kvm, vm, failure);
}

int vm_create(struct vm *vm, int kvm, const struct guest_memory *memory,
              const struct vm_page *pages, uint32_t page_count, struct failure *failure) {
  vm->kvm = kvm;
  vm->fd = -1;
  if (require_extensions(kvm, failure)) return -1;
  vm->fd = create_machine(kvm, failure);
  if (vm->fd < 0) return -1;
  // All memory before any device: later it would take milliseconds (docs/design.md).
  if (set_slots(vm->fd, memory, failure)) return -1;
  if (set_pages(vm->fd, pages, page_count, failure)) return -1;
  return create_controllers(kvm, vm->fd, failure);
}

int vm_pulse_irq(const struct vm *vm, uint32_t pin, struct failure *failure) {
  if (pin >= IOAPIC_PINS) {
    return fail(failure, EINVAL, "KVM_IRQ_LINE", "pin %u is not one of the IOAPIC's %d", pin,
                IOAPIC_PINS);
  }
  struct kvm_irq_level line = {.irq = pin, .level = 1};
  if (ioctl(vm->fd, KVM_IRQ_LINE, &line)) return fail_errno(failure, "KVM_IRQ_LINE");
  line.level = 0;
  if (ioctl(vm->fd, KVM_IRQ_LINE, &line)) return fail_errno(failure, "KVM_IRQ_LINE");
  return 0;
}

int vm_add_irqfd(const struct vm *vm, int fd, uint32_t pin, struct failure *failure) {
  struct kvm_irqfd line = {.fd = (uint32_t)fd, .gsi = pin};
  if (ioctl(vm->fd, KVM_IRQFD, &line)) return fail(failure, errno, "KVM_IRQFD", "pin %u", pin);
  return 0;
}

int vm_add_ioeventfd(const struct vm *vm, int fd, uint64_t address, uint32_t value,
                     struct failure *failure) {
  struct kvm_ioeventfd doorbell = {
      .datamatch = value,
      .addr = address,
      .len = sizeof value,
      .fd = fd,
      .flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
  };
  if (ioctl(vm->fd, KVM_IOEVENTFD, &doorbell) == 0) return 0;
  return fail(failure, errno, "KVM_IOEVENTFD", "0x%llx", (unsigned long long)address);
}

void vm_close(struct vm *vm) {
  if (vm->fd >= 0) close(vm->fd);
  if (vm->kvm >= 0) close(vm->kvm);
  vm->fd = -1;
  vm->kvm = -1;
}
