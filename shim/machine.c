// vCPU threads and the state they obey. Calls futex and write on an eventfd, starts one thread per
// vCPU; KVM_RUN by way of vcpu.c. bus.c makes the devices.
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bus.h"
#include "counter.h"
#include "futex.h"
#include "view.h"

static uint32_t state_of(struct machine *machine) {
  return __atomic_load_n(&machine->state, __ATOMIC_SEQ_CST);
}

void machine_wake(const struct machine *machine) { counter_add(machine->wake); }

void machine_wake_network(const struct machine *machine) {
  if (machine->network >= 0) counter_add(machine->network);
}

static bool claim(struct machine *machine) {
  return __atomic_exchange_n(&machine->ending.claimed, 1, __ATOMIC_SEQ_CST) == 0;
}

void machine_end(struct machine *machine, uint32_t cause, uint32_t signal) {
  if (!claim(machine)) return;
  machine->ending.signal = signal;
  __atomic_store_n(&machine->ending.cause, cause, __ATOMIC_SEQ_CST);
  machine_wake(machine);
}

/** Ends the guest because its processor cannot go on; keeps what it looked like. */
static void crash(struct cpu *cpu, uint32_t cause, int kind) {
  struct machine *machine = cpu->machine;
  struct failure ignored;
  if (!claim(machine)) return;
  struct ending *ending = &machine->ending;
  ending->exit_kind = (uint32_t)kind;
  ending->exit_code = cpu->record.address;
  ending->crashed = vcpu_read_crash(&cpu->vcpu, &machine->memory, &ending->crash, &ignored) == 0;
  __atomic_store_n(&ending->cause, cause, __ATOMIC_SEQ_CST);
  machine_wake(machine);
}

// --- Accesses -----------------------------------------------------------------------------------

/** What a device answered, beside a value: done here, on the vCPU's thread. Lock held. */
static void apply(struct machine *machine, struct device *device, uint32_t effects) {
  device_interrupt(device, effects);
  if (effects & ABI_EFFECT_OUTPUT) console_output(&machine->console);
  if (effects & ABI_EFFECT_INPUT_SPACE && console_feed(&machine->console) &&
      !machine->console.terminal) {
    machine_wake(machine); // the input may be read on
  }
  if (effects & ABI_EFFECT_MARKER && device_value(device) == ABI_BOOT_TIMER_MARKER &&
      machine->marker_ns == 0) {
    __atomic_store_n(&machine->marker_ns, monotonic_ns(), __ATOMIC_SEQ_CST);
    machine_wake(machine);
  }
  if (effects & ABI_EFFECT_POWER_OFF) machine_end(machine, CELL_CAUSE_POWER_OFF, 0);
  if (effects & ABI_EFFECT_REBOOT) machine_end(machine, CELL_CAUSE_REBOOT, 0);
  if (effects & ABI_EFFECT_PANIC) machine_end(machine, CELL_CAUSE_PANIC, 0);
}

/** The core has no clock: an RTC hears the time before each access. */
static void tell_time(struct device *rtc) {
  struct timespec now;
  uint32_t taken;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t seconds = (uint64_t)now.tv_sec;
  device_input(rtc, &seconds, sizeof seconds, &taken);
}

/**
 * The driver stopped a queue or the device: it may use the memory of its requests again as soon as
 * its write is done, so none of them may still be on its way to the disk or back.
 */
static void await_idle(struct machine *machine, struct device *device, uint32_t queues) {
  while (device_busy(device, queues) && state_of(machine) != MACHINE_STOPPING) {
    uint32_t idle = __atomic_load_n(&device->idle, __ATOMIC_SEQ_CST);
    device->awaited = true;
    pthread_mutex_unlock(&device->lock);
    futex_wait(&device->idle, idle, NULL);
    pthread_mutex_lock(&device->lock);
  }
}

static void access_device(struct cpu *cpu, struct device *device, int kind) {
  struct machine *machine = cpu->machine;
  struct exit_record *record = &cpu->record;
  uint32_t offset = (uint32_t)(record->address - device->base);
  bool reads = kind == SHIM_EXIT_IO_READ || kind == SHIM_EXIT_MMIO_READ;
  uint32_t value = (uint32_t)record->data;
  if (!reads && bus_rings(device, offset, record->width, value)) return;
  pthread_mutex_lock(&device->lock);
  device->exits++;
  if (device->kind == ABI_KIND_RTC) tell_time(device);
  uint32_t effects = reads ? device_read(device, offset, record->width)
                           : device_write(device, offset, record->width, value);
  // Widths past 4 only meet all ones: no register is that wide.
  if (reads) {
    record->data = (uint32_t)device_value(device);
    if (record->width > 4) record->data |= UINT64_MAX << 32;
  }
  // Before the wait: the queues may be in the kernel's hands, and that thread takes them back.
  if (effects & ABI_EFFECT_SETUP) machine_wake_network(machine);
  if (effects & ABI_EFFECT_CANCEL) await_idle(machine, device, device_cancel(device));
  if (!reads) view_show(device);
  if (effects) apply(machine, device, effects);
  pthread_mutex_unlock(&device->lock);
}

