// The virtio-mmio transport: assembly/virtio-mmio.ts on the release core (virtio 1.2 §4.2, §2.1).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ALL_QUEUES,
  EFFECT_CANCEL,
  EFFECT_INCIDENT,
  EFFECT_IRQ,
  EFFECT_REQUEST,
  VALID,
  VIRTIO_VENDOR_ID,
} from '../assembly/abi.ts';
import { BLK_T_FLUSH, BLK_T_IN, blkHeader, blkStatus } from '../testing/block.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  type Driver,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  FAILED,
  FEATURES_OK,
  REG,
  RUNNING,
} from '../testing/driver.ts';
import { DATA, DriverQueue } from '../testing/queue.ts';
import { kick, parseRecord } from '../testing/requests.ts';
import { blkDevice, rngDevice } from './fixtures.ts';

const F_BLK_RO = 1n << 5n;
const F_BLK_DISCARD = 1n << 13n;
const QUEUE_REGISTERS = [
  REG.QueueNum,
  REG.QueueDescLow,
  REG.QueueDescHigh,
  REG.QueueDriverLow,
  REG.QueueDriverHigh,
  REG.QueueDeviceLow,
  REG.QueueDeviceHigh,
];
const READABLE = [
  REG.MagicValue,
  REG.Version,
  REG.DeviceID,
  REG.VendorID,
  REG.DeviceFeatures,
  REG.QueueNumMax,
  REG.QueueReady,
  REG.InterruptStatus,
  REG.Status,
  REG.SHMLenLow,
  REG.SHMLenHigh,
  REG.SHMBaseLow,
  REG.SHMBaseHigh,
  REG.ConfigGeneration,
];

/** Offers a flush request, the shortest there is; returns its head. */
function offerFlush(driver: Driver, queue: DriverQueue): number {
  const header = blkHeader(driver.memory, DATA, BLK_T_FLUSH);
  const head = queue.chain([header, blkStatus(driver.memory, DATA + 16)]);
  queue.offer(head);
  return head;
}

/** Up to FEATURES_OK, with queue 0's registers written but not made ready. */
function configured(): { driver: Driver; queue: DriverQueue } {
  const { driver, memory } = blkDevice();
  driver.negotiate();
  const queue = new DriverQueue(memory, 0, 16);
  driver.configureQueue(queue);
  return { driver, queue };
}

// --- Registers ----------------------------------------------------------------------------------

test('identifies itself as a version 2 block or entropy device', () => {
  const { driver } = blkDevice();
  assert.is(driver.get(REG.MagicValue), 0x74726976);
  assert.is(driver.get(REG.Version), 2);
  assert.is(driver.get(REG.DeviceID), 2);
  assert.is(driver.get(REG.VendorID), VIRTIO_VENDOR_ID);
  assert.is(rngDevice().driver.get(REG.DeviceID), 4);
});

test('offers features by pages, and none past the second', () => {
  const { driver } = blkDevice();
  const offered = driver.offeredFeatures();
  assert.is(offered & F_VERSION_1, F_VERSION_1);
  assert.is(offered & (F_INDIRECT_DESC | F_EVENT_IDX), F_INDIRECT_DESC | F_EVENT_IDX);
  for (const page of [2, 3, 0x80000000, 0xffffffff]) {
    driver.set(REG.DeviceFeaturesSel, page);
    assert.is(driver.get(REG.DeviceFeatures), 0);
  }
});

test('does not offer what it does not have: packed rings, in-order, queue reset', () => {
  const offered = blkDevice().driver.offeredFeatures();
  for (const bit of [34n, 35n, 40n]) assert.is(offered & (1n << bit), 0n);
});

test('shared memory regions read as absent, whichever is selected', () => {
  const { driver } = blkDevice();
  for (const region of [0, 1, 255]) {
    assert.is(driver.set(REG.SHMSel, region), 0);
    for (const register of [REG.SHMLenLow, REG.SHMLenHigh, REG.SHMBaseLow, REG.SHMBaseHigh]) {
      assert.is(driver.get(register), 0xffffffff);
    }
  }
});

