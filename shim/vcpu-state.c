// Registers of the virtual processor. Calls KVM_SET_MSRS, KVM_SET_FPU, KVM_GET_LAPIC,
// KVM_SET_LAPIC, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_REGS, KVM_SET_REGS, KVM_TRANSLATE.
#include "vcpu-state.h"

#include <string.h>
#include <sys/ioctl.h>

// Intel SDM volume 4: IA32_MISC_ENABLE bit 0, fast string operations; volume 3, 12.11.2.1:
// IA32_MTRR_DEF_TYPE bit 11 enables MTRRs, type 6 is write-back. Linux maps RAM uncached
// without it where KVM honours MTRRs.
#define MSR_IA32_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING 1
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE_WRITE_BACK (1 << 11 | 6)

// Local APIC registers, Intel SDM volume 3, table 11-1; delivery modes, 11.5.1.
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_DELIVERY_MASK 0x700u
#define APIC_DELIVERY_NMI (4u << 8)
#define APIC_DELIVERY_EXTINT (7u << 8)
#define APIC_LVT_MASKED (1u << 16)

#define RFLAGS_FIXED 2 // bit 1 is always set

// The state FNINIT and a reset leave: all exceptions masked.
#define FPU_CONTROL_WORD 0x37f
#define MXCSR_RESET 0x1f80

static int set_msrs(int fd, struct failure *failure) {
  static const struct kvm_msr_entry entries[] = {
      {.index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING},
      {.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE_WRITE_BACK},
  };
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    struct {
      struct kvm_msrs head;
      struct kvm_msr_entry entry;
    } request = {.head.nmsrs = 1, .entry = entries[i]};
    // The answer counts the MSRs set. None: this KVM has no such MSR, and the guest that asks
    // for it will learn so too. Neither is needed to run.
    if (ioctl(fd, KVM_SET_MSRS, &request) < 0) return fail_errno(failure, "KVM_SET_MSRS");
  }
  return 0;
}

static void set_lvt(struct kvm_lapic_state *apic, size_t offset, uint32_t delivery) {
  uint32_t value;
  memcpy(&value, apic->regs + offset, sizeof value);
  value = (value & ~(APIC_DELIVERY_MASK | APIC_LVT_MASKED)) | delivery;
  memcpy(apic->regs + offset, &value, sizeof value);
}

/** LINT0 takes the legacy interrupt controller, LINT1 the NMI, as the MP specification has it. */
static int set_local_interrupts(int fd, struct failure *failure) {
  struct kvm_lapic_state apic;
  if (ioctl(fd, KVM_GET_LAPIC, &apic)) return fail_errno(failure, "KVM_GET_LAPIC");
  set_lvt(&apic, APIC_LVT_LINT0, APIC_DELIVERY_EXTINT);
  set_lvt(&apic, APIC_LVT_LINT1, APIC_DELIVERY_NMI);
  if (ioctl(fd, KVM_SET_LAPIC, &apic)) return fail_errno(failure, "KVM_SET_LAPIC");
  return 0;
}

int vcpu_reset_state(const struct vcpu *vcpu, struct failure *failure) {
  struct kvm_fpu fpu = {.fcw = FPU_CONTROL_WORD, .mxcsr = MXCSR_RESET};
  if (set_msrs(vcpu->fd, failure)) return -1;
  if (ioctl(vcpu->fd, KVM_SET_FPU, &fpu)) return fail_errno(failure, "KVM_SET_FPU");
  return set_local_interrupts(vcpu->fd, failure);
}

static struct kvm_segment kvm_segment_of(const struct vcpu_segment *segment) {
  return (struct kvm_segment){
      .base = segment->base,
      .limit = segment->limit,
      .selector = segment->selector,
      .type = segment->type,
      .present = segment->present,
      .dpl = segment->dpl,
      .db = segment->db,
      .s = segment->s,
      .l = segment->l,
      .g = segment->g,
      .unusable = !segment->present,
  };
}

int vcpu_set_registers(const struct vcpu *vcpu, const struct vcpu_registers *registers,
                       struct failure *failure) {
  struct kvm_sregs sregs;
  if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs)) return fail_errno(failure, "KVM_GET_SREGS");
  sregs.cs = kvm_segment_of(&registers->code);
  sregs.ds = kvm_segment_of(&registers->data);
  sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
  sregs.tr = kvm_segment_of(&registers->task);
  sregs.gdt.base = registers->gdt_base;
  sregs.gdt.limit = registers->gdt_limit;
  sregs.idt.base = registers->idt_base;
  sregs.idt.limit = registers->idt_limit;
  sregs.cr0 = registers->cr0;
  sregs.cr3 = registers->cr3;
  sregs.cr4 = registers->cr4;
  sregs.efer = registers->efer;
  if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs)) return fail_errno(failure, "KVM_SET_SREGS");
  struct kvm_regs regs = {
      .rip = registers->rip,
      .rsp = registers->rsp,
      .rbx = registers->rbx,
      .rsi = registers->rsi,
      .rflags = RFLAGS_FIXED,
  };
  if (ioctl(vcpu->fd, KVM_SET_REGS, &regs)) return fail_errno(failure, "KVM_SET_REGS");
  return 0;
}

/** Copies what can be read at the linear address, page by page, and stops where it cannot. */
static size_t read_instruction(const struct vcpu *vcpu, const struct guest_memory *memory,
                               uint64_t linear, uint8_t *bytes) {
  size_t count = 0;
  while (count < INSTRUCTION_BYTES) {
    struct kvm_translation page = {.linear_address = linear + count};
    size_t left = PAGE_BYTES - (linear + count) % PAGE_BYTES;
    if (left > INSTRUCTION_BYTES - count) left = INSTRUCTION_BYTES - count;
    if (ioctl(vcpu->fd, KVM_TRANSLATE, &page) || !page.valid) break;
    const uint8_t *source = memory_at(memory, page.physical_address, left);
    if (!source) break;
    memcpy(bytes + count, source, left);
    count += left;
  }
  return count;
}

int vcpu_read_crash(const struct vcpu *vcpu, const struct guest_memory *memory,
                    struct vcpu_crash *crash, struct failure *failure) {
  if (ioctl(vcpu->fd, KVM_GET_REGS, &crash->regs)) return fail_errno(failure, "KVM_GET_REGS");
  if (ioctl(vcpu->fd, KVM_GET_SREGS, &crash->sregs)) return fail_errno(failure, "KVM_GET_SREGS");
  uint64_t linear = crash->sregs.cs.base + crash->regs.rip;
  crash->instruction_count = read_instruction(vcpu, memory, linear, crash->instruction);
  return 0;
}
