// The reference for bench/cage.ts: what a cage does for a register read and for a block request of
// three descriptors, written as plain C on a device structure and on guest memory that is simply
// there. Same queues, same features, same checks of the guest's numbers, same in-flight table, same
// record; no sandbox, no step budget, no trap to catch.
#include "cage-workload.h"

#include "cage-reference.h"

enum {
  REQUEST_IN = 1,
  TYPE_IN = 0,
};
#define F_SEG_MAX (1ull << 2)

struct disk {
  struct virtio virtio;
  uint64_t capacity;
  uint32_t queue_sel, generation, seg_max;
};

static uint32_t read_register(struct disk *disk, uint32_t offset, uint32_t width) {
  if (offset >= 0x100 || width != 4 || offset & 3) return ~0u;
  switch (offset >> 2) {
    case 0x00 >> 2: return 0x74726976;
    case 0x04 >> 2: return 2;
    case 0x08 >> 2: return 2;
    case 0x10 >> 2: return (uint32_t)disk->virtio.features;
    case 0x34 >> 2: return disk->queue_sel < disk->virtio.queue_count ? QUEUE_SIZE : 0;
    case 0x60 >> 2: return disk->virtio.interrupt_status;
    case 0x70 >> 2: return disk->virtio.status;
    case 0xfc >> 2: return disk->generation;
    default: return ~0u;
  }
}

/** Turns the walked chain into a record. 0: it is no request that a host could carry out. */
static int request(struct disk *disk, uint32_t queue_index, uint32_t head) {
  struct virtio *virtio = &disk->virtio;
  struct chain *chain = &virtio->chain;
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  if (chain->count == chain->readable || !chain->segments[chain->count - 1].length) return 0;
  if (chain->readable_bytes < sizeof header || gather(chain, &header, sizeof header)) return 0;
  if (header.type != TYPE_IN || chain->readable_bytes != sizeof header) return 0;
  const struct range *last = &chain->segments[chain->count - 1];
  uint64_t length = chain->writable_bytes - 1;
  if (!length || length & 511 || header.sector > disk->capacity) return 0;
  if (length >> 9 > disk->capacity - header.sector) return 0;
  uint32_t count = emit_ranges(virtio, chain->readable, 0, length);
  if (virtio->features & F_SEG_MAX && count > disk->seg_max) return 0;
  uint64_t offset = header.sector << 9;
  struct in_flight *entry =
      submit(virtio, queue_index, head, REQUEST_IN, offset, length, count, 0);
  entry->payload_bytes = (uint32_t)length;
  entry->status_address = last->address + last->length - 1;
  return 1;
}

static int notified(struct disk *disk, uint32_t index) {
  struct virtio *virtio = &disk->virtio;
  if (index >= virtio->queue_count || !running(virtio, &virtio->queues[index])) return 0;
  int head = pop(virtio, &virtio->queues[index], virtio->in_flight[index], 1);
  if (head < 0 || walk(virtio, &virtio->queues[index], (uint32_t)head)) return 0;
  return request(disk, index, (uint32_t)head);
}

/** Writes the status byte and the used element, publishes it, and looks whether to interrupt. */
static int completed(struct disk *disk, uint32_t tag, uint8_t status, uint32_t bytes) {
  struct virtio *virtio = &disk->virtio;
  struct in_flight *entry = find(virtio, tag);
  if (!entry) return -1;
  entry->kind = 0;
  struct virtq *queue = &virtio->queues[tag >> 15 & 0x1f];
  if (!running(virtio, queue)) return 0;
  uint32_t written = bytes < entry->payload_bytes ? bytes : entry->payload_bytes;
  if (guest_write(entry->status_address, &status, 1)) return -1;
  if (fill(queue, 0, tag & 0x7fff, written + 1)) return -1;
  return publish(virtio, queue, 1);
}

static struct disk disk = {
    .capacity = 2048,
    .virtio =
        {
            .features = F_EVENT_IDX,
            .status = RUNNING,
            .queue_count = 1,
            .queues = {{DESC_TABLE, AVAIL_RING, USED_RING, QUEUE_SIZE, .ready = 1}},
        },
};
// The compiler must not know which device it is.
static struct disk *volatile the_disk = &disk;

static uint32_t read_status(uint32_t offset) { return read_register(the_disk, offset, 4); }

static int notify(uint32_t queue) { return notified(the_disk, queue); }

static uint32_t tag(void) { return the_disk->virtio.record.tag; }

static int complete(uint32_t tag, uint32_t bytes) { return completed(the_disk, tag, 0, bytes); }

int main(void) {
  static const struct device calls = {read_status, notify, tag, complete};
  memory.base = calloc(1, MEMORY_BYTES);
  memory.bytes = MEMORY_BYTES;
  return memory.base ? measure(memory.base, &calls) : 5;
}
