// Validation of a restored state: assembly/check.ts on the release core. What serial, i8042 and RTC
// refuse is tested with them.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_INCIDENT,
  INVALID_CONFIG,
  INVALID_KIND,
  INVALID_STATE,
  KIND_ACPI_PM,
  KIND_BOOT_TIMER,
  KIND_I8042,
  KIND_PVPANIC,
  KIND_RTC,
  KIND_SERIAL,
  OUTBOX_VALUE,
  STATE,
  STATE_BYTES,
  VALID,
} from '../assembly/abi.ts';
import { coreModule } from '../host/core.ts';
import { BLK_T_FLUSH, blkHeader, blkStatus } from '../testing/block.ts';
import { Driver, REG, RUNNING } from '../testing/driver.ts';
import { DATA, guestMemory } from '../testing/queue.ts';
import { parseRecord } from '../testing/requests.ts';
import { blkDevice, patched, portDevice, rngDevice } from './fixtures.ts';

// Addresses in the state region, as assembly/layout.ts has them.
const CONFIG = STATE + 0x80;
const VIRTIO = STATE + 0x100;
const STATUS = VIRTIO + 20;
const INTERRUPT_STATUS = VIRTIO + 24;
const DRIVER_FEATURES = VIRTIO;
const FEATURES_BEYOND = VIRTIO + 32;
const WRITEBACK = VIRTIO + 36;
const QUEUE = STATE + 0x400;
const QUEUE_SIZE = QUEUE + 24; // and availNext
const QUEUE_READY = QUEUE + 28; // usedNext, ready
const SECOND_QUEUE = QUEUE + 64;
const IN_FLIGHT = STATE + 0x1000;

/** A running disk with one flush in flight, and its state. */
function busyDisk() {
  const device = blkDevice();
  const queue = device.driver.bringUp();
  const header = blkHeader(device.memory, DATA, BLK_T_FLUSH);
  queue.offer(queue.chain([header, blkStatus(device.memory, DATA + 16)]));
  device.cage.notify(0);
  return { ...device, queue, tag: parseRecord(device.cage.record()).tag };
}

test('every device is valid as it comes', () => {
  const ports = [KIND_SERIAL, KIND_I8042, KIND_RTC, KIND_BOOT_TIMER, KIND_ACPI_PM, KIND_PVPANIC];
  for (const kind of ports) assert.is(portDevice(kind).check(), VALID);
  assert.is(blkDevice().cage.check(), VALID);
  assert.is(rngDevice().cage.check(), VALID);
});

test('a running device is valid with the features of its own kind of disk', () => {
  for (const readOnly of [false, true]) {
    const { cage, driver } = blkDevice({ readOnly });
    driver.bringUp();
    assert.is(driver.get(REG.Status), RUNNING);
    assert.is(cage.check(), VALID);
    const other = blkDevice({ readOnly: !readOnly }).cage.stateBytes().slice(0x80, 0x100);
    const mixed = cage.stateBytes();
    mixed.set(other, 0x80); // the configuration of the other kind
    assert.is(cage.restore(mixed), INVALID_STATE);
  }
});

test('a request in flight completes in the restored device', () => {
  const { cage, memory, queue, tag } = busyDisk();
  const other = blkDevice({}, memory);
  assert.is(other.cage.restore(cage.stateBytes()), VALID);
  other.cage.complete(tag, 0, 0);
  assert.equal(queue.takeUsed(), { id: 0, length: 1 });
  assert.is(memory.view.getUint8(DATA + 16), 0);
  const driver = new Driver(other.cage, memory);
  assert.is(driver.get(REG.Status), RUNNING);
});

test('the counters come along', () => {
  const { cage } = busyDisk();
  cage.read(1, 1);
  const other = blkDevice();
  other.cage.restore(cage.stateBytes());
  assert.equal(other.cage.counters(), cage.counters());
});

