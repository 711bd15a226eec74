// net-peer VERB ...: both sides of the conversations of boot-net.test.ts, on the host and in the
// guest. Where busybox's nc would only move bytes it checks what arrives. Prints one line for each
// thing done and ends with 0, or says what failed and ends with 1.
//
//   serve PORT                   answers TCP and UDP (IPv4 and IPv6) until it is told to stop
//   stop ADDRESS PORT            tells it
//   upload ADDRESS PORT BYTES    by TCP; the server's checksum must be ours
//   download ADDRESS PORT BYTES  the other way
//   connect ADDRESS PORT COUNT   as many connections, up to 100 at once, an exchange on each
//   echo ADDRESS PORT COUNT      datagrams that must come back, each sent again when it does not
//   flood ADDRESS PORT COUNT MILLISECONDS  datagrams of 64 bytes; stops at whichever comes first,
//                                0 for no such limit
//   counted ADDRESS PORT         how many of a flood arrived there
//   feature DEVICE NAME on|off   an offload, by ethtool's name for it
//   frames DEVICE SOURCE COUNT   raw frames, sent as if from SOURCE
//   sniff DEVICE LAST            prints the source of such frames, up to and with that of LAST
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES 65536
#define FLOOD_BYTES 64
#define BATCH 100 // connections at once; below the usual limit of a backlog
#define PATIENCE 100 // attempts, a tenth of a second apart: the other side may not be there yet
#define OUR_TYPE 0x88b5 // for experiments, IEEE 802
#define FEATURE_WORDS 8

struct order { // how a TCP conversation starts
  uint64_t kind; // 'u', 'd', 'e', 's'
  uint64_t amount;
};

