// ACPI sleep and reset registers: assembly/acpi-pm.ts on the release core.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ACPI_RESET_VALUE,
  ACPI_S5_SLEEP_TYPE,
  EFFECT_INCIDENT,
  EFFECT_POWER_OFF,
  EFFECT_REBOOT,
  KIND_ACPI_PM,
  VALID,
} from '../assembly/abi.ts';
import { portDevice, readValue } from './fixtures.ts';

const SLEEP_CONTROL = 0;
const SLEEP_STATUS = 1;
const RESET = 2;
const SLP_EN = 0x20;
const WAK_STS = 0x80;

test('S5 with SLP_EN powers off, as Linux writes it after clearing WAK_STS', () => {
  const pm = portDevice(KIND_ACPI_PM);
  assert.is(pm.write(SLEEP_STATUS, 1, WAK_STS), 0);
  assert.is(pm.write(SLEEP_CONTROL, 1, (ACPI_S5_SLEEP_TYPE << 2) | SLP_EN), EFFECT_POWER_OFF);
});

test('SLP_TYP without SLP_EN does nothing', () => {
  assert.is(portDevice(KIND_ACPI_PM).write(SLEEP_CONTROL, 1, ACPI_S5_SLEEP_TYPE << 2), 0);
});

test('another sleep state is refused', () => {
  const pm = portDevice(KIND_ACPI_PM);
  assert.is(pm.write(SLEEP_CONTROL, 1, (3 << 2) | SLP_EN), EFFECT_INCIDENT);
});

test('both sleep registers read as 0: awake, and SLP_EN is write-only', () => {
  const pm = portDevice(KIND_ACPI_PM);
  pm.write(SLEEP_CONTROL, 1, 0x1c);
  assert.is(readValue(pm, SLEEP_CONTROL), 0);
  assert.is(readValue(pm, SLEEP_STATUS), 0);
});

test('only the reset value resets', () => {
  const pm = portDevice(KIND_ACPI_PM);
  assert.is(pm.write(RESET, 1, ACPI_RESET_VALUE ^ 1), EFFECT_INCIDENT);
  assert.is(pm.write(RESET, 1, ACPI_RESET_VALUE), EFFECT_REBOOT);
});

test('absent registers and wide accesses read all ones and are counted', () => {
  const pm = portDevice(KIND_ACPI_PM);
  assert.is(pm.read(RESET, 1), EFFECT_INCIDENT);
  assert.is(pm.value(), 0xff);
  assert.is(pm.read(SLEEP_CONTROL, 2), EFFECT_INCIDENT);
  assert.is(pm.value(), 0xffff);
  assert.is(pm.write(3, 1, ACPI_RESET_VALUE), EFFECT_INCIDENT);
  assert.is(pm.write(SLEEP_CONTROL, 4, (ACPI_S5_SLEEP_TYPE << 2) | SLP_EN), EFFECT_INCIDENT);
  assert.is(pm.check(), VALID);
});

test.run();
