// The cell's main: takes its arguments and descriptors, checks the machine image, maps it, and runs
// the guest to its end. One thread until everything is made.
//
//   faraday-cell --spawned [--detached]        by a host, with the descriptors of cell-protocol.ts
//   faraday-cell DIR [--disk ID=PATH]...       by hand, from a composed image; ID=fd:N names a
//                                              descriptor that is open already
//
// Exit codes are those of docs/cli.md.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus.h"
#include "control.h"
#include "image.h"
#include "io.h"
#include "lock.h"
#include "terminal.h"

#define EXIT_USAGE 2
#define EXIT_HOST 3
#define EXIT_GUEST 4
#define EXIT_SIGNAL_BASE 128
#define FAREWELL_MS 100 // for output when a signal or Ctrl-A x ends the run
#define PATH_BYTES 4096
#define USAGE "faraday-cell DIR [--disk ID=PATH|ID=fd:N]...; 'faraday image compose' makes DIR"
#define DESCRIPTOR "fd:"

struct options {
  bool spawned, detached;
  const char *folder;
  const char *disks[IMAGE_DEVICE_COUNT_MAX]; // ID=PATH
  unsigned disk_count;
};

// Large, and zero until used: none of it is on a stack.
static struct machine machine;
static struct server server;
static struct image image;
static struct io io;
static struct control control = {.fd = -1};
static uint64_t phases[CELL_PHASE_COUNT];
static int files[1 + IMAGE_FILES_MAX]; // files[0] is the image

static int usage(struct failure *failure, const char *what) {
  return fail(failure, EINVAL, "usage", "%s; %s", what, USAGE);
}

/** The descriptor that 'fd:N' names; -1: a path, -2: no number. */
static int descriptor_of(const char *text) {
  char *end;
  if (strncmp(text, DESCRIPTOR, strlen(DESCRIPTOR)) != 0) return -1;
  unsigned long number = strtoul(text + strlen(DESCRIPTOR), &end, 10);
  bool good = text[strlen(DESCRIPTOR)] >= '0' && text[strlen(DESCRIPTOR)] <= '9' && *end == 0;
  return good && number > STDERR_FILENO && number <= INT32_MAX ? (int)number : -2;
}

/** Before anything is opened here: what is open now is what the caller meant. */
static int check_descriptor(const char *text, struct failure *failure) {
  int number = descriptor_of(text);
  if (number == -1 || (number >= 0 && fcntl(number, F_GETFD) >= 0)) return 0;
  return fail(failure, EBADF, "disk", "--disk ID=%s names no descriptor past 2 that is open", text);
}

static int parse(struct options *options, int count, char **words, struct failure *failure) {
  for (int i = 1; i < count; i++) {
    if (strcmp(words[i], "--spawned") == 0) {
      options->spawned = true;
    } else if (strcmp(words[i], "--detached") == 0) {
      options->detached = true;
    } else if (strcmp(words[i], "--disk") == 0) {
      bool fits = i + 1 < count && options->disk_count < IMAGE_DEVICE_COUNT_MAX;
      if (!fits || !strchr(words[i + 1], '=')) return usage(failure, "--disk takes ID=PATH");
      if (check_descriptor(strchr(words[i + 1], '=') + 1, failure)) return -1;
      options->disks[options->disk_count++] = words[++i];
    } else if (words[i][0] == '-' || options->folder) {
      return usage(failure, "an argument is not understood");
    } else {
      options->folder = words[i];
    }
  }
  if (options->spawned == (options->folder != NULL)) return usage(failure, "a folder is missing");
  return 0;
}

// --- Signals and the host's death ---------------------------------------------------------------

static void on_host_death(int number) {
  terminal_restore();
  _exit(EXIT_SIGNAL_BASE + number);
}

/** A fault of ours must not leave the user's terminal raw; then it takes its usual course. */
static void on_fault(int number) {
  terminal_restore();
  raise(number); // SA_RESETHAND: the default, as soon as this returns
}

/**
 * Signals that end the guest go to the I/O thread's signalfd. That of the host's death is taken by
 * vCPU threads, which never wait for a disk: the cell ends even where its I/O thread hangs in one.
 */
