// KVM's ring of coalesced port writes. Calls KVM_CHECK_EXTENSION, KVM_REGISTER_COALESCED_MMIO,
// KVM_UNREGISTER_COALESCED_MMIO.
#include "coalesce.h"

#include <sys/ioctl.h>

#include "abi.h"

// PC16550D: offsets of the transmit register, of the interrupt enable register and its bit for an
// empty transmitter, and of the line status.
#define UART_TX 0
#define UART_IER 1
#define UART_IER_THRI 2
#define UART_LSR 5

#define PAIRS_MIN 32 // this many bytes after a status read each: a console that polls

static int set_zone(const struct coalesce *coalesce, unsigned long request) {
  struct kvm_coalesced_mmio_zone zone = {.addr = ABI_PORT_SERIAL + UART_TX, .size = 1, .pio = 1};
  return ioctl(coalesce->vm, request, &zone);
}

void coalesce_init(struct coalesce *coalesce, const struct vm *vm, const struct vcpu *vcpu) {
  int page = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
  bool ports = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_PIO) > 0;
  *coalesce = (struct coalesce){.vm = vm->fd};
  if (page <= 0 || !ports || ((size_t)page + 1) * PAGE_BYTES > vcpu->run_bytes) return;
  void *ring = (uint8_t *)vcpu->run + (size_t)page * PAGE_BYTES;
  coalesce->ring = ring;
}

uint32_t coalesce_take(struct coalesce *coalesce, uint8_t *bytes) {
  const uint32_t entries = (PAGE_BYTES - sizeof(struct kvm_coalesced_mmio_ring)) /
                           sizeof(struct kvm_coalesced_mmio);
  struct kvm_coalesced_mmio_ring *ring = coalesce->ring;
  uint32_t count = 0;
  if (!ring) return 0;
  uint32_t first = ring->first;
  while (count < COALESCE_BYTES_MAX && first < entries &&
         first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
    bytes[count++] = ring->coalesced_mmio[first].data[0]; // the zone is one byte wide
    first = (first + 1) % entries;
    __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
  }
  coalesce->taken += count;
  return count;
}

void coalesce_off(struct coalesce *coalesce) {
  if (!coalesce->on) return;
  set_zone(coalesce, KVM_UNREGISTER_COALESCED_MMIO);
  __atomic_store_n(&coalesce->on, false, __ATOMIC_SEQ_CST);
  coalesce->pairs = 0;
}

bool coalesce_watch(struct coalesce *coalesce, uint32_t offset, bool reads, uint32_t value) {
  if (offset == UART_IER && !reads && value & UART_IER_THRI) coalesce_off(coalesce);
  if (coalesce->on || !coalesce->ring) return false;
  if (offset == UART_TX && !reads) {
    coalesce->pairs = coalesce->polled ? coalesce->pairs + 1 : 0;
    if (coalesce->pairs == PAIRS_MIN) {
      bool on = set_zone(coalesce, KVM_REGISTER_COALESCED_MMIO) == 0;
      __atomic_store_n(&coalesce->on, on, __ATOMIC_SEQ_CST);
    }
  }
  coalesce->polled = offset == UART_LSR && reads;
  return coalesce->on;
}
