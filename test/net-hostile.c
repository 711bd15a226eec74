// What test/net-hostile.test.ts runs: the network queues of a cell around a cage that answers
// whatever it likes. Made with the address and undefined behaviour sanitizers.
//
//   hostile SEED ROUNDS    every answer, record and feature is random; frames come in and go out
//                          meanwhile on a socket whose other end is here. Guest RAM lies between
//                          guards; every frame that goes out has to be whole, and from the
//                          device's own address, although a thread changes their bytes all the time
//   vhost SEED ROUNDS      likewise where the kernel, net-hostile-vhost.c, serves the queues
//   promises               a cage that says for ever that there is more and has nothing good, or
//                          that there is something to set up
//   bucket                 what a token bucket lets through, as a list of numbers
// Ends with 0, or says what was wrong and ends with 1; by a signal where a guard was met.
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "net-hostile.h"

// What brings a backend up is not for others to call.
#include "../shim/net.c"

#define GUARD_BYTES (UINT64_C(1) << 30)
#define SECONDS_MAX 60
#define HOT_BYTES 600 // of RAM, which change all the time
#define PAIRS ABI_NET_QUEUE_PAIRS_MAX

struct machine machine;
static uint64_t state;
static struct device device;
static struct device_net_state told; // by the cage, last
static uint32_t promise;             // what it always answers, if not at random
static bool woken;                   // the network thread, by itself
static bool of_rings;                // its records
static struct network network;
static struct net *net = &network.nets[0];
static uint64_t answers, frames_out, good_records;
static const uint8_t own[6] = {2, 0, 0, 0, 0, 1};

uint32_t random_below(uint32_t limit) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)((state >> 11) % limit);
}

void wrong(const char *what) {
  fprintf(stderr, "net-hostile: %s\n", what);
  _exit(1);
}

// --- The cage -----------------------------------------------------------------------------------

static uint32_t any_effects(void) {
  answers++;
  if (promise) return promise;
  return random_below(3) ? ABI_EFFECT_REQUEST | ABI_EFFECT_MORE : random_below(1u << 12);
}

uint32_t device_next(struct device *d, uint32_t queue) {
  (void)queue;
  if (random_below(200) == 0) d->queues[random_below(2 * PAIRS)].generation++;
  return any_effects();
}

uint32_t device_notify(struct device *d, uint32_t queue) { return device_next(d, queue); }

uint32_t device_complete(struct device *d, uint32_t tag, uint32_t result, uint32_t bytes) {
  (void)d, (void)tag, (void)result, (void)bytes;
  return any_effects();
}

uint32_t device_input(struct device *d, const void *bytes, uint32_t length, uint32_t *taken) {
  (void)d, (void)bytes;
  *taken = length;
  return any_effects();
}

static uint64_t any_address(void) {
  static const uint64_t edges[] = {0, RAM_BYTES - 1, RAM_BYTES, HOLE_START, HOLE_END, UINT64_MAX};
  if (random_below(2)) return 6 * random_below(HOT_BYTES / 6);
  if (random_below(40)) return random_below(RAM_BYTES - 8192);
  return edges[random_below(6)] - random_below(4);
}

/** Nearly a record, or none at all. What the real one does with sizes, this does. */
uint32_t device_record(struct device *d, uint8_t *record, uint32_t *effects) {
  (void)d, (void)effects;
  if (of_rings) return rings_record(record);
  static const uint32_t kinds[] = {ABI_REQUEST_KIND_NET_TX, ABI_REQUEST_KIND_NET_RX,
                                   ABI_REQUEST_KIND_NET_RINGS};
  uint32_t most = random_below(4) ? 4 : ABI_RANGE_COUNT_MAX;
  uint32_t count = random_below(most + 1), told = count;
  uint64_t sum = 0;
  memset(record, 0, ABI_REQUEST_RANGES);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t length = random_below(random_below(8) ? 1600 : 1u << 17);
    if (random_below(60) == 0) length = UINT32_MAX - random_below(2);
    uint8_t *range = record + ABI_REQUEST_RANGES + i * ABI_RANGE_STRIDE;
    put(range + ABI_RANGE_ADDRESS, any_address(), 8);
    put(range + ABI_RANGE_LENGTH, length, 8);
    sum += length;
  }
  bool spoilt = random_below(12) == 0;
  if (random_below(40) == 0) told = random_below(UINT32_MAX);
  put(record + ABI_REQUEST_KIND, random_below(20) ? kinds[random_below(3)] : any_address(), 4);
  put(record + ABI_REQUEST_TAG, any_address(), 4);
  put(record + ABI_REQUEST_LENGTH, spoilt ? any_address() : sum, 8);
  put(record + ABI_REQUEST_RANGE_COUNT, told, 4);
  if (random_below(8) == 0) put(record + ABI_REQUEST_OFFSET, any_address(), 8);
  if (random_below(8) == 0) put(record + ABI_REQUEST_FLAGS, any_address(), 4);
  if (told > ABI_RANGE_COUNT_MAX) return 0;
  good_records += told == count && !spoilt;
  return ABI_REQUEST_RANGES + told * ABI_RANGE_STRIDE;
}

