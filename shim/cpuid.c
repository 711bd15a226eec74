// CPUID: what KVM supports on this host, with the topology of this guest instead of the host's.
// Calls KVM_GET_SUPPORTED_CPUID, KVM_CHECK_EXTENSION, KVM_SET_CPUID2.
//
// The topology is the plainest there is: one package, one thread per core, core number = APIC id
// = vCPU index. Hosts leak their own numbers through KVM (which ones depends on its version), so
// every leaf that holds some is overwritten.
#include "cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#define ENTRIES_MAX 256 // KVM_MAX_CPUID_ENTRIES
#define TOPOLOGY_LEAVES 3

#define LEAF_VENDOR 0x0u
#define LEAF_FEATURES 0x1u
#define LEAF_CACHES_INTEL 0x4u
#define LEAF_TOPOLOGY 0xbu
#define LEAF_TOPOLOGY_V2 0x1fu
#define LEAF_KVM_SIGNATURE 0x40000000u
#define LEAF_KVM_FEATURES 0x40000001u
#define LEAF_EXTENDED_FEATURES 0x80000001u
#define LEAF_ADDRESS_SIZES 0x80000008u
#define LEAF_CACHES_AMD 0x8000001du
#define LEAF_TOPOLOGY_AMD 0x8000001eu

#define VENDOR_INTEL_EBX 0x756e6547u // "Genu"

#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_HYPERVISOR (1u << 31)
#define EDX_HTT (1u << 28)
#define EXTENDED_ECX_CMP_LEGACY (1u << 1)

struct table {
  struct kvm_cpuid2 head;
  struct kvm_cpuid_entry2 entries[ENTRIES_MAX];
};

static unsigned bits_for(unsigned count) {
  unsigned bits = 0;
  while ((1u << bits) < count) bits++;
  return bits;
}

static struct kvm_cpuid_entry2 *find(struct table *table, uint32_t leaf) {
  for (unsigned i = 0; i < table->head.nent; i++) {
    if (table->entries[i].function == leaf) return &table->entries[i];
  }
  return NULL;
}

static void remove_leaf(struct table *table, uint32_t leaf) {
  unsigned kept = 0;
  for (unsigned i = 0; i < table->head.nent; i++) {
    if (table->entries[i].function != leaf) table->entries[kept++] = table->entries[i];
  }
  table->head.nent = kept;
}

/** Leaf 0xB: an SMT level of one thread, a core level of all cores, and the end. */
static void add_topology(struct table *table, unsigned index, unsigned count) {
  const struct kvm_cpuid_entry2 levels[TOPOLOGY_LEAVES] = {
      {.eax = 0, .ebx = 1, .ecx = 1u << 8},
      {.eax = bits_for(count), .ebx = count, .ecx = 2u << 8},
      {.eax = 0, .ebx = 0, .ecx = 0},
  };
  for (unsigned i = 0; i < TOPOLOGY_LEAVES && table->head.nent < ENTRIES_MAX; i++) {
    struct kvm_cpuid_entry2 *entry = &table->entries[table->head.nent++];
    *entry = levels[i];
    entry->function = LEAF_TOPOLOGY;
    entry->index = i;
    entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry->ecx |= i;
    entry->edx = index;
  }
}

/** EAX of a cache leaf: bits 7:5 the level, 25:14 how many logical CPUs share it, less one. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *entry, unsigned count) {
  bool shared = ((entry->eax >> 5) & 7) >= 3;
  entry->eax &= ~(0xfffu << 14);
  if (shared) entry->eax |= (count - 1) << 14;
}

struct topology {
  unsigned index;
  unsigned count;
  bool intel;
  bool deadline; // KVM emulates the local APIC's TSC deadline mode
};

static void adapt(struct kvm_cpuid_entry2 *entry, const struct topology *topology) {
  unsigned index = topology->index;
  unsigned count = topology->count;
  switch (entry->function) {
    case LEAF_FEATURES:
      entry->ebx = (entry->ebx & 0x0000ffffu) | count << 16 | index << 24;
      entry->ecx |= ECX_HYPERVISOR;
      // Older kernels emulate the deadline timer without listing it here.
      if (topology->deadline) entry->ecx |= ECX_TSC_DEADLINE;
      entry->edx = count > 1 ? entry->edx | EDX_HTT : entry->edx & ~EDX_HTT;
      break;
    case LEAF_CACHES_INTEL:
      if ((entry->eax & 0x1f) == 0) break; // past the last cache
      set_cache_sharing(entry, count);
      entry->eax = (entry->eax & 0x03ffffffu) | (count - 1 < 63 ? count - 1 : 63) << 26;
      break;
    case LEAF_CACHES_AMD:
      if ((entry->eax & 0x1f) != 0) set_cache_sharing(entry, count);
      break;
    case LEAF_KVM_SIGNATURE:
      // Version 0 of this leaf meant 0x40000001 as well; guests differ in knowing that.
      if (entry->eax < LEAF_KVM_FEATURES) entry->eax = LEAF_KVM_FEATURES;
      break;
    case LEAF_EXTENDED_FEATURES:
      if (count == 1) entry->ecx &= ~EXTENDED_ECX_CMP_LEGACY;
      break;
    case LEAF_ADDRESS_SIZES:
      if (topology->intel) break; // ECX counts cores on AMD's processors only
      entry->ecx = (entry->ecx & ~0xf0ffu) | bits_for(count) << 12 | (count - 1);
      break;
    case LEAF_TOPOLOGY_AMD:
      entry->eax = index;
      entry->ebx = index;
      entry->ecx = 0;
      break;
  }
}

int cpuid_set(int kvm, int vcpu, unsigned index, unsigned count, struct failure *failure) {
  struct table table = {.head.nent = ENTRIES_MAX};
  if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &table)) {
    return fail_errno(failure, "KVM_GET_SUPPORTED_CPUID");
  }
  // Without its signature and features a Linux guest has no kvmclock, and no steady time at all
  // where the TSC is not to be trusted.
  if (!find(&table, LEAF_KVM_SIGNATURE) || !find(&table, LEAF_KVM_FEATURES)) {
    return fail(failure, ENOTSUP, "KVM_GET_SUPPORTED_CPUID", "KVM does not list its own leaves");
  }
  const struct kvm_cpuid_entry2 *vendor = find(&table, LEAF_VENDOR);
  const struct topology topology = {
      .index = index,
      .count = count,
      .intel = vendor && vendor->ebx == VENDOR_INTEL_EBX,
      .deadline = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
  };
  for (unsigned i = 0; i < table.head.nent; i++) adapt(&table.entries[i], &topology);
  remove_leaf(&table, LEAF_TOPOLOGY);
  remove_leaf(&table, LEAF_TOPOLOGY_V2);
  if (vendor && vendor->eax >= LEAF_TOPOLOGY) add_topology(&table, index, count);
  if (ioctl(vcpu, KVM_SET_CPUID2, &table)) return fail_errno(failure, "KVM_SET_CPUID2");
  return 0;
}