static void take_signals(const struct options *options) {
  struct sigaction death = {.sa_handler = on_host_death};
  struct sigaction fault = {.sa_handler = on_fault, .sa_flags = SA_RESETHAND};
  sigset_t blocked;
  sigemptyset(&blocked);
  const int numbers[] = {SIGUSR2, SIGRTMIN, SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction now;
    sigaction(numbers[i], NULL, &now);
    // By hand, under nohup: what is ignored stays so, and a blocked signal would be taken.
    if (options->spawned || now.sa_handler != SIG_IGN) sigaddset(&blocked, numbers[i]);
  }
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigaction(SIGUSR2, &death, NULL);
  sigaction(SIGBUS, &fault, NULL);
  sigaction(SIGSEGV, &fault, NULL);
  if (options->spawned && !options->detached) prctl(PR_SET_PDEATHSIG, SIGUSR2);
}

// --- Disks --------------------------------------------------------------------------------------

static int disk_failed(const struct image_device *plan, const char *what,
                       struct failure *failure) {
  return fail(failure, EINVAL, "disk", "%s: %s", plan->name, what);
}

/** What the command line has for a disk: a path or 'fd:N'; NULL: nothing. */
static const char *named(const struct options *options, const char *id) {
  size_t length = strlen(id);
  for (unsigned i = 0; i < options->disk_count; i++) {
    const char *word = options->disks[i];
    if (strncmp(word, id, length) == 0 && word[length] == '=') return word + length + 1;
  }
  return NULL;
}

/** Opens a disk by hand: as the command line has it, else by its path in the image. */
static int open_disk(const struct options *options, const struct image_device *plan,
                     struct failure *failure) {
  char stored[PATH_BYTES];
  const char *path = named(options, plan->name);
  bool read_only = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY;
  if (path && descriptor_of(path) >= 0) return descriptor_of(path);
  if (!path && image_path(&image, plan, stored, sizeof stored, failure)) return -1;
  if (!path) path = stored;
  int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail(failure, errno, "disk", "%s: %s", plan->name, path);
  return fd;
}

/** Whether the descriptor is a disk of that size, with those rights and no more. */
static int check_disk(const struct image_device *plan, int fd, struct failure *failure) {
  struct stat stats;
  uint64_t bytes = 0;
  int mode = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY ? O_RDONLY : O_RDWR;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fstat(fd, &stats)) return fail(failure, errno, "disk", "%s", plan->name);
  if ((flags & O_ACCMODE) != mode || flags & O_APPEND) { // which would ignore every offset
    return disk_failed(plan, "its descriptor has other rights than the disk", failure);
  }
  if (S_ISREG(stats.st_mode)) {
    bytes = (uint64_t)stats.st_size;
  } else if (!S_ISBLK(stats.st_mode) || ioctl(fd, BLKGETSIZE64, &bytes)) {
    return disk_failed(plan, "is neither a file nor a block device", failure);
  }
  if (bytes < plan->capacity_bytes) {
    return disk_failed(plan, "is smaller than when the image was composed", failure);
  }
  for (uint32_t i = 0; i < machine.device_count; i++) {
    struct stat other; // the lock does not tell two devices of one process apart
    int before = machine.devices[i].disk.fd;
    if (before < 0 || fstat(before, &other)) continue;
    if (other.st_dev == stats.st_dev && other.st_ino == stats.st_ino) {
      return disk_failed(plan, "is given twice", failure);
    }
  }
  int taken = lock_file(fd, mode == O_RDWR, failure);
  if (taken == 1) return 0;
  return taken < 0 ? -1 : fail(failure, EBUSY, "lock", "%s", plan->name);
}

/** A disk of the command line that the image does not have is a mistake, not a wish. */
static int check_names(const struct options *options, struct failure *failure) {
  for (unsigned i = 0; i < options->disk_count; i++) {
    const char *word = options->disks[i];
    size_t length = (size_t)(strchr(word, '=') - word);
    bool known = false;
    for (uint32_t disk = 0; disk < image.header.device_count; disk++) {
      const struct image_device *plan = &image.header.devices[disk];
      known |= plan->kind == ABI_KIND_VIRTIO_BLK && strlen(plan->name) == length &&
               strncmp(plan->name, word, length) == 0;
    }
    if (!known) return fail(failure, EINVAL, "disk", "--disk %s: the image has no such ID", word);
  }
  return 0;
}

