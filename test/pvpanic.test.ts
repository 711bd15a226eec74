// pvpanic: assembly/pvpanic.ts on the release core.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_PANIC, KIND_PVPANIC, VALID } from '../assembly/abi.ts';
import { portDevice, readValue } from './fixtures.ts';

const PANICKED = 1;
const CRASH_LOADED = 2;

test('the driver reads which events it may send', () => {
  assert.is(readValue(portDevice(KIND_PVPANIC), 0), PANICKED | CRASH_LOADED);
});

test('a panic is told with its event bits', () => {
  const device = portDevice(KIND_PVPANIC);
  assert.is(device.write(0, 1, PANICKED), EFFECT_PANIC);
  assert.is(device.value(), PANICKED);
  assert.is(device.write(0, 1, PANICKED | CRASH_LOADED), EFFECT_PANIC);
  assert.is(device.value(), PANICKED | CRASH_LOADED);
});

test('a crash kernel taking over is not a panic of the machine', () => {
  assert.is(portDevice(KIND_PVPANIC).write(0, 1, CRASH_LOADED), 0);
});

test('unknown events and wide accesses are counted and do nothing', () => {
  const device = portDevice(KIND_PVPANIC);
  assert.is(device.write(0, 1, 0x81), EFFECT_INCIDENT);
  assert.is(device.write(0, 4, PANICKED), EFFECT_INCIDENT);
  assert.is(device.read(0, 4), EFFECT_INCIDENT);
  assert.is(device.value(), 0xffffffff);
  assert.is(device.counters().width, 2);
  assert.is(device.counters().register, 1);
  assert.is(device.check(), VALID);
});

test.run();
