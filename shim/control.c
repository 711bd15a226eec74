// The control socket. Calls read, write, poll; once at the start fcntl and setsockopt.
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAST_WORD_MS 5000 // as long as a host waits for the end after it
#define ROOM_BYTES (1 << 20) // a host may be some hundreds of answers behind before any is dropped

struct header {
  uint32_t type, length;
};

struct failed {
  uint32_t exit_code, number;
  char call[CELL_FAILED_CALL_BYTES];
  char about[CELL_FAILED_ABOUT_BYTES];
};

struct log_line {
  uint32_t level;
  char text[CELL_LOG_TEXT_BYTES];
};

struct device_report {
  char name[CELL_DEVICE_NAME_BYTES];
  uint32_t kind, dead;
  uint64_t exits;
  uint32_t traps, engine;
  uint64_t requests, bytes_read, bytes_written, errors;
  uint32_t last_errno, reserved;
  uint32_t incidents[ABI_COUNTER_COUNT];
  uint32_t read_latency[CELL_LATENCY_BUCKETS];
  uint32_t write_latency[CELL_LATENCY_BUCKETS];
  uint8_t padding[CELL_REPORT_DEVICE_STRIDE - CELL_DEVICE_WRITE_LATENCY -
                  4 * CELL_LATENCY_BUCKETS];
};

struct net_report {
  uint32_t device, queue_count, gone, reserved;
  struct {
    uint64_t frames, bytes, drops[CELL_NET_DROP_COUNT];
    uint8_t padding[CELL_NET_QUEUE_STRIDE - CELL_NET_QUEUE_DROPS - 8 * CELL_NET_DROP_COUNT];
  } queues[CELL_NET_QUEUE_COUNT_MAX];
};

struct report {
  uint32_t cause, signal, exit_kind, device_count;
  uint64_t exit_code;
  uint64_t phases[CELL_PHASE_COUNT];
  uint64_t exits[CELL_EXIT_KIND_COUNT];
  uint64_t unclaimed;
  uint32_t crashed, instruction_count;
  uint8_t instruction[INSTRUCTION_BYTES];
  uint64_t registers[CELL_REGISTER_COUNT];
  uint8_t padding[CELL_REPORT_DEVICES - CELL_REPORT_REGISTERS - 8 * CELL_REGISTER_COUNT];
  struct device_report devices[CELL_REPORT_DEVICE_COUNT_MAX];
};

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #field)
AT(struct failed, about, CELL_FAILED_ABOUT);
AT(struct log_line, text, CELL_LOG_TEXT);
AT(struct device_report, exits, CELL_DEVICE_EXITS);
AT(struct device_report, requests, CELL_DEVICE_REQUESTS);
AT(struct device_report, last_errno, CELL_DEVICE_LAST_ERRNO);
AT(struct device_report, incidents, CELL_DEVICE_INCIDENTS);
AT(struct device_report, read_latency, CELL_DEVICE_READ_LATENCY);
AT(struct net_report, gone, CELL_NET_GONE);
AT(struct net_report, queues, CELL_NET_QUEUES);
AT(struct report, exit_code, CELL_REPORT_EXIT_CODE);
AT(struct report, phases, CELL_REPORT_PHASES);
AT(struct report, exits, CELL_REPORT_EXITS);
AT(struct report, unclaimed, CELL_REPORT_UNCLAIMED);
AT(struct report, crashed, CELL_REPORT_CRASHED);
AT(struct report, registers, CELL_REPORT_REGISTERS);
AT(struct report, devices, CELL_REPORT_DEVICES);
_Static_assert(sizeof(struct device_report) == CELL_REPORT_DEVICE_STRIDE, "device");
_Static_assert(sizeof(struct failed) == CELL_FAILED_BYTES, "failed");
_Static_assert(sizeof(struct log_line) == CELL_LOG_BYTES, "log");
_Static_assert(sizeof(struct net_report) == CELL_NET_BYTES, "net");
_Static_assert(sizeof(struct report) == CELL_REPORT_BYTES, "report");
_Static_assert(CELL_REPORT_BYTES <= CELL_MESSAGE_BYTES_MAX, "message");

