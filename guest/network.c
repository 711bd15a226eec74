// `ip=` of the kernel command line, which a kernel without CONFIG_IP_PNP leaves to user space: a
// static IPv4 address, as Documentation/admin-guide/nfs/nfsroot.rst of Linux has it:
//
//   ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF, and `ip=off`, `ip=none`
//
// Understood once for each device. Left out: DHCP and its kin, name and time servers, IPv6.
// A kernel that has obeyed the word itself finds the same settings made once more, which is no
// change.

#include "network.h"

#include "basics.h"

#include <asm/unistd_64.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/in.h>
#include <linux/route.h>
#include <linux/sockios.h>

#define DEVICES "/sys/bus/virtio/devices"
#define LISTING_BYTES 2048
#define IDS_BYTES 512 // 7 for each device
#define PATH_BYTES 320 // a name has up to 255
#define WAIT_STEP_MS 10
#define WAIT_MS 2000 // its driver is loaded by now: a device that is there shows itself at once

enum { CLIENT, SERVER, GATEWAY, NETMASK, HOSTNAME, DEVICE, AUTOCONF, FIELD_COUNT };

// --- Devices ------------------------------------------------------------------------------------

struct linux_dirent64 { // getdents64(2)
  unsigned long inode;
  long offset;
  unsigned short lengthBytes;
  unsigned char type;
  char name[];
};

// Collects the id of every virtio device, a line each as sysfs gives them.
static void collect_ids(char *ids, word size) {
  static char listing[LISTING_BYTES] __attribute__((aligned(8)));
  int fd = open_file(DEVICES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return; // no virtio at all
  long count;
  while ((count = call(__NR_getdents64, fd, (word)listing, sizeof listing, 0, 0)) > 0) {
    const struct linux_dirent64 *entry;
    for (long at = 0; at < count; at += entry->lengthBytes) {
      entry = (const struct linux_dirent64 *)(listing + at);
      if (entry->name[0] == '.') continue;
      char path[PATH_BYTES] = DEVICES "/";
      char id[16] = "";
      append(path, sizeof path, entry->name);
      append(path, sizeof path, "/device");
      read_text(path, id, sizeof id);
      append(ids, size, id);
    }
  }
  call(__NR_close, fd, 0, 0, 0, 0);
}

int has_virtio_device(const char *id) {
  static char ids[IDS_BYTES];
  static int collected;
  if (!collected++) collect_ids(ids, sizeof ids);
  for (const char *line = ids; *line;) {
    const char *rest = after(line, id);
    if (rest && *rest == '\n') return 1;
    while (*line && *line++ != '\n') continue;
  }
  return 0;
}

// --- Reading the word ---------------------------------------------------------------------------

// Four decimal numbers with dots, into network byte order; false for anything else.
static int parse_address(const char *text, __be32 *address) {
  unsigned char bytes[4];
  for (int at = 0; at < 4; at++) {
    const char *start = text;
    unsigned value = 0;
    while (*text >= '0' && *text <= '9' && text - start < 3) value = value * 10 + *text++ - '0';
    if (text == start || value > 255 || *text != (at < 3 ? '.' : 0)) return 0;
    bytes[at] = value;
    text++;
  }
  memcpy(address, bytes, sizeof bytes);
  return 1;
}

// Cuts `text` at its colons; fields that it lacks are empty, those past the last one are dropped.
static void split_fields(char *text, const char *fields[FIELD_COUNT]) {
  for (int at = 0; at < FIELD_COUNT; at++) {
    fields[at] = text;
    while (*text && *text != ':') text++;
    if (*text) *text++ = 0;
  }
}

// --- Setting up ---------------------------------------------------------------------------------

static long control(int fd, word request, void *argument) {
  return call(__NR_ioctl, fd, request, (word)argument, 0, 0);
}

static struct ifreq request_for(const char *device) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  append(request.ifr_name, sizeof request.ifr_name, device);
  return request;
}

static struct sockaddr socket_address(__be32 address) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
  struct sockaddr general;
  memcpy(&general, &in, sizeof general);
  return general;
}

static long set_address(int fd, const char *device, word what, __be32 address) {
  struct ifreq request = request_for(device);
  request.ifr_addr = socket_address(address);
  return control(fd, what, &request);
}

