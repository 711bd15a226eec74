// The cell with an attacker in it: the test build, never the release one. The linker puts these
// functions in the way of the cell's own (--wrap), whose sources know nothing of it.
//
// A byte that the guest writes to port 0x3e0 runs the attack of that number on the vCPU's thread,
// command 1000 + N of the host runs it on the I/O thread, and '--attack:at-end=N' once the guest
// is over. An attack attempts what it says and writes what came of it to standard error.
//
// Layers of the confinement for which the cell has no switch are switched off by '--attack:off=':
// 'rights' (capabilities, no_new_privs, non-dumpable), 'limits', 'ring' (io_uring's restrictions);
// '--attack:version=N' has it see an older Landlock.
#include "attack.h"

#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "options.h"

#define ATTACK_PORT 0x3e0
#define ATTACK_COMMAND 1000u
#define WORD "--attack:"
#define WORDS_MAX 64
#define SIGNAL_STOP 15

struct knowledge known = {.folder = "/", .program = "/", .socket = "/", .abstract = ""};
struct machine *target;
struct uring *ring;
__thread bool on_io_thread;
int control_fd = -1, kvm_fd = -1;

static bool rights_off, limits_off, ring_off, taking;
static long at_end = -1, landlock_version;

static const struct {
  const char *name;
  int (*attempt)(void);
} attacks[] = {
#define ATTACK(number, name) [number] = {#name, attack_##name},
#include "attacks.h"
#undef ATTACK
};

#define ATTACK_COUNT (sizeof attacks / sizeof *attacks)

const struct disk *find_disk(bool read_only) {
  static const struct disk none = {.fd = -1};
  for (uint32_t i = 0; i < target->device_count; i++) {
    const struct device *device = &target->devices[i];
    if (device->kind == ABI_KIND_VIRTIO_BLK && device->disk.read_only == read_only) {
      return &device->disk;
    }
  }
  return &none;
}

const char *in_folder(const char *name) {
  static __thread char path[4096];
  snprintf(path, sizeof path, "%s/%s", known.folder, name);
  return path;
}

void tell(const char *text) {
  ssize_t written = write(STDERR_FILENO, text, strlen(text));
  (void)written;
}

static void run(uint64_t number) {
  char line[128];
  if (number >= ATTACK_COUNT) return;
  int error = attacks[number].attempt();
  snprintf(line, sizeof line, "attack %s: %s\n", attacks[number].name,
           error ? errno_name(error) : "OK");
  tell(line);
}

// --- Where an attacker gets control -------------------------------------------------------------

int __real_vcpu_step(struct vcpu *vcpu, struct failure *failure);
int __wrap_vcpu_step(struct vcpu *vcpu, struct failure *failure);
int __real_control_receive(struct control *control, struct command *command);
int __wrap_control_receive(struct control *control, struct command *command);
void __real_control_ended(const struct control *, const struct machine *, const uint64_t *);
void __wrap_control_ended(const struct control *, const struct machine *, const uint64_t *);

int __wrap_vcpu_step(struct vcpu *vcpu, struct failure *failure) {
  int kind = __real_vcpu_step(vcpu, failure);
  if (kind == SHIM_EXIT_IO_WRITE && vcpu->record->address == ATTACK_PORT) {
    run(vcpu->record->data & UINT8_MAX);
  }
  return kind;
}

int __wrap_control_receive(struct control *control, struct command *command) {
  if (taking) return 0; // what comes is the attacker's on the vCPU thread
  int status = __real_control_receive(control, command);
  on_io_thread = true;
  if (status > 0 && command->type >= ATTACK_COMMAND) {
    run(command->type - ATTACK_COMMAND);
    *command = (struct command){.type = CELL_COMMAND_STOP, .value = SIGNAL_STOP};
  }
  return status;
}

void __wrap_control_ended(const struct control *control, const struct machine *machine,
                          const uint64_t *phases) {
  if (at_end >= 0) run((uint64_t)at_end);
  __real_control_ended(control, machine, phases);
}

// --- What it knows ------------------------------------------------------------------------------

int __real_options_parse(struct options *, int, char **, struct failure *);
int __wrap_options_parse(struct options *, int, char **, struct failure *);
int __real_machine_start(struct machine *machine, struct failure *failure);
int __wrap_machine_start(struct machine *machine, struct failure *failure);
void __real_control_open(struct control *control, int fd);
void __wrap_control_open(struct control *control, int fd);
int __real_uring_create(struct uring *, const int *, unsigned, struct failure *);
int __wrap_uring_create(struct uring *, const int *, unsigned, struct failure *);
int __real_close(int fd);
int __wrap_close(int fd);

