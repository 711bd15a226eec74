// The I/O thread's loop. Calls epoll_create1, epoll_ctl, epoll_wait, signalfd, read.
#include "io.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "counter.h"

#define EVENTS 32
#define FAREWELL_STEP_MS 50
#define RETRY_MS 1

enum source { SOURCE_WAKE, SOURCE_SIGNAL, SOURCE_CONTROL, SOURCE_INPUT, SOURCE_RING, SOURCE_KICK };

static uint64_t tag(enum source source, uint32_t device, uint32_t queue) {
  return (uint64_t)source << 32 | device << 16 | queue;
}

static int watch(const struct io *io, int fd, uint64_t data, struct failure *failure) {
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
  if (fd < 0) return 0; // this cell has none
  if (epoll_ctl(io->epoll, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  return fail_errno(failure, "epoll_ctl");
}

static int watch_signals(struct io *io, struct failure *failure) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGCONT); // blocked in a cell that a host spawned
  io->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (io->signals < 0) return fail_errno(failure, "signalfd");
  return watch(io, io->signals, tag(SOURCE_SIGNAL, 0, 0), failure);
}

int io_create(struct io *io, struct failure *failure) {
  const struct machine *machine = io->machine;
  io->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (io->epoll < 0) return fail_errno(failure, "epoll_create1");
  if (watch(io, machine->wake, tag(SOURCE_WAKE, 0, 0), failure)) return -1;
  if (watch_signals(io, failure)) return -1;
  if (watch(io, io->control->fd, tag(SOURCE_CONTROL, 0, 0), failure)) return -1;
  if (watch(io, io->server->ring.fd, tag(SOURCE_RING, 0, 0), failure)) return -1;
  for (uint32_t i = 0; i < machine->device_count; i++) {
    if (machine->devices[i].kind == ABI_KIND_VIRTIO_NET) continue; // the network thread's
    for (uint32_t queue = 0; queue < machine->devices[i].queue_count; queue++) {
      int kick = machine->devices[i].queues[queue].kick;
      if (watch(io, kick, tag(SOURCE_KICK, i, queue), failure)) return -1;
    }
  }
  return 0;
}

// --- Console input ------------------------------------------------------------------------------

/** Has epoll look at the input exactly while it should be read. */
static void watch_input(struct io *io) {
  struct console *console = &io->machine->console;
  bool wanted = !io->paused && !io->input_over && !io->input_lent && console_wants_input(console);
  if (io->input_always || wanted == io->input_watched) return;
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag(SOURCE_INPUT, 0, 0)};
  int operation = wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
  if (epoll_ctl(io->epoll, operation, console->input, &event) == 0) {
    io->input_watched = wanted;
  } else {
    // A file or /dev/null is always ready and cannot be waited for; what is closed is at its end.
    io->input_always = errno == EPERM;
    io->input_over = errno != EPERM;
  }
}

static void read_input(struct io *io) {
  if (io->paused) return; // it was paused by an event of the same round
  switch (console_read(&io->machine->console)) {
    case CONSOLE_QUIT:
      machine_end(io->machine, CELL_CAUSE_CONSOLE_QUIT, 0);
      return;
    case CONSOLE_FAILED:
      control_log(io->control, CELL_LOG_LEVEL_WARN,
                  "standard input cannot be read (%s); the guest gets none", errno_name(errno));
      io->input_over = true;
      return;
    case CONSOLE_END:
      io->input_over = true;
      return;
    case CONSOLE_LENT:
      io->input_lent = true; // until the shell continues this job, in the foreground perhaps
      return;
    default:
      return;
  }
}

// --- News ---------------------------------------------------------------------------------------

/** A UART that started anew is empty and will not ask for input by itself. */
static void feed_again(const struct io *io) {
  pthread_mutex_lock(&io->machine->serial->lock);
  console_feed(&io->machine->console);
  pthread_mutex_unlock(&io->machine->serial->lock);
}

