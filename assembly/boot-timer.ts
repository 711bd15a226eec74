// Boot timer: one write-only byte by which user space says that it was reached.
// No specification; the protocol is that of Firecracker's boot timer, on a port: a byte 123 marks
// 'user space reached'. The device has no state; what a byte means is the host's business.
import { EFFECT_MARKER, INCIDENT_REGISTER, INCIDENT_WIDTH } from "./abi";
import { answer, incident, readAbsent } from "./registers";

export function bootTimerRead(width: u32): u32 {
  return readAbsent(width);
}

export function bootTimerWrite(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  if (offset != 0) return incident(INCIDENT_REGISTER);
  answer(value & 0xff);
  return EFFECT_MARKER;
}
