// Real-time clock: assembly/rtc.ts on the release core.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, INVALID_STATE, KIND_RTC, VALID } from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import { patched, portDevice, readValue } from './fixtures.ts';

const REGISTER_A = 0x0a;
const REGISTER_B = 0x0b;
const CENTURY = 0x32;
const BINARY = 0x06; // DM and 24/12
const TIME_REGISTERS = [CENTURY, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00];

function readRegister(rtc: Cage, register: number): number {
  rtc.write(0, 1, register);
  return readValue(rtc, 1);
}

function writeRegister(rtc: Cage, register: number, value: number): void {
  rtc.write(0, 1, register);
  rtc.write(1, 1, value);
}

/** Century, year, month, day, hour, minute, second, as the chip shows them. */
function clock(rtc: Cage, unixSeconds: number): number[] {
  rtc.inputTime(unixSeconds);
  return TIME_REGISTERS.map((register) => readRegister(rtc, register));
}

/** What a calendar says about the same second. */
function calendar(unixSeconds: number): number[] {
  const date = new Date(unixSeconds * 1000);
  const year = date.getUTCFullYear();
  const day = [Math.floor(year / 100), year % 100, date.getUTCMonth() + 1, date.getUTCDate()];
  return [...day, date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
}

test('shows the time in BCD at power-on', () => {
  const rtc = portDevice(KIND_RTC);
  const seconds = Date.UTC(2024, 1, 29, 23, 58, 47) / 1000;
  assert.equal(clock(rtc, seconds), [0x20, 0x24, 0x02, 0x29, 0x23, 0x58, 0x47]);
});

test('shows it in binary when register B says so', () => {
  const rtc = portDevice(KIND_RTC);
  writeRegister(rtc, REGISTER_B, BINARY);
  const seconds = Date.UTC(2024, 1, 29, 23, 58, 47) / 1000;
  assert.equal(clock(rtc, seconds), [20, 24, 2, 29, 23, 58, 47]);
});

test('agrees with the calendar over four centuries of days', () => {
  const rtc = portDevice(KIND_RTC);
  writeRegister(rtc, REGISTER_B, BINARY);
  for (let day = 0; day < 146097; day += 13) {
    const seconds = day * 86400 + ((day * 7919) % 86400);
    assert.equal(clock(rtc, seconds), calendar(seconds));
    assert.is(readRegister(rtc, 0x06), new Date(seconds * 1000).getUTCDay() + 1);
  }
});

test('the first second of 1970, the end of 32-bit time and the year 9999 are right', () => {
  const rtc = portDevice(KIND_RTC);
  writeRegister(rtc, REGISTER_B, BINARY);
  for (const seconds of [0, 2 ** 31 - 1, 2 ** 32, 253402300799]) {
    assert.equal(clock(rtc, seconds), calendar(seconds));
  }
  assert.equal(clock(rtc, 2 ** 52), calendar(253402300799)); // past what two digits can show
});

test('no update is ever in progress, whatever is written to register A', () => {
  const rtc = portDevice(KIND_RTC);
  assert.is(readRegister(rtc, REGISTER_A), 0x26);
  writeRegister(rtc, REGISTER_A, 0xff);
  assert.is(readRegister(rtc, REGISTER_A), 0x7f);
});

test('register B keeps 24-hour mode and enables no interrupt', () => {
  const rtc = portDevice(KIND_RTC);
  writeRegister(rtc, REGISTER_B, 0xf0);
  assert.is(readRegister(rtc, REGISTER_B), 0x82);
});

test('register C is 0 and register D says that the battery is good', () => {
  const rtc = portDevice(KIND_RTC);
  assert.is(readRegister(rtc, 0x0c), 0);
  assert.is(readRegister(rtc, 0x0d), 0x80);
});

test('writes to time registers change nothing', () => {
  const rtc = portDevice(KIND_RTC);
  const before = clock(rtc, 1_700_000_000);
  for (const register of TIME_REGISTERS) writeRegister(rtc, register, 0x11);
  assert.equal(clock(rtc, 1_700_000_000), before);
});

test('the other bytes are memory, the top bit of the index is ignored', () => {
  const rtc = portDevice(KIND_RTC);
  for (let register = 0x0e; register < 0x80; register += 1) {
    if (register !== CENTURY) writeRegister(rtc, register, register ^ 0x5a);
  }
  for (let register = 0x0e; register < 0x80; register += 1) {
    if (register === CENTURY) continue;
    assert.is(readRegister(rtc, register | 0x80), register ^ 0x5a);
  }
});

test('time that is not eight bytes long is not taken', () => {
  const rtc = portDevice(KIND_RTC);
  rtc.input(new Uint8Array(4));
  assert.is(rtc.value(), 0);
  rtc.inputTime(1);
  assert.is(rtc.value(), 8);
});

test('reading the index and wide accesses are counted', () => {
  const rtc = portDevice(KIND_RTC);
  assert.is(rtc.read(0, 1), EFFECT_INCIDENT);
  assert.is(rtc.value(), 0xff);
  assert.is(rtc.write(1, 2, 0), EFFECT_INCIDENT);
  assert.is(rtc.write(2, 1, 0), EFFECT_INCIDENT);
});

test('a hardware reset keeps CMOS memory and drops the modes', () => {
  const rtc = portDevice(KIND_RTC);
  writeRegister(rtc, 0x40, 0x77);
  writeRegister(rtc, REGISTER_B, BINARY);
  rtc.reset();
  assert.is(readRegister(rtc, 0x40), 0x77);
  assert.is(readRegister(rtc, REGISTER_B), 0x02);
});

test('a state with an impossible index or time is refused', () => {
  const rtc = portDevice(KIND_RTC);
  const state = rtc.stateBytes();
  assert.is(rtc.restore(state), VALID);
  assert.is(rtc.restore(patched(state, 0x8208, 0x022680)), INVALID_STATE);
  assert.is(rtc.restore(patched(state, 0x8204, 0x3b)), INVALID_STATE); // in the year 10000
});

test.run();
