// vCPU threads and the state they obey. Calls futex, sigaction and write on an eventfd, starts one
// thread per vCPU; KVM_RUN by way of vcpu.c. bus.c makes the devices.
#include "machine.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bus.h"

#define STACK_BYTES (128 * 1024)

static void futex_wait(uint32_t *word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static uint32_t state_of(struct machine *machine) {
  return __atomic_load_n(&machine->state, __ATOMIC_SEQ_CST);
}

void machine_wake(const struct machine *machine) {
  const uint64_t one = 1;
  ssize_t written = write(machine->wake, &one, sizeof one);
  (void)written; // cannot fail: nobody adds up 2^64 of these
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
    pthread_cond_wait(&device->idle, &device->lock);
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
  if (effects & ABI_EFFECT_CANCEL) await_idle(machine, device, device_cancel(device));
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
    while (state_of(machine) == MACHINE_PAUSED) futex_wait(&machine->state, MACHINE_PAUSED);
    __atomic_fetch_sub(&machine->parked, 1, __ATOMIC_SEQ_CST);
  }
  return state_of(machine) != MACHINE_STOPPING;
}

static void *run(void *argument) {
  struct cpu *cpu = argument;
  struct failure failure;
  vcpu_bind(&cpu->vcpu);
  while (obey(cpu->machine)) {
    // After its own end a vCPU waits for the machine's, over any pause and resume.
    if (__atomic_load_n(&cpu->machine->ending.claimed, __ATOMIC_SEQ_CST)) {
      futex_wait(&cpu->machine->state, MACHINE_RUNNING);
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
  return NULL;
}

static int start_thread(struct cpu *cpu, const pthread_attr_t *attributes,
                        struct failure *failure) {
  int error = pthread_create(&cpu->thread, attributes, run, cpu);
  if (error) return fail(failure, error, "pthread_create", "a vCPU's thread");
  cpu->started = true;
  char name[16] = "vcpu 0";
  unsigned index = (unsigned)(cpu - cpu->machine->cpus);
  if (index >= 10) name[5] = (char)('0' + index / 10);
  name[index >= 10 ? 6 : 5] = (char)('0' + index % 10);
  pthread_setname_np(cpu->thread, name);
  return 0;
}

int machine_start(struct machine *machine, struct failure *failure) {
  pthread_attr_t attributes;
  sigset_t all, mask;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  // A vCPU's thread takes kicks, and the host's death: nothing else may interrupt the guest.
  sigfillset(&all);
  sigdelset(&all, SIGRTMIN);
  sigdelset(&all, SIGUSR2);
  pthread_sigmask(SIG_SETMASK, &all, &mask);
  int status = 0;
  for (uint32_t i = 0; i < machine->cpu_count && status == 0; i++) {
    status = start_thread(&machine->cpus[i], &attributes, failure);
  }
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_attr_destroy(&attributes);
  if (status) machine_stop(machine);
  return status;
}

/** First the state, then the kicks: a vCPU that was kicked finds what it is about. */
static void change_state(struct machine *machine, uint32_t state) {
  __atomic_store_n(&machine->state, state, __ATOMIC_SEQ_CST);
  futex_wake(&machine->state);
  if (state == MACHINE_RUNNING) return;
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    if (machine->cpus[i].started) vcpu_kick(&machine->cpus[i].vcpu);
  }
}

void machine_pause(struct machine *machine) {
  uint32_t parked;
  change_state(machine, MACHINE_PAUSED);
  while ((parked = __atomic_load_n(&machine->parked, __ATOMIC_SEQ_CST)) < machine->cpu_count) {
    futex_wait(&machine->parked, parked);
  }
}

void machine_resume(struct machine *machine) { change_state(machine, MACHINE_RUNNING); }

void machine_stop(struct machine *machine) {
  change_state(machine, MACHINE_STOPPING);
  // One that waits for a request in flight looks at the state again.
  for (uint32_t i = 0; i < machine->device_count; i++) {
    pthread_mutex_lock(&machine->devices[i].lock);
    pthread_cond_broadcast(&machine->devices[i].idle);
    pthread_mutex_unlock(&machine->devices[i].lock);
  }
  for (uint32_t i = 0; i < machine->cpu_count; i++) {
    if (machine->cpus[i].started) pthread_join(machine->cpus[i].thread, NULL);
    machine->cpus[i].started = false;
  }
}
