// Virtio 1.2 §4.2: the transport over MMIO.
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_IRQ, EFFECT_REQUEST, VALID } from '../../assembly/abi.ts';
import { BLK_T_FLUSH, blkHeader } from '../../testing/block.ts';
import { ACKNOWLEDGE, DRIVER, F_VERSION_1, REG, RUNNING } from '../../testing/driver.ts';
import { DATA } from '../../testing/queue.ts';
import { kick, parseRecord } from '../../testing/requests.ts';
import { blkDevice, rngDevice } from '../fixtures.ts';
import {
  CONFIG_WRITEBACK,
  disk,
  diskAt,
  F_BLK_CONFIG_WCE,
  F_BLK_FLUSH,
  ignored,
  into,
  offer,
  ring,
  STATUS_BYTE,
  submit,
  watched,
} from './setup.ts';
import { legacy, OWN_READING, RING_RESET, type Section } from './statement.ts';

const QUEUE_REGISTERS = [
  REG.QueueNum,
  REG.QueueDescLow,
  REG.QueueDescHigh,
  REG.QueueDriverLow,
  REG.QueueDriverHigh,
  REG.QueueDeviceLow,
  REG.QueueDeviceHigh,
];
const READ_ONLY: number[] = [
  REG.MagicValue,
  REG.Version,
  REG.DeviceID,
  REG.VendorID,
  REG.DeviceFeatures,
  REG.QueueNumMax,
  REG.InterruptStatus,
  REG.SHMLenLow,
  REG.SHMLenHigh,
  REG.SHMBaseLow,
  REG.SHMBaseHigh,
  REG.ConfigGeneration,
];
const WRITE_ONLY: number[] = [
  ...QUEUE_REGISTERS,
  REG.DeviceFeaturesSel,
  REG.DriverFeatures,
  REG.DriverFeaturesSel,
  REG.QueueSel,
  REG.QueueNotify,
  REG.InterruptACK,
  REG.SHMSel,
];
const BOTH: number[] = [REG.QueueReady, REG.Status];
const ONES = 0xffffffff;

/** A read that is refused: all ones, and counted. */
function absent(device: ReturnType<typeof blkDevice>, offset: number, width = 4): void {
  ignored(device.cage.read(offset, width));
  assert.is(device.cage.value64(), (1n << BigInt(8 * width)) - 1n);
}

const generationIsContent = () => {
  // Whatever happened between two reads of the configuration space, a driver that finds the same
  // generation before and after has seen one content.
  const { cage, driver } = blkDevice();
  const seen = new Map<number, string>();
  const steps: (() => void)[] = [
    () => driver.negotiate(F_BLK_CONFIG_WCE), // no flush: the cache mode changes by itself
    () => driver.set(CONFIG_WRITEBACK, 1, 1),
    () => driver.set(CONFIG_WRITEBACK, 1, 1),
    () => driver.set(CONFIG_WRITEBACK, 0, 1),
    () => driver.negotiate(F_BLK_CONFIG_WCE | F_BLK_FLUSH),
    () => driver.set(CONFIG_WRITEBACK, 0, 1),
    () => cage.reset(),
    () => driver.bringUp(),
    () => driver.set(CONFIG_WRITEBACK, 0, 1),
    () => driver.set(CONFIG_WRITEBACK, 1, 1),
  ];
  for (const step of [...steps, ...steps]) {
    step();
    const words = Array.from({ length: 15 }, (_, index) => driver.get(REG.Config + 4 * index));
    const content = words.join(' ');
    const generation = driver.get(REG.ConfigGeneration);
    assert.is(seen.get(generation) ?? content, content, `generation ${generation}`);
    seen.set(generation, content);
  }
  assert.ok(seen.size > 1);
};

