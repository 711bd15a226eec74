// The virtual processor: creation, steps, kicks. vcpu-state.c sets and reads its registers.
// Calls mmap on the vCPU, gettid, tgkill, poll, sigaction, KVM_GET_VCPU_MMAP_SIZE,
// KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_GET_TSC_KHZ, KVM_RUN.
#include "vcpu.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi.h"
#include "cpuid.h"
#include "vcpu-state.h"

#define RETRY_MS 1

_Static_assert(sizeof(struct exit_record) == SHIM_EXIT_RECORD_BYTES, "exit record");
_Static_assert(offsetof(struct exit_record, address) == SHIM_EXIT_RECORD_ADDRESS, "address");
_Static_assert(offsetof(struct exit_record, width) == SHIM_EXIT_RECORD_WIDTH, "width");
_Static_assert(offsetof(struct exit_record, data) == SHIM_EXIT_RECORD_DATA, "data");

static pthread_once_t kick_once = PTHREAD_ONCE_INIT;

static void on_kick(int number) {
  (void)number; // Its arrival is the message: KVM_RUN returns EINTR.
}

static void take_kick_signal(void) {
  // SA_RESTART concerns everything but KVM_RUN: a late kick disturbs no other system call.
  struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
  sigaction(SIGRTMIN, &action, NULL);
}

int vcpu_create(struct vcpu *vcpu, const struct vm *vm, unsigned index, unsigned count,
                struct exit_record *record, struct failure *failure) {
  *vcpu = (struct vcpu){.fd = -1, .record = record, .process = getpid(), .thread = gettid()};
  pthread_once(&kick_once, take_kick_signal);
  int bytes = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (bytes < 0) return fail_errno(failure, "KVM_GET_VCPU_MMAP_SIZE");
  int most = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
  if (count > (most > 0 ? (unsigned)most : 1)) {
    return fail(failure, EINVAL, "KVM_CREATE_VCPU", "this host's KVM takes %d vCPUs at most", most);
  }
  vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
  if (vcpu->fd < 0) return fail_errno(failure, "KVM_CREATE_VCPU");
  void *run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
  if (run == MAP_FAILED) return fail_errno(failure, "mmap");
  vcpu->run = run;
  vcpu->run_bytes = (size_t)bytes;
  if (cpuid_set(vm->kvm, vcpu->fd, index, count, failure)) return -1;
  return vcpu_reset_state(vcpu, failure);
}

void vcpu_bind(struct vcpu *vcpu, pid_t thread) {
  __atomic_store_n(&vcpu->thread, thread, __ATOMIC_SEQ_CST);
}

static uint8_t *port_element(const struct vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  return (uint8_t *)run + run->io.data_offset + (size_t)vcpu->port_index * run->io.size;
}

/** Describes the current element of the port access in kvm_run. */
static int port_exit(struct vcpu *vcpu) {
  const struct kvm_run *run = vcpu->run;
  struct exit_record *record = vcpu->record;
  record->address = run->io.port;
  record->width = run->io.size;
  record->data = 0;
  vcpu->answer = ANSWER_PORT;
  if (run->io.direction == KVM_EXIT_IO_IN) return SHIM_EXIT_IO_READ;
  memcpy(&record->data, port_element(vcpu), run->io.size);
  return SHIM_EXIT_IO_WRITE;
}

static int mmio_exit(struct vcpu *vcpu) {
  const struct kvm_run *run = vcpu->run;
  struct exit_record *record = vcpu->record;
  record->address = run->mmio.phys_addr;
  record->width = run->mmio.len;
  record->data = 0;
  if (run->mmio.is_write) {
    // KVM leaves old bytes behind the ones written.
    memcpy(&record->data, run->mmio.data,
           run->mmio.len < sizeof record->data ? run->mmio.len : sizeof record->data);
    return SHIM_EXIT_MMIO_WRITE;
  }
  vcpu->answer = ANSWER_MMIO;
  return SHIM_EXIT_MMIO_READ;
}