/**
 * The socket takes far more than a cell has to say. A host that does not read loses the rest, so
 * that the I/O thread never waits for it; only for the last word there is some patience.
 */
static void say(const struct control *control, uint32_t type, const void *payload,
                uint32_t length) {
  static uint8_t message[CELL_MESSAGE_HEADER_BYTES + CELL_MESSAGE_BYTES_MAX];
  const struct header header = {.type = type, .length = length};
  if (control->fd < 0) return;
  if (type == CELL_ENDED || type == CELL_FAILED) {
    struct pollfd room = {.fd = control->fd, .events = POLLOUT};
    poll(&room, 1, LAST_WORD_MS);
  }
  memcpy(message, &header, sizeof header);
  if (length > 0) memcpy(message + sizeof header, payload, length);
  size_t left = sizeof header + length;
  const uint8_t *at = message;
  while (left > 0) {
    ssize_t sent = write(control->fd, at, left);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;
    at += sent;
    left -= (size_t)sent;
  }
}

/** One line, whatever an image's names and paths hold: a terminal obeys control bytes. */
static void print_line(const char *text, const char *more) {
  char line[512];
  int length = snprintf(line, sizeof line, "faraday-cell: %s%s%s", text, *more ? ": " : "", more);
  if (length >= (int)sizeof line) length = sizeof line - 1;
  for (int i = 0; i < length; i++) {
    if ((uint8_t)line[i] < ' ' || line[i] == 0x7f) line[i] = '?';
  }
  line[length++] = '\n';
  ssize_t written = write(STDERR_FILENO, line, (size_t)length);
  (void)written;
}

void control_open(struct control *control, int fd) {
  control->fd = fd;
  // This end is the cell's alone. With read and write no descriptor can be sent or taken.
  fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(const int){ROOM_BYTES}, sizeof(int));
}

void control_confined(const struct control *control, const struct confined *confined) {
  say(control, CELL_CONFINED, confined, sizeof *confined);
}

void control_tell(const struct control *control, uint32_t type) { say(control, type, NULL, 0); }

void control_log(const struct control *control, uint32_t level, const char *format, ...) {
  struct log_line line = {.level = level};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line.text, sizeof line.text, format, arguments);
  va_end(arguments);
  say(control, CELL_LOG, &line, sizeof line);
  if (control->fd < 0 && level <= CELL_LOG_LEVEL_WARN) print_line(line.text, "");
}

void control_failed(const struct control *control, int exit_code,
                    const struct failure *failure) {
  struct failed failed = {.exit_code = (uint32_t)exit_code, .number = (uint32_t)failure->number};
  strncpy(failed.call, failure->call, sizeof failed.call - 1);
  strncpy(failed.about, failure->about, sizeof failed.about - 1);
  say(control, CELL_FAILED, &failed, sizeof failed);
  if (control->fd >= 0) return;
  char text[128];
  snprintf(text, sizeof text, "%s (%s)", failure->call, errno_name(failure->number));
  print_line(text, failure->about);
}

/** In the order of CRASH_REGISTERS of the host. */
static void copy_registers(uint64_t *to, const struct vcpu_crash *crash) {
  const struct kvm_regs *r = &crash->regs;
  const struct kvm_sregs *s = &crash->sregs;
  const uint64_t scalars[] = {
      r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rsp, r->rbp, r->r8, r->r9,
      r->r10, r->r11, r->r12, r->r13, r->r14, r->r15, r->rip, s->cr0, r->rflags, s->cr2,
      s->cr3, s->cr4, s->cr8, s->efer, s->apic_base, s->gdt.base, s->gdt.limit, s->idt.base,
      s->idt.limit,
  };
  const struct kvm_segment *segments[] = {&s->cs, &s->ds, &s->es, &s->fs,
                                          &s->gs, &s->ss, &s->tr, &s->ldt};
  _Static_assert(sizeof scalars / 8 + 2 * sizeof segments / 8 == CELL_REGISTER_COUNT, "count");
  memcpy(to, scalars, sizeof scalars);
  to += sizeof scalars / sizeof *scalars;
  for (size_t i = 0; i < sizeof segments / sizeof *segments; i++) {
    *to++ = segments[i]->base;
    *to++ = segments[i]->selector;
  }
}