const deviceRegisters: Section = {
  number: '4.2.2.1',
  title: 'Register layout',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'MagicValue reads 0x74726976.',
      test() {
        for (const { driver } of [blkDevice(), rngDevice()]) {
          assert.is(driver.get(REG.MagicValue), 0x74726976);
        }
      },
    },
    {
      level: 'MUST',
      says: 'Version reads 2.',
      test() {
        for (const { driver } of [blkDevice(), rngDevice()]) assert.is(driver.get(REG.Version), 2);
      },
    },
    {
      level: 'MUST',
      says: 'An event stands in InterruptStatus from when it happens until it is acknowledged.',
      test() {
        const device = ring(0n);
        offer(device);
        kick(device.cage, 0);
        assert.is(device.driver.get(REG.InterruptStatus), 1);
        device.driver.set(REG.InterruptACK, 2); // another event's bit
        assert.is(device.driver.get(REG.InterruptStatus), 1);
        device.cage.fail();
        assert.is(device.driver.get(REG.InterruptStatus), 3);
        device.driver.set(REG.InterruptACK, 1);
        assert.is(device.driver.get(REG.InterruptStatus), 2);
        device.driver.set(REG.InterruptACK, 2);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
      },
    },
    {
      level: 'MUST',
      says: 'The bits of what did not happen are 0.',
      test() {
        const device = ring(0n);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
        offer(device);
        device.cage.notify(0); // a request under way is no event yet
        assert.is(device.driver.get(REG.InterruptStatus), 0);
        device.cage.complete(parseRecord(device.cage.record()).tag, 0, 64);
        assert.is(device.driver.get(REG.InterruptStatus), 1);
      },
    },
    {
      level: 'MUST',
      says: 'A reset clears InterruptStatus.',
      test() {
        const device = ring(0n);
        offer(device);
        kick(device.cage, 0);
        device.cage.fail();
        assert.is(device.driver.get(REG.InterruptStatus), 3);
        device.driver.set(REG.Status, 0);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
      },
    },
    {
      level: 'MUST',
      says: 'A reset clears QueueReady of every queue.',
      test() {
        const { driver } = blkDevice({ queueCount: 8 });
        driver.bringUp({ queueCount: 8 });
        const ready = () =>
          [...Array(8).keys()].map((index) => {
            driver.set(REG.QueueSel, index);
            return driver.get(REG.QueueReady);
          });
        assert.equal(ready(), Array(8).fill(1));
        driver.set(REG.Status, 0);
        assert.equal(ready(), Array(8).fill(0));
      },
    },
    {
      level: 'MUST',
      says: 'ConfigGeneration changes where a driver might else see a mixture of configurations.',
      test: generationIsContent,
    },
    {
      level: 'MUST NOT',
      says: 'Touches no queue whose QueueReady is 0.',
      test() {
        const device = ring();
        offer(device);
        device.cage.notify(0);
        const { tag } = parseRecord(device.cage.record());
        offer(device);
        device.driver.set(REG.QueueReady, 0);
        const accesses = watched(device.memory, () => {
          device.driver.set(REG.QueueNotify, 0);
          device.cage.complete(tag, 0, 64);
          device.cage.next(0);
        });
        assert.equal(accesses, []);
      },
    },
    {
      level: 'MUST',
      says: 'QueueReset reads 0 after a reset.',
      notApplicable: RING_RESET,
    },
    {
      level: 'MUST',
      says: 'QueueReset reads 0 after QueueReady was set.',
      notApplicable: RING_RESET,
    },
    {
      level: 'MUST',
      says: 'A 1 written to QueueReset resets the queue.',
      notApplicable: RING_RESET,
    },
    {
      level: 'MUST',
      says: 'QueueReset reads 1 until that is done.',
      notApplicable: RING_RESET,
    },
    {
      level: 'MUST',
      says: 'QueueReset and QueueReady read 0 when it is done.',
      notApplicable: RING_RESET,
    },
  ],
};

