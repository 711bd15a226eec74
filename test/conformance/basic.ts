// Virtio 1.2 §2.1 device status, §2.2 feature bits, §2.4 reset, §2.5 configuration space.
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_IRQ, EFFECT_REQUEST } from '../../assembly/abi.ts';
import type { BlkConfig } from '../../host/device-config.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  F_VERSION_1,
  FAILED,
  FEATURES_OK,
  REG,
  RUNNING,
} from '../../testing/driver.ts';
import { NET_F_GUEST_CSUM, NET_F_GUEST_TSO4 } from '../../testing/net.ts';
import { parseRecord } from '../../testing/requests.ts';
import { blkDevice, type Fixture, netDevice, rngDevice } from '../fixtures.ts';
import {
  broken,
  diskAt,
  F_BLK_CONFIG_WCE,
  F_BLK_FLUSH,
  ignored,
  into,
  type Live,
  offer,
  ring,
  STAGES,
  watched,
} from './setup.ts';
import { LEGACY, OWN_READING, type Section } from './statement.ts';

const CONFIGS: Partial<BlkConfig>[] = [
  {},
  { readOnly: true },
  { discard: false, writeZeroes: false, writeback: false },
  { queueCount: 4, sizeMax: 65536 },
];

/** An entropy device up to FEATURES_OK, a buffer on its ready queue. */
function almostLive(): Live {
  const device = ring();
  device.driver.negotiate(0n);
  device.driver.configureQueue(device.queue);
  device.driver.set(REG.QueueReady, 1);
  offer(device);
  return device;
}

const driverStatus: Section = {
  number: '2.1.1',
  title: 'Device status field',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Sets the status bits in the order in which it goes through initialisation.',
      answer: 'a status that leaves out a step is ignored and counted',
      test() {
        for (const [done, status] of STAGES.entries()) {
          for (const skipping of STAGES.slice(done + 2)) {
            const { driver } = diskAt(done);
            ignored(driver.set(REG.Status, skipping));
            assert.is(driver.get(REG.Status), status);
          }
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'Clears no status bit, except all of them by a reset.',
      answer: 'the write is ignored and counted',
      test() {
        for (const bit of [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK]) {
          const { driver } = diskAt(4);
          ignored(driver.set(REG.Status, RUNNING & ~bit));
          assert.is(driver.get(REG.Status), RUNNING);
        }
      },
    },
    {
      level: 'MUST',
      says: 'Having set FAILED, resets the device before it initialises it again.',
      answer: 'no step is taken until a reset',
      test() {
        const { driver } = diskAt(1);
        driver.addStatus(FAILED);
        for (const status of STAGES.slice(1)) ignored(driver.set(REG.Status, status));
        ignored(driver.set(REG.Status, STAGES[2] | FAILED));
        assert.is(driver.get(REG.Status), ACKNOWLEDGE | FAILED);
        driver.bringUp();
        assert.is(driver.get(REG.Status), RUNNING);
      },
    },
    {
      level: 'SHOULD NOT',
      says: 'Counts on no request being completed once DEVICE_NEEDS_RESET is set.',
      unseen: OWN_READING,
    },
  ],
};

const deviceStatus: Section = {
  number: '2.1.2',
  title: 'Device status field',
  side: 'device',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Takes no buffer before DRIVER_OK.',
      test() {
        const device = almostLive();
        const accesses = watched(device.memory, () => {
          ignored(device.driver.set(REG.QueueNotify, 0));
          ignored(device.cage.notify(0));
          assert.is(device.cage.next(0), 0);
        });
        assert.equal(accesses, []);
        device.driver.addStatus(DRIVER_OK);
        assert.is(device.cage.notify(0) & EFFECT_REQUEST, EFFECT_REQUEST);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Sends no used buffer notification before DRIVER_OK.',
      test() {
        const device = almostLive();
        assert.is(device.driver.set(REG.QueueNotify, 0) & EFFECT_IRQ, 0);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
        assert.is(device.queue.takeUsed(), null);
      },
    },
    {
      level: 'SHOULD',
      says: 'Sets DEVICE_NEEDS_RESET in an error that only a reset ends.',
      test() {
        const spoil: ((device: Live) => void)[] = [
          ({ queue }) => queue.setAvailIndex(queue.size + 1),
          ({ queue }) => queue.offer(queue.size),
          (device) => device.queue.offer(offer(device)), // the same head twice
        ];
        for (const [index, spoiled] of spoil.entries()) {
          const device = ring();
          spoiled(device);
          if (index === 2) device.cage.notify(0); // the first of the two is in order
          device.cage.next(0);
          assert.is(device.driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
        }
      },
    },
    {
      level: 'MUST',
      says: 'After DRIVER_OK, tells of that by a configuration change notification.',
      test() {
        const device = ring();
        device.queue.setAvailIndex(device.queue.size + 1);
        broken(device);
        assert.is(device.cage.fail() & EFFECT_IRQ, EFFECT_IRQ);
        assert.is(device.driver.get(REG.InterruptStatus) & 2, 2);
      },
    },
  ],
};

