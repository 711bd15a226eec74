// The cell's main: takes its arguments and descriptors, checks the machine image, maps it, and runs
// the guest to its end. One thread until everything is made.
//
// It confines itself as soon as it needs nothing more that has a path: spawned by a host before it
// looks at its image, by hand once that and its disks are open. Exit codes: docs/cli.md.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bus.h"
#include "control.h"
#include "disks.h"
#include "filter.h"
#include "image.h"
#include "io.h"
#include "net.h"
#include "options.h"
#include "terminal.h"
#include "view.h"

#define EXIT_USAGE 2
#define EXIT_HOST 3
#define EXIT_GUEST 4
#define EXIT_SIGNAL_BASE 128
#define FAREWELL_MS 100 // for output when a signal or Ctrl-A x ends the run
#define PATH_BYTES 4096
// What a cell may map beside guest memory: itself, cages, stacks, rings. With 32 vCPUs it is 8 MiB,
// and each device takes 0.1 MiB.
#define OWN_BYTES (UINT64_C(32) << 20)

// Large, and zero until used: none of it is on a stack.
static struct machine machine;
static struct server server;
static struct network network;
static struct image image;
static struct io io;
static struct control control = {.fd = -1};
static struct confined confined;
static uint64_t phases[CELL_PHASE_COUNT];
static int files[1 + IMAGE_FILES_MAX]; // files[0] is the image

// --- Signals and the host's death ---------------------------------------------------------------

static void on_host_death(int number) {
  terminal_restore();
  _exit(EXIT_SIGNAL_BASE + number);
}

/** A fault of ours must not leave the user's terminal raw; then it takes its usual course. */
static void on_fault(int number, siginfo_t *info, void *context) {
  (void)context;
  terminal_restore();
  // Sent by somebody: nothing would happen again, and the first of a namespace ignores defaults.
  if (info->si_code <= 0) _exit(EXIT_SIGNAL_BASE + number);
}

/**
 * Signals that end the guest go to the I/O thread's signalfd. That of the host's death, where it is
 * not SIGKILL, is taken by vCPU threads, which never wait for a disk: the cell ends even where its
 * I/O thread hangs in one.
 */
static void take_signals(const struct options *options) {
  struct sigaction death = {.sa_handler = on_host_death};
  // SA_RESETHAND: the fault happens again as soon as the handler returns, with the default.
  struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_RESETHAND | SA_SIGINFO};
  sigset_t blocked;
  sigemptyset(&blocked);
  const int numbers[] = {SIGUSR2, SIGRTMIN, SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction now;
    sigaction(numbers[i], NULL, &now);
    // By hand, under nohup: what is ignored stays so, and a blocked signal would be taken.
    if (options->spawned || now.sa_handler != SIG_IGN) sigaddset(&blocked, numbers[i]);
  }
  // In the background a read then fails, where a signal would stop everybody else: io.c, SIGCONT.
  if (options->spawned) sigaddset(&blocked, SIGTTIN);
  if (options->spawned) sigaddset(&blocked, SIGCONT);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); // a limit on file sizes is an error of write(2), as a full disk is
  sigaction(SIGUSR2, &death, NULL);
  sigaction(SIGBUS, &fault, NULL);
  sigaction(SIGSEGV, &fault, NULL);
  sigaction(SIGABRT, &fault, NULL);
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

/** Whatever was left open by hand and is not named as a disk is none of the cell's. */
static void close_unnamed(const struct options *options) {
  for (unsigned first = STDERR_FILENO + 1;;) {
    unsigned next = ~0u; // the lowest named one from `first` on
    for (unsigned i = 0; i < options->disk_count; i++) {
      int named = options_descriptor(strchr(options->disks[i], '=') + 1);
      if (named >= (int)first && (unsigned)named < next) next = (unsigned)named;
    }
    if (next > first) close_range(first, next == ~0u ? next : next - 1, 0);
    if (next == ~0u) return;
    first = next + 1;
  }
}

static int open_by_hand(const struct options *options, struct failure *failure) {
  char path[PATH_BYTES];
  close_unnamed(options);
  hold_standard_descriptors();
  int length = snprintf(path, sizeof path, "%s/machine", options->folder);
  if (length >= PATH_BYTES) return options_usage(failure, "the folder's path is too long");
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // a FIFO must not wait
  return fd < 0 ? fail(failure, errno, "image", "%s", path) : fd;
}