const driverAccesses: Section['rows'] = [
  {
    level: 'MUST NOT',
    says: 'Accesses nothing but registers and fields that exist.',
    answer: 'reads give all ones, writes do nothing, both are counted',
    test() {
      const device = blkDevice();
      const known = [...READ_ONLY, ...WRITE_ONLY, ...BOTH];
      for (let offset = 0; offset < 0x1000; offset += 4) {
        const field = offset >= REG.Config && offset < REG.Config + 60;
        if (field || known.includes(offset)) continue;
        absent(device, offset);
        ignored(device.cage.write(offset, 4, 1));
      }
      const rng = rngDevice();
      ignored(rng.cage.read(REG.Config, 1)); // an entropy device has no configuration space
    },
  },
  {
    level: 'MUST NOT',
    says: 'Writes to no register that is for reading.',
    answer: 'the write does nothing and is counted',
    test() {
      const { driver } = blkDevice();
      for (const register of READ_ONLY) {
        const before = driver.get(register);
        ignored(driver.set(register, ~before >>> 0));
        assert.is(driver.get(register), before);
      }
    },
  },
  {
    level: 'MUST NOT',
    says: 'Reads no register that is for writing.',
    answer: 'all ones, and counted',
    test() {
      const device = blkDevice();
      device.driver.bringUp();
      for (const register of WRITE_ONLY) absent(device, register);
    },
  },
  {
    level: 'MUST',
    says: 'Accesses control registers with 32 bits, aligned.',
    answer: 'other reads give all ones, other writes do nothing, both are counted',
    test() {
      const device = diskAt(1);
      for (const register of [...READ_ONLY, ...BOTH]) {
        for (const [shift, width] of [
          [0, 1],
          [0, 2],
          [0, 8],
          [1, 4],
          [2, 4],
          [2, 2],
        ]) {
          absent(device, register + shift, width);
        }
      }
      for (const [shift, width] of [
        [0, 1],
        [0, 2],
        [1, 4],
        [3, 1],
      ]) {
        ignored(device.cage.write(REG.Status + shift, width, ACKNOWLEDGE | DRIVER));
      }
      assert.is(device.driver.get(REG.Status), ACKNOWLEDGE);
    },
  },
  {
    level: 'MUST',
    says: 'Accesses configuration fields with their own width, those of 64 bits in two halves.',
    answer: 'narrower aligned reads are served; 64-bit, unaligned and wider writes are refused',
    test() {
      const device = disk();
      const { cage, driver } = device;
      assert.is(driver.get(REG.Config) + driver.get(REG.Config + 4), 2048);
      assert.is(driver.get(REG.Config + 1, 1), 8); // a part of capacity
      for (const [offset, width] of [
        [0, 8],
        [2, 4],
        [1, 2],
        [0, 3],
      ]) {
        ignored(cage.read(REG.Config + offset, width));
      }
      ignored(cage.write(CONFIG_WRITEBACK, 2, 0));
      ignored(cage.write(CONFIG_WRITEBACK, 4, 0));
      assert.is(driver.get(CONFIG_WRITEBACK, 1), 1);
    },
  },
];

const driverInitial: Section['rows'] = [
  {
    level: 'MUST',
    says: 'Ignores a device with another MagicValue; it may report an error.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST',
    says: 'Ignores a device with another Version; it may report an error.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST',
    says: 'Ignores a device with DeviceID 0.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST NOT',
    says: 'Reports no error then.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST',
    says: 'Writes DeviceFeaturesSel before it reads DeviceFeatures.',
    answer: 'it reads bits 0 to 31; past bit 63 there are none',
    test() {
      const { driver } = blkDevice();
      const low = driver.get(REG.DeviceFeatures);
      assert.is(BigInt(low), driver.offeredFeatures() & 0xffffffffn);
      driver.set(REG.DeviceFeaturesSel, 2);
      assert.is(driver.get(REG.DeviceFeatures), 0);
      driver.set(REG.Status, 0);
      assert.is(driver.get(REG.DeviceFeatures), low);
    },
  },
  {
    level: 'MUST',
    says: 'Writes DriverFeaturesSel before it writes DriverFeatures.',
    answer: 'it writes bits 0 to 31',
    test() {
      const { driver } = diskAt(2);
      driver.set(REG.DriverFeatures, 1); // bit 0, or bit 32, which is VERSION_1
      driver.addStatus(8);
      assert.is(driver.get(REG.Status), ACKNOWLEDGE | DRIVER);
      driver.acceptFeatures(F_VERSION_1);
      assert.is(driver.addStatus(8), ACKNOWLEDGE | DRIVER | 8);
    },
  },
];

