// Devices: calls into a cage, the trap policy, interrupts. Calls write on an irqfd, clock_gettime.
#include "device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "counter.h"
#include "futex.h"

#define TRAP_WINDOW_NS UINT64_C(1000000000)

#define VIRTIO_RIGHTS \
  (ABI_EFFECT_IRQ | ABI_EFFECT_REQUEST | ABI_EFFECT_MORE | ABI_EFFECT_CANCEL)
#define SERIAL_RIGHTS \
  (ABI_EFFECT_IRQ | ABI_EFFECT_OUTPUT | ABI_EFFECT_REQUEST | ABI_EFFECT_INPUT_SPACE)

static void ignore_trap(const struct device *device) { (void)device; }
device_trap_listener *device_on_trap = ignore_trap;

uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/** What each kind may ask for; a cage that answers more is not heard. */
static uint32_t rights_of(uint32_t kind) {
  switch (kind) {
    case ABI_KIND_SERIAL:
      return SERIAL_RIGHTS;
    case ABI_KIND_I8042:
      return ABI_EFFECT_REBOOT;
    case ABI_KIND_ACPI_PM:
      return ABI_EFFECT_POWER_OFF | ABI_EFFECT_REBOOT;
    case ABI_KIND_PVPANIC:
      return ABI_EFFECT_PANIC;
    case ABI_KIND_BOOT_TIMER:
      return ABI_EFFECT_MARKER;
    case ABI_KIND_VIRTIO_BLK:
    case ABI_KIND_VIRTIO_RNG:
      return VIRTIO_RIGHTS;
    case ABI_KIND_VIRTIO_NET:
      return VIRTIO_RIGHTS | ABI_EFFECT_SETUP;
    default:
      return 0;
  }
}

static uint32_t start(struct device *device) {
  if (device->config_bytes > 0) {
    memcpy(cage_memory(device->cage) + ABI_INBOX, device->config, device->config_bytes);
  }
  return cage_init(device->cage, device->kind);
}

int device_create(struct device *device, uint32_t kind, const char *name,
                  const struct guest_memory *memory, const uint8_t *config, uint32_t config_bytes,
                  struct failure *failure) {
  *device = (struct device){.kind = kind, .rights = rights_of(kind), .irq = DEVICE_NO_IRQ};
  device->disk.fd = -1;
  device->memory = *memory;
  device->config_bytes = config_bytes;
  if (config_bytes > 0) memcpy(device->config, config, config_bytes);
  strncpy(device->name, name, sizeof device->name - 1);
  pthread_mutex_init(&device->lock, NULL);
  device->cage = cage_create(memory, failure);
  if (!device->cage) return -1;
  uint32_t answer = start(device);
  if (answer == ABI_VALID) return 0;
  return fail(failure, EINVAL, "image", "the configuration of device %s is refused (%u)", name,
              answer);
}

/** The trap policy: docs/design.md. Answers the effects of the restart. */
static uint32_t trapped(struct device *device) {
  uint64_t now = monotonic_ns();
  device_incidents(device, device->lost_incidents);
  device->dead = device->traps > 0 && now - device->last_trap_ns < TRAP_WINDOW_NS;
  device->traps++;
  device->last_trap_ns = now;
  for (uint32_t i = 0; i < ABI_QUEUE_COUNT_MAX; i++) device->queues[i].generation++;
  uint32_t effects = 0;
  if (!device->dead) {
    cage_clear(device->cage);
    device->dead = start(device) != ABI_VALID;
  }
  if (!device->dead) effects = cage_fail(device->cage);
  device_on_trap(device);
  return effects & CAGE_TRAPPED ? 0 : effects & device->rights;
}

static inline uint32_t answer(struct device *device, uint32_t effects) {
  if (__builtin_expect((effects & CAGE_TRAPPED) != 0, 0)) return trapped(device);
  return effects & device->rights;
}

uint32_t device_read(struct device *device, uint32_t offset, uint32_t width) {
  if (device->dead) return 0;
  return answer(device, cage_read(device->cage, offset, width));
}

uint32_t device_write(struct device *device, uint32_t offset, uint32_t width, uint32_t value) {
  if (device->dead) return 0;
  return answer(device, cage_write(device->cage, offset, width, value));
}

uint32_t device_notify(struct device *device, uint32_t queue) {
  if (device->dead) return 0;
  return answer(device, cage_notify(device->cage, queue));
}

uint32_t device_next(struct device *device, uint32_t queue) {
  if (device->dead) return 0;
  return answer(device, cage_next(device->cage, queue));
}

