// Random accesses to the port devices of the release core: no call traps, every read fits its
// width, and after each action the state is one that check() accepts. The seed is printed when a
// run fails; SEED=n in the environment repeats it.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_IRQ,
  EFFECT_OUTPUT,
  EFFECT_REQUEST,
  KIND_ACPI_PM,
  KIND_BOOT_TIMER,
  KIND_I8042,
  KIND_PVPANIC,
  KIND_RTC,
  KIND_SERIAL,
  VALID,
} from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import { randomFrom } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { portDevice } from './fixtures.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const ACTIONS = 20_000;
const KINDS = [KIND_SERIAL, KIND_I8042, KIND_RTC, KIND_BOOT_TIMER, KIND_ACPI_PM, KIND_PVPANIC];

/** One random call; returns its effects. */
function act(random: (limit: number) => number, cage: Cage): number {
  const offset = random(16) ? random(9) : random(2 ** 32 - 1);
  const width = random(8) ? 1 : random(10);
  switch (random(8)) {
    case 0:
    case 1:
    case 2: {
      const effects = cage.read(offset, width);
      if (width < 8) assert.ok(cage.value64() < 1n << BigInt(8 * Math.max(width, 1)));
      return effects;
    }
    case 3:
    case 4:
    case 5:
      return cage.write(offset, width, random(2) ? random(256) : random(2 ** 32 - 1));
    case 6:
      return cage.input(new Uint8Array(random(20)).fill(random(256)));
    default:
      return cage.next(random(2));
  }
}

for (const kind of KINDS) {
  test(`random accesses keep a device of kind ${kind} valid`, () => {
    const random = randomFrom(SEED + kind);
    const cage = portDevice(kind);
    let effects = 0;
    for (let action = 0; action < ACTIONS; action += 1) {
      const now = act(random, cage);
      effects |= now;
      if (now & EFFECT_REQUEST) {
        const { bytes, length } = parseRecord(cage.record());
        assert.ok(length >= 1n && length <= 16n && bytes.length === Number(length));
      }
      if (cage.check() !== VALID) assert.unreachable(`SEED=${SEED} action ${action}`);
    }
    if (kind !== KIND_SERIAL) return;
    const wanted = EFFECT_IRQ | EFFECT_OUTPUT | EFFECT_REQUEST;
    assert.is(effects & wanted, wanted, 'the accesses reach what there is to reach');
  });
}

test.run();