/** Hands over what the last exit waited for. True: a string instruction has a next element. */
static bool take_answer(struct vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  enum vcpu_answer answer = vcpu->answer;
  vcpu->answer = ANSWER_NONE;
  if (answer == ANSWER_MMIO) memcpy(run->mmio.data, &vcpu->record->data, sizeof run->mmio.data);
  if (answer != ANSWER_PORT) return false;
  if (run->io.direction == KVM_EXIT_IO_IN) {
    memcpy(port_element(vcpu), &vcpu->record->data, run->io.size);
  }
  return ++vcpu->port_index < run->io.count;
}

static int failure_exit(struct vcpu *vcpu, int kind, uint64_t reason) {
  vcpu->record->address = reason;
  vcpu->record->width = 0;
  vcpu->record->data = 0;
  return kind;
}

static int translate_exit(struct vcpu *vcpu) {
  const struct kvm_run *run = vcpu->run;
  switch (run->exit_reason) {
    case KVM_EXIT_IO:
      vcpu->port_index = 0;
      return port_exit(vcpu);
    case KVM_EXIT_MMIO:
      return mmio_exit(vcpu);
    case KVM_EXIT_INTR:
      return SHIM_EXIT_KICKED;
    case KVM_EXIT_HLT:
      return failure_exit(vcpu, SHIM_EXIT_HALT, 0);
    case KVM_EXIT_SHUTDOWN:
      return failure_exit(vcpu, SHIM_EXIT_SHUTDOWN, 0);
    case KVM_EXIT_FAIL_ENTRY:
      return failure_exit(vcpu, SHIM_EXIT_FAIL_ENTRY,
                          run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
      return failure_exit(vcpu, SHIM_EXIT_INTERNAL_ERROR, run->internal.suberror);
    case KVM_EXIT_SYSTEM_EVENT:
      return failure_exit(vcpu, SHIM_EXIT_SYSTEM_EVENT, run->system_event.type);
    default:
      return failure_exit(vcpu, SHIM_EXIT_UNKNOWN, run->exit_reason);
  }
}

void vcpu_enter(struct vcpu *vcpu) {
  __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
  ioctl(vcpu->fd, KVM_RUN, 0);
  __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

int vcpu_step(struct vcpu *vcpu, struct failure *failure) {
  if (take_answer(vcpu)) return port_exit(vcpu);
  // The kicker first sets immediate_exit, then looks at `running`; here it is the other way
  // round. So one of the two sees the other, whatever the timing.
  __atomic_store_n(&vcpu->running, 1, __ATOMIC_SEQ_CST);
  int status = ioctl(vcpu->fd, KVM_RUN, 0);
  int number = errno;
  __atomic_store_n(&vcpu->running, 0, __ATOMIC_SEQ_CST);
  if (status == 0) return translate_exit(vcpu);
  // EAGAIN: the vCPU waited for its start-up and may be entered again.
  if (number == EINTR || number == EAGAIN) {
    // Cleared before the caller looks at its events: whoever sets it again has published first.
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    return failure_exit(vcpu, SHIM_EXIT_KICKED, 0);
  }
  errno = number;
  return fail_errno(failure, "KVM_RUN");
}

void vcpu_kick(struct vcpu *vcpu) {
  __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
  // A real-time signal is refused while the user's queue of them is full; the vCPU leaves by
  // itself or the queue drains.
  while (__atomic_load_n(&vcpu->running, __ATOMIC_SEQ_CST)) {
    if (tgkill(vcpu->process, vcpu->thread, SIGRTMIN) == 0 || errno != EAGAIN) return;
    poll(NULL, 0, RETRY_MS);
  }
}

uint64_t vcpu_tsc_khz(const struct vcpu *vcpu) {
  int rate = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
  return rate > 0 ? (uint64_t)rate : 0;
}

void vcpu_close(struct vcpu *vcpu) {
  if (vcpu->run) munmap(vcpu->run, vcpu->run_bytes);
  if (vcpu->fd >= 0) close(vcpu->fd);
  vcpu->run = NULL;
  vcpu->fd = -1;
}