test('a queue that does not exist has size 0 and is never ready', () => {
  const { driver } = blkDevice();
  assert.is(driver.get(REG.QueueNumMax), 256);
  for (const index of [1, 7, 8, 0xffffffff]) {
    driver.set(REG.QueueSel, index);
    assert.is(driver.get(REG.QueueNumMax), 0);
    assert.is(driver.get(REG.QueueReady), 0);
  }
});

test('write-only and absent registers read all ones and are counted', () => {
  const { cage, driver } = blkDevice();
  let expected = 0;
  for (let offset = 0; offset < 0x100; offset += 4) {
    if ((READABLE as number[]).includes(offset)) continue;
    assert.is(cage.read(offset, 4), EFFECT_INCIDENT);
    assert.is(driver.get(offset), 0xffffffff);
    expected += 2;
  }
  assert.is(cage.counters().register, expected);
});

test('read-only and absent registers ignore writes and count them', () => {
  const { cage, driver } = blkDevice();
  for (const register of [REG.MagicValue, REG.QueueNumMax, REG.InterruptStatus, REG.QueueReset]) {
    assert.is(driver.set(register, 0xffffffff), EFFECT_INCIDENT);
  }
  assert.is(cage.counters().register, 4);
  assert.is(driver.get(REG.MagicValue), 0x74726976);
  assert.is(driver.get(REG.InterruptStatus), 0);
});

test('control registers take aligned 32-bit accesses only', () => {
  const { cage } = blkDevice();
  for (const [offset, width] of [
    [0, 1],
    [0, 2],
    [0, 8],
    [1, 4],
    [2, 4],
    [0x71, 1],
  ] as const) {
    assert.is(cage.read(offset, width), EFFECT_INCIDENT);
    assert.is(cage.value64(), (1n << BigInt(width * 8)) - 1n);
    assert.is(cage.write(offset, width, 0), EFFECT_INCIDENT);
  }
  assert.is(cage.counters().width, 12);
});

// --- Configuration space ------------------------------------------------------------------------

test('configuration reads take 1, 2 and 4 bytes, naturally aligned', () => {
  const { cage, driver } = blkDevice({ capacityBytes: 0x123456 * 512 });
  assert.is(driver.get(REG.Config, 4), 0x123456);
  assert.is(driver.get(REG.Config, 2), 0x3456);
  assert.is(driver.get(REG.Config + 2, 1), 0x12);
  assert.is(cage.counters().width, 0);
  for (const [offset, width] of [
    [1, 2],
    [2, 4],
    [0, 8],
    [0, 3],
    [0, 0],
  ] as const) {
    assert.is(cage.read(REG.Config + offset, width), EFFECT_INCIDENT);
  }
  assert.is(cage.counters().width, 5);
});

test('configuration reads past its end read all ones and are counted', () => {
  const { cage, driver } = blkDevice();
  assert.is(driver.get(REG.Config + 56, 4), 1);
  for (const offset of [60, 64, 0xe00, 0xfffffe00]) {
    assert.is(cage.read(REG.Config + offset, 4), EFFECT_INCIDENT);
    assert.is(cage.value(), 0xffffffff);
  }
  const rng = rngDevice();
  assert.is(rng.cage.read(REG.Config, 1), EFFECT_INCIDENT);
  assert.is(rng.cage.value(), 0xff);
});

test('configuration fields other than the cache mode ignore writes', () => {
  const { cage, driver } = blkDevice();
  driver.bringUp();
  assert.is(cage.write(REG.Config, 4, 1), EFFECT_INCIDENT);
  assert.is(driver.get(REG.Config), 2048);
});

// --- Status -------------------------------------------------------------------------------------