const driverFeatures: Section = {
  number: '2.2.1',
  title: 'Feature bits',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Accepts no feature that was not offered.',
      answer: 'FEATURES_OK does not stick',
      test() {
        const { driver } = blkDevice();
        const offered = driver.offeredFeatures();
        for (let bit = 0n; bit < 64n; bit += 1n) {
          if (offered & (1n << bit)) continue;
          assert.is(driver.negotiate(offered | (1n << bit)), ACKNOWLEDGE | DRIVER);
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'Accepts no feature without the features that it requires.',
      answer: 'FEATURES_OK does not stick',
      test() {
        const { driver } = netDevice();
        assert.is(driver.negotiate(NET_F_GUEST_TSO4), ACKNOWLEDGE | DRIVER);
        const both = NET_F_GUEST_TSO4 | NET_F_GUEST_CSUM;
        assert.is(driver.negotiate(both), RUNNING & ~DRIVER_OK);
      },
    },
    {
      level: 'SHOULD',
      says: 'Makes do without a feature that it knows and that is not offered.',
      unseen: OWN_READING,
    },
    {
      level: 'MUST',
      says: 'Or else sets FAILED and stops initialisation.',
      unseen: OWN_READING,
    },
  ],
};

const deviceFeatures: Section = {
  number: '2.2.2',
  title: 'Feature bits',
  side: 'device',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Offers no feature without those that it requires.',
      test() {
        for (const config of CONFIGS) {
          const offered = blkDevice(config).driver.offeredFeatures();
          // The one dependency among the bits of a disk: CONFIG_WCE on FLUSH (§5.2.5.2).
          if (offered & F_BLK_CONFIG_WCE) assert.is(offered & F_BLK_FLUSH, F_BLK_FLUSH);
        }
        // A network device refuses a host's offloads without those that they require.
        assert.throws(() => netDevice({ offloads: NET_F_GUEST_TSO4 }));
        assert.ok(netDevice({ offloads: NET_F_GUEST_TSO4 | NET_F_GUEST_CSUM }));
      },
    },
    {
      level: 'SHOULD',
      says: 'Takes any valid subset of what it offers.',
      test() {
        for (const { driver } of [blkDevice(CONFIGS[3]), rngDevice()]) {
          const offered = driver.offeredFeatures() & ~F_VERSION_1;
          // Every subset once, from all of them to none.
          for (let subset = offered; ; subset = (subset - 1n) & offered) {
            assert.is(driver.negotiate(subset), RUNNING & ~DRIVER_OK, `${subset}`);
            if (subset === 0n) break;
          }
        }
      },
    },
    {
      level: 'MUST',
      says: 'Refuses FEATURES_OK for anything else.',
      test() {
        const { driver } = blkDevice();
        driver.negotiate();
        driver.set(REG.Status, 0);
        driver.set(REG.Status, ACKNOWLEDGE);
        driver.set(REG.Status, ACKNOWLEDGE | DRIVER);
        driver.acceptFeatures(0n); // not even VERSION_1
        assert.is(driver.addStatus(FEATURES_OK), ACKNOWLEDGE | DRIVER);
        driver.acceptFeatures(F_VERSION_1);
        driver.set(REG.DriverFeaturesSel, 2); // bits 64 to 95
        driver.set(REG.DriverFeatures, 1);
        assert.is(driver.addStatus(FEATURES_OK), ACKNOWLEDGE | DRIVER);
      },
    },
    {
      level: 'SHOULD NOT',
      says: 'Does not refuse after a device or system reset what it took before.',
      test() {
        const { cage, driver } = blkDevice();
        for (const features of [driver.offeredFeatures(), 0n]) {
          const took = driver.negotiate(features);
          cage.reset();
          assert.is(driver.negotiate(features), took);
          assert.is(took, RUNNING & ~DRIVER_OK);
        }
      },
    },
  ],
};

const legacyFeatures: Section = {
  number: '2.2.3',
  title: 'Feature bits (legacy)',
  side: 'both',
  rows: [
    {
      level: 'MUST',
      says: 'A transitional driver takes a device that does not offer VERSION_1 for a legacy one.',
      notApplicable: LEGACY,
    },
    {
      level: 'MUST',
      says: 'A transitional device takes a driver that does not accept VERSION_1 for a legacy one.',
      notApplicable: LEGACY,
    },
    {
      level: 'MUST',
      says: 'Both then keep to the sections about the legacy interface.',
      notApplicable: LEGACY,
    },
  ],
};