test('states that register writes cannot lead to are refused', () => {
  const { cage } = busyDisk();
  const state = cage.stateBytes();
  const word = (address: number) => new DataView(state.buffer).getUint32(address - STATE, true);
  const head = IN_FLIGHT;
  const wrong: [string, number, number][] = [
    ['an unknown status bit', STATUS, RUNNING | 0x10],
    ['a stage that was skipped', STATUS, 8],
    ['DRIVER_OK without FEATURES_OK', STATUS, 7],
    ['a reserved interrupt', INTERRUPT_STATUS, 4],
    ['a feature not offered', DRIVER_FEATURES, word(DRIVER_FEATURES) | (1 << 5)],
    ['no VERSION_1', DRIVER_FEATURES + 4, 0],
    ['a feature past the last page', FEATURES_BEYOND, 1],
    ['a third cache mode', WRITEBACK, 2],
    ['queue size 0', QUEUE_SIZE, word(QUEUE_SIZE) & 0xffff0000],
    ['queue size 3', QUEUE_SIZE, (word(QUEUE_SIZE) & 0xffff0000) | 3],
    ['queue size past the maximum', QUEUE_SIZE, (word(QUEUE_SIZE) & 0xffff0000) | 512],
    ['a head taken that is nowhere', QUEUE_SIZE, word(QUEUE_SIZE) + 0x10000],
    ['a head given back too early', QUEUE_READY, word(QUEUE_READY) + 1],
    ['ready neither 0 nor 1', QUEUE_READY, word(QUEUE_READY) + 0x10000],
    ['a request of a stopped queue', QUEUE_READY, word(QUEUE_READY) & 0xffff],
    ['a misaligned table', QUEUE, word(QUEUE) + 8],
    ['a ring that wraps', QUEUE + 12, 0xffffffff],
    ['a queue that is not there', SECOND_QUEUE + 24, 16],
    ['a request of an unknown kind', head + 12, (word(head + 12) & 0xffff) | (99 << 16)],
    ['a request of another device', head + 12, (word(head + 12) & 0xffff) | (6 << 16)],
    ['a generation past its bits', head + 12, word(head + 12) | 0x1000],
    ['a second request in flight', head + 16 + 12, 3 << 16],
    ['a request past the queue', head + 16 * 16 + 12, 3 << 16],
    ['a request of an absent queue', head + 0x1000 + 12, 3 << 16],
    ['something behind the transport', STATE + 0x128, 1],
    ['something behind the configuration', STATE + 0xc4, 1],
    ['a port device beside it', STATE + 0x200, 1],
    ['something past the end', STATE + STATE_BYTES - 4, 1],
    ['something before the configuration', STATE + 0x44, 1],
  ];
  for (const [what, address, value] of wrong) {
    const spoilt = patched(state, address, value);
    assert.not.equal(spoilt, state, what);
    // A wrapping ring needs the low half at the top of the address space too.
    const bytes = what === 'a ring that wraps' ? patched(spoilt, QUEUE + 8, 0xfffffff0) : spoilt;
    assert.is(cage.restore(bytes), INVALID_STATE, what);
  }
  assert.is(cage.restore(state), VALID);
});

test('a configuration that makes no sense is refused', () => {
  const { cage } = busyDisk();
  const state = cage.stateBytes();
  assert.is(cage.restore(patched(state, CONFIG + 12, 513)), INVALID_CONFIG);
  assert.is(cage.restore(patched(state, CONFIG + 20, 0)), INVALID_CONFIG);
  const rng = rngDevice();
  assert.is(rng.cage.restore(patched(rng.cage.stateBytes(), CONFIG, 5)), INVALID_CONFIG);
});

test('a port device has nothing outside its registers', () => {
  for (const kind of [KIND_SERIAL, KIND_I8042, KIND_RTC, KIND_BOOT_TIMER]) {
    const cage = portDevice(kind);
    const state = cage.stateBytes();
    for (const address of [CONFIG, VIRTIO, QUEUE - 4, QUEUE, IN_FLIGHT]) {
      assert.is(cage.restore(patched(state, address, 1)), INVALID_STATE);
    }
  }
  const timer = portDevice(KIND_BOOT_TIMER);
  const spoilt = patched(timer.stateBytes(), STATE + 0x200, 1);
  assert.is(timer.restore(spoilt), INVALID_STATE);
});

// The host never lets one be called: it refuses to go on where init() does.
test('a device of no kind reads all ones, takes nothing and is not valid', () => {
  const guest = guestMemory(0).importsFor(() => new DataView(new ArrayBuffer(0)));
  const imports = { guest } as WebAssembly.Imports;
  const { exports } = new WebAssembly.Instance(coreModule(), imports);
  const core = exports as Record<string, (...numbers: number[]) => number>;
  const value = new BigUint64Array((exports.memory as WebAssembly.Memory).buffer, OUTBOX_VALUE, 1);
  for (const width of [1, 2, 4, 8]) {
    value[0] = 0n;
    assert.is(core.read(0, width), EFFECT_INCIDENT);
    assert.is(value[0], (1n << BigInt(8 * width)) - 1n);
    assert.is(core.write(0, width, 1), EFFECT_INCIDENT);
  }
  assert.is(core.check(), INVALID_KIND);
});

test('a device in need of a reset may hold requests that will never come back', () => {
  const { cage, driver, queue } = busyDisk();
  queue.setAvailIndex(queue.availIndex + 20);
  cage.next(0);
  assert.is(driver.get(REG.Status), RUNNING | 0x40);
  assert.is(cage.check(), VALID);
});

test.run();