uint64_t device_features(const struct device *d) {
  (void)d;
  return random_below(4) ? UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF : (uint64_t)any_address();
}

struct device_net_state device_net_state(const struct device *d) {
  (void)d;
  static const uint16_t pairs[] = {0, 1, 2, 8, 9, 255, 65535};
  uint16_t many = pairs[random_below(7)];
  told = (struct device_net_state){.offloads = random_below(3), .queue_pairs = many};
  if (random_below(9) == 0) told.offloads = any_address();
  return told;
}

bool lent_as_told(void) {
  uint32_t pairs = told.queue_pairs > 0 && told.queue_pairs <= PAIRS ? told.queue_pairs : 1;
  return net->offloads == told.offloads && net->active_pairs == pairs;
}

bool device_running(const struct device *d) { return d && (promise || random_below(5) > 0); }
void device_interrupt(const struct device *d, uint32_t effects) { (void)d, (void)effects; }
void device_tell_idle(struct device *d) { (void)d; }
void view_show(struct device *d) { (void)d; }

// --- What else a cell has -----------------------------------------------------------------------

uint64_t monotonic_ns(void) {
  static uint64_t now;
  return now += random_below(1u << 27);
}

/** Nobody waits for a lock here, and each turn given away is a long time on a busy machine. */
int sched_yield(void) { return 0; }

void machine_wake(const struct machine *m) { (void)m; }
void machine_wake_network(const struct machine *m) {
  (void)m;
  woken = true;
}

int fail(struct failure *failure, int number, const char *call, const char *format, ...) {
  (void)failure, (void)number, (void)format;
  wrong(call);
  return -1;
}

int fail_errno(struct failure *failure, const char *call) {
  return fail(failure, errno, call, "%s", call);
}

int thread_start(struct thread *thread, const sigset_t *open, struct failure *failure) {
  (void)thread, (void)open, (void)failure;
  return -1;
}

int thread_await(struct thread *thread, struct failure *failure) {
  return thread_start(thread, NULL, failure);
}

// --- Both ends ----------------------------------------------------------------------------------

static uint8_t in_bytes[1 << 20];
static size_t in_count;

static void check_frame(const uint8_t *frame, uint32_t length) {
  if (length < ABI_NET_FRAME_BYTES_MIN || length > ABI_NET_FRAME_BYTES_MAX) wrong("a length");
  if (memcmp(frame + 6, own, sizeof own) != 0) wrong("a frame from another address");
  frames_out++;
}

static void read_frames(int fd) {
  ssize_t got;
  while ((got = read(fd, in_bytes + in_count, sizeof in_bytes - in_count)) > 0) {
    in_count += (size_t)got;
    size_t at = 0;
    while (in_count - at >= 4) {
      const uint8_t *b = in_bytes + at;
      uint32_t length = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
      if (length > ABI_NET_FRAME_BYTES_MAX) wrong("a length on the wire");
      if (in_count - at - 4 < length) break;
      check_frame(b + 4, length);
      at += 4 + length;
    }
    memmove(in_bytes, in_bytes + at, in_count - at);
    in_count -= at;
  }
}