const driverQueues: Section['rows'] = [
  {
    level: 'MUST',
    says: 'Writes to QueueNum no more than QueueNumMax says.',
    answer: 'the write does nothing and is counted',
    test() {
      const device = blkDevice({ queueSize: 32 });
      const { driver } = device;
      const queue = driver.bringUp({ queueSize: 32 });
      driver.negotiate(0n);
      driver.configureQueue(queue);
      for (const size of [33, 64, 0x10010, ONES]) ignored(driver.set(REG.QueueNum, size));
      assert.is(driver.set(REG.QueueReady, 1), 0); // with the 32 from before
    },
  },
  {
    level: 'MUST NOT',
    says: 'Accesses size and addresses of no queue whose QueueReady is not 0.',
    answer: 'reads give all ones, writes do nothing, both are counted',
    test() {
      const device = disk();
      for (const register of QUEUE_REGISTERS) {
        absent(device, register);
        ignored(device.driver.set(register, 8));
      }
      assert.is(submit(device, BLK_T_FLUSH).length, 1); // where the queue was
    },
  },
  {
    level: 'MUST',
    says: 'Writes 0 to QueueReady to stop using a queue.',
    answer: 'a queue that is not stopped stays in use, whatever the driver does with its memory',
    test() {
      const device = ring();
      device.driver.set(REG.QueueSel, 5); // looks at another queue and leaves
      offer(device);
      assert.is(device.cage.notify(0) & EFFECT_REQUEST, EFFECT_REQUEST);
      device.driver.set(REG.QueueSel, 0);
      device.driver.set(REG.QueueReady, 0);
      assert.is(device.cage.check(), VALID); // the request under way is forgotten
      offer(device);
      ignored(device.cage.notify(0));
    },
  },
  {
    level: 'MUST',
    says: 'Reads QueueReady back then, to be sure.',
    answer: 'it reads 0 at once, and the queue is left alone from the write on',
    test() {
      const device = ring();
      device.driver.set(REG.QueueReady, 0);
      assert.is(device.driver.get(REG.QueueReady), 0);
      assert.is(device.driver.get(REG.Status), RUNNING);
    },
  },
];

const driverInterrupts: Section['rows'] = [
  {
    level: 'MUST',
    says: 'Ignores bits of InterruptStatus that mean nothing.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST',
    says: 'Writes what it handled to InterruptACK when it is done.',
    answer: 'what it does not acknowledge stays set, and further events still interrupt',
    test() {
      const device = ring(0n);
      for (let count = 0; count < 3; count += 1) {
        offer(device);
        assert.is(kick(device.cage, 0).effects & EFFECT_IRQ, EFFECT_IRQ);
        assert.is(device.driver.get(REG.InterruptStatus), 1);
      }
    },
  },
  {
    level: 'MUST NOT',
    says: 'Sets no bit there that means nothing.',
    answer: 'the bit does nothing',
    test() {
      const device = ring(0n);
      offer(device);
      kick(device.cage, 0);
      assert.is(device.driver.set(REG.InterruptACK, 0xfffffffc), 0);
      assert.is(device.driver.get(REG.InterruptStatus), 1);
    },
  },
  {
    level: 'MUST NOT',
    says: 'Takes no queue reset for done before QueueReset reads 0.',
    notApplicable: RING_RESET,
  },
  {
    level: 'MAY',
    says: 'Then enables the queue again.',
    notApplicable: RING_RESET,
  },
  {
    level: 'MAY',
    says: 'Gives it other values by that.',
    notApplicable: RING_RESET,
  },
];

