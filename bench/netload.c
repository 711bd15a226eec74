// netload serve ADDRESS | netload load ADDRESS: the load of bench/net.ts. One end of it serves on
// the host, at the tap's address, the other loads in the guest. Streams by TCP both ways,
// datagrams of 64 bytes both ways, those to the guest once more by a sender that waits for it, then
// round trips of one byte. Streams are not copied at either end: an emulated processor takes longer
// for that than a monitor for its work. Before and after each load the two meet on a connection of
// their own. The server prints a line for each, with what the receiving end counted, by its clock;
// what came before and after that as well, and the processor time that all this took the guest, its
// monitor and the server:
// NAME COUNT MICROSECONDS TOTAL GUEST-MICROSECONDS MONITOR-MICROSECONDS SERVER-MICROSECONDS.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define CONTROL_PORT 7000
#define STREAM_PORT 7001
#define DATAGRAM_PORT 7002
#define CHUNK_BYTES (128 << 10) // of a stream, in one call
#define DATAGRAM_BYTES 64
#define DATAGRAMS 64 // in one call
#define WINDOW 512 // datagrams that a sender who waits has on their way
#define DATAGRAM_BUFFER (16 << 20) // of the receiving socket: what it cannot hold would be lost
#define QUIET_US 100000 // after which a receiver asks whether the sender is done
#define WARM_US 200000 // not counted
#define LIMIT_SECONDS 60

struct result {
  uint64_t count; // bytes, datagrams or round trips
  uint64_t us;
  uint64_t total; // with those of the warm-up, and late ones
};

static const char *address;
static bool serving;
static int control, listener, datagram_socket; // the listener is the server's, for streams
static struct mmsghdr messages[DATAGRAMS];
static uint64_t limit_us = 1500000;
static uint8_t buffer[CHUNK_BYTES];

static struct sockaddr_in place(uint16_t port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  check(inet_pton(AF_INET, address, &at.sin_addr) == 1, address);
  return at;
}

static void set(int socket, int level, int option, int value) {
  check(setsockopt(socket, level, option, &value, sizeof value) == 0, "setsockopt");
}

static int listen_at(uint16_t port) {
  struct sockaddr_in at = place(port);
  int made = socket(AF_INET, SOCK_STREAM, 0);
  set(made, SOL_SOCKET, SO_REUSEADDR, 1);
  check(bind(made, (struct sockaddr *)&at, sizeof at) == 0 && listen(made, 8) == 0, "listen");
  return made;
}

/** Until the link is up and the server there, a second try at a time. */
static int connect_to(uint16_t port) {
  struct sockaddr_in at = place(port);
  for (;;) {
    int made = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(made, (struct sockaddr *)&at, sizeof at) == 0) return made;
    close(made);
    usleep(100000);
  }
}

static int stream(void) {
  int made = serving ? accept(listener, NULL, NULL) : connect_to(STREAM_PORT);
  check(made >= 0, "accept");
  set(made, IPPROTO_TCP, TCP_NODELAY, 1);
  return made;
}

/** The other end's, which is there when that is where we are. */
static struct result meet(struct result own) {
  struct result other;
  check(send(control, &own, sizeof own, 0) == sizeof own, "control: send");
  check(recv(control, &other, sizeof other, MSG_WAITALL) == sizeof other, "control: receive");
  return other;
}

static void send_stream(int connection, uint64_t met) {
  int file = memfd_create("chunk", 0);
  check(write(file, buffer, sizeof buffer) == sizeof buffer, "memfd");
  while (now_us() - met < WARM_US + limit_us) {
    off_t from = 0;
    check(sendfile(connection, file, &from, sizeof buffer) > 0, "sendfile");
  }
  close(file);
  shutdown(connection, SHUT_WR);
  check(recv(connection, buffer, 1, 0) == 0, "the receiver's end");
}

/** What arrives between the end of the warm-up and that of the load. */
static void count(struct result *result, uint64_t met, uint64_t amount) {
  uint64_t since = now_us() - met;
  result->total += amount;
  if (since >= WARM_US && since < WARM_US + limit_us) result->count += amount;
}