static void write_frame(int fd) {
  static uint8_t bytes[4 + ABI_NET_FRAME_BYTES_MAX];
  uint32_t length = 14 + random_below(random_below(4) ? 1500 : ABI_NET_FRAME_BYTES_MAX - 13);
  const uint8_t prefix[4] = {0, (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length};
  int queued = 0;
  memcpy(bytes, prefix, sizeof prefix);
  // Whole, or the other end would see garbage: that is another test's.
  if (ioctl(fd, TIOCOUTQ, &queued) || queued > 1 << 16) return;
  if (write(fd, bytes, 4 + length) < 0 && errno != EAGAIN) wrong("write");
}

static void *change_ram(void *unused) {
  uint64_t own_state = 77;
  (void)unused;
  for (;;) {
    own_state = own_state * UINT64_C(6364136223846793005) + 1;
    uint64_t at = (own_state >> 33) % HOT_BYTES;
    // Now the right address, now another.
    __atomic_store_n(machine.memory.base + at, own_state >> 60 ? own[at % 6] : 9,
                     __ATOMIC_RELAXED);
  }
  return NULL;
}

static void map_ram(void) {
  uint8_t *wide = mmap(NULL, RAM_BYTES + 2 * GUARD_BYTES, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) wrong("mmap");
  machine.memory = (struct guest_memory){wide + GUARD_BYTES, RAM_BYTES};
  if (mprotect(machine.memory.base, RAM_BYTES, PROT_READ | PROT_WRITE)) wrong("mprotect");
  for (uint64_t at = 0; at < RAM_BYTES; at++) machine.memory.base[at] = own[at % 6];
}

static int open_net(void) {
  static struct stream stream;
  int ends[2], buffer = 1 << 18;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) wrong("socketpair");
  setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  pthread_mutex_init(&device.lock, NULL);
  device.queue_count = 2 * PAIRS + 1;
  device.memory = machine.memory;
  *net = (struct net){.machine = &machine, .device = &device, .pair_count = PAIRS};
  for (uint32_t pair = 0; pair < PAIRS; pair++) net->fds[pair] = ends[0];
  net->active_pairs = PAIRS;
  net->changes = bucket_create(32, 0, 8000);
  net->mac_filter = true;
  memcpy(net->mac, own, sizeof own);
  net->receive = calloc(PAIRS, sizeof *net->receive);
  net->transmit = calloc(PAIRS, sizeof *net->transmit);
  net->stream = &stream;
  network.epoll = net->epoll = epoll_create1(EPOLL_CLOEXEC);
  return ends[1];
}

static int hostile(uint64_t seed, long rounds) {
  pthread_t thread;
  state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  map_ram();
  int other = open_net();
  pthread_create(&thread, NULL, change_ram, NULL);
  for (long round = 0; round < rounds; round++) {
    struct stream *stream = net->stream;
    for (unsigned i = random_below(8); i > 0; i--) write_frame(other);
    switch (random_below(8)) {
      case 0:
        net->stream = NULL; // as a tap, its ioctls are refused
        set_up(net, random_below(2));
        net->stream = stream;
        break;
      case 1:
        net->control = 2 * PAIRS;
        obey_driver(net);
        break;
      default:
        serve(net);
    }
    // One pair alone has a stream: the others are there for their rings.
    net->active_pairs = 1;
    net->receive[0].ready = net->transmit[0].ready = net->running = true;
    if (random_below(4)) net->held_until = 0;
    if (random_below(3) == 0) read_frames(other);
    if (random_below(3) == 0) net->transmit[0].blocked = false;
    if (net->gone) wrong("a backend that is gone");
  }
  printf("%llu %llu %llu %llu %llu\n", (unsigned long long)answers,
         (unsigned long long)good_records, (unsigned long long)frames_out,
         (unsigned long long)net->counts[0].frames,
         (unsigned long long)net->counts[1].drops[CELL_NET_DROP_SPOOFED]);
  return 0;
}

// --- Queues that the kernel serves --------------------------------------------------------------

static int vhost(uint64_t seed, long rounds) {
  state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  map_ram();
  open_net();
  net->stream = NULL;
  net->vhost = calloc(PAIRS, sizeof *net->vhost);
  for (uint32_t pair = 0; pair < PAIRS; pair++) {
    struct failure failure;
    int fd = FIRST_VHOST + (int)pair;
    if (vhost_open(&net->vhost[pair], fd, &machine.memory, &device, pair, &failure)) wrong("open");
  }
  of_rings = true;
  for (long round = 0; round < rounds; round++) {
    set_up(net, random_below(8) == 0);
    serve(net);
    net->gone = net->down = false; // after each ring that is refused
  }
  set_up(net, true);
  for (uint32_t queue = 0; queue < 2 * PAIRS; queue++) {
    if (device.queues[queue].in_flight) wrong("a queue that is not given back");
  }
  tell_vhost();
  return 0;
}

