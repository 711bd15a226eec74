// Internal to the vCPU: the state it has before its first instruction.
#pragma once

#include "vcpu.h"

/** MSRs, FPU and local APIC as firmware would leave them. */
int vcpu_reset_state(const struct vcpu *vcpu, struct failure *failure);