static struct result receive_stream(int connection, uint64_t met) {
  struct result result = {.us = limit_us};
  ssize_t got;
  while ((got = recv(connection, buffer, sizeof buffer, MSG_TRUNC)) > 0) {
    count(&result, met, (uint64_t)got);
  }
  check(got == 0, "receive");
  return result;
}

static struct result streams(bool sending, uint64_t met) {
  struct result result = {0};
  int connection = stream();
  if (sending) send_stream(connection, met);
  else result = receive_stream(connection, met);
  close(connection);
  return result;
}

/** Between the addresses at which the two meet. */
static void open_datagram_socket(void) {
  static struct iovec parts[DATAGRAMS];
  struct sockaddr_in own, other;
  struct timeval quiet = {.tv_usec = QUIET_US};
  socklen_t length = sizeof own;
  for (int i = 0; i < DATAGRAMS; i++) {
    parts[i] = (struct iovec){buffer + i * DATAGRAM_BYTES, DATAGRAM_BYTES};
    messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = parts + i, .msg_iovlen = 1}};
  }
  check(getsockname(control, (struct sockaddr *)&own, &length) == 0, "getsockname");
  check(getpeername(control, (struct sockaddr *)&other, &length) == 0, "getpeername");
  own.sin_port = other.sin_port = htons(DATAGRAM_PORT);
  int made = socket(AF_INET, SOCK_DGRAM, 0);
  set(made, SOL_SOCKET, SO_RCVBUFFORCE, DATAGRAM_BUFFER);
  check(setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet) == 0, "SO_RCVTIMEO");
  check(bind(made, (struct sockaddr *)&own, sizeof own) == 0, "bind");
  check(connect(made, (struct sockaddr *)&other, sizeof other) == 0, "connect");
  datagram_socket = made;
}

static void send_datagrams(uint64_t met) {
  while (now_us() - met < WARM_US + limit_us) {
    int sent = sendmmsg(datagram_socket, messages, DATAGRAMS, 0);
    check(sent > 0 || errno == ENOBUFS, "sendmmsg");
  }
}

/** It ends when nothing comes any more and the sender waits for us. */
static struct result receive_datagrams(uint64_t met, bool telling) {
  struct result result = {.us = limit_us};
  uint64_t told = 0;
  for (;;) {
    int got = recvmmsg(datagram_socket, messages, DATAGRAMS, MSG_WAITFORONE, NULL);
    if (got > 0) {
      count(&result, met, (uint64_t)got);
      if (!telling || result.total - told < DATAGRAMS) continue;
      told = result.total;
      send(datagram_socket, &told, sizeof told, 0);
      continue;
    }
    check(errno == EAGAIN, "recvmmsg");
    struct pollfd waiting = {.fd = control, .events = POLLIN};
    if (poll(&waiting, 1, 0) > 0) return result;
  }
}

static struct result datagrams(bool sending, uint64_t met) {
  if (!sending) return receive_datagrams(met, false);
  send_datagrams(met);
  return (struct result){0};
}

/**
 * As many as arrive and no more: the sender stays within a window of those that the receiver has
 * told it of, so that it spends no time on what the tap would drop.
 */
static void send_in_window(uint64_t met) {
  uint64_t outstanding = 0, told = 0, now_told;
  while (now_us() - met < WARM_US + limit_us) {
    if (outstanding + DATAGRAMS <= WINDOW) {
      int sent = sendmmsg(datagram_socket, messages, DATAGRAMS, 0);
      check(sent > 0, "sendmmsg");
      outstanding += (uint64_t)sent;
    } else if (recv(datagram_socket, &now_told, sizeof now_told, 0) == sizeof now_told) {
      outstanding -= now_told - told < outstanding ? now_told - told : outstanding;
      told = now_told;
    } else {
      outstanding = 0; // some were lost
    }
  }
}

static struct result window(bool sending, uint64_t met) {
  if (!sending) return receive_datagrams(met, true);
  send_in_window(met);
  return (struct result){0};
}

static bool echo(int connection, bool first) {
  if (first && send(connection, buffer, 1, 0) != 1) return false;
  if (recv(connection, buffer, 1, 0) != 1) return false;
  return first || send(connection, buffer, 1, 0) == 1;
}

