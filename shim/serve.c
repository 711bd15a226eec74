// Serving queues. Calls poll and what block.c, entropy.c and uring.c call.
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <x86intrin.h>

#include "entropy.h"

// Requests of one queue before the other queues, the console and the control socket get their
// turn: a guest may refill its ring for ever.
#define TURN 64
#define TURN_BYTES (64u << 20) // likewise: a few large requests take as long as many small ones

#define RETRY_MS 1

#define SLOTS_PER_DEVICE (SERVE_SLOTS * 3 / 4)
#define SLOTS_RESERVED (SERVE_SLOTS / 8)

static uint64_t ticks(const struct server *server) {
  return server->ticks_per_ms ? __rdtsc() : monotonic_ns();
}

static unsigned bucket(const struct server *server, uint64_t since) {
  uint64_t per_ms = server->ticks_per_ms ? server->ticks_per_ms : 1000000;
  uint64_t microseconds = (ticks(server) - since) * 1000 / per_ms;
  unsigned index = 0;
  while (index < CELL_LATENCY_BUCKETS - 1 && microseconds >> index != 0) index++;
  return index;
}

void server_init(struct server *server, const struct guest_memory *memory,
                 uint64_t ticks_per_ms) {
  server->memory = memory;
  server->ticks_per_ms = ticks_per_ms;
  server->ring.fd = -1;
  server->free_count = SERVE_SLOTS;
  for (uint32_t i = 0; i < SERVE_SLOTS; i++) server->free_slots[i] = (uint16_t)i;
}

static void count(const struct server *server, const struct job *job,
                  const struct request_result *result) {
  struct disk_counts *counts = &job->device->counts;
  uint32_t kind = job->request.kind;
  counts->requests++;
  if (result->result != ABI_RESULT_OK) {
    counts->errors++;
    counts->last_errno = (uint32_t)result->error;
  }
  if (kind == ABI_REQUEST_KIND_BLK_IN) counts->bytes_read += result->bytes;
  if (kind == ABI_REQUEST_KIND_BLK_OUT) counts->bytes_written += result->bytes;
  bool read = kind == ABI_REQUEST_KIND_BLK_IN;
  (read ? counts->read_latency : counts->write_latency)[bucket(server, job->start_ticks)]++;
}

/** Gives a result back to the cage it is for, unless its driver reset the device meanwhile. */
static void finish(const struct server *server, struct job *job, struct request_result result) {
  struct device *device = job->device;
  struct device_queue *queue = &device->queues[job->queue];
  uint32_t kind = job->request.kind;
  bool filled = kind == ABI_REQUEST_KIND_BLK_IN || kind == ABI_REQUEST_KIND_ENTROPY;
  uint32_t bytes = filled ? (uint32_t)result.bytes : 0;
  if (device->kind == ABI_KIND_VIRTIO_BLK) count(server, job, &result);
  if (job->generation == queue->generation) {
    device_interrupt(device, device_complete(device, job->tag, result.result, bytes));
  }
  if (--queue->in_flight == 0) device_tell_idle(device);
}

static bool by_ring(const struct job *job) {
  uint32_t kind = job->request.kind;
  return job->device->uring && (kind == ABI_REQUEST_KIND_BLK_IN ||
                                kind == ABI_REQUEST_KIND_BLK_OUT ||
                                kind == ABI_REQUEST_KIND_BLK_FLUSH);
}

/** Carries a record out at once: true, with its result; or hands it to the ring: false. */
static bool execute(struct server *server, struct job *job, uint32_t slot, const uint8_t *record,
                    uint32_t size, struct request_result *result) {
  const struct device *device = job->device;
  if (device->kind == ABI_KIND_VIRTIO_RNG) {
    job->request.kind = ABI_REQUEST_KIND_ENTROPY;
    *result = entropy_execute(server->memory, record, size);
    return true;
  }
  if (block_check(&job->request, server->memory, &device->disk, record, size, result)) return true;
  if (!by_ring(job)) {
    *result = block_run(&device->disk, &job->request, 0);
    return true;
  }
  uring_prepare(&server->ring, device->ring_index, &job->request, slot);
  return false;
}

