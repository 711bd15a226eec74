// The native cage in bench/cage.ts: the very object that the cell is linked from, so that the frame
// which catches traps, the accessors' checks and the step budget are all in what is measured.
#include "cage-workload.h"

#include "abi.h"
#include "cage.h"

static struct cage *cage;

static uint32_t read_register(uint32_t offset) {
  cage_read(cage, offset, 4);
  return cage_u32(cage, ABI_OUTBOX_VALUE);
}

static int notify(uint32_t queue) { return (cage_notify(cage, queue) & ABI_EFFECT_REQUEST) != 0; }

static uint32_t tag(void) { return cage_u32(cage, ABI_REQUEST + ABI_REQUEST_TAG); }

static int complete(uint32_t tag, uint32_t bytes) {
  return cage_complete(cage, tag, ABI_RESULT_OK, bytes) & CAGE_TRAPPED ? -1 : 0;
}

static void put32(uint32_t offset, uint32_t value) {
  memcpy(cage_memory(cage) + ABI_INBOX + offset, &value, 4);
}

static void put16(uint32_t offset, uint16_t value) {
  memcpy(cage_memory(cage) + ABI_INBOX + offset, &value, 2);
}

/** A disk of 1 MiB: what blkDevice() of test/fixtures.ts makes. */
static uint32_t create_disk(void) {
  put32(ABI_BLK_CONFIG_CAPACITY, 2048);
  put32(ABI_BLK_CONFIG_FLAGS, ABI_BLK_FLAG_WRITEBACK);
  put32(ABI_BLK_CONFIG_BLK_SIZE, 512);
  put32(ABI_BLK_CONFIG_SEG_MAX, QUEUE_SIZE - 2);
  put16(ABI_BLK_CONFIG_QUEUE_COUNT, 1);
  put16(ABI_BLK_CONFIG_QUEUE_SIZE, QUEUE_SIZE);
  return cage_init(cage, ABI_KIND_VIRTIO_BLK);
}

/** The driver's way to DRIVER_OK (virtio 1.2, 3.1.1): status, VERSION_1 and the event index. */
static void bring_up(void) {
  static const uint32_t writes[][2] = {
      {0x70, 0},         {0x70, 1},          {0x70, 3},          {0x24, 0}, {0x20, 1u << 29},
      {0x24, 1},         {0x20, 1},          {0x70, 11},         {0x30, 0}, {0x38, QUEUE_SIZE},
      {0x80, DESC_TABLE}, {0x90, AVAIL_RING}, {0xa0, USED_RING}, {0x44, 1}, {0x70, RUNNING},
  };
  for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
    cage_write(cage, writes[i][0], 4, writes[i][1]);
  }
}

int main(void) {
  static const struct device calls = {read_register, notify, tag, complete};
  struct failure problem;
  struct guest_memory memory;
  if (memory_map(&memory, MEMORY_BYTES, &problem)) return 5;
  cage = cage_create(&memory, &problem);
  if (!cage || create_disk() != ABI_VALID) return 6;
  bring_up();
  int status = measure(memory.base, &calls);
  for (int i = 0; i < ABI_COUNTER_COUNT; i++) {
    if (cage_u32(cage, ABI_COUNTERS + 4 * i)) return 7; // an incident: something else was measured
  }
  cage_destroy(cage);
  memory_unmap(&memory);
  return status;
}