test('the whole initialisation of §3.1.1 leads to a running device', () => {
  const { cage, driver } = blkDevice();
  driver.bringUp();
  assert.is(driver.get(REG.Status), RUNNING);
  assert.is(driver.get(REG.QueueReady), 1);
  assert.equal(new Set(Object.values(cage.counters())), new Set([0]));
});

test('every illegal status transition is ignored and counted', () => {
  const stages = [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, RUNNING & ~DRIVER_OK, RUNNING];
  for (const [stage, from] of stages.entries()) {
    const { cage, driver } = blkDevice();
    for (const status of stages.slice(1, stage + 1)) {
      if (status & FEATURES_OK) driver.acceptFeatures(F_VERSION_1);
      driver.set(REG.Status, status);
    }
    const illegal = [...Array(0x100).keys()].slice(1).filter((to) => {
      const meant = to & ~DEVICE_NEEDS_RESET; // the device's own bit is not the driver's to set
      return meant !== from && meant !== (from | FAILED) && meant !== stages[stage + 1];
    });
    const before = cage.counters().status; // acceptFeatures() is refused past FEATURES_OK
    for (const to of illegal) {
      assert.is(driver.set(REG.Status, to), EFFECT_INCIDENT, `${from} to ${to}`);
      assert.is(driver.get(REG.Status), from);
    }
    assert.is(cage.counters().status - before, illegal.length);
    assert.ok(illegal.length >= 249);
  }
});

test('status bits past the eighth are refused', () => {
  const { driver } = blkDevice();
  assert.is(driver.set(REG.Status, 0x101), EFFECT_INCIDENT);
  assert.is(driver.get(REG.Status), 0);
});

test('writing the same status again changes nothing and is no incident', () => {
  const { driver } = blkDevice();
  driver.bringUp();
  assert.is(driver.set(REG.Status, RUNNING), 0);
});

test('FAILED can be set at any stage and stops the queues until a reset', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp();
  driver.addStatus(FAILED);
  assert.is(driver.get(REG.Status), RUNNING | FAILED);
  offerFlush(driver, queue);
  assert.is(cage.notify(0), EFFECT_INCIDENT);
  assert.is(driver.set(REG.Status, RUNNING), EFFECT_INCIDENT);
  driver.set(REG.Status, 0);
  assert.is(driver.get(REG.Status), 0);
});

// --- Features -----------------------------------------------------------------------------------

test('FEATURES_OK is refused for a feature that was not offered', () => {
  const { cage, driver } = blkDevice();
  assert.is(driver.negotiate(F_BLK_RO), ACKNOWLEDGE | DRIVER);
  assert.is(cage.counters().features, 1);
  driver.acceptFeatures(F_VERSION_1); // the driver may try again
  assert.is(driver.addStatus(FEATURES_OK), RUNNING & ~DRIVER_OK);
});

test('FEATURES_OK is refused without VERSION_1', () => {
  const { driver } = blkDevice();
  driver.negotiate();
  driver.set(REG.Status, 0);
  driver.addStatus(ACKNOWLEDGE);
  driver.addStatus(DRIVER);
  driver.acceptFeatures(F_INDIRECT_DESC);
  assert.is(driver.addStatus(FEATURES_OK), ACKNOWLEDGE | DRIVER);
});

test('FEATURES_OK is refused for a bit on a page that does not exist', () => {
  const { driver } = blkDevice();
  driver.set(REG.Status, ACKNOWLEDGE);
  driver.addStatus(DRIVER);
  driver.acceptFeatures(F_VERSION_1);
  driver.set(REG.DriverFeaturesSel, 2);
  driver.set(REG.DriverFeatures, 1);
  assert.is(driver.addStatus(FEATURES_OK), ACKNOWLEDGE | DRIVER);
});

