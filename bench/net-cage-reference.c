// The reference for bench/net-cage.ts: what a cage does for a frame to send and for a mergeable
// receive, written as plain C on a device structure and on guest memory that is simply there. Same
// queues, same features, same checks of the guest's numbers and of its headers, same in-flight
// table, same order of buffers, same record; no sandbox, no step budget, no trap to catch.
#include "net-cage-workload.h"

#include "cage-reference.h"

enum {
  KIND_TX = 8,
  KIND_RX = 9,
  FRAME_BYTES_MIN = 14,
  FRAME_BYTES_MAX = 65553,
  NEEDS_CSUM = 1,
  GSO_NONE = 0,
  GSO_TCPV4 = 1,
  GSO_UDP = 3,
  GSO_TCPV6 = 4,
  GSO_UDP_L4 = 5,
  GSO_ECN = 0x80,
  INCIDENT_CHAIN = 8,
  INCIDENT_MEMORY = 9,
  INCIDENT_REQUEST = 10,
  INCIDENT_TAG = 11,
  INCIDENTS = 16,
  OK = 0, // results of the host
  FAILED = -1,
};
#define F_CSUM (1ull << 0)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_HOST_UFO (1ull << 14)
#define F_MRG_RXBUF (1ull << 15)
#define F_CTRL_VQ (1ull << 17)
#define F_MQ (1ull << 22)
#define F_HOST_USO (1ull << 56)
#define CUT UINT64_MAX // num_buffers lies in two descriptors

