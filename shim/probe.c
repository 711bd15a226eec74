// Probes. Calls KVM_CHECK_EXTENSION, landlock_create_ruleset, seccomp, prctl.
#include "probe.h"

#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Newer than the oldest headers this builds with.
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif

#define EXTENSION(name) {name, #name}

const struct probe_extension probe_extensions[] = {
    EXTENSION(KVM_CAP_IRQCHIP),
    EXTENSION(KVM_CAP_USER_MEMORY),
    EXTENSION(KVM_CAP_SET_TSS_ADDR),
    EXTENSION(KVM_CAP_SET_IDENTITY_MAP_ADDR),
    EXTENSION(KVM_CAP_EXT_CPUID),
    EXTENSION(KVM_CAP_PIT2),
    EXTENSION(KVM_CAP_IMMEDIATE_EXIT),
    EXTENSION(KVM_CAP_NR_VCPUS),
    EXTENSION(KVM_CAP_MAX_VCPUS),
    EXTENSION(KVM_CAP_NR_MEMSLOTS),
    EXTENSION(KVM_CAP_TSC_DEADLINE_TIMER),
    EXTENSION(KVM_CAP_ADJUST_CLOCK),
    EXTENSION(KVM_CAP_KVMCLOCK_CTRL),
    EXTENSION(KVM_CAP_X2APIC_API),
    EXTENSION(KVM_CAP_IRQFD),
    EXTENSION(KVM_CAP_IOEVENTFD),
    EXTENSION(KVM_CAP_SPLIT_IRQCHIP),
    EXTENSION(KVM_CAP_DIRTY_LOG_RING),
    EXTENSION(KVM_CAP_USER_MEMORY2),
    EXTENSION(KVM_CAP_GUEST_MEMFD),
};

const size_t probe_extension_count = sizeof probe_extensions / sizeof *probe_extensions;

int probe_extension(int kvm, int number) {
  int answer = ioctl(kvm, KVM_CHECK_EXTENSION, number);
  return answer < 0 ? 0 : answer;
}

int probe_landlock(void) {
  long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return version < 0 ? 0 : (int)version;
}

bool probe_seccomp(void) {
  uint32_t action = SECCOMP_RET_KILL_PROCESS;
  return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

bool probe_no_new_privs(void) {
  return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
}