const driverRegisters: Section = {
  number: '4.2.2.2',
  title: 'Register layout',
  side: 'driver',
  rows: [...driverAccesses, ...driverInitial, ...driverQueues, ...driverInterrupts],
};

const mmioInitialisation: Section = {
  number: '4.2.3.1.1',
  title: 'Device initialisation over MMIO',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Begins with MagicValue and Version, and checks them.',
      unseen: OWN_READING,
    },
    {
      level: 'MUST',
      says: 'Then reads DeviceID, and stops where that is 0.',
      unseen: OWN_READING,
    },
    {
      level: 'MUST NOT',
      says: 'Accesses no other register of such a device.',
      notApplicable: 'no device here has DeviceID 0',
    },
    {
      level: 'MUST NOT',
      says: 'Leaves the shared memory registers alone unless it expects shared memory.',
      answer: 'no region exists: length and base read all ones',
      test() {
        const { driver } = blkDevice();
        for (const region of [0, 1, ONES]) {
          assert.is(driver.set(REG.SHMSel, region), 0);
          for (const register of [REG.SHMLenLow, REG.SHMLenHigh, REG.SHMBaseLow, REG.SHMBaseHigh]) {
            assert.is(driver.get(register), ONES);
          }
        }
      },
    },
    {
      level: 'MUST',
      says: 'Goes on as §3.1 says.',
      answer: 'queue registers before FEATURES_OK are refused; the rest is under §3.1.1',
      test() {
        const { cage, driver } = diskAt(2);
        for (const register of QUEUE_REGISTERS) ignored(driver.set(register, 16));
        ignored(driver.set(REG.QueueReady, 1));
        assert.is(cage.counters().frozen, QUEUE_REGISTERS.length + 1);
      },
    },
  ],
};

const mmioNotifications: Section = {
  number: '4.2.3.4.1',
  title: 'Notifications from the device',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Reads InterruptStatus after an interrupt to see its cause.',
      answer: 'reading changes nothing: the cause stands until it is acknowledged',
      test() {
        const device = ring(0n);
        offer(device, [into(1)]);
        kick(device.cage, 0);
        for (let count = 0; count < 3; count += 1) {
          assert.is(device.driver.get(REG.InterruptStatus), 1);
        }
      },
    },
    {
      level: 'SHOULD',
      says: 'Takes the used buffer bit for a notification of every queue.',
      answer: 'the bit stands for all queues together',
      test() {
        const device = blkDevice({ queueCount: 2 });
        device.driver.bringUp({ queueCount: 2 });
        const [first, second] = device.driver.queues;
        for (const queue of [first, second]) {
          const chain = [blkHeader(device.memory, DATA, BLK_T_FLUSH), into(1, STATUS_BYTE)];
          offer({ ...device, queue }, chain);
          kick(device.cage, queue.index);
          assert.is(device.driver.get(REG.InterruptStatus), 1, `${queue.index}`);
          device.driver.set(REG.InterruptACK, 1);
        }
      },
    },
    {
      level: 'MUST',
      says: 'Acknowledges what it handled.',
      answer: 'see §4.2.2.2: what is not acknowledged stays set',
      test() {
        const device = ring(0n);
        offer(device);
        kick(device.cage, 0);
        assert.is(device.driver.get(REG.InterruptStatus), 1);
        assert.is(device.driver.set(REG.InterruptACK, 1) & EFFECT_INCIDENT, 0);
        assert.is(device.driver.get(REG.InterruptStatus), 0);
      },
    },
  ],
};

export const MMIO: Section[] = [
  deviceRegisters,
  driverRegisters,
  mmioInitialisation,
  mmioNotifications,
  legacy('4.2.4', 'Virtio over MMIO'),
];
