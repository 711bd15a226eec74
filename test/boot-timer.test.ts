// Boot timer: assembly/boot-timer.ts on the release core.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  BOOT_TIMER_MARKER,
  EFFECT_INCIDENT,
  EFFECT_MARKER,
  KIND_BOOT_TIMER,
  VALID,
} from '../assembly/abi.ts';
import { portDevice } from './fixtures.ts';

test('a byte written gives the marker effect and the byte itself', () => {
  const timer = portDevice(KIND_BOOT_TIMER);
  assert.is(timer.write(0, 1, BOOT_TIMER_MARKER), EFFECT_MARKER);
  assert.is(timer.value(), BOOT_TIMER_MARKER);
  assert.is(timer.write(0, 1, 0x1ff), EFFECT_MARKER);
  assert.is(timer.value(), 0xff);
});

test('reads are all ones in the width of the access, and counted', () => {
  const timer = portDevice(KIND_BOOT_TIMER);
  assert.is(timer.read(0, 1), EFFECT_INCIDENT);
  assert.is(timer.value(), 0xff);
  timer.read(0, 2);
  assert.is(timer.value(), 0xffff);
  timer.read(0, 8);
  assert.is(timer.value64(), 0xffffffffffffffffn);
  assert.is(timer.counters().register, 3);
});

test('a wide write marks nothing', () => {
  const timer = portDevice(KIND_BOOT_TIMER);
  assert.is(timer.write(0, 2, BOOT_TIMER_MARKER), EFFECT_INCIDENT);
  assert.is(timer.counters().width, 1);
  assert.is(timer.check(), VALID);
});

test.run();