static int open_image(const struct options *options, struct failure *failure) {
  files[0] = options->spawned ? CELL_FD_IMAGE : open_by_hand(options, failure);
  if (files[0] < 0) return -1;
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

/** What only the start needed: the image, its files but disks and networks, and /dev/kvm. */
static void close_sources(void) {
  for (uint32_t i = 0; i <= image.header.file_count; i++) {
    bool disk = false;
    for (uint32_t j = 0; j < machine.device_count; j++) {
      disk |= machine.devices[j].disk.fd == files[i];
    }
    if (!disk && !network_has(&network, files[i])) close(files[i]);
  }
  close(machine.vm.kvm);
  machine.vm.kvm = -1;
}

static void on_trap(const struct device *device) {
  (void)device;
  machine_wake(&machine);
  machine_wake_network(&machine);
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
  int pages = kvm < 0 ? -1 : view_pages(&image, kvm, machine.pages, failure);
  if (pages < 0) return -1;
  machine.page_count = (uint32_t)pages;
  if (vm_create(&machine.vm, kvm, &machine.memory, machine.pages, machine.page_count, failure)) {
    return -1;
  }
  machine.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (machine.wake < 0) return fail_errno(failure, "eventfd");
  device_on_trap = on_trap;
  if (machine_add_cpus(&machine, &image, failure)) return -1;
  if (machine_add_devices(&machine, &image, failure)) return -1;
  server_init(&server, &machine.memory, vcpu_tsc_khz(&machine.cpus[0].vcpu));
  if (disks_add(&machine, &server, &image, files, options, &control, failure)) return -1;
  if (network_add(&network, &machine, &image, files, failure)) return -1;
  close_sources();
  phases[CELL_PHASE_CREATED] = monotonic_ns();
  return 0;
}

/** The console, in raw mode where its input is a terminal of ours to use. */
static int open_console(const struct options *options, struct failure *failure) {
  struct console *console = &machine.console;
  console->serial = machine.serial;
  console->input = STDIN_FILENO;
  console->output = STDOUT_FILENO;
  console->wake = machine.wake;
  if (isatty(STDIN_FILENO)) {
    int status = options->spawned ? terminal_raw_for_host(STDIN_FILENO, failure)
                                  : terminal_raw(STDIN_FILENO, failure);
    console->terminal = status == 0;
    if (!console->terminal && failure->number != EIO) return -1;
    if (!console->terminal) console->input = -1; // lent to another job: reading would stop us
  }
  return 0;
}

static int start(const struct options *options, struct failure *failure) {
  bool ring = server.ring.fd >= 0; // its worker threads count as processes
  io = (struct io){
      .machine = &machine,
      .server = &server,
      .network = &network,
      .control = &control,
      .host_needed = options->spawned && !options->detached,
  };
  if (io_create(&io, failure) || open_console(options, failure)) return -1;
  if (!options->spawned && confine_process(&options->confine, &confined, failure)) return -1;
  if (console_start(&machine.console, failure) || machine_start(&machine, failure)) return -1;
  if (thread_await(&machine.console.thread, failure) || network_start(&network, failure)) return -1;
  if (confine_limits(ring, image.header.memory_bytes + OWN_BYTES, &confined, failure)) return -1;
  int error = filter_thread(CELL_ROLE_IO, 0);
  if (error) return fail(failure, error, "seccomp", "%s", "the I/O thread");
  control_confined(&control, &confined);
  phases[CELL_PHASE_RUNNING] = monotonic_ns();
  network_resume(&network);
  machine_resume(&machine);
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
  static const char *const inputs[] = {"usage", "image", "disk", "lock", "net", "loadFile"};
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
  int status = options_parse(&options, count, words, &failure);
  take_signals(&options);
  // Without a folder only: by hand, that number may be anybody's descriptor.
  if (status == 0 && options.spawned) control_open(&control, CELL_FD_CONTROL);
  filter_init(options.confine.seccomp, control.fd);
  bool early = status == 0 && options.spawned; // nothing that is left to do has a path
  if (early) status = confine_process(&options.confine, &confined, &failure);
  if (status || open_image(&options, &failure) || make_machine(&options, &failure) ||
      start(&options, &failure)) {
    terminal_restore();
    int code = code_of(&failure);
    control_failed(&control, code, &failure);
    _exit(code);
  }
  io_run(&io);
  phases[CELL_PHASE_MARKER] = machine.marker_ns;
  phases[CELL_PHASE_ENDED] = monotonic_ns();
  bool hurry = machine.ending.cause == CELL_CAUSE_SIGNAL ||
               machine.ending.cause == CELL_CAUSE_CONSOLE_QUIT ||
               machine.ending.cause == CELL_CAUSE_HOST_GONE;
  io_farewell(&io, hurry ? FAREWELL_MS : -1);
  terminal_restore();
  control_networks(&control, &network);
  control_ended(&control, &machine, phases);
  // The console's thread may still hang in a write that nobody reads: nothing waits for it.
  _exit(conclude(&options));
}