static long bring_up(int fd, const char *device) {
  struct ifreq request = request_for(device);
  long error = control(fd, SIOCGIFFLAGS, &request);
  if (error) return error;
  request.ifr_flags |= IFF_UP;
  return control(fd, SIOCSIFFLAGS, &request);
}

static long add_gateway(int fd, const char *device, __be32 gateway) {
  struct rtentry route;
  memset(&route, 0, sizeof route);
  route.rt_dst = socket_address(0);
  route.rt_genmask = socket_address(0);
  route.rt_gateway = socket_address(gateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  route.rt_dev = (char *)device;
  long error = control(fd, SIOCADDRT, &route);
  return error == -EEXIST ? 0 : error;
}

static int appears(int fd, const char *device) {
  struct ifreq request = request_for(device);
  for (long waited = 0; waited < WAIT_MS; waited += WAIT_STEP_MS) {
    if (control(fd, SIOCGIFFLAGS, &request) == 0) return 1;
    sleep_ms(WAIT_STEP_MS);
  }
  return 0;
}

static void set_up(int fd, const char *const fields[FIELD_COUNT]) {
  __be32 client = 0, gateway = 0, netmask = 0;
  const char *device = *fields[DEVICE] ? fields[DEVICE] : "eth0";
  const struct {
    int field;
    __be32 *address;
  } addresses[] = {{CLIENT, &client}, {GATEWAY, &gateway}, {NETMASK, &netmask}};
  for (word row = 0; row < sizeof addresses / sizeof addresses[0]; row++) {
    const char *text = fields[addresses[row].field];
    if (!*text && addresses[row].field != CLIENT) continue;
    if (parse_address(text, addresses[row].address)) continue;
    say("ip= ignored: no IPv4 address: ", text, 0);
    return;
  }
  if (!appears(fd, device)) {
    say("ip= ignored: no such network device: ", device, 0);
    return;
  }
  long error = set_address(fd, device, SIOCSIFADDR, client);
  // Without a netmask the kernel has just taken the one of the address's class.
  if (!error && *fields[NETMASK]) error = set_address(fd, device, SIOCSIFNETMASK, netmask);
  if (!error) error = bring_up(fd, device);
  if (error) {
    say("ip=: cannot set up ", device, error);
    return;
  }
  if (*fields[GATEWAY] && (error = add_gateway(fd, device, gateway))) {
    say("ip=: cannot use the gateway ", fields[GATEWAY], error);
  }
  const char *name = fields[HOSTNAME];
  if (*name && (error = call(__NR_sethostname, (word)name, length(name), 0, 0, 0))) {
    say("ip=: cannot be called ", name, error);
  }
}

static int is_among(const char *text, const char *const *words) {
  while (*words && !equal(text, *words)) words++;
  return *words != 0;
}

// One `ip=`, whose value is `text`.
static void obey(int fd, char *text) {
  static const char *const off[] = {"", "off", "none", 0};
  static const char *const automatic[] = {"on", "any", "dhcp", "bootp", "rarp", "both", 0};
  const char *fields[FIELD_COUNT];
  if (is_among(text, off)) return;
  split_fields(text, fields);
  const char *method = is_among(fields[CLIENT], automatic) ? fields[CLIENT] : fields[AUTOCONF];
  if (is_among(method, off)) set_up(fd, fields);
  // A kernel with this file has a client of its own, and has run it by now.
  else if (call(__NR_access, (word) "/proc/net/pnp", 0, 0, 0, 0)) {
    say("ip= ignored: only a static address is understood, not ", method, 0);
  }
}

void configure_network(const char *cmdline) {
  static char copy[CMDLINE_BYTES];
  char *rest = copy;
  int fd = -1;
  append(copy, sizeof copy, cmdline);
  for (char *item; (item = next_word(&rest, " \t\n"));) {
    if (equal(item, "--")) break; // the rest is for init
    const char *value = after(item, "ip=");
    if (!value) continue;
    if (fd < 0) {
      fd = call(__NR_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0);
      long error = fd < 0 ? fd : bring_up(fd, "lo");
      if (error) say("ip=: no network: ", "lo", error);
      if (fd < 0) return;
    }
    obey(fd, (char *)value);
  }
  if (fd >= 0) call(__NR_close, fd, 0, 0, 0, 0);
}
