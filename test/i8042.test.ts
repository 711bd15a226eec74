// Keyboard controller: assembly/i8042.ts on the release core, probed as Linux's i8042 driver does.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_INCIDENT,
  EFFECT_REBOOT,
  INVALID_STATE,
  KIND_I8042,
  VALID,
} from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import { patched, portDevice, readValue } from './fixtures.ts';

const DATA = 0;
const COMMAND = 4;
const OBF = 0x01;
const IBF = 0x02;
const AUXDATA = 0x20;

/** A command whose answer is read at once: null when none waits, as a driver would time out. */
function ask(i8042: Cage, command: number, data?: number): number | null {
  i8042.write(COMMAND, 1, command);
  if (data !== undefined) i8042.write(DATA, 1, data);
  return readValue(i8042, COMMAND) & OBF ? readValue(i8042, DATA) : null;
}

test('nothing waits at power-on, so a flush ends at once', () => {
  const status = readValue(portDevice(KIND_I8042), COMMAND);
  assert.is(status & (OBF | IBF), 0);
});

test('the self-test and the keyboard interface test pass', () => {
  const i8042 = portDevice(KIND_I8042);
  assert.is(ask(i8042, 0xaa), 0x55);
  assert.is(ask(i8042, 0xab), 0x00);
});

test('the command byte reads back what was written', () => {
  const i8042 = portDevice(KIND_I8042);
  const first = ask(i8042, 0x20);
  assert.is(ask(i8042, 0x20), first);
  assert.is(ask(i8042, 0x60, 0x43), null);
  assert.is(ask(i8042, 0x20), 0x43);
  ask(i8042, 0xad);
  assert.is(ask(i8042, 0x20), 0x53);
  ask(i8042, 0xae);
  assert.is(ask(i8042, 0x20), 0x43);
});

test('the auxiliary port is seen to be absent without a time-out', () => {
  const i8042 = portDevice(KIND_I8042);
  i8042.write(COMMAND, 1, 0xd3);
  i8042.write(DATA, 1, 0x5a);
  const status = readValue(i8042, COMMAND);
  assert.is(status & OBF, OBF);
  assert.is(status & AUXDATA, 0); // the loop answer is not the auxiliary device's
  readValue(i8042, DATA);
  const test = ask(i8042, 0xa9);
  assert.ok(test !== null && test !== 0x00 && test !== 0xfa && test !== 0xff);
});

test('bytes for keyboard and mouse vanish without an answer', () => {
  const i8042 = portDevice(KIND_I8042);
  i8042.write(DATA, 1, 0xf2);
  assert.is(readValue(i8042, COMMAND) & OBF, 0);
  assert.is(ask(i8042, 0xd4, 0xf2), null);
});

test('the status tells a command from data', () => {
  const i8042 = portDevice(KIND_I8042);
  i8042.write(COMMAND, 1, 0xa7);
  assert.is(readValue(i8042, COMMAND) & 0x08, 0x08);
  i8042.write(DATA, 1, 0);
  assert.is(readValue(i8042, COMMAND) & 0x08, 0);
});

test('reading the data port empties it', () => {
  const i8042 = portDevice(KIND_I8042);
  assert.is(ask(i8042, 0xd2, 0x77), 0x77);
  assert.is(readValue(i8042, COMMAND) & OBF, 0);
});

test('0xfe pulses the reset line', () => {
  assert.is(portDevice(KIND_I8042).write(COMMAND, 1, 0xfe), EFFECT_REBOOT);
});

test('pulsing other lines resets nothing', () => {
  const i8042 = portDevice(KIND_I8042);
  assert.is(i8042.write(COMMAND, 1, 0xff), 0);
  assert.is(i8042.write(COMMAND, 1, 0xfd), 0);
});

test('pulling the reset line of the output port low resets, high does not', () => {
  const i8042 = portDevice(KIND_I8042);
  const idle = ask(i8042, 0xd0);
  assert.is((idle ?? 0) & 1, 1);
  i8042.write(COMMAND, 1, 0xd1);
  assert.is(i8042.write(DATA, 1, 0x03), 0);
  i8042.write(COMMAND, 1, 0xd1);
  assert.is(i8042.write(DATA, 1, 0x02), EFFECT_REBOOT);
});

test('a new command drops one that waits for its byte', () => {
  const i8042 = portDevice(KIND_I8042);
  i8042.write(COMMAND, 1, 0xd1);
  i8042.write(COMMAND, 1, 0xaa);
  assert.is(i8042.write(DATA, 1, 0x00), 0);
});

test('unknown commands, other ports and wide accesses are counted and do nothing', () => {
  const i8042 = portDevice(KIND_I8042);
  assert.is(i8042.write(COMMAND, 1, 0x99), EFFECT_INCIDENT);
  assert.is(i8042.write(1, 1, 0xfe), EFFECT_INCIDENT);
  assert.is(i8042.write(COMMAND, 2, 0xfe), EFFECT_INCIDENT);
  assert.is(i8042.read(1, 1), EFFECT_INCIDENT);
  assert.is(i8042.value(), 0xff);
});

test('a command that waits for its byte gets it after a restore too', () => {
  for (const command of [0x60, 0xd1, 0xd2, 0xd3, 0xd4]) {
    const i8042 = portDevice(KIND_I8042);
    i8042.write(COMMAND, 1, command);
    const other = portDevice(KIND_I8042);
    assert.is(other.restore(i8042.stateBytes()), VALID, `command ${command}`);
    assert.is(other.write(DATA, 1, 0x54), command === 0xd1 ? EFFECT_REBOOT : 0);
    const answered = command === 0xd2 || command === 0xd3;
    assert.is(readValue(other, COMMAND) & 1, answered ? 1 : 0);
    if (answered) assert.is(readValue(other, DATA), 0x54);
  }
});

test('a state with an unknown pending command is refused', () => {
  const i8042 = portDevice(KIND_I8042);
  i8042.write(COMMAND, 1, 0x60);
  const state = i8042.stateBytes();
  assert.is(i8042.restore(state), VALID);
  assert.is(i8042.restore(patched(state, 0x8200, 0x99_00_00_64)), INVALID_STATE);
  assert.is(i8042.restore(patched(state, 0x8200, 0x60_02_00_64)), INVALID_STATE); // full, twice
  assert.is(i8042.restore(patched(state, 0x8204, 2)), INVALID_STATE); // last command: neither
});

test.run();