static int add_disks(const struct options *options, struct failure *failure) {
  int registered[IMAGE_DEVICE_COUNT_MAX];
  unsigned ring_files = 0;
  if (check_names(options, failure)) return -1;
  for (uint32_t i = 0; i < image.header.device_count; i++) {
    const struct image_device *plan = &image.header.devices[i];
    // Devices of the image come last on the bus, in its order.
    struct device *device = &machine.devices[machine.device_count - image.header.device_count + i];
    if (plan->kind != ABI_KIND_VIRTIO_BLK) continue;
    int fd = plan->file ? files[plan->file] : open_disk(options, plan, failure);
    if (fd < 0 || check_disk(plan, fd, failure)) return -1;
    device->disk = (struct disk){
        .fd = fd,
        .capacity_bytes = plan->capacity_bytes,
        .read_only = plan->flags & IMAGE_DEVICE_FLAG_READ_ONLY,
    };
    device->uring = plan->flags & IMAGE_DEVICE_FLAG_IO_URING;
    device->ring_index = ring_files;
    if (device->uring) registered[ring_files++] = fd;
  }
  if (ring_files == 0 || uring_create(&server.ring, registered, ring_files, failure) == 0) {
    return 0;
  }
  control_log(&control, CELL_LOG_LEVEL_WARN, "io_uring cannot be used (%s: %s); disks use sync",
              failure->call, errno_name(failure->number));
  uring_close(&server.ring);
  for (uint32_t i = 0; i < machine.device_count; i++) machine.devices[i].uring = false;
  return 0;
}

// --- Start --------------------------------------------------------------------------------------

/**
 * By hand a standard descriptor may be closed: nothing opened here may take its number and be read
 * or written as the console. What O_PATH opens fails with EBADF, as the closed one would.
 */
