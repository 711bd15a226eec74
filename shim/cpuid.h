// What the guest's CPUID instruction answers.
#pragma once

#include "failure.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Gives vCPU number `index` of `count` its CPUID table. ENOTSUP, or KVM's own errno. */
int cpuid_set(int kvm, int vcpu, unsigned index, unsigned count, struct failure *failure);

#ifdef __cplusplus
}
#endif
