// Keyboard controller without a keyboard: answers a kernel's probe at once and resets the machine.
// IBM PS/2 Hardware Interface Technical Reference, section 'Keyboard and Auxiliary Device
// Controller', as Linux's i8042 driver uses it. Left out: keyboard, mouse, their interrupts, A20.
//
// I8042 (at PORT_DEVICE):
//   +0 control u8 (command byte)  +1 data u8 (output buffer)  +2 full u8 (it holds a byte)
//   +3 pending u8 (command waiting for its data byte, 0: none)  +4 lastCommand u8
import { EFFECT_REBOOT, INCIDENT_REGISTER, INCIDENT_WIDTH } from "./abi";
import { PORT_DEVICE } from "./layout";
import { answer, incident, readAbsent, readBadWidth } from "./registers";

const DATA: u32 = 0; // port 0x60, R/W
const COMMAND: u32 = 4; // port 0x64: status R, command W

const STATUS_OBF: u8 = 0x01; // a byte waits at the data port
const STATUS_SYS: u8 = 0x04; // self-test passed
const STATUS_CMD: u8 = 0x08; // the last write was a command
const STATUS_KEYLOCK: u8 = 0x10; // not locked

// Command byte at power-on: system flag, keyboard translation, no auxiliary device.
const CONTROL_POWER_ON: u8 = 0x64;

const CMD_READ_CONTROL: u32 = 0x20;
const CMD_WRITE_CONTROL: u8 = 0x60;
const CMD_DISABLE_AUX: u32 = 0xa7;
const CMD_ENABLE_AUX: u32 = 0xa8;
const CMD_TEST_AUX: u32 = 0xa9;
const CMD_SELF_TEST: u32 = 0xaa;
const CMD_TEST_KEYBOARD: u32 = 0xab;
const CMD_DISABLE_KEYBOARD: u32 = 0xad;
const CMD_ENABLE_KEYBOARD: u32 = 0xae;
const CMD_READ_OUTPUT_PORT: u32 = 0xd0;
const CMD_WRITE_OUTPUT_PORT: u8 = 0xd1;
const CMD_WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
const CMD_WRITE_AUX_BUFFER: u8 = 0xd3;
const CMD_WRITE_AUX: u8 = 0xd4;
const CMD_PULSE: u32 = 0xf0; // the low four bits name the lines that are not pulsed

const CONTROL_KEYBOARD_DISABLED: u8 = 0x10;
const SELF_TEST_PASSED: u8 = 0x55;
const AUX_CLOCK_STUCK: u8 = 0x01; // makes a driver give up on the auxiliary port at once
const OUTPUT_PORT_IDLE: u8 = 0x03; // reset line high (not in reset), A20 on
const OUTPUT_PORT_RESET: u32 = 1 << 0; // active low

export const I8042_BYTES: usize = 8; // of state

@unmanaged class I8042 {
  control: u8;
  data: u8;
  full: u8;
  pending: u8;
  lastCommand: u8;
}
if (offsetof<I8042>() != 5) ERROR("I8042 moved: snapshots would break");

// @ts-ignore: decorator
@inline function device(): I8042 {
  return changetype<I8042>(PORT_DEVICE);
}

export function i8042Reset(): void {
  const self = device();
  self.control = CONTROL_POWER_ON;
  self.data = 0;
  self.full = 0;
  self.pending = 0;
  self.lastCommand = 0;
}

export function i8042Valid(): bool {
  const self = device();
  return self.full <= 1 && self.lastCommand <= 1 &&
    (self.pending == 0 || takesData(self.pending));
}

export function i8042Read(offset: u32, width: u32): u32 {
  if (width != 1) return readBadWidth(width);
  const self = device();
  switch (offset) {
    case DATA:
      self.full = 0;
      return answer(self.data);
    case COMMAND:
      return answer(STATUS_SYS | STATUS_KEYLOCK | (self.full ? STATUS_OBF : 0) |
        (self.lastCommand ? STATUS_CMD : 0));
    default: return readAbsent(width);
  }
}

export function i8042Write(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  const self = device();
  switch (offset) {
    case DATA:
      self.lastCommand = 0;
      return writeData(self, <u8>value);
    case COMMAND:
      self.lastCommand = 1;
      self.pending = 0;
      return writeCommand(self, value & 0xff);
    default: return incident(INCIDENT_REGISTER);
  }
}

function takesData(command: u8): bool {
  switch (<u32>command) {
    case CMD_WRITE_CONTROL:
    case CMD_WRITE_OUTPUT_PORT:
    case CMD_WRITE_KEYBOARD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_AUX: return true;
    default: return false;
  }
}

// A byte for the keyboard itself (no command pending) or the auxiliary device vanishes: nothing is
// plugged in.
function writeData(self: I8042, value: u8): u32 {
  const command = self.pending;
  self.pending = 0;
  switch (<u32>command) {
    case CMD_WRITE_CONTROL:
      self.control = value;
      return 0;
    case CMD_WRITE_OUTPUT_PORT: return value & OUTPUT_PORT_RESET ? 0 : EFFECT_REBOOT;
    // The loop-back answer comes as the keyboard's, which tells a driver that no auxiliary
    // device exists without letting it run into a time-out.
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_KEYBOARD_BUFFER: return reply(self, value);
    default: return 0;
  }
}

function writeCommand(self: I8042, command: u32): u32 {
  if (command >= CMD_PULSE) return command & OUTPUT_PORT_RESET ? 0 : EFFECT_REBOOT;
  if (takesData(<u8>command)) {
    self.pending = <u8>command;
    return 0;
  }
  switch (command) {
    case CMD_READ_CONTROL: return reply(self, self.control);
    case CMD_TEST_AUX: return reply(self, AUX_CLOCK_STUCK);
    case CMD_SELF_TEST:
      self.control = CONTROL_POWER_ON;
      return reply(self, SELF_TEST_PASSED);
    case CMD_TEST_KEYBOARD: return reply(self, 0);
    case CMD_DISABLE_KEYBOARD:
      self.control |= CONTROL_KEYBOARD_DISABLED;
      return 0;
    case CMD_ENABLE_KEYBOARD:
      self.control &= ~CONTROL_KEYBOARD_DISABLED;
      return 0;
    case CMD_READ_OUTPUT_PORT: return reply(self, OUTPUT_PORT_IDLE);
    case CMD_DISABLE_AUX:
    case CMD_ENABLE_AUX: return 0;
    default: return incident(INCIDENT_REGISTER);
  }
}

function reply(self: I8042, value: u8): u32 {
  self.data = value;
  self.full = 1;
  return 0;
}