const deviceReset: Section = {
  number: '2.4.1',
  title: 'Device reset',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'The status is 0 after a reset.',
      test() {
        const reset: ((device: Fixture) => void)[] = [
          ({ driver }) => driver.set(REG.Status, 0),
          ({ cage }) => cage.reset(),
        ];
        for (const how of reset) {
          for (const done of STAGES.keys()) {
            for (const also of [0, FAILED, DEVICE_NEEDS_RESET]) {
              const device = diskAt(done);
              if (also === FAILED) device.driver.addStatus(FAILED);
              if (also === DEVICE_NEEDS_RESET) device.cage.fail();
              how(device);
              assert.is(device.driver.get(REG.Status), 0);
            }
          }
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'From then on sends no notification and touches no queue until it is initialised anew.',
      test() {
        const device = ring();
        offer(device);
        device.cage.notify(0);
        const { tag } = parseRecord(device.cage.record());
        offer(device, [into(32)]);
        device.driver.set(REG.Status, 0);
        let effects = 0;
        const accesses = watched(device.memory, () => {
          effects |= device.cage.complete(tag, 0, 64); // the host is late
          effects |= device.driver.set(REG.QueueNotify, 0);
          effects |= device.cage.next(0);
        });
        assert.equal(accesses, []);
        assert.is(effects, EFFECT_INCIDENT);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
      },
    },
  ],
};

const driverReset: Section = {
  number: '2.4.2',
  title: 'Device reset',
  side: 'driver',
  rows: [
    {
      level: 'SHOULD',
      says: 'Takes a reset as done once the status reads 0.',
      unseen: 'here a reset is done when the write that asks for it returns',
    },
  ],
};

const CONFIG_BYTES = 60; // up to write_zeroes_may_unmap and its padding

const driverConfiguration: Section = {
  number: '2.5.1',
  title: 'Device configuration space',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Takes no read of more than 32 bits, and no reads of several fields, for atomic.',
      unseen: OWN_READING,
    },
    {
      level: 'SHOULD',
      says: 'Reads again until the generation is the same before and after.',
      unseen: OWN_READING,
    },
    {
      level: 'MUST',
      says: 'Looks at an optional field only if its feature is offered.',
      answer: 'the fields of features not offered read 0',
      test() {
        const { driver } = blkDevice({ discard: false, writeZeroes: false });
        assert.is(driver.get(REG.Config + 8), 0); // size_max
        assert.is(driver.get(REG.Config + 16), 0); // geometry
        assert.is(driver.get(REG.Config + 34, 2), 0); // num_queues
        for (let at = 36; at < CONFIG_BYTES; at += 4) assert.is(driver.get(REG.Config + at), 0);
        assert.is.not(blkDevice().driver.get(REG.Config + 36), 0);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Sets no upper bound on the size of the configuration space.',
      unseen: OWN_READING,
    },
    {
      level: 'SHOULD',
      says: 'Asks only that it is large enough for what it needs.',
      unseen: OWN_READING,
    },
  ],
};

const deviceConfiguration: Section = {
  number: '2.5.2',
  title: 'Device configuration space',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'Every field of what it offers can be read before FEATURES_OK.',
      test() {
        const config = { queueCount: 4, sizeMax: 65536, blockSize: 4096 };
        const read = (steps: number) => {
          const { driver, cage } = diskAt(steps, config);
          const bytes = [...Array(CONFIG_BYTES).keys()].map((at) => driver.get(REG.Config + at, 1));
          assert.is(cage.counters().register, 0);
          return bytes;
        };
        const running = read(4);
        for (const steps of [0, 1, 2]) assert.equal(read(steps), running);
        // What the host chose is what is read, in the fields that depend on a feature.
        const { driver } = diskAt(0, config);
        assert.is(driver.get(REG.Config + 8), 65536);
        assert.is(driver.get(REG.Config + 20), 4096);
        assert.is(driver.get(REG.Config + 34, 2), 4);
      },
    },
  ],
};

const legacyConfiguration: Section = {
  number: '2.5.4',
  title: 'Device configuration space (legacy)',
  side: 'driver',
  rows: [
    {
      level: 'SHOULD',
      says: 'Without a generation, reads until two reads agree.',
      notApplicable: LEGACY,
    },
  ],
};

export const BASIC: Section[] = [
  driverStatus,
  deviceStatus,
  driverFeatures,
  deviceFeatures,
  legacyFeatures,
  deviceReset,
  driverReset,
  driverConfiguration,
  deviceConfiguration,
  legacyConfiguration,
];