static void tell_traps(struct io *io) {
  for (uint32_t i = 0; i < io->machine->device_count; i++) {
    const struct device *device = &io->machine->devices[i];
    uint32_t traps = __atomic_load_n(&device->traps, __ATOMIC_SEQ_CST);
    if (traps == io->traps_told[i]) continue;
    io->traps_told[i] = traps;
    if (device == io->machine->serial) feed_again(io);
    control_log(io->control, CELL_LOG_LEVEL_ERROR, "device %s trapped: %s", device->name,
                device->dead ? "second trap within a second, out of service" : "restarted");
  }
}

static void tell_lost_networks(struct io *io) {
  for (uint32_t i = 0; i < io->network->count; i++) {
    const struct net *net = &io->network->nets[i];
    if (io->losses_told[i] || !__atomic_load_n(&net->gone, __ATOMIC_SEQ_CST)) continue;
    io->losses_told[i] = true;
    control_log(io->control, CELL_LOG_LEVEL_WARN,
                "device %s lost its host interface; the guest sees its link down",
                net->device->name);
  }
}

/** What could not be written, said once. */
static void tell_loss(const struct io *io) {
  struct console *console = &io->machine->console;
  int lost = __atomic_exchange_n(&console->lost_errno, 0, __ATOMIC_SEQ_CST);
  if (!lost || console->loss_told) return;
  console->loss_told = true;
  control_log(io->control, CELL_LOG_LEVEL_WARN,
              "standard output cannot be written (%s); console output is lost",
              errno_name(lost));
}

static void hear_news(struct io *io) {
  struct machine *machine = io->machine;
  counter_drain(machine->wake);
  tell_traps(io);
  tell_lost_networks(io);
  if (!io->marker_told && __atomic_load_n(&machine->marker_ns, __ATOMIC_SEQ_CST)) {
    io->marker_told = true;
    control_tell(io->control, CELL_MARKER);
  }
  tell_loss(io);
}

static void take_signal(struct io *io) {
  struct signalfd_siginfo info;
  while (read(io->signals, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCONT) {
      io->input_lent = false;
    } else {
      machine_end(io->machine, CELL_CAUSE_SIGNAL, info.ssi_signo);
    }
  }
}

static void set_paused(struct io *io, bool paused) {
  if (paused && !io->paused) {
    // A vCPU may wait for a request in flight: those go first.
    if (!server_drain(io->server)) return;
    network_pause(io->network);
    machine_pause(io->machine);
  }
  if (!paused && io->paused) {
    network_resume(io->network);
    machine_resume(io->machine);
  }
  io->paused = paused;
  control_tell(io->control, paused ? CELL_PAUSED : CELL_RESUMED);
}

static void obey_host(struct io *io) {
  struct command command;
  int status = 0;
  while (!__atomic_load_n(&io->machine->ending.cause, __ATOMIC_SEQ_CST) &&
         (status = control_receive(io->control, &command)) > 0) {
    if (command.type == CELL_COMMAND_STOP) {
      machine_end(io->machine, CELL_CAUSE_SIGNAL, command.value & 0x7f);
    }
    if (command.type == CELL_COMMAND_PAUSE) set_paused(io, true);
    if (command.type == CELL_COMMAND_RESUME) set_paused(io, false);
  }
  if (status >= 0) return;
  epoll_ctl(io->epoll, EPOLL_CTL_DEL, io->control->fd, NULL);
  if (io->host_needed) machine_end(io->machine, CELL_CAUSE_HOST_GONE, 0);
}

// --- The loop -----------------------------------------------------------------------------------

