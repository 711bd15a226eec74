// Virtio 1.2 §3: initialisation and cleanup, as far as a device sees them. The sections bind
// drivers only; the tests show what a driver gets that does otherwise.
import * as assert from 'uvu/assert';
import { EFFECT_IRQ, EFFECT_REQUEST } from '../../assembly/abi.ts';
import { BLK_S_OK, BLK_T_IN, BLK_T_OUT, blkHeader } from '../../testing/block.ts';
import {
  ACKNOWLEDGE,
  DRIVER,
  DRIVER_OK,
  F_VERSION_1,
  FAILED,
  FEATURES_OK,
  REG,
} from '../../testing/driver.ts';
import { DATA, DESC_F_WRITE } from '../../testing/queue.ts';
import { parseRecord } from '../../testing/requests.ts';
import { blkDevice } from '../fixtures.ts';
import {
  CONFIG_WRITEBACK,
  disk,
  diskAt,
  F_BLK_CONFIG_WCE,
  F_BLK_DISCARD,
  F_BLK_FLUSH,
  ignored,
  into,
  offer,
  PAYLOAD,
  ring,
  STAGES,
  STATUS_BYTE,
  watched,
} from './setup.ts';
import { LEGACY, type Section } from './statement.ts';

const sequence: Section = {
  number: '3.1.1',
  title: 'Device initialisation',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Resets, sets ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK: in order.',
      answer: 'what belongs to a later step is ignored and counted',
      test() {
        for (const done of STAGES.keys()) {
          const { cage, driver } = diskAt(done);
          const before = cage.counters();
          // Features belong after DRIVER (2 steps done), queues after FEATURES_OK (3).
          const features = driver.set(REG.DriverFeatures, 0);
          assert.is(features === 0, done === 2);
          assert.is(driver.set(REG.QueueNum, 16) === 0, done === 3);
          assert.is(driver.set(REG.QueueDescLow, PAYLOAD) === 0, done === 3);
          assert.is(cage.counters().frozen - before.frozen, done === 3 ? 0 : 2);
        }
      },
    },
    {
      level: 'MAY',
      says: 'Reads the configuration fields before it accepts the device.',
      answer: 'they can be read',
      test() {
        const { cage, driver } = diskAt(2);
        assert.is(driver.get(REG.Config), 2048);
        assert.is(cage.counters().register, 0);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Writes no configuration field before FEATURES_OK.',
      answer: 'the write is ignored and counted',
      test() {
        const { driver } = blkDevice();
        driver.set(REG.Status, STAGES[1]);
        driver.set(REG.Status, STAGES[2]);
        driver.acceptFeatures(F_VERSION_1 | F_BLK_FLUSH | F_BLK_CONFIG_WCE);
        ignored(driver.set(CONFIG_WRITEBACK, 0, 1));
        assert.is(driver.get(CONFIG_WRITEBACK, 1), 1);
        driver.addStatus(FEATURES_OK);
        assert.is(driver.set(CONFIG_WRITEBACK, 0, 1), 0);
        assert.is(driver.get(CONFIG_WRITEBACK, 1), 0);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Accepts no further feature after FEATURES_OK.',
      answer: 'the features stay as they were',
      test() {
        for (const done of [3, 4]) {
          const { driver } = diskAt(done);
          driver.set(REG.DriverFeaturesSel, 0);
          ignored(driver.set(REG.DriverFeatures, Number(F_BLK_CONFIG_WCE | F_BLK_DISCARD)));
          ignored(driver.set(CONFIG_WRITEBACK, 0, 1));
        }
      },
    },
    {
      level: 'MUST',
      says: 'Reads the status again to see whether FEATURES_OK stayed.',
      answer: 'where it did not, neither queues nor DRIVER_OK can be set',
      test() {
        const { driver } = diskAt(2);
        driver.acceptFeatures(F_VERSION_1 | (1n << 40n));
        const status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        ignored(driver.set(REG.Status, status));
        ignored(driver.set(REG.QueueReady, 1));
        ignored(driver.set(REG.Status, status | DRIVER_OK));
        assert.is(driver.get(REG.Status), ACKNOWLEDGE | DRIVER);
      },
    },
    {
      level: 'SHOULD',
      says: 'Sets FAILED when a step goes wrong for good.',
      answer: 'FAILED is taken at every step',
      test() {
        for (const [done, status] of STAGES.entries()) {
          const { driver } = diskAt(done);
          assert.is(driver.set(REG.Status, status | FAILED), 0);
          assert.is(driver.get(REG.Status), status | FAILED);
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'Does not go on with initialisation then.',
      answer: 'the next step is ignored and counted',
      test() {
        for (const done of [0, 1, 2, 3]) {
          const { driver } = diskAt(done);
          driver.addStatus(FAILED);
          ignored(driver.set(REG.Status, STAGES[done + 1] | FAILED));
          ignored(driver.set(REG.Status, STAGES[done + 1]));
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'Sends no available buffer notification before DRIVER_OK.',
      answer: 'it is ignored and counted, and the queue is not looked at',
      test() {
        for (const done of [0, 1, 2, 3]) {
          const { cage, driver, memory } = diskAt(done);
          const accesses = watched(memory, () => ignored(driver.set(REG.QueueNotify, 0)));
          assert.equal(accesses, []);
          assert.is(cage.counters().notify, 1);
        }
      },
    },
  ],
};

const legacySequence: Section = {
  number: '3.1.2',
  title: 'Device initialisation (legacy)',
  side: 'both',
  rows: [
    {
      level: 'MUST',
      says: 'A transitional driver goes without FEATURES_OK.',
      notApplicable: LEGACY,
    },
    {
      level: 'MUST',
      says: 'A transitional device lets configuration fields be written before the features.',
      notApplicable: LEGACY,
    },
    {
      level: 'MUST',
      says: 'A transitional device can be used before DRIVER_OK.',
      notApplicable: LEGACY,
    },
  ],
};

const cleanup: Section = {
  number: '3.3.1',
  title: 'Device cleanup',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Changes no descriptor or ring entry of a buffer that the device has.',
      answer: 'a request is what it was when the device first read it',
      test() {
        const device = disk({}, 0n);
        const { queue, memory } = device;
        blkHeader(memory, DATA, BLK_T_IN, 3n);
        offer(device, [{ address: DATA, length: 16 }, into(512), into(1, STATUS_BYTE)]);
        device.cage.notify(0);
        const before = parseRecord(device.cage.record());
        blkHeader(memory, DATA, BLK_T_OUT, 9n);
        queue.setDescriptor(1, into(64, 0), DESC_F_WRITE, 0);
        queue.setDescriptor(2, into(1, 0), DESC_F_WRITE, 0);
        device.cage.complete(before.tag, 0, 512);
        assert.is(before.offset, 3n * 512n);
        assert.is(memory.view.getUint8(STATUS_BYTE), BLK_S_OK);
        assert.equal(queue.takeUsed(), { id: 0, length: 513 });
      },
    },
    {
      level: 'MUST',
      says: 'Makes sure that a queue is not live, by a reset, before it takes buffers back.',
      answer: 'after the reset nothing is written to them; buffers offered anew are served',
      test() {
        const device = ring();
        offer(device);
        device.cage.notify(0);
        const { tag } = parseRecord(device.cage.record());
        device.driver.set(REG.Status, 0);
        device.queue = device.driver.bringUp({ features: 0n });
        const accesses = watched(device.memory, () => {
          assert.is(device.cage.complete(tag, 0, 64) & EFFECT_IRQ, 0);
        });
        assert.equal(accesses, []);
        offer(device, [into(8)]);
        assert.is(device.cage.notify(0) & EFFECT_REQUEST, EFFECT_REQUEST);
        assert.is(parseRecord(device.cage.record()).length, 8n);
      },
    },
  ],
};

export const INITIALISATION: Section[] = [sequence, legacySequence, cleanup];