static void hold_standard_descriptors(void) {
  int fd;
  do {
    fd = open("/", O_PATH | O_CLOEXEC);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

static int open_image(const struct options *options, struct failure *failure) {
  char path[PATH_BYTES];
  files[0] = CELL_FD_IMAGE;
  if (!options->spawned) {
    // Whatever was left open is none of the cell's, unless it is told of descriptors.
    if (options->disk_count == 0) close_range(STDERR_FILENO + 1, ~0u, 0);
    hold_standard_descriptors();
    int length = snprintf(path, sizeof path, "%s/machine", options->folder);
    if (length >= PATH_BYTES) return usage(failure, "the folder's path is too long");
    files[0] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // a FIFO must not wait
    if (files[0] < 0) return fail(failure, errno, "image", "%s", path);
  }
  if (image_read(&image, files[0], options->spawned ? IMAGE_FILES_MAX : 0, failure)) return -1;
  if (!options->spawned) return 0;
  unsigned count = image.header.file_count;
  for (unsigned i = 0; i < count; i++) {
    files[1 + i] = CELL_FD_FILES + (int)i;
    if (fcntl(files[1 + i], F_GETFD) < 0) return fail(failure, errno, "image", "file %u", 1 + i);
  }
  close_range((unsigned)CELL_FD_FILES + count, ~0u, 0);
  return 0;
}

static void on_trap(const struct device *device) {
  (void)device;
  machine_wake(&machine);
}

static int make_machine(const struct options *options, struct failure *failure) {
  const struct image_header *header = &image.header;
  if (memory_map_pages(&machine.memory, header->memory_bytes, header->huge_pages,
                       header->flags & IMAGE_FLAG_PREFAULT, failure)) {
    return -1;
  }
  if (image_load(&image, &machine.memory, files, failure)) return -1;
  phases[CELL_PHASE_LOADED] = monotonic_ns();
  int kvm = options->spawned ? CELL_FD_KVM : kvm_open("/dev/kvm", failure);
  if (kvm < 0 || vm_create(&machine.vm, kvm, &machine.memory, failure)) return -1;
  machine.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (machine.wake < 0) return fail_errno(failure, "eventfd");
  device_on_trap = on_trap;
  if (machine_add_cpus(&machine, &image, failure)) return -1;
  if (machine_add_devices(&machine, &image, failure)) return -1;
  server_init(&server, &machine.memory, vcpu_tsc_khz(&machine.cpus[0].vcpu));
  if (add_disks(options, failure)) return -1;
  phases[CELL_PHASE_CREATED] = monotonic_ns();
  return 0;
}

/** Raw mode where the input is a terminal of ours to use. */
static int start_console(struct failure *failure) {
  struct console *console = &machine.console;
  console->serial = machine.serial;
  console->input = STDIN_FILENO;
  console->output = STDOUT_FILENO;
  console->wake = machine.wake;
  if (isatty(STDIN_FILENO)) {
    console->terminal = terminal_raw(STDIN_FILENO, failure) == 0;
    if (!console->terminal && failure->number != EIO) return -1;
    if (!console->terminal) console->input = -1; // lent to another job: reading would stop us
  }
  return console_start(console, failure);
}

static int start(const struct options *options, struct failure *failure) {
  io = (struct io){
      .machine = &machine,
      .server = &server,
      .control = &control,
      .host_needed = options->spawned && !options->detached,
  };
  if (io_create(&io, failure) || start_console(failure)) return -1;
  phases[CELL_PHASE_RUNNING] = monotonic_ns();
  if (machine_start(&machine, failure)) return -1;
  control_tell(&control, CELL_STARTED);
  return 0;
}

// --- End ----------------------------------------------------------------------------------------

/** Exit code and, without a host to tell it, the line that says what happened. */
static int conclude(const struct options *options) {
  const struct ending *ending = &machine.ending;
  const char *what = NULL;
  if (ending->cause == CELL_CAUSE_PANIC) what = "the guest kernel panicked; its console says why";
  if (ending->cause == CELL_CAUSE_TRIPLE_FAULT) what = "the guest crashed: triple fault";
  if (ending->cause == CELL_CAUSE_KVM_ERROR) what = "the guest crashed: KVM cannot go on";
  if (what && !options->spawned) fprintf(stderr, "faraday-cell: %s\n", what);
  if (what) return EXIT_GUEST;
  if (ending->cause == CELL_CAUSE_SIGNAL) return EXIT_SIGNAL_BASE + (int)ending->signal;
  return ending->cause == CELL_CAUSE_HOST_GONE ? EXIT_HOST : 0;
}

/** What kind of failure it is: of the input, of the host, of ours. */
static int code_of(const struct failure *failure) {
  static const char *const inputs[] = {"usage", "image", "disk", "lock", "loadFile"};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    if (strcmp(failure->call, inputs[i]) == 0) return EXIT_USAGE;
  }
  return EXIT_HOST;
}

int main(int count, char **words) {
  struct options options = {0};
  struct failure failure = {0};
  phases[CELL_PHASE_ENTERED] = monotonic_ns();
  machine.vm = (struct vm){.kvm = -1, .fd = -1};
  server.ring.fd = -1;
  int status = parse(&options, count, words, &failure);
  // Without a folder only: by hand, that number may be anybody's descriptor.
  if (status == 0 && options.spawned) control.fd = CELL_FD_CONTROL;
  // A host may be some hundreds of answers behind before any is dropped.
  const int room = 1 << 20;
  setsockopt(control.fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  take_signals(&options);
  if (status || open_image(&options, &failure) || make_machine(&options, &failure) ||
      start(&options, &failure)) {
    terminal_restore();
    int code = code_of(&failure);
    control_failed(&control, code, &failure);
    return code;
  }
  io_run(&io);
  phases[CELL_PHASE_MARKER] = machine.marker_ns;
  phases[CELL_PHASE_ENDED] = monotonic_ns();
  bool hurry = machine.ending.cause == CELL_CAUSE_SIGNAL ||
               machine.ending.cause == CELL_CAUSE_CONSOLE_QUIT ||
               machine.ending.cause == CELL_CAUSE_HOST_GONE;
  io_farewell(&io, hurry ? FAREWELL_MS : -1);
  terminal_restore();
  control_ended(&control, &machine, phases);
  // The console's thread may still hang in a write that nobody reads: nothing waits for it.
  _exit(conclude(&options));
}