static void handle(struct cpu *cpu, int kind) {
  struct machine *machine = cpu->machine;
  switch (kind) {
    case SHIM_EXIT_KICKED:
      return;
    case SHIM_EXIT_IO_READ:
    case SHIM_EXIT_IO_WRITE:
    case SHIM_EXIT_MMIO_READ:
    case SHIM_EXIT_MMIO_WRITE: {
      bool port = kind == SHIM_EXIT_IO_READ || kind == SHIM_EXIT_IO_WRITE;
      struct device *device = bus_find(machine, cpu->record.address, port);
      if (device) {
        access_device(cpu, device, kind);
      } else {
        cpu->unclaimed++;
        cpu->record.data = UINT64_MAX; // a read of nothing; a write does not look at it
      }
      return;
    }
    case SHIM_EXIT_SHUTDOWN:
      crash(cpu, CELL_CAUSE_TRIPLE_FAULT, kind);
      return;
    default:
      crash(cpu, CELL_CAUSE_KVM_ERROR, kind);
  }
}

// --- Threads ------------------------------------------------------------------------------------

/** Stands still while the machine is paused. False: it stops. */
static bool obey(struct machine *machine) {
  while (state_of(machine) == MACHINE_PAUSED) {
    __atomic_fetch_add(&machine->parked, 1, __ATOMIC_SEQ_CST);
    futex_wake(&machine->parked);
    while (state_of(machine) == MACHINE_PAUSED) futex_wait(&machine->state, MACHINE_PAUSED, NULL);
    __atomic_fetch_sub(&machine->parked, 1, __ATOMIC_SEQ_CST);
  }
  return state_of(machine) != MACHINE_STOPPING;
}

static void run(void *argument) {
  struct cpu *cpu = argument;
  struct machine *machine = cpu->machine;
  struct failure failure;
  vcpu_bind(&cpu->vcpu, cpu->thread.id);
  vcpu_enter(&cpu->vcpu);
  while (obey(machine)) {
    // After its own end a vCPU waits for the machine's, over any pause and resume.
    if (__atomic_load_n(&machine->ending.claimed, __ATOMIC_SEQ_CST)) {
      futex_wait(&machine->state, MACHINE_RUNNING, NULL);
      continue;
    }
    int kind = vcpu_step(&cpu->vcpu, &failure);
    if (kind < 0) {
      cpu->record.address = (uint64_t)failure.number;
      kind = SHIM_EXIT_UNKNOWN;
    }
    cpu->exits[kind]++;
    handle(cpu, kind);
  }
  __atomic_fetch_add(&machine->stopped, 1, __ATOMIC_SEQ_CST);
  futex_wake(&machine->stopped);
  for (;;) futex_wait(&machine->state, MACHINE_STOPPING, NULL);
}

/** First the state, then the kicks: a vCPU that was kicked finds what it is about. */
static void change_state(struct machine *machine, uint32_t state) {
  __atomic_store_n(&machine->state, state, __ATOMIC_SEQ_CST);
  futex_wake(&machine->state);
  if (state == MACHINE_RUNNING) return;
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    vcpu_kick(&machine->cpus[i].vcpu);
  }
}

static void await_parked(struct machine *machine) {
  uint32_t parked;
  while ((parked = __atomic_load_n(&machine->parked, __ATOMIC_SEQ_CST)) < machine->cpu_count) {
    futex_wait(&machine->parked, parked, NULL);
  }
}

int machine_start(struct machine *machine, struct failure *failure) {
  // A vCPU's thread takes kicks, and the host's death: nothing else may interrupt the guest.
  sigset_t open;
  sigemptyset(&open);
  sigaddset(&open, SIGRTMIN);
  sigaddset(&open, SIGUSR2);
  machine->state = MACHINE_PAUSED;
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    struct thread *thread = &machine->cpus[i].thread;
    *thread = (struct thread){
        .body = run,
        .argument = &machine->cpus[i],
        .role = CELL_ROLE_VCPU,
        .index = i,
    };
    snprintf(thread->name, sizeof thread->name, "vcpu %u", i);
    if (thread_start(thread, &open, failure)) return -1;
  }
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    if (thread_await(&machine->cpus[i].thread, failure)) return -1;
  }
  await_parked(machine);
  return 0;
}

void machine_pause(struct machine *machine) {
  change_state(machine, MACHINE_PAUSED);
  await_parked(machine);
}

void machine_resume(struct machine *machine) { change_state(machine, MACHINE_RUNNING); }

void machine_stop(struct machine *machine) {
  change_state(machine, MACHINE_STOPPING);
  // One that waits for a request in flight looks at the state again.
  for (uint32_t i = 0; i < machine->device_count; i++) {
    pthread_mutex_lock(&machine->devices[i].lock);
    device_tell_idle(&machine->devices[i]);
    pthread_mutex_unlock(&machine->devices[i].lock);
  }
  uint32_t stopped;
  while ((stopped = __atomic_load_n(&machine->stopped, __ATOMIC_SEQ_CST)) < machine->cpu_count) {
    futex_wait(&machine->stopped, stopped, NULL);
  }
}
