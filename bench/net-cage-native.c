// The native cage in bench/net-cage.ts: the very object that the cell is linked from, as in
// bench/cage-native.c.
#include "net-cage-workload.h"

#include "abi.h"
#include "cage.h"

static struct cage *cage;

static int notify(uint32_t queue) { return (cage_notify(cage, queue) & ABI_EFFECT_REQUEST) != 0; }

static int next(uint32_t queue) { return (cage_next(cage, queue) & ABI_EFFECT_REQUEST) != 0; }

static uint32_t tag(void) { return cage_u32(cage, ABI_REQUEST + ABI_REQUEST_TAG); }

static uint64_t length(void) { return cage_u32(cage, ABI_REQUEST + ABI_REQUEST_LENGTH); }

static int complete(uint32_t tag, uint32_t bytes) {
  return cage_complete(cage, tag, ABI_RESULT_OK, bytes) & CAGE_TRAPPED ? -1 : 0;
}

/** One pair of queues and the offloads of a tap that are asked for. */
static uint32_t create_interface(void) {
  static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
  static const uint64_t offloads = FEATURE_CSUM | FEATURE_HOST_TSO4;
  static const uint16_t pairs = 1, size = QUEUE_SIZE;
  uint8_t *inbox = cage_memory(cage) + ABI_INBOX;
  memcpy(inbox + ABI_NET_CONFIG_MAC, mac, sizeof mac);
  memcpy(inbox + ABI_NET_CONFIG_QUEUE_PAIRS, &pairs, sizeof pairs);
  memcpy(inbox + ABI_NET_CONFIG_QUEUE_SIZE, &size, sizeof size);
  memcpy(inbox + ABI_NET_CONFIG_OFFLOADS, &offloads, sizeof offloads);
  return cage_init(cage, ABI_KIND_VIRTIO_NET);
}

static void write_all(const uint32_t (*writes)[2], size_t count) {
  for (size_t i = 0; i < count; i++) cage_write(cage, writes[i][0], 4, writes[i][1]);
}

/** The driver's way to DRIVER_OK (virtio 1.2, 3.1.1), with VERSION_1 and FEATURES. */
static void bring_up(void) {
  static const uint32_t features[][2] = {
      {0x70, 0},        {0x70, 1}, {0x70, 3}, {0x24, 0},
      {0x20, FEATURES}, {0x24, 1}, {0x20, 1}, {0x70, 11},
  };
  write_all(features, sizeof features / sizeof *features);
  for (uint32_t queue = RECEIVE; queue <= TRANSMIT; queue++) {
    uint32_t base = QUEUE_BASE + QUEUE_AREA * queue;
    const uint32_t place[][2] = {
        {0x30, queue}, {0x38, QUEUE_SIZE}, {0x80, base}, {0x90, base + AVAIL_RING},
        {0xa0, base + USED_RING}, {0x44, 1},
    };
    write_all(place, sizeof place / sizeof *place);
  }
  cage_write(cage, 0x70, 4, RUNNING);
}

int main(void) {
  static const struct device calls = {notify, next, tag, length, complete};
  struct failure problem;
  struct guest_memory memory;
  if (memory_map(&memory, MEMORY_BYTES, &problem)) return 5;
  cage = cage_create(&memory, &problem);
  if (!cage || create_interface() != ABI_VALID) return 6;
  bring_up();
  int status = measure(memory.base, &calls);
  for (int i = 0; i < ABI_COUNTER_COUNT; i++) {
    if (cage_u32(cage, ABI_COUNTERS + 4 * i)) return 7; // an incident: something else was measured
  }
  cage_destroy(cage);
  memory_unmap(&memory);
  return status;
}
