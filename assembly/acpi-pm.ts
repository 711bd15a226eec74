// Power management registers of a hardware-reduced ACPI machine.
// ACPI 6.4 §4.8.3.7: sleep control and sleep status; §4.8.3.6: reset register. Left out: wake
// events and every sleep state but S5, so that WAK_STS always reads 0. The device has no state.
import {
  ACPI_RESET_VALUE, ACPI_S5_SLEEP_TYPE, EFFECT_POWER_OFF, EFFECT_REBOOT, INCIDENT_REGISTER,
  INCIDENT_WIDTH,
} from "./abi";
import { answer, incident, readAbsent, readBadWidth } from "./registers";

const SLEEP_CONTROL: u32 = 0; // SLEEP_CONTROL_REG, R/W
const SLEEP_STATUS: u32 = 1; // SLEEP_STATUS_REG, R/W
const RESET: u32 = 2; // RESET_REG, W

const SLP_TYP_SHIFT: u32 = 2;
const SLP_TYP_MASK: u32 = 7;
const SLP_EN: u32 = 1 << 5; // write-only, reads 0

export function acpiPmRead(offset: u32, width: u32): u32 {
  if (width != 1) return readBadWidth(width);
  if (offset != SLEEP_CONTROL && offset != SLEEP_STATUS) return readAbsent(width);
  return answer(0);
}

export function acpiPmWrite(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  switch (offset) {
    case SLEEP_CONTROL: {
      if (!(value & SLP_EN)) return 0; // SLP_TYP alone does nothing (§4.8.3.7.1)
      const sleepType = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
      return sleepType == ACPI_S5_SLEEP_TYPE ? EFFECT_POWER_OFF : incident(INCIDENT_REGISTER);
    }
    case SLEEP_STATUS: return 0; // the system clears WAK_STS before it sleeps
    case RESET:
      return (value & 0xff) == ACPI_RESET_VALUE ? EFFECT_REBOOT : incident(INCIDENT_REGISTER);
    default: return incident(INCIDENT_REGISTER);
  }
}