test('features cannot be written before DRIVER or after FEATURES_OK', () => {
  const { cage, driver } = blkDevice({ discard: true });
  assert.is(driver.set(REG.DriverFeatures, 1), EFFECT_INCIDENT);
  driver.negotiate(0n);
  driver.set(REG.DriverFeaturesSel, 0);
  assert.is(driver.set(REG.DriverFeatures, Number(F_BLK_DISCARD)), EFFECT_INCIDENT);
  assert.is(cage.counters().status, 2);
});

// --- Queue registers ----------------------------------------------------------------------------

test('queue registers cannot be written before FEATURES_OK', () => {
  const { cage, driver } = blkDevice();
  for (const register of QUEUE_REGISTERS) assert.is(driver.set(register, 16), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueReady, 1), EFFECT_INCIDENT);
  assert.is(cage.counters().frozen, QUEUE_REGISTERS.length + 1);
});

test('queue registers are frozen once the queue is ready', () => {
  const { driver } = configured();
  driver.set(REG.QueueReady, 1);
  for (const register of QUEUE_REGISTERS) assert.is(driver.set(register, 0), EFFECT_INCIDENT);
  assert.is(driver.cage.counters().frozen, QUEUE_REGISTERS.length);
});

test('queue registers are frozen once the device runs, even of queues not ready', () => {
  const { cage, driver } = blkDevice({ queueCount: 2 });
  driver.bringUp({ queueCount: 1 });
  driver.set(REG.QueueSel, 1);
  for (const register of QUEUE_REGISTERS) assert.is(driver.set(register, 0), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueReady, 1), EFFECT_INCIDENT);
  assert.is(cage.counters().frozen, QUEUE_REGISTERS.length + 1);
});

test('the frozen registers of a live queue really keep their values', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp();
  for (const register of QUEUE_REGISTERS) driver.set(register, 0xffff0000);
  offerFlush(driver, queue);
  kick(cage, 0);
  assert.equal(queue.takeUsed(), { id: 0, length: 1 });
});

test('a queue that was stopped before DRIVER_OK can be set up anew', () => {
  const { driver } = configured();
  driver.set(REG.QueueReady, 1);
  driver.set(REG.QueueReady, 0);
  assert.is(driver.set(REG.QueueNum, 8), 0);
  driver.set(REG.QueueReady, 1);
  assert.is(driver.get(REG.QueueReady), 1);
});

test('impossible sizes and addresses keep a queue from becoming ready', () => {
  const wrong: [number, number][] = [
    [REG.QueueNum, 0],
    [REG.QueueNum, 3],
    [REG.QueueDescLow, 0x10008],
    [REG.QueueDriverLow, 0x11001],
    [REG.QueueDeviceLow, 0x12002],
  ];
  for (const [register, value] of wrong) {
    const { driver } = configured();
    driver.set(register, value);
    assert.is(driver.set(REG.QueueReady, 1), EFFECT_INCIDENT);
    assert.is(driver.get(REG.QueueReady), 0);
    assert.is(driver.cage.counters().queueConfig, 1);
  }
});

test('rings that wrap past 2^64 keep a queue from becoming ready', () => {
  for (const low of [REG.QueueDescLow, REG.QueueDriverLow, REG.QueueDeviceLow]) {
    const { driver } = configured();
    driver.set(low, 0xfffffff0);
    driver.set(low + 4, 0xffffffff);
    assert.is(driver.set(REG.QueueReady, 1), EFFECT_INCIDENT);
  }
});

test('a queue size past the maximum is refused at once', () => {
  const { driver } = configured();
  assert.is(driver.set(REG.QueueNum, 257), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueNum, 0x10010), EFFECT_INCIDENT); // would be 16 in 16 bits
  assert.is(driver.cage.counters().queueConfig, 2);
});

test('QueueReady takes 0 and 1 only', () => {
  const { driver } = configured();
  assert.is(driver.set(REG.QueueReady, 2), EFFECT_INCIDENT);
  assert.is(driver.get(REG.QueueReady), 0);
});

