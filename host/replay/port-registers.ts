// The registers of the devices behind ports, by name, with what their bits say.
// PC16550D data sheet (8.0 to 8.8), MC146818A, IBM's i8042, ACPI 6.4 §4.8.3, QEMU's pvpanic: the
// same sections as the devices in assembly/.
import { type BitNames, bitNames, hexNumber, printable } from './names.ts';

/** What one register access says. */
export interface RegisterAccess {
  register: string;
  meaning: string; // empty where the value says it all
}

/** What the guest did to a port device before, as far as it decides what a register is. */
export interface PortContext {
  latch: boolean; // the UART's divisor latch is open
  index: number; // the RTC's register
}

export const freshPorts = (): PortContext => ({ latch: false, index: 0 });

const IER: BitNames = [
  [1, 'RDI'],
  [2, 'THRI'],
  [4, 'RLSI'],
  [8, 'MSI'],
];
const FCR: BitNames = [
  [1, 'ENABLE'],
  [2, 'CLEAR_RCVR'],
  [4, 'CLEAR_XMIT'],
  [8, 'DMA'],
  [0xc0, 'TRIGGER'],
];
const MCR: BitNames = [
  [1, 'DTR'],
  [2, 'RTS'],
  [4, 'OUT1'],
  [8, 'OUT2'],
  [0x10, 'LOOP'],
];
const LSR: BitNames = [
  [1, 'DR'],
  [2, 'OE'],
  [4, 'PE'],
  [8, 'FE'],
  [0x10, 'BI'],
  [0x20, 'THRE'],
  [0x40, 'TEMT'],
];
const MSR: BitNames = [
  [1, 'DCTS'],
  [2, 'DDSR'],
  [4, 'TERI'],
  [8, 'DDCD'],
  [0x10, 'CTS'],
  [0x20, 'DSR'],
  [0x40, 'RI'],
  [0x80, 'DCD'],
];
const IIR: Record<number, string> = { 0: 'MSI', 1: 'none', 2: 'THRI', 4: 'RDI', 6: 'RLSI' };
const RECEIVE_TIMEOUT = 0x0c;

const list = (names: string[]): string => names.join(' ') || 'none';

function lineControl(value: number): string {
  const parity = value & 8 ? (value & 0x10 ? 'E' : 'O') : 'N';
  const frame = `${5 + (value & 3)}${parity}${value & 4 ? 2 : 1}`;
  return list([frame, ...(value & 0x40 ? ['BREAK'] : []), ...(value & 0x80 ? ['DLAB'] : [])]);
}

export const serialInterruptNames = (value: number): string => list(bitNames(value, IER));
export const serialModemNames = (value: number): string => list(bitNames(value, MCR));
export const serialLineNames = lineControl;

function identification(value: number): string {
  const source = value & 0x0f;
  return source === RECEIVE_TIMEOUT ? 'RX_TIMEOUT' : (IIR[source] ?? hexNumber(source));
}

/** COM1. */
export function serialRegister(
  context: PortContext,
  write: boolean,
  offset: number,
  value: number,
): RegisterAccess {
  const { latch } = context;
  const named = (register: string, meaning = ''): RegisterAccess => ({ register, meaning });
  switch (offset) {
    case 0:
      if (latch) return named('DLL');
      return named(write ? 'THR' : 'RBR', `'${printable(Uint8Array.of(value))}'`);
    case 1:
      return latch ? named('DLM') : named('IER', list(bitNames(value, IER)));
    case 2:
      return write ? named('FCR', list(bitNames(value, FCR))) : named('IIR', identification(value));
    case 3:
      if (write) context.latch = (value & 0x80) !== 0;
      return named('LCR', lineControl(value));
    case 4:
      return named('MCR', list(bitNames(value, MCR)));
    case 5:
      return named('LSR', list(bitNames(value, LSR)));
    case 6:
      return named('MSR', list(bitNames(value, MSR)));
    case 7:
      return named('SCR');
    default:
      return named(hexNumber(offset), 'no such register');
  }
}

const RTC_NAMES: Record<number, string> = {
  0: 'SECONDS',
  2: 'MINUTES',
  4: 'HOURS',
  6: 'DAY_OF_WEEK',
  7: 'DAY_OF_MONTH',
  8: 'MONTH',
  9: 'YEAR',
  10: 'REGISTER_A',
  11: 'REGISTER_B',
  12: 'REGISTER_C',
  13: 'REGISTER_D',
  50: 'CENTURY',
};

/** The RTC's register of that index, or its byte of CMOS memory. */
export function rtcName(index: number): string {
  return RTC_NAMES[index] ?? `CMOS[${hexNumber(index)}]`;
}

export function rtcRegister(
  context: PortContext,
  write: boolean,
  offset: number,
  value: number,
): RegisterAccess {
  if (offset === 0) {
    if (write) context.index = value & 0x7f;
    return { register: 'INDEX', meaning: write ? rtcName(value & 0x7f) : 'no such register' };
  }
  if (offset !== 1) return { register: hexNumber(offset), meaning: 'no such register' };
  return { register: rtcName(context.index), meaning: '' };
}

const I8042_STATUS: BitNames = [
  [1, 'OBF'],
  [2, 'IBF'],
  [4, 'SYS'],
  [8, 'CMD'],
  [0x10, 'KEYLOCK'],
];

const I8042_COMMANDS: Record<number, string> = {
  32: 'READ_CONTROL',
  96: 'WRITE_CONTROL',
  167: 'DISABLE_AUX',
  168: 'ENABLE_AUX',
  169: 'TEST_AUX',
  170: 'SELF_TEST',
  171: 'TEST_KEYBOARD',
  173: 'DISABLE_KEYBOARD',
  174: 'ENABLE_KEYBOARD',
  208: 'READ_OUTPUT_PORT',
  209: 'WRITE_OUTPUT_PORT',
  210: 'WRITE_KEYBOARD_BUFFER',
  211: 'WRITE_AUX_BUFFER',
  212: 'WRITE_AUX',
};

/** The name of a command to the keyboard controller. */
export function i8042Command(value: number): string {
  if (value >= 0xf0) return value & 1 ? 'PULSE' : 'PULSE reset';
  return I8042_COMMANDS[value] ?? 'no such command';
}

export function i8042Register(write: boolean, offset: number, value: number): RegisterAccess {
  if (offset === 0) return { register: 'DATA', meaning: '' };
  if (offset !== 4) return { register: hexNumber(offset), meaning: 'no such register' };
  if (write) return { register: 'COMMAND', meaning: i8042Command(value) };
  return { register: 'STATUS', meaning: list(bitNames(value, I8042_STATUS)) };
}

export function acpiRegister(write: boolean, offset: number, value: number): RegisterAccess {
  const register = ['SLEEP_CONTROL', 'SLEEP_STATUS', 'RESET'][offset];
  if (register === undefined) return { register: hexNumber(offset), meaning: 'no such register' };
  if (offset !== 0 || !write) return { register, meaning: '' };
  const enable = value & 0x20 ? ' SLP_EN' : '';
  return { register, meaning: `SLP_TYP ${(value >> 2) & 7}${enable}` };
}

const PVPANIC: BitNames = [
  [1, 'PANICKED'],
  [2, 'CRASH_LOADED'],
];

export function pvpanicRegister(value: number): RegisterAccess {
  return { register: 'EVENTS', meaning: list(bitNames(value, PVPANIC)) };
}
