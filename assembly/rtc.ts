// Real-time clock and CMOS memory.
// Motorola MC146818A data sheet, with the PC's century byte at 0x32 (ACPI 6.4 §5.2.9, CENTURY).
// Left out: alarms and every interrupt, 12-hour mode, setting the time (writes to it are ignored).
//
// Rtc (at PORT_DEVICE):
//   +0 time u64 (Unix seconds, as the host last told)  +8 index u8  +9 registerA u8
//   +10 registerB u8  +64 cmos, 128 bytes
import { INBOX, INCIDENT_REGISTER, INCIDENT_WIDTH, RTC_TIME } from "./abi";
import { PORT_DEVICE } from "./layout";
import { answer, incident, readAbsent, readBadWidth } from "./registers";

const INDEX: u32 = 0; // port 0x70, W; bit 7 masks NMI and is not kept
const DATA: u32 = 1; // port 0x71, R/W
const INDEX_MASK: u8 = 0x7f;

const SECONDS: u32 = 0x00;
const MINUTES: u32 = 0x02;
const HOURS: u32 = 0x04;
const DAY_OF_WEEK: u32 = 0x06; // 1 is Sunday
const DAY_OF_MONTH: u32 = 0x07;
const MONTH: u32 = 0x08;
const YEAR: u32 = 0x09; // of the century
const REGISTER_A: u32 = 0x0a;
const REGISTER_B: u32 = 0x0b;
const REGISTER_C: u32 = 0x0c;
const REGISTER_D: u32 = 0x0d;
const CENTURY: u32 = 0x32;

const REGISTER_A_POWER_ON: u8 = 0x26; // 32,768 Hz time base, 1,024 Hz rate
const REGISTER_A_UIP: u8 = 0x80; // never set: a read sees one consistent time
const REGISTER_B_24H: u8 = 0x02;
const REGISTER_B_DM: u8 = 0x04; // binary instead of BCD
const REGISTER_B_KEPT: u8 = 0x8f; // SET, SQWE, DM, 24/12, DSE: no interrupt enable sticks
const REGISTER_D_VRT: u8 = 0x80; // the battery is good

const CMOS: usize = PORT_DEVICE + 64;
const CMOS_BYTES: usize = 128;
export const RTC_BYTES: usize = 64 + CMOS_BYTES; // of state
const TIME_MAX: u64 = 253402300799; // 9999-12-31 23:59:59: what two BCD bytes of year can say
const SECONDS_PER_DAY: u64 = 86400;

@unmanaged class Rtc {
  time: u64;
  index: u8;
  registerA: u8;
  registerB: u8;
}
if (offsetof<Rtc>("index") != 8) ERROR("Rtc moved: snapshots would break");

// @ts-ignore: decorator
@inline function device(): Rtc {
  return changetype<Rtc>(PORT_DEVICE);
}

export function rtcReset(): void {
  const self = device();
  self.index = 0;
  self.registerA = REGISTER_A_POWER_ON;
  self.registerB = REGISTER_B_24H;
}

export function rtcValid(): bool {
  const self = device();
  return self.time <= TIME_MAX && self.index <= INDEX_MASK && !(self.registerA & REGISTER_A_UIP) &&
    !(self.registerB & ~REGISTER_B_KEPT) && (self.registerB & REGISTER_B_24H) != 0;
}

/** Takes the Unix time from the inbox; the answer is the number of bytes taken. */
export function rtcInput(length: u32): u32 {
  if (length != 8) return answer(0);
  const time = load<u64>(INBOX + RTC_TIME);
  device().time = min<u64>(time, TIME_MAX);
  return answer(8);
}

export function rtcRead(offset: u32, width: u32): u32 {
  if (width != 1) return readBadWidth(width);
  if (offset != DATA) return readAbsent(width);
  return answer(readRegister(device()));
}

export function rtcWrite(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  const self = device();
  switch (offset) {
    case INDEX:
      self.index = <u8>value & INDEX_MASK;
      return 0;
    case DATA:
      writeRegister(self, <u8>value);
      return 0;
    default: return incident(INCIDENT_REGISTER);
  }
}

function readRegister(self: Rtc): u8 {
  const time = self.time;
  const secondOfDay = <u32>(time % SECONDS_PER_DAY);
  const day = <u32>(time / SECONDS_PER_DAY);
  switch (<u32>self.index) {
    case SECONDS: return encode(self, secondOfDay % 60);
    case MINUTES: return encode(self, secondOfDay / 60 % 60);
    case HOURS: return encode(self, secondOfDay / 3600);
    case DAY_OF_WEEK: return encode(self, (day + 4) % 7 + 1); // 1970-01-01 was a Thursday
    case DAY_OF_MONTH: return encode(self, civil(day) & 0xff);
    case MONTH: return encode(self, civil(day) >> 8 & 0xff);
    case YEAR: return encode(self, (civil(day) >> 16) % 100);
    case CENTURY: return encode(self, (civil(day) >> 16) / 100);
    case REGISTER_A: return self.registerA;
    case REGISTER_B: return self.registerB;
    case REGISTER_C: return 0; // no interrupt is ever pending
    case REGISTER_D: return REGISTER_D_VRT;
    default: return load<u8>(CMOS + self.index);
  }
}

function writeRegister(self: Rtc, value: u8): void {
  switch (<u32>self.index) {
    case SECONDS: case MINUTES: case HOURS: case DAY_OF_WEEK: case DAY_OF_MONTH: case MONTH:
    case YEAR: case CENTURY: case REGISTER_C: case REGISTER_D: return;
    case REGISTER_A:
      self.registerA = value & ~REGISTER_A_UIP;
      return;
    case REGISTER_B:
      self.registerB = value & REGISTER_B_KEPT | REGISTER_B_24H;
      return;
    default: store<u8>(CMOS + self.index, value);
  }
}

// BCD unless register B's data mode says binary.
function encode(self: Rtc, value: u32): u8 {
  return <u8>(self.registerB & REGISTER_B_DM ? value : value / 10 << 4 | value % 10);
}

// The Gregorian date of a day since 1970-01-01, as year << 16 | month << 8 | day. Counts in years
// that begin in March, so that the leap day is the last of its year and months need no table.
function civil(day: u32): u32 {
  const shifted = day + 719468; // days since 0000-03-01
  const era = shifted / 146097; // 400 years each
  const dayOfEra = shifted % 146097;
  const yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
  const dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
  const marchMonth = (5 * dayOfYear + 2) / 153; // 0 is March
  const dayOfMonth = dayOfYear - (153 * marchMonth + 2) / 5 + 1;
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  return year << 16 | month << 8 | dayOfMonth;
}

if (CMOS + CMOS_BYTES > PORT_DEVICE + 0x200) ERROR("CMOS memory leaves its region");
