// Attacks on the network and on sockets of the host.
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "attack.h"

static int reach(int domain, int type, const void *address, socklen_t length) {
  int fd = socket(domain, type | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, address, length)) return errno;
  return type == SOCK_DGRAM ? outcome(write(fd, "x", 1)) : 0;
}

static struct sockaddr_in local(uint16_t port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET,
      .sin_port = htons(port),
      .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
  };
}

int attack_tcp_connect(void) {
  const struct sockaddr_in address = local(known.tcp);
  return reach(AF_INET, SOCK_STREAM, &address, sizeof address);
}

/** A port of its own, for others to connect to. */
int attack_tcp_bind(void) {
  const struct sockaddr_in address = local(0);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof address)) return errno;
  return outcome(listen(fd, 1));
}

int attack_udp_send(void) {
  const struct sockaddr_in address = local(known.udp);
  return reach(AF_INET, SOCK_DGRAM, &address, sizeof address);
}

static int reach_unix(const char *name, bool abstract) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path + abstract, name, sizeof address.sun_path - 1 - abstract);
  size_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
  return reach(AF_UNIX, SOCK_STREAM, &address, (socklen_t)(abstract ? length : sizeof address));
}

int attack_unix_socket(void) { return reach_unix(known.socket, false); }

int attack_abstract_socket(void) { return reach_unix(known.abstract, true); }