static void learn(const char *word) {
  const char *value = strchr(word, '=') + 1;
  long number = strtol(value, NULL, 0);
  size_t length = (size_t)(value - word) - 1;
  const struct {
    const char *name, **to;
  } texts[] = {
      {"folder", &known.folder},
      {"program", &known.program},
      {"socket", &known.socket},
      {"abstract", &known.abstract},
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    if (strncmp(word, texts[i].name, length) == 0) *texts[i].to = value;
  }
  if (strncmp(word, "tcp", length) == 0) known.tcp = (uint16_t)number;
  if (strncmp(word, "udp", length) == 0) known.udp = (uint16_t)number;
  if (strncmp(word, "victim", length) == 0) known.victim = (pid_t)number;
  if (strncmp(word, "parent", length) == 0) known.parent = (pid_t)number;
  if (strncmp(word, "address", length) == 0) known.address = (uintptr_t)number;
  if (strncmp(word, "at-end", length) == 0) at_end = number;
  if (strncmp(word, "version", length) == 0) landlock_version = number;
  if (strncmp(word, "taking", length) == 0) taking = true;
  if (strncmp(word, "off", length) != 0) return;
  rights_off |= strcmp(value, "rights") == 0;
  limits_off |= strcmp(value, "limits") == 0;
  ring_off |= strcmp(value, "ring") == 0;
}

int __wrap_options_parse(struct options *options, int count, char **words,
                         struct failure *failure) {
  static char *rest[WORDS_MAX];
  int left = 0;
  for (int i = 0; i < count && left < WORDS_MAX - 1; i++) {
    if (strncmp(words[i], WORD, strlen(WORD)) == 0) {
      learn(words[i] + strlen(WORD));
    } else {
      rest[left++] = words[i];
    }
  }
  return __real_options_parse(options, left, rest, failure);
}

int __wrap_machine_start(struct machine *machine, struct failure *failure) {
  target = machine;
  return __real_machine_start(machine, failure);
}

void __wrap_control_open(struct control *control, int fd) {
  control_fd = fd;
  __real_control_open(control, fd);
}

int __wrap_uring_create(struct uring *made, const int *files, unsigned count,
                        struct failure *failure) {
  ring = made;
  return __real_uring_create(made, files, count, failure);
}

/** /dev/kvm stays, so that nothing but the layers is in the way of who finds it open. */
int __wrap_close(int fd) {
  if (fd != CELL_FD_KVM) return __real_close(fd);
  kvm_fd = fd;
  return 0;
}

// --- Layers without a switch of their own -------------------------------------------------------

int __real_prctl(int option, ...);
int __wrap_prctl(int option, ...);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
int __real_confine_limits(bool, uint64_t, struct confined *, struct failure *);
int __wrap_confine_limits(bool, uint64_t, struct confined *, struct failure *);

static bool gives_up_rights(int option) {
  return option == PR_CAPBSET_DROP || option == PR_CAP_AMBIENT || option == PR_SET_NO_NEW_PRIVS ||
         option == PR_SET_DUMPABLE;
}

int __wrap_prctl(int option, ...) {
  unsigned long words[4];
  va_list arguments;
  va_start(arguments, option);
  for (int i = 0; i < 4; i++) words[i] = va_arg(arguments, unsigned long);
  va_end(arguments);
  if (rights_off && gives_up_rights(option)) return 0;
  return __real_prctl(option, words[0], words[1], words[2], words[3]);
}

long __wrap_syscall(long number, ...) {
  unsigned long words[6];
  va_list arguments;
  va_start(arguments, number);
  for (int i = 0; i < 6; i++) words[i] = va_arg(arguments, unsigned long);
  va_end(arguments);
  if (rights_off && number == SYS_capset) return 0;
  bool asks = number == SYS_landlock_create_ruleset && words[0] == 0;
  if (asks && landlock_version > 0) return landlock_version;
  bool restricts = number == SYS_io_uring_register && words[1] == IORING_REGISTER_RESTRICTIONS;
  if (ring_off && restricts) return 0;
  return __real_syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

int __wrap_confine_limits(bool processes, uint64_t address_space, struct confined *confined,
                          struct failure *failure) {
  return limits_off ? 0 : __real_confine_limits(processes, address_space, confined, failure);
}