uint32_t device_complete(struct device *device, uint32_t tag, uint32_t result, uint32_t bytes) {
  if (device->dead) return 0;
  return answer(device, cage_complete(device->cage, tag, result, bytes));
}

uint32_t device_input(struct device *device, const void *bytes, uint32_t length,
                      uint32_t *taken) {
  *taken = length; // a dead device swallows what it is given
  if (device->dead) return 0;
  if (length > ABI_INBOX_BYTES) length = ABI_INBOX_BYTES;
  memcpy(cage_memory(device->cage) + ABI_INBOX, bytes, length);
  uint32_t traps = device->traps;
  uint32_t effects = answer(device, cage_input(device->cage, length));
  uint32_t claim = cage_u32(device->cage, ABI_OUTBOX_VALUE);
  if (device->traps == traps) *taken = claim < length ? claim : length;
  return effects;
}

uint64_t device_value(const struct device *device) {
  return device->dead ? UINT64_MAX : cage_u64(device->cage, ABI_OUTBOX_VALUE);
}

uint32_t device_record(struct device *device, uint8_t *record, uint32_t *effects) {
  if (device->dead) return 0;
  uint32_t kind = cage_u32(device->cage, ABI_REQUEST + ABI_REQUEST_KIND);
  uint64_t tail = kind == ABI_REQUEST_KIND_CONSOLE_OUT
                      ? cage_u64(device->cage, ABI_REQUEST + ABI_REQUEST_LENGTH)
                      : (uint64_t)cage_u32(device->cage, ABI_REQUEST + ABI_REQUEST_RANGE_COUNT) *
                            ABI_RANGE_STRIDE;
  if (tail > ABI_REQUEST_BYTES_MAX - ABI_REQUEST_RANGES) {
    *effects |= trapped(device);
    return 0;
  }
  uint32_t size = ABI_REQUEST_RANGES + (uint32_t)tail;
  memcpy(record, cage_memory(device->cage) + ABI_REQUEST, size);
  return size;
}

void device_interrupt(const struct device *device, uint32_t effects) {
  if (!(effects & ABI_EFFECT_IRQ) || device->irq == DEVICE_NO_IRQ) return;
  counter_add(device->irq);
}

uint32_t device_cancel(struct device *device) {
  uint64_t which = device_value(device);
  uint32_t queues = 0;
  for (uint32_t i = 0; i < ABI_QUEUE_COUNT_MAX; i++) {
    if (which < ABI_QUEUE_COUNT_MAX && which != i) continue;
    device->queues[i].generation++;
    queues |= 1u << i;
  }
  return queues;
}

void device_tell_idle(struct device *device) {
  if (!device->awaited) return;
  device->awaited = false;
  __atomic_fetch_add(&device->idle, 1, __ATOMIC_SEQ_CST);
  futex_wake(&device->idle);
}

bool device_busy(const struct device *device, uint32_t queues) {
  for (uint32_t i = 0; i < ABI_QUEUE_COUNT_MAX; i++) {
    if (queues >> i & 1 && device->queues[i].in_flight > 0) return true;
  }
  return false;
}

bool device_running(const struct device *device) {
  const uint32_t stops = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
  uint32_t status = device->dead ? 0 : cage_u32(device->cage, ABI_STATE_STATUS);
  return (status & (VIRTIO_CONFIG_S_DRIVER_OK | stops)) == VIRTIO_CONFIG_S_DRIVER_OK;
}

uint64_t device_features(const struct device *device) {
  return device->dead ? 0 : cage_u64(device->cage, ABI_STATE_DRIVER_FEATURES);
}

struct device_net_state device_net_state(const struct device *device) {
  if (device->dead) return (struct device_net_state){0};
  const uint8_t *state = cage_memory(device->cage) + ABI_NET_STATE;
  struct device_net_state copy;
  memcpy(&copy.offloads, state + ABI_NET_STATE_OFFLOADS, sizeof copy.offloads);
  memcpy(&copy.queue_pairs, state + ABI_NET_STATE_QUEUE_PAIRS, sizeof copy.queue_pairs);
  return copy;
}

void device_incidents(const struct device *device, uint32_t counts[ABI_COUNTER_COUNT]) {
  for (uint32_t i = 0; i < ABI_COUNTER_COUNT; i++) {
    uint32_t now = device->dead ? 0 : cage_u32(device->cage, ABI_COUNTERS + 4 * i);
    counts[i] = device->lost_incidents[i] + now;
  }
}
