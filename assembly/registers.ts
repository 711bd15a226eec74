// What every device's register file shares: the value register, absent reads, incident counters.
import {
  COUNTERS, EFFECT_INCIDENT, INCIDENT_REGISTER, INCIDENT_WIDTH, OUTBOX_VALUE,
} from "./abi";

/** Counts a guest's (or the host's) mistake; returns the effect bit that says so. */
export function incident(index: u32): u32 {
  const counter: usize = <usize>COUNTERS + (<usize>index << 2);
  store<u32>(counter, load<u32>(counter) + 1);
  return EFFECT_INCIDENT;
}

/** Leaves `value` for the host; no effect. */
// @ts-ignore: decorator
@inline export function answer(value: u64): u32 {
  store<u64>(OUTBOX_VALUE, value);
  return 0;
}

/** What a bus without a device at that place reads: all ones, in the width of the access. */
export function answerAbsent(width: u32): u32 {
  return answer(width >= 8 ? u64.MAX_VALUE : (<u64>1 << (width << 3)) - 1);
}

/** Reads of a register that does not exist or cannot be read. */
export function readAbsent(width: u32): u32 {
  answerAbsent(width);
  return incident(INCIDENT_REGISTER);
}

/** Reads of a width or alignment the register does not allow. */
export function readBadWidth(width: u32): u32 {
  answerAbsent(width);
  return incident(INCIDENT_WIDTH);
}