static void describe_device(struct device_report *to, const struct device *device) {
  const struct disk_counts *counts = &device->counts;
  bool disk = device->kind == ABI_KIND_VIRTIO_BLK;
  memcpy(to->name, device->name, sizeof to->name);
  to->kind = device->kind;
  to->dead = device->dead;
  to->exits = device->exits;
  to->traps = device->traps;
  to->engine = !disk           ? CELL_ENGINE_NONE
               : device->uring ? CELL_ENGINE_IO_URING
                               : CELL_ENGINE_SYNC;
  to->requests = counts->requests;
  to->bytes_read = counts->bytes_read;
  to->bytes_written = counts->bytes_written;
  to->errors = counts->errors;
  to->last_errno = counts->last_errno;
  device_incidents(device, to->incidents);
  memcpy(to->read_latency, counts->read_latency, sizeof to->read_latency);
  memcpy(to->write_latency, counts->write_latency, sizeof to->write_latency);
}

void control_networks(const struct control *control, const struct network *network) {
  for (uint32_t i = 0; i < network->count; i++) {
    const struct net *net = &network->nets[i];
    struct net_report report = {
        .device = (uint32_t)(net->device - network->machine->devices),
        .queue_count = 2 * net->pair_count,
        .gone = net->gone,
    };
    for (uint32_t queue = 0; queue < report.queue_count; queue++) {
      const struct net_counts *counts = &net->counts[queue];
      report.queues[queue].frames = counts->frames;
      report.queues[queue].bytes = counts->bytes;
      memcpy(report.queues[queue].drops, counts->drops, sizeof counts->drops);
    }
    say(control, CELL_NET, &report, sizeof report);
  }
}

void control_ended(const struct control *control, const struct machine *machine,
                   const uint64_t *phases) {
  static struct report report;
  const struct ending *ending = &machine->ending;
  report.cause = ending->cause;
  report.signal = ending->signal;
  report.exit_kind = ending->exit_kind;
  report.exit_code = ending->exit_code;
  report.device_count = machine->device_count;
  memcpy(report.phases, phases, sizeof report.phases);
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    const struct cpu *cpu = &machine->cpus[i];
    for (int kind = 0; kind < CELL_EXIT_KIND_COUNT; kind++) report.exits[kind] += cpu->exits[kind];
    report.unclaimed += cpu->unclaimed;
  }
  if (ending->crashed) {
    report.crashed = 1;
    report.instruction_count = (uint32_t)ending->crash.instruction_count;
    memcpy(report.instruction, ending->crash.instruction, sizeof report.instruction);
    copy_registers(report.registers, &ending->crash);
  }
  for (uint32_t i = 0; i < machine->device_count; i++) {
    describe_device(&report.devices[i], &machine->devices[i]);
  }
  say(control, CELL_ENDED, &report, sizeof report);
}

int control_receive(struct control *control, struct command *command) {
  while (control->received_bytes < sizeof control->received) {
    ssize_t got = read(control->fd, control->received + control->received_bytes,
                       sizeof control->received - control->received_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    control->received_bytes += (size_t)got;
  }
  control->received_bytes = 0;
  memcpy(&command->type, control->received, sizeof command->type);
  memcpy(&command->value, control->received + 4, sizeof command->value);
  return 1;
}