test('registers of a queue that does not exist are refused, stopping it is not', () => {
  const { driver } = configured();
  driver.set(REG.QueueSel, 1);
  assert.is(driver.set(REG.QueueNum, 16), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueReady, 1), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueReady, 0), 0); // Linux does so for every queue it gives up
});

// --- Doorbells ----------------------------------------------------------------------------------

test('kicks before DRIVER_OK, after reset and of absent queues do nothing', () => {
  const { cage, driver } = blkDevice();
  assert.is(driver.set(REG.QueueNotify, 0), EFFECT_INCIDENT);
  driver.negotiate();
  const early = new DriverQueue(driver.memory, 0, 16);
  driver.configureQueue(early);
  driver.set(REG.QueueReady, 1);
  offerFlush(driver, early);
  assert.is(driver.set(REG.QueueNotify, 0), EFFECT_INCIDENT);
  driver.addStatus(DRIVER_OK);
  assert.is(driver.set(REG.QueueNotify, 1), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueNotify, 0xffffffff), EFFECT_INCIDENT);
  assert.is(cage.counters().notify, 4);
  assert.is(driver.set(REG.QueueNotify, 0) & EFFECT_REQUEST, EFFECT_REQUEST);
  driver.set(REG.Status, 0);
  assert.is(driver.set(REG.QueueNotify, 0), EFFECT_INCIDENT);
});

test('a queue that is not ready does not answer its doorbell', () => {
  const { driver } = configured();
  driver.addStatus(DRIVER_OK);
  assert.is(driver.set(REG.QueueNotify, 0), EFFECT_INCIDENT);
});

test('asking for more of a queue the driver has reset is no incident', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp();
  offerFlush(driver, queue);
  cage.notify(0);
  driver.set(REG.Status, 0);
  assert.is(cage.next(0), 0);
});

// --- Interrupts ---------------------------------------------------------------------------------

test('the interrupt status says why, and acknowledging clears those bits only', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp({ features: 0n });
  offerFlush(driver, queue);
  assert.is(kick(cage, 0).effects & EFFECT_IRQ, EFFECT_IRQ);
  assert.is(driver.get(REG.InterruptStatus), 1);
  queue.setAvailIndex(queue.availIndex + 20); // breaks the ring
  assert.is(cage.notify(0), EFFECT_IRQ | EFFECT_INCIDENT);
  assert.is(driver.get(REG.InterruptStatus), 3);
  driver.set(REG.InterruptACK, 1);
  assert.is(driver.get(REG.InterruptStatus), 2);
  driver.set(REG.InterruptACK, 0xffffffff);
  assert.is(driver.get(REG.InterruptStatus), 0);
});

// --- Reset --------------------------------------------------------------------------------------

test('a driver reset cancels requests, clears registers and keeps the counters', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp();
  offerFlush(driver, queue);
  cage.notify(0);
  cage.read(REG.Status, 1);
  assert.is(driver.set(REG.Status, 0), EFFECT_CANCEL);
  assert.is(cage.value(), ALL_QUEUES);
  assert.is(driver.get(REG.Status), 0);
  assert.is(driver.get(REG.QueueReady), 0);
  assert.is(driver.get(REG.InterruptStatus), 0);
  assert.is(cage.counters().width, 1);
  assert.is(cage.check(), VALID);
});

test('a reset forgets the requests of every queue', () => {
  const queueCount = 8;
  const { cage, driver } = blkDevice({ queueCount });
  driver.bringUp({ queueCount });
  for (const queue of driver.queues) {
    offerFlush(driver, queue);
    assert.is(cage.notify(queue.index) & EFFECT_REQUEST, EFFECT_REQUEST);
  }
  driver.set(REG.Status, 0);
  assert.is(cage.check(), VALID, 'a request in flight of a queue that is not ready is no state');
});