static void handle(struct io *io, const struct epoll_event *event) {
  uint64_t data = event->data.u64;
  uint32_t queue = data & 0xffff;
  struct device *device = &io->machine->devices[data >> 16 & 0xffff];
  switch ((enum source)(data >> 32)) {
    case SOURCE_WAKE:
      hear_news(io);
      return;
    case SOURCE_SIGNAL:
      take_signal(io);
      return;
    case SOURCE_CONTROL:
      obey_host(io);
      return;
    case SOURCE_INPUT:
      read_input(io);
      return;
    case SOURCE_RING:
      return; // server_advance() comes after every round
    case SOURCE_KICK:
      counter_drain(device->queues[queue].kick);
      // One that waits already has its turn in serve_waiting(), and may not jump the others'.
      if (io->paused || device->queues[queue].waiting) {
        device->queues[queue].waiting = true;
      } else {
        server_serve(io->server, device, queue, true);
      }
      return;
  }
}

/**
 * Serves what was left over, in turn: whoever finds no slot is the first once there are some.
 * Returns the milliseconds to sleep before there may be more: 0 where there is, -1 for ever.
 */
static int serve_waiting(struct io *io) {
  const uint32_t places = io->machine->device_count * ABI_QUEUE_COUNT_MAX;
  const uint32_t first = io->turn;
  int delay = -1;
  bool missed = false;
  if (io->paused) return delay;
  for (uint32_t i = 0; i < places; i++) {
    uint32_t place = (first + i) % places;
    uint32_t queue = place % ABI_QUEUE_COUNT_MAX;
    struct device *device = &io->machine->devices[place / ABI_QUEUE_COUNT_MAX];
    struct device_queue *waiter = &device->queues[queue];
    if (queue >= device->queue_count || !waiter->waiting) continue;
    if (server_ready(io->server, device)) {
      server_serve(io->server, device, queue, false);
      if (!waiter->waiting || !server_ready(io->server, device)) continue;
      if (!waiter->vain) delay = 0;
      else if (delay < 0) delay = RETRY_MS;
    } else if (!missed) {
      missed = true;
      io->turn = place;
    }
  }
  return delay;
}

void io_run(struct io *io) {
  struct epoll_event events[EVENTS];
  struct machine *machine = io->machine;
  int delay = -1;
  while (!__atomic_load_n(&machine->ending.cause, __ATOMIC_SEQ_CST)) {
    watch_input(io);
    bool read_now = io->input_always && !io->input_over && !io->paused &&
                    console_wants_input(&machine->console);
    int count = epoll_wait(io->epoll, events, EVENTS, read_now ? 0 : delay);
    for (int i = 0; i < count; i++) handle(io, &events[i]);
    if (read_now) read_input(io);
    delay = serve_waiting(io);
    // One step a round: a guest that refills its ring as fast as it is emptied would keep us here.
    if (server_advance(io->server) > 0) delay = 0;
    else if (io->server->refused && delay < 0) delay = RETRY_MS;
  }
  machine_stop(machine);
  server_drain(io->server);
  network_pause(io->network);
  hear_news(io); // a marker or a trap just before the end counts too
}

/** The guest's last words wait for a slow reader as long as nobody asks to stop. */
static void await_output(struct io *io) {
  while (!console_stop(&io->machine->console, FAREWELL_STEP_MS)) {
    struct signalfd_siginfo info;
    struct command command;
    bool asked = read(io->signals, &info, sizeof info) == sizeof info && info.ssi_signo != SIGCONT;
    if (io->control->fd >= 0 && io->host_needed) {
      asked |= control_receive(io->control, &command) != 0;
    }
    // A raw terminal sends no signals: Ctrl-A x is all that its user has.
    if (io->machine->console.terminal && !io->input_over) {
      enum console_input typed = console_read(&io->machine->console);
      io->input_over = typed == CONSOLE_END || typed == CONSOLE_FAILED;
      asked |= typed == CONSOLE_QUIT;
    }
    if (asked) return;
  }
}

void io_farewell(struct io *io, int patience_ms) {
  if (patience_ms < 0) {
    await_output(io);
  } else {
    console_stop(&io->machine->console, patience_ms);
  }
  tell_loss(io);
}