__attribute__((noreturn)) static void fail(const char *what) {
  printf("net-peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void check(bool good, const char *what) {
  if (!good) fail(what);
}

static void pause_ms(long milliseconds) {
  struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static uint64_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

// --- Sockets ------------------------------------------------------------------------------------

union address {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
};

static socklen_t parse_address(const char *text, const char *port, union address *address) {
  memset(address, 0, sizeof *address);
  uint16_t number = htons((uint16_t)atoi(port));
  if (inet_pton(AF_INET, text, &address->in.sin_addr) == 1) {
    address->in.sin_family = AF_INET;
    address->in.sin_port = number;
    return sizeof address->in;
  }
  errno = EINVAL;
  check(inet_pton(AF_INET6, text, &address->in6.sin6_addr) == 1, text);
  address->in6.sin6_family = AF_INET6;
  address->in6.sin6_port = number;
  return sizeof address->in6;
}

// A connected socket; tries again where nobody answers yet.
static int reach(const char *text, const char *port, int type) {
  union address address;
  socklen_t length = parse_address(text, port, &address);
  for (int attempt = 0; attempt < PATIENCE; attempt++) {
    int fd = socket(address.any.sa_family, type, 0);
    check(fd >= 0, "socket");
    if (connect(fd, &address.any, length) == 0) return fd;
    close(fd);
    pause_ms(100);
  }
  fail("connect");
}

static int bound(const char *port, int type) {
  struct sockaddr_in6 all = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
  int fd = socket(AF_INET6, type, 0), one = 1;
  check(fd >= 0, "socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  check(bind(fd, (struct sockaddr *)&all, sizeof all) == 0, "bind");
  if (type == SOCK_STREAM) check(listen(fd, BATCH) == 0, "listen");
  return fd;
}

static bool send_all(int fd, const void *bytes, size_t count) {
  while (count > 0) {
    ssize_t done = send(fd, bytes, count, MSG_NOSIGNAL);
    if (done <= 0) return false;
    bytes = (const char *)bytes + done;
    count -= (size_t)done;
  }
  return true;
}

static bool receive_all(int fd, void *bytes, size_t count) {
  return recv(fd, bytes, count, MSG_WAITALL) == (ssize_t)count;
}

// --- A stream of bytes that repeats nowhere near, and its checksum -------------------------------

struct stream {
  uint64_t state;
  uint64_t sum; // FNV-1a, over words: a byte lost, twice or elsewhere changes it
};

static const struct stream fresh = {0x9e3779b97f4a7c15, 0xcbf29ce484222325};
static uint64_t chunk[CHUNK_BYTES / 8];

static void add_up(struct stream *stream, size_t words) {
  for (size_t at = 0; at < words; at++) stream->sum = (stream->sum ^ chunk[at]) * 0x100000001b3;
}

// Amounts are whole words.
static bool send_stream(int fd, uint64_t bytes, uint64_t *sum) {
  struct stream stream = fresh;
  while (bytes > 0) {
    size_t part = bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES;
    for (size_t at = 0; at < part / 8; at++) {
      stream.state ^= stream.state << 13;
      stream.state ^= stream.state >> 7;
      stream.state ^= stream.state << 17;
      chunk[at] = stream.state;
    }
    add_up(&stream, part / 8);
    if (!send_all(fd, chunk, part)) return false;
    bytes -= part;
  }
  *sum = stream.sum;
  return true;
}

static bool receive_stream(int fd, uint64_t bytes, uint64_t *sum) {
  struct stream stream = fresh;
  while (bytes > 0) {
    size_t part = bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES;
    if (!receive_all(fd, chunk, part)) return false;
    add_up(&stream, part / 8);
    bytes -= part;
  }
  *sum = stream.sum;
  return true;
}

// --- The server ---------------------------------------------------------------------------------

// One conversation. A broken one is the client's failure.
static void converse(int fd) {
  struct order order;
  uint64_t sum;
  char rest;
  if (!receive_all(fd, &order, sizeof order)) return;
  if (order.kind == 'u' && receive_stream(fd, order.amount, &sum)) send_all(fd, &sum, sizeof sum);
  if (order.kind == 'd' && send_stream(fd, order.amount, &sum)) send_all(fd, &sum, sizeof sum);
  if (order.kind != 'e' && order.kind != 's') return;
  send_all(fd, &order.amount, sizeof order.amount);
  if (order.kind == 'e') return;
  // Not before the client has the answer: this machine may be switched off next.
  recv(fd, &rest, 1, 0);
  kill(getppid(), SIGTERM);
}

// Datagrams: 'f' is counted, 'c' is answered with the count, all else goes back as it came.
static void serve_datagrams(int fd) {
  char datagram[2048];
  uint64_t count = 0;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    union address from;
    socklen_t length = sizeof from;
    ssize_t size = recvfrom(fd, datagram, sizeof datagram, 0, &from.any, &length);
    if (size < 1) continue;
    if (datagram[0] == 'f') {
      count++;
      continue;
    }
    if (datagram[0] == 'c') memcpy(datagram + 8, &count, sizeof count);
    sendto(fd, datagram, (size_t)size, 0, &from.any, length);
  }
}

static void leave(int number) {
  _exit(number != SIGTERM);
}

static void serve(char **argv) {
  int stream = bound(argv[0], SOCK_STREAM);
  int datagrams = bound(argv[0], SOCK_DGRAM);
  signal(SIGTERM, leave);
  signal(SIGCHLD, SIG_IGN); // nobody waits for the children
  pid_t child = fork();
  check(child >= 0, "fork");
  if (child == 0) serve_datagrams(datagrams);
  printf("net-peer serves\n");
  fflush(stdout);
  for (;;) {
    int fd = accept(stream, NULL, NULL);
    check(fd >= 0, "accept");
    child = fork(); // so that a conversation that stalls holds up no other
    check(child >= 0, "fork");
    if (child == 0) {
      converse(fd);
      exit(0);
    }
    close(fd);
  }
}

// --- The clients --------------------------------------------------------------------------------

static void stop(char **argv) {
  int fd = reach(argv[0], argv[1], SOCK_STREAM);
  struct order order = {'s', 1};
  check(send_all(fd, &order, sizeof order), "send");
  check(receive_all(fd, &order.amount, sizeof order.amount), "receive");
}

static void transfer(char **argv, bool up) {
  struct order order = {up ? 'u' : 'd', strtoull(argv[2], NULL, 10)};
  int fd = reach(argv[0], argv[1], SOCK_STREAM);
  uint64_t ours, theirs;
  check(send_all(fd, &order, sizeof order), "order");
  check(up ? send_stream(fd, order.amount, &ours) : receive_stream(fd, order.amount, &ours),
        "transfer");
  check(receive_all(fd, &theirs, sizeof theirs), "checksum");
  const char *verdict = ours == theirs ? "intact" : "DAMAGED";
  printf("net-peer %s %s %s\n", up ? "upload" : "download", argv[2], verdict);
  if (ours != theirs) exit(1);
}

static void connect_many(char **argv) {
  uint64_t total = strtoull(argv[2], NULL, 10), done = 0;
  int open[BATCH];
  while (done < total) {
    uint64_t batch = total - done < BATCH ? total - done : BATCH;
    for (uint64_t at = 0; at < batch; at++) open[at] = reach(argv[0], argv[1], SOCK_STREAM);
    for (uint64_t at = 0; at < batch; at++) {
      struct order order = {'e', done + at}, back;
      check(send_all(open[at], &order, sizeof order), "send");
      check(receive_all(open[at], &back.amount, sizeof back.amount), "receive");
      errno = EPROTO;
      check(back.amount == order.amount, "answer");
      close(open[at]);
    }
    done += batch;
  }
  printf("net-peer connections %lu\n", (unsigned long)done);
}

// Sends until the answer comes, since datagrams may be lost; what comes must be what was sent.
static void ask(int fd, void *datagram, size_t size, bool same) {
  char answer[2048];
  for (int attempt = 0; attempt < PATIENCE; attempt++) {
    struct pollfd poller = {fd, POLLIN, 0};
    send(fd, datagram, size, 0);
    while (poll(&poller, 1, 1000) == 1) {
      ssize_t got = recv(fd, answer, sizeof answer, 0);
      if (got != (ssize_t)size) break; // nobody there yet, or cut
      if (same && memcmp(answer, datagram, size) != 0) continue; // the answer to an earlier one
      memcpy(datagram, answer, size);
      return;
    }
    pause_ms(100);
  }
  errno = ETIMEDOUT;
  fail("no answer");
}

static void echo(char **argv) {
  int fd = reach(argv[0], argv[1], SOCK_DGRAM);
  unsigned long count = strtoul(argv[2], NULL, 10);
  char datagram[1400] = "e";
  for (unsigned long at = 0; at < count; at++) {
    memset(datagram + 1, (int)(at % 251), sizeof datagram - 1);
    memcpy(datagram + 8, &at, sizeof at);
    ask(fd, datagram, sizeof datagram, true);
  }
  printf("net-peer echoes %lu\n", count);
}

static void flood(char **argv) {
  int fd = reach(argv[0], argv[1], SOCK_DGRAM);
  uint64_t limit = strtoull(argv[2], NULL, 10), end = strtoull(argv[3], NULL, 10);
  uint64_t tried = 0, sent = 0;
  char datagram[FLOOD_BYTES] = "f";
  if (end) end += now_ms();
  for (; (!limit || tried < limit) && (!end || now_ms() < end); tried++) {
    // Not waiting: a sender that a limiter stops would wait for ever.
    if (send(fd, datagram, sizeof datagram, MSG_DONTWAIT) == sizeof datagram) sent++;
    else pause_ms(1);
  }
  printf("net-peer flood %lu\n", (unsigned long)sent);
}

static void counted(char **argv) {
  int fd = reach(argv[0], argv[1], SOCK_DGRAM);
  uint64_t datagram[2] = {'c', 0};
  ask(fd, datagram, sizeof datagram, false);
  printf("net-peer counted %lu\n", (unsigned long)datagram[1]);
}

// --- Offloads -----------------------------------------------------------------------------------

static void feature(char **argv) {
  struct ifreq request = {0};
  struct {
    struct ethtool_sset_info info;
    uint32_t length;
  } sets = {{.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1u << ETH_SS_FEATURES}, 0};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", argv[0]);
  request.ifr_data = (char *)&sets;
  check(ioctl(fd, SIOCETHTOOL, &request) == 0, "features");
  uint32_t count = sets.length;
  struct ethtool_gstrings *names = calloc(1, sizeof *names + count * ETH_GSTRING_LEN);
  *names = (struct ethtool_gstrings){ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count};
  request.ifr_data = (char *)names;
  check(ioctl(fd, SIOCETHTOOL, &request) == 0, "names of features");
  for (uint32_t at = 0; at < count; at++) {
    if (strcmp((char *)names->data + at * ETH_GSTRING_LEN, argv[1]) != 0) continue;
    struct {
      struct ethtool_sfeatures head;
      struct ethtool_set_features_block blocks[FEATURE_WORDS];
    } set = {{ETHTOOL_SFEATURES, (count + 31) / 32}, {{0, 0}}};
    set.blocks[at / 32].valid = 1u << at % 32;
    if (strcmp(argv[2], "on") == 0) set.blocks[at / 32].requested = 1u << at % 32;
    request.ifr_data = (char *)&set;
    int result = ioctl(fd, SIOCETHTOOL, &request);
    check(result >= 0, argv[1]);
    printf("net-peer %s %s%s\n", argv[1], argv[2], result == 0 ? "" : " REFUSED");
    return;
  }
  errno = ENOENT;
  fail(argv[1]);
}

// --- Raw frames ---------------------------------------------------------------------------------

static int raw_socket(const char *device) {
  struct sockaddr_ll place = {
      .sll_family = AF_PACKET,
      .sll_protocol = htons(OUR_TYPE),
      .sll_ifindex = (int)if_nametoindex(device),
  };
  int fd = socket(AF_PACKET, SOCK_RAW, htons(OUR_TYPE));
  check(fd >= 0 && place.sll_ifindex > 0, device);
  check(bind(fd, (struct sockaddr *)&place, sizeof place) == 0, "bind");
  return fd;
}

static void frames(char **argv) {
  uint8_t frame[ETH_ZLEN] = {255, 255, 255, 255, 255, 255};
  int fd = raw_socket(argv[0]);
  errno = EINVAL;
  check(sscanf(argv[1], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", frame + 6, frame + 7, frame + 8, frame + 9,
               frame + 10, frame + 11) == 6, argv[1]);
  frame[12] = OUR_TYPE >> 8;
  frame[13] = OUR_TYPE & 255;
  int count = atoi(argv[2]);
  for (int at = 0; at < count; at++) check(send(fd, frame, sizeof frame, 0) > 0, "send");
  printf("net-peer frames %d\n", count);
}

static void sniff(char **argv) {
  int fd = raw_socket(argv[0]);
  char source[18];
  printf("net-peer sniffs\n");
  fflush(stdout);
  do {
    uint8_t f[2048];
    if (recv(fd, f, sizeof f, 0) < ETH_HLEN) continue;
    snprintf(source, sizeof source, "%02x:%02x:%02x:%02x:%02x:%02x", f[6], f[7], f[8], f[9], f[10],
             f[11]);
    printf("net-peer frame from %s\n", source);
  } while (strcmp(source, argv[1]) != 0);
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "";
  const struct {
    const char *name;
    int words;
    void (*run)(char **argv);
  } verbs[] = {{"serve", 1, serve},     {"stop", 2, stop},       {"connect", 3, connect_many},
               {"echo", 3, echo},       {"flood", 4, flood},     {"counted", 2, counted},
               {"feature", 3, feature}, {"frames", 3, frames},   {"sniff", 2, sniff}};
  if (argc == 5 && strcmp(verb, "upload") == 0) transfer(argv + 2, true);
  else if (argc == 5 && strcmp(verb, "download") == 0) transfer(argv + 2, false);
  else {
    size_t row = 0, rows = sizeof verbs / sizeof verbs[0];
    while (row < rows && strcmp(verb, verbs[row].name) != 0) row++;
    errno = EINVAL;
    check(row < rows && argc == 2 + verbs[row].words, verb);
    verbs[row].run(argv + 2);
  }
  return 0;
}