test('a completion that comes after the reset is ignored and counted', () => {
  const { cage, driver, memory } = blkDevice();
  const queue = driver.bringUp();
  offerFlush(driver, queue);
  cage.notify(0);
  const { tag } = parseRecord(cage.record());
  driver.set(REG.Status, 0);
  assert.is(cage.complete(tag, 0, 0), EFFECT_INCIDENT);
  assert.is(cage.counters().tag, 1);
  assert.is(memory.view.getUint8(DATA + 16), 0xa5);
  assert.is(queue.takeUsed(), null);
});

test('a late completion never hits a newer request of the same head', () => {
  const { cage, driver, memory } = blkDevice();
  offerFlush(driver, driver.bringUp());
  cage.notify(0);
  const old = parseRecord(cage.record()).tag;
  const queue = driver.bringUp();
  assert.is(offerFlush(driver, queue), 0);
  cage.notify(0);
  const current = parseRecord(cage.record()).tag;
  assert.is(current & 0xfffff, old & 0xfffff);
  assert.is(cage.complete(old, 0, 0), EFFECT_INCIDENT);
  assert.is(queue.takeUsed(), null);
  cage.complete(current, 0, 0);
  assert.is(memory.view.getUint8(DATA + 16), 0);
});

test('a stopped queue is cancelled alone and touched no more', () => {
  const { cage, driver } = blkDevice({ queueCount: 2 });
  driver.bringUp({ queueCount: 2 });
  const [first, second] = driver.queues as [DriverQueue, DriverQueue];
  offerFlush(driver, first);
  cage.notify(0);
  const firstTag = parseRecord(cage.record()).tag;
  offerFlush(driver, second);
  cage.notify(1);
  const secondTag = parseRecord(cage.record()).tag;
  driver.set(REG.QueueSel, 1);
  assert.is(driver.set(REG.QueueReady, 0), EFFECT_CANCEL);
  assert.is(cage.value(), 1);
  assert.is(driver.get(REG.QueueReady), 0);
  assert.is(cage.complete(secondTag, 0, 0), EFFECT_INCIDENT);
  assert.is(second.takeUsed(), null);
  cage.complete(firstTag, 0, 0);
  assert.equal(first.takeUsed(), { id: 0, length: 1 });
  assert.is(cage.check(), VALID);
});

test('a hardware reset does what a driver reset does', () => {
  const { cage, driver } = blkDevice();
  driver.bringUp();
  assert.is(cage.reset(), EFFECT_CANCEL);
  assert.is(cage.value(), ALL_QUEUES);
  assert.is(driver.get(REG.Status), 0);
  driver.bringUp();
  assert.is(driver.get(REG.Status), RUNNING);
});

test('after a restart fail() tells the driver, and only a reset leads on', () => {
  const { cage, driver } = blkDevice();
  driver.bringUp();
  cage.restart();
  assert.is(cage.fail(), EFFECT_IRQ);
  assert.is(driver.get(REG.Status), DEVICE_NEEDS_RESET);
  assert.is(driver.get(REG.InterruptStatus), 2);
  assert.is(driver.set(REG.Status, ACKNOWLEDGE | DEVICE_NEEDS_RESET), EFFECT_INCIDENT);
  assert.is(driver.set(REG.QueueNotify, 0), EFFECT_INCIDENT);
  driver.bringUp();
  assert.is(driver.get(REG.Status), RUNNING);
});

test('a device in need of a reset takes completions without touching its rings', () => {
  const { cage, driver } = blkDevice();
  const queue = driver.bringUp();
  const data = { address: DATA + 0x1000, length: 512, write: true };
  const header = blkHeader(driver.memory, DATA, BLK_T_IN);
  queue.offer(queue.chain([header, data, blkStatus(driver.memory, DATA + 16)]));
  cage.notify(0);
  const { tag } = parseRecord(cage.record());
  queue.setAvailIndex(queue.availIndex + 20);
  cage.next(0);
  assert.is(driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
  assert.is(cage.complete(tag, 0, 512), 0);
  assert.is(queue.takeUsed(), null);
});

test.run();