static struct result round_trips(bool asking, uint64_t met) {
  struct result result = {.us = asking ? limit_us : 0};
  int connection = stream();
  while (!asking && echo(connection, false)) continue;
  while (asking && now_us() - met < WARM_US + limit_us) {
    check(echo(connection, true), "echo");
    count(&result, met, 1);
  }
  close(connection);
  return result;
}

// --- Processor time -----------------------------------------------------------------------------

enum party { GUEST, MONITOR, SERVER, NOBODY };

struct shares {
  uint64_t us[NOBODY]; // of each party
};

static bool read_line(const char *path, char *line, int size) {
  FILE *file = fopen(path, "r");
  bool good = file && fgets(line, size, file);
  if (file) fclose(file);
  return good;
}

static bool starts(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

/** By the names of processes and of their threads. */
static enum party party_of(const char *process, const char *thread) {
  if (starts(process, "netload")) return SERVER;
  if (!starts(process, "faraday-cell") && !starts(process, "qemu-system") &&
      !starts(process, "node") && !starts(process, "vhost-")) {
    return NOBODY;
  }
  return starts(thread, "vcpu ") || starts(thread, "CPU ") ? GUEST : MONITOR;
}

static void add_threads(struct shares *shares, const char *process) {
  char path[300], name[64], thread[64], time[64];
  snprintf(path, sizeof path, "/proc/%s/comm", process);
  if (!read_line(path, name, sizeof name)) return;
  snprintf(path, sizeof path, "/proc/%s/task", process);
  DIR *tasks = opendir(path);
  if (!tasks) return;
  for (struct dirent *task; (task = readdir(tasks));) {
    snprintf(path, sizeof path, "/proc/%.20s/task/%.20s/comm", process, task->d_name);
    if (!read_line(path, thread, sizeof thread)) continue;
    enum party party = party_of(name, thread);
    snprintf(path, sizeof path, "/proc/%.20s/task/%.20s/schedstat", process, task->d_name);
    if (party == NOBODY || !read_line(path, time, sizeof time)) continue;
    shares->us[party] += strtoull(time, NULL, 10) / 1000; // nanoseconds come first
  }
  closedir(tasks);
}

/** What everybody has had so far. */
static struct shares share(void) {
  struct shares shares = {0};
  DIR *processes = opendir("/proc");
  check(processes, "/proc");
  for (struct dirent *process; (process = readdir(processes));) {
    if (process->d_name[0] >= '1' && process->d_name[0] <= '9') {
      add_threads(&shares, process->d_name);
    }
  }
  closedir(processes);
  return shares;
}

// --- The loads ----------------------------------------------------------------------------------

static void measure(const char *name, struct result (*load)(bool sending, uint64_t met),
                    bool by_guest) {
  struct shares before = {0}, after;
  if (serving) before = share();
  meet((struct result){0});
  struct result own = load(by_guest != serving, now_us());
  struct result other = meet(own);
  if (!serving) return;
  after = share();
  struct result counted = own.us ? own : other;
  printf("%s %llu %llu %llu", name, (unsigned long long)counted.count,
         (unsigned long long)counted.us, (unsigned long long)counted.total);
  for (int i = 0; i < NOBODY; i++) printf(" %lld", (long long)(after.us[i] - before.us[i]));
  printf("\n");
  fflush(stdout);
}

int main(int argc, char **argv) {
  check(argc >= 3, "netload serve|load ADDRESS [MILLISECONDS]");
  serving = strcmp(argv[1], "serve") == 0;
  address = argv[2];
  if (argc > 3) limit_us = strtoull(argv[3], NULL, 10) * 1000;
  alarm(LIMIT_SECONDS);
  if (serving) {
    int meeting = listen_at(CONTROL_PORT);
    listener = listen_at(STREAM_PORT);
    control = accept(meeting, NULL, NULL);
    check(control >= 0, "accept");
  } else {
    control = connect_to(CONTROL_PORT);
  }
  set(control, IPPROTO_TCP, TCP_NODELAY, 1);
  open_datagram_socket();
  measure("stream-out", streams, true);
  measure("stream-in", streams, false);
  measure("datagrams-out", datagrams, true);
  measure("datagrams-in", datagrams, false);
  measure("window-in", window, false);
  measure("round-trips", round_trips, true);
  meet((struct result){0}); // the guest does not go before everything has arrived
  return 0;
}