// --- Promises -----------------------------------------------------------------------------------

/** Gives turns until nothing is due; how many answers of the cage that took. */
static uint64_t until_quiet(void) {
  uint64_t before = answers;
  for (int turn = 0; serve(net) != UINT64_MAX || woken; turn++) {
    if (woken) set_up(net, false);
    woken = false;
    if (turn == 100) wrong("it is never quiet");
  }
  return answers - before;
}

static int promises(void) {
  const uint32_t kinds[] = {ABI_EFFECT_MORE, ABI_EFFECT_REQUEST | ABI_EFFECT_MORE,
                            ABI_EFFECT_SETUP | ABI_EFFECT_IRQ};
  state = 1;
  map_ram();
  open_net();
  of_rings = true; // which is no frame and no buffer
  net->active_pairs = 1;
  for (int i = 0; i < 3; i++) {
    promise = kinds[i];
    // All at once, then doorbell by doorbell: each is heard, and not for long.
    net->running = net->receive[0].ready = net->transmit[0].ready = true;
    net->control = 2 * PAIRS;
    printf("%d", until_quiet() < 1000);
    for (uint32_t queue = 0; queue < 2; queue++) {
      handle(&network, &(struct epoll_event){.data.u64 = net_tag(SOURCE_KICK, 0, queue)});
      uint64_t count = until_quiet();
      printf(" %d", count > 10 && count < 1000);
    }
    printf("\n");
  }
  return 0;
}

// --- Buckets ------------------------------------------------------------------------------------

/** How many takes of `tokens` pass at that time. */
static unsigned passing(struct bucket *bucket, uint64_t now, uint64_t tokens) {
  unsigned count = 0;
  for (; count < 1000 && bucket_wait(bucket, now) == 0; count++) bucket_take(bucket, tokens);
  return count;
}

/** Likewise one after the other, at these milliseconds. */
static void show(const char *name, struct bucket bucket, uint64_t tokens, const uint64_t *times,
                 int count) {
  printf("%s", name);
  for (int i = 0; i < count; i++) {
    printf(" %u", passing(&bucket, (5000 + times[i]) * NS_PER_MS, tokens));
  }
  printf("\n");
}

static int buckets(void) {
  const uint64_t times[] = {0, 99, 100, 350, 100000};
  show("none", bucket_create(0, 0, 0), 1, times, 1);
  show("plain", bucket_create(10, 0, 1000), 1, times, 5);
  show("burst", bucket_create(10, 5, 1000), 1, times, 5);
  // 1,500 of 1,000 are taken ahead: the next passes after half a second, and a token more.
  const uint64_t debts[] = {0, 500, 501, 1500, 2001};
  show("debt", bucket_create(1000, 0, 1000), 1500, debts, 5);
  // Nothing is lost of the time between whole tokens, however often somebody looks.
  struct bucket often = bucket_create(10, 0, 1000);
  unsigned total = 0;
  for (uint64_t i = 0; i <= 10000; i++) total += passing(&often, i * NS_PER_MS, 1);
  printf("often %u\n", total);
  struct bucket huge = bucket_create(UINT64_C(1) << 53, UINT64_C(1) << 53, UINT64_C(1) << 32);
  for (int i = 0; i < 2; i++) bucket_take(&huge, UINT64_C(1) << 53);
  printf("huge %d", bucket_wait(&huge, 0) > 0);
  printf(" %d\n", bucket_wait(&huge, UINT64_MAX) > 0);
  return 0;
}

int main(int count, char **words) {
  alarm(SECONDS_MAX);
  if (count == 4 && strcmp(words[1], "hostile") == 0) {
    return hostile(strtoull(words[2], NULL, 10), atol(words[3]));
  }
  if (count == 4 && strcmp(words[1], "vhost") == 0) {
    return vhost(strtoull(words[2], NULL, 10), atol(words[3]));
  }
  if (count == 2 && strcmp(words[1], "promises") == 0) return promises();
  return count == 2 && strcmp(words[1], "bucket") == 0 ? buckets() : 2;
}