/** Takes the record that stands in the outbox. False: the cage trapped over it. */
static bool take(struct server *server, struct device *device, uint32_t queue, uint32_t *effects,
                 uint32_t slot) {
  uint8_t record[ABI_REQUEST_BYTES_MAX];
  struct request_result result;
  struct job *job = &server->jobs[slot];
  uint32_t size = device_record(device, record, effects);
  if (size == 0) return false;
  job->device = device;
  job->queue = queue;
  job->generation = device->queues[queue].generation;
  job->start_ticks = ticks(server);
  memcpy(&job->request.kind, record + ABI_REQUEST_KIND, sizeof job->request.kind);
  memcpy(&job->tag, record + ABI_REQUEST_TAG, sizeof job->tag);
  device->queues[queue].in_flight++;
  pthread_mutex_unlock(&device->lock);
  bool done = execute(server, job, slot, record, size, &result);
  pthread_mutex_lock(&device->lock);
  if (!done) return true;
  finish(server, job, result);
  server->free_slots[server->free_count++] = (uint16_t)slot;
  return true;
}

bool server_ready(const struct server *server, const struct device *device) {
  uint32_t in_flight = 0;
  if (!device->uring) return server->free_count > 0;
  for (uint32_t i = 0; i < device->queue_count; i++) in_flight += device->queues[i].in_flight;
  return server->free_count > SLOTS_RESERVED && in_flight < SLOTS_PER_DEVICE;
}

void server_serve(struct server *server, struct device *device, uint32_t queue, bool rang) {
  bool left = true, any = false;
  uint64_t bytes = 0;
  pthread_mutex_lock(&device->lock);
  // Without a slot nothing is asked for: a request taken out of its ring cannot go back.
  if (server_ready(server, device)) {
    uint32_t effects = rang ? device_notify(device, queue) : device_next(device, queue);
    for (unsigned served = 0;; served++) {
      device_interrupt(device, effects);
      left = effects & (ABI_EFFECT_REQUEST | ABI_EFFECT_MORE);
      if (!left) break;
      if (effects & ABI_EFFECT_REQUEST) {
        any = true;
        uint32_t more = 0;
        uint32_t slot = server->free_slots[--server->free_count];
        if (!take(server, device, queue, &more, slot)) {
          server->free_slots[server->free_count++] = (uint16_t)slot;
          device_interrupt(device, more);
          left = false;
          break;
        }
        if (device->kind == ABI_KIND_VIRTIO_BLK) bytes += server->jobs[slot].request.length;
      }
      if (served == TURN || bytes >= TURN_BYTES || !server_ready(server, device)) break;
      effects = device_next(device, queue);
    }
  }
  device->queues[queue].waiting = left;
  // A cage without requests says that it has more once it has answered as many chains itself as the
  // ring holds: who says so for a whole turn lies, or obeys a driver that refills its ring with
  // nonsense. Neither is worth the processor's time.
  device->queues[queue].vain = left && !any;
  pthread_mutex_unlock(&device->lock);
}

/** A transfer that came short, or that the ring would not do, is done by hand to its end. */
static struct request_result settle(struct job *job, int32_t outcome) {
  const struct disk *disk = &job->device->disk;
  struct request *request = &job->request;
  bool again = outcome == -EAGAIN || outcome == -EINTR || outcome == -ENOMEM;
  if (outcome < 0 && !again) return request_refused(ABI_RESULT_IOERR, -outcome);
  uint64_t moved = again ? 0 : (uint64_t)outcome;
  bool transfer = request->kind != ABI_REQUEST_KIND_BLK_FLUSH;
  if (again || (transfer && moved < request->length)) return block_run(disk, request, moved);
  return (struct request_result){.result = ABI_RESULT_OK, .bytes = transfer ? moved : 0};
}

unsigned server_advance(struct server *server) {
  struct uring_completion completion;
  unsigned taken = 0;
  if (server->ring.fd < 0) return 0;
  server->refused = uring_submit(&server->ring) != 0; // EAGAIN, EBUSY: the entries stay there
  while (uring_complete(&server->ring, &completion)) {
    struct job *job = &server->jobs[completion.slot % SERVE_SLOTS];
    struct request_result result = settle(job, completion.result);
    pthread_mutex_lock(&job->device->lock);
    finish(server, job, result);
    pthread_mutex_unlock(&job->device->lock);
    server->free_slots[server->free_count++] = (uint16_t)completion.slot;
    taken++;
  }
  return taken;
}

bool server_drain(struct server *server) {
  while (server->free_count < SERVE_SLOTS) {
    if (server_advance(server) > 0) continue;
    if (server->refused) {
      poll(NULL, 0, RETRY_MS); // what is in flight may not be in the kernel yet
    } else if (uring_wait(&server->ring) != 0) {
      return false;
    }
  }
  return true;
}
