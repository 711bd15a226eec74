// One virtual processor that its thread steps from exit to exit.
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "failure.h"
#include "vm.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One exit as its handler sees it; host/shim.ts names the offsets EXIT_RECORD_*. */
struct exit_record {
  uint64_t address; // port, guest-physical address, or the reason of a failure
  uint32_t width;   // bytes
  uint32_t reserved;
  uint64_t data; // little endian: what the guest writes, or the answer to its read
};

enum vcpu_answer { ANSWER_NONE, ANSWER_PORT, ANSWER_MMIO };

struct vcpu {
  int fd; // -1: none
  struct kvm_run *run;
  size_t run_bytes;
  struct exit_record *record;
  pid_t process;
  pid_t thread;            // the only one that may run it: see vcpu_bind()
  int running;             // atomic: the thread is in KVM_RUN, or on its way in or out
  enum vcpu_answer answer; // what the last exit waits for
  uint32_t port_index;     // element of a string instruction that the record describes
};

/** Names as in struct kvm_segment; `present` 0 makes the register unusable. */
struct vcpu_segment {
  uint64_t base;
  uint32_t limit;
  uint16_t selector;
  uint8_t type, present, dpl, db, s, l, g;
};

struct vcpu_registers {
  uint64_t rip, rsp, rbx, rsi, cr0, cr3, cr4, efer, gdt_base, idt_base;
  uint16_t gdt_limit, idt_limit;
  struct vcpu_segment code, data, task;
};

#define INSTRUCTION_BYTES 16

struct vcpu_crash {
  struct kvm_regs regs;
  struct kvm_sregs sregs;
  uint8_t instruction[INSTRUCTION_BYTES];
  size_t instruction_count;
};

/**
 * Creates vCPU number `index` of `count` on the calling thread, with CPUID, MSRs, FPU and local
 * APIC as firmware would leave them. Exits are described in `record`. vcpu_close() also undoes a
 * failed creation.
 */
int vcpu_create(struct vcpu *vcpu, const struct vm *vm, unsigned index, unsigned count,
                struct exit_record *record, struct failure *failure);

/** Makes the calling thread, `thread`, the one that runs it, instead of the one that created it. */
void vcpu_bind(struct vcpu *vcpu, pid_t thread);

/** Sets the start registers; general registers without a name here become zero, rflags 2. */
int vcpu_set_registers(const struct vcpu *vcpu, const struct vcpu_registers *registers,
                       struct failure *failure);

/**
 * Enters KVM_RUN and leaves it at once, guest untouched: from Linux 6.14 on KVM starts a thread of
 * its own then, which a limit on processes would forbid later.
 */
void vcpu_enter(struct vcpu *vcpu);

/**
 * Runs to the next exit and returns its SHIM_EXIT_* number, -1 for a failure of KVM_RUN itself.
 * An answer to a read is taken from the record first. String instructions on ports come one
 * element at a time, without entering the guest between them.
 *
 * SHIM_EXIT_KICKED after vcpu_kick(), and after any signal: whoever handles that signal may need
 * the thread. A kick never loses an answer: KVM completes the instruction before it looks.
 */
int vcpu_step(struct vcpu *vcpu, struct failure *failure);

/**
 * Makes vcpu_step() return SHIM_EXIT_KICKED soon, or at once if it is not running. From any
 * thread. What the kick is about must be published before: it is visible after that return.
 */
void vcpu_kick(struct vcpu *vcpu);

/** Reads the registers and the instruction at rip, as far as it can be translated. */
int vcpu_read_crash(const struct vcpu *vcpu, const struct guest_memory *memory,
                    struct vcpu_crash *crash, struct failure *failure);

/** Rate of its time stamp counter in kHz, or 0 where KVM does not say. */
uint64_t vcpu_tsc_khz(const struct vcpu *vcpu);

void vcpu_close(struct vcpu *vcpu);

#ifdef __cplusplus
}
#endif