struct header {
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

struct interface {
  struct virtio virtio;
  uint32_t pairs_max;
  uint32_t incidents[INCIDENTS];
};

static int incident(struct interface *net, int which) {
  net->incidents[which]++;
  return 0;
}

/** The rings lie outside guest memory: the device stands still until its driver resets it. */
static int broken(struct interface *net, int which) {
  net->virtio.status |= NEEDS_RESET;
  net->virtio.interrupt_status |= 2;
  incident(net, which);
  return FAILED;
}

static uint32_t queue_count(const struct interface *net) {
  if (net->virtio.features & F_MQ) return 2 * net->pairs_max + 1;
  return net->virtio.features & F_CTRL_VQ ? 3 : 2;
}

static int is_control(const struct interface *net, uint32_t index) {
  return net->virtio.features & F_CTRL_VQ && index == queue_count(net) - 1;
}

/** Gives a chain back that is of no use. */
static int push(struct interface *net, uint32_t index, uint32_t head) {
  struct virtq *queue = &net->virtio.queues[index];
  if (fill(queue, 0, head, 0)) return broken(net, INCIDENT_MEMORY);
  int wanted = publish(&net->virtio, queue, 1);
  return wanted < 0 ? broken(net, INCIDENT_MEMORY) : wanted;
}

static int refuse(struct interface *net, uint32_t index, uint32_t head, int which) {
  incident(net, which);
  return push(net, index, head) < 0 ? FAILED : 0;
}

static int gso_agreed(uint64_t features, uint8_t gso_type) {
  int ecn = (gso_type & GSO_ECN) != 0;
  if (ecn && !(features & F_HOST_ECN)) return 0;
  switch (gso_type & ~GSO_ECN) {
    case GSO_TCPV4: return (features & F_HOST_TSO4) != 0;
    case GSO_TCPV6: return (features & F_HOST_TSO6) != 0;
    case GSO_UDP: return !ecn && features & F_HOST_UFO;
    case GSO_UDP_L4: return !ecn && features & F_HOST_USO;
    default: return 0;
  }
}

/** Leaves in the header what was agreed on. 0: it asks for more, or points out of the frame. */
static int settle(uint64_t features, struct header *header, uint32_t frame_bytes) {
  header->flags &= NEEDS_CSUM;
  header->num_buffers = 0;
  if (header->hdr_len > frame_bytes) return 0;
  if (!header->flags) {
    header->csum_start = header->csum_offset = 0;
    if (header->gso_type != GSO_NONE) return 0;
    header->gso_size = 0;
    return 1;
  }
  uint32_t checksum = (uint32_t)header->csum_start + header->csum_offset;
  if (!(features & F_CSUM) || checksum + 2 > frame_bytes) return 0;
  if (header->gso_type == GSO_NONE) {
    header->gso_size = 0;
    return 1;
  }
  return header->gso_size != 0 && gso_agreed(features, header->gso_type);
}

/** 1: a frame to send stands in the record. */
static int transmit(struct interface *net, uint32_t index, uint32_t head) {
  struct virtio *virtio = &net->virtio;
  struct chain *chain = &virtio->chain;
  uint64_t bytes = chain->readable_bytes;
  struct header header;
  if (chain->count != chain->readable || bytes < HEADER_BYTES + FRAME_BYTES_MIN ||
      bytes > HEADER_BYTES + FRAME_BYTES_MAX) {
    return refuse(net, index, head, INCIDENT_REQUEST);
  }
  if (gather(chain, &header, HEADER_BYTES)) return refuse(net, index, head, INCIDENT_MEMORY);
  uint32_t frame_bytes = (uint32_t)bytes - HEADER_BYTES, end;
  if (!settle(virtio->features, &header, frame_bytes)) {
    return refuse(net, index, head, INCIDENT_REQUEST);
  }
  uint64_t start;
  memcpy(&start, &header, 8);
  memcpy(&end, (uint8_t *)&header + 8, 4);
  uint32_t count = emit_ranges(virtio, 0, HEADER_BYTES, frame_bytes);
  struct in_flight *entry =
      submit(virtio, index, head, KIND_TX, start, frame_bytes, count, end);
  entry->payload_bytes = 0;
  entry->status_address = 0;
  return 1;
}

static uint64_t num_buffers_address(const struct chain *chain) {
  uint64_t skip = 10;
  const struct range *segment = chain->segments;
  for (; segment->length <= skip; segment++) skip -= segment->length;
  return segment->length - skip >= 2 ? segment->address + skip : CUT;
}

/** 1: a buffer for a received frame stands in the record. */
static int offer(struct interface *net, uint32_t index, uint32_t head) {
  struct virtio *virtio = &net->virtio;
  struct virtq *queue = &virtio->queues[index];
  struct chain *chain = &virtio->chain;
  uint64_t bytes = chain->writable_bytes;
  if (chain->readable || bytes < HEADER_BYTES) {
    return refuse(net, index, head, INCIDENT_REQUEST);
  }
  if (bytes > HEADER_BYTES + FRAME_BYTES_MAX) bytes = HEADER_BYTES + FRAME_BYTES_MAX;
  uint32_t count = emit_ranges(virtio, 0, 0, bytes);
  struct in_flight *entry = submit(virtio, index, head, KIND_RX, 0, bytes, count, 0);
  entry->payload_bytes = (uint32_t)bytes;
  entry->status_address = num_buffers_address(chain);
  if (!queue->held) queue->oldest = (uint16_t)head;
  else virtio->in_flight[index][queue->newest].next = (uint8_t)head;
  queue->newest = (uint16_t)head;
  queue->held++;
  return 1;
}

/** 1: a request stands in the record. As many chains as the queue holds are looked at. */
static int drained(struct interface *net, uint32_t index, int ask) {
  struct virtio *virtio = &net->virtio;
  if (index >= queue_count(net) || !running(virtio, &virtio->queues[index])) return 0;
  struct virtq *queue = &virtio->queues[index];
  for (uint32_t budget = queue->size; budget; budget--) {
    int head = pop(virtio, queue, virtio->in_flight[index], ask);
    if (head == EMPTY) return 0;
    if (head < 0) return broken(net, INCIDENT_MEMORY);
    int result;
    if (walk(virtio, queue, (uint32_t)head)) {
      result = refuse(net, index, (uint32_t)head, INCIDENT_CHAIN);
    } else if (is_control(net, index)) {
      result = refuse(net, index, (uint32_t)head, INCIDENT_REQUEST); // commands are not measured
    } else {
      result = index & 1 ? transmit(net, index, (uint32_t)head) : offer(net, index, (uint32_t)head);
    }
    if (result) return result;
  }
  return 0;
}

static int write_num_buffers(struct interface *net, uint64_t address, uint16_t count) {
  // The workload cuts no header: a reference for what is measured need not find it again.
  if (address == CUT || guest_write(address, &count, 2)) return incident(net, INCIDENT_MEMORY);
  return 0;
}

/** A frame lies in the buffers from `head` on, which must be the oldest one. */
static int received(struct interface *net, uint32_t index, uint32_t head, uint32_t bytes) {
  struct virtio *virtio = &net->virtio;
  struct virtq *queue = &virtio->queues[index];
  if (head != queue->oldest || bytes < HEADER_BYTES) {
    incident(net, INCIDENT_TAG);
    return FAILED;
  }
  uint64_t address = virtio->in_flight[index][head].status_address;
  uint32_t most = virtio->features & F_MRG_RXBUF ? queue->held : 1, count = 0, left = bytes;
  do {
    struct in_flight *buffer = &virtio->in_flight[index][queue->oldest];
    uint32_t taken = left < buffer->payload_bytes ? left : buffer->payload_bytes;
    if (fill(queue, count, queue->oldest, taken)) return broken(net, INCIDENT_MEMORY);
    buffer->kind = 0;
    queue->oldest = buffer->next;
    queue->held--;
    left -= taken;
    count++;
  } while (left && count < most);
  write_num_buffers(net, address, (uint16_t)count);
  int wanted = publish(virtio, queue, count);
  return wanted < 0 ? broken(net, INCIDENT_MEMORY) : wanted;
}

/** Takes a buffer out of the order, wherever it stands there. */
static void drop(struct interface *net, uint32_t index, uint32_t head) {
  struct virtq *queue = &net->virtio.queues[index];
  struct in_flight *heads = net->virtio.in_flight[index];
  uint32_t before = queue->oldest;
  if (before == head) {
    queue->oldest = heads[head].next;
  } else {
    while (heads[before].next != head) before = heads[before].next;
    heads[before].next = heads[head].next;
    if (queue->newest == head) queue->newest = (uint16_t)before;
  }
  heads[head].kind = 0;
  queue->held--;
}

static int completed(struct interface *net, uint32_t tag, uint32_t result, uint32_t bytes) {
  uint32_t index = tag >> 15 & 0x1f, head = tag & 0x7fff;
  struct in_flight *entry = find(&net->virtio, tag);
  if (!entry) {
    incident(net, INCIDENT_TAG);
    return FAILED;
  }
  int live = running(&net->virtio, &net->virtio.queues[index]);
  if (!(index & 1) && !is_control(net, index)) {
    if (live && result == OK) return received(net, index, head, bytes);
    drop(net, index, head);
    return live ? push(net, index, head) : 0;
  }
  entry->kind = 0;
  return live ? push(net, index, head) : 0;
}

#define QUEUE(index) \
  {QUEUE_BASE + QUEUE_AREA * index, QUEUE_BASE + QUEUE_AREA * index + AVAIL_RING, \
   QUEUE_BASE + QUEUE_AREA * index + USED_RING, QUEUE_SIZE, .ready = 1}

static struct interface interface = {
    .pairs_max = 1,
    .virtio =
        {
            .features = FEATURES,
            .status = RUNNING,
            .queue_count = 2,
            .queues = {QUEUE(RECEIVE), QUEUE(TRANSMIT)},
        },
};
// The compiler must not know which device it is.
static struct interface *volatile the_interface = &interface;

static int notify(uint32_t queue) { return drained(the_interface, queue, 1); }

static int next(uint32_t queue) { return drained(the_interface, queue, 0); }

static uint32_t tag(void) { return the_interface->virtio.record.tag; }

static uint64_t length(void) { return the_interface->virtio.record.length; }

static int complete(uint32_t tag, uint32_t bytes) {
  return completed(the_interface, tag, OK, bytes);
}

int main(void) {
  static const struct device calls = {notify, next, tag, length, complete};
  memory.base = calloc(1, MEMORY_BYTES);
  memory.bytes = MEMORY_BYTES;
  if (!memory.base) return 5;
  int status = measure(memory.base, &calls);
  for (int i = 0; i < INCIDENTS; i++) {
    if (interface.incidents[i]) return 7; // an incident: something else was measured
  }
  return status;
}
