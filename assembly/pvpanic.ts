// pvpanic: the guest's kernel tells of its own panic.
// QEMU's pvpanic device specification, ISA form (one port). Left out: the 'shut down' event.
// The device has no state.
import { EFFECT_PANIC, INCIDENT_REGISTER, INCIDENT_WIDTH } from "./abi";
import { answer, incident, readAbsent, readBadWidth } from "./registers";

export const PVPANIC_PANICKED: u32 = 1 << 0;
export const PVPANIC_CRASH_LOADED: u32 = 1 << 1; // a crash kernel takes over inside the guest
const PVPANIC_EVENTS: u32 = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;

/** A driver reads the events the device understands, and sends no other. */
export function pvpanicRead(offset: u32, width: u32): u32 {
  if (width != 1) return readBadWidth(width);
  if (offset != 0) return readAbsent(width);
  return answer(PVPANIC_EVENTS);
}

export function pvpanicWrite(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  if (offset != 0 || (value & ~PVPANIC_EVENTS) != 0) return incident(INCIDENT_REGISTER);
  answer(value);
  return value & PVPANIC_PANICKED ? EFFECT_PANIC : 0;
}
