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
  NET_STATE,
  OUTBOX_VALUE,
  STATE,
  STATE_BYTES,
  VALID,
} from '../assembly/abi.ts';
import { coreModule } from '../host/core.ts';
import type { NetConfig } from '../host/device-config.ts';
import { BLK_T_FLUSH, blkHeader, blkStatus } from '../testing/block.ts';
import { Driver, F_EVENT_IDX, REG, RUNNING } from '../testing/driver.ts';
import {
  NET_DATA,
  NET_F_CSUM,
  NET_F_CTRL_GUEST_OFFLOADS,
  NET_F_CTRL_MAC_ADDR,
  NET_F_CTRL_VQ,
  NET_F_GUEST_ANNOUNCE,
  NET_F_GUEST_CSUM,
  NET_F_MQ,
  netHeader,
} from '../testing/net.ts';
import { NetHost } from '../testing/net-host.ts';
import { DATA, guestMemory } from '../testing/queue.ts';
import { parseRecord } from '../testing/requests.ts';
import { blkDevice, netDevice, patched, portDevice, rngDevice } from './fixtures.ts';
import { received, stock, usedOf } from './nic.ts';

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
  assert.is(netDevice().cage.check(), VALID);
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

// --- A network device ---------------------------------------------------------------------------

const NET = NET_STATE;
const FIXED = { fixedMac: true, queuePairs: 2 };

/** A running network device that holds five buffers, of which the second was given back. */
function busyNet(config: Partial<NetConfig> = { queuePairs: 2 }, features?: bigint) {
  const device = netDevice(config);
  const wanted = features ?? device.driver.offeredFeatures() & ~F_EVENT_IDX;
  const rx = device.driver.bringUp({ features: wanted, queueCount: 2 });
  const host = new NetHost(device.cage, device.memory);
  const all = { ...device, rx, tx: device.driver.queues[1], host };
  stock(all, [100, 100, 100, 100, 100, 100]);
  host.refuse(1);
  return all;
}

test('a restored network device goes on with the buffers that the host holds', () => {
  const one = busyNet();
  const header = netHeader(one.memory, NET_DATA);
  one.tx.offer(one.tx.chain([header, { address: NET_DATA + 64, length: 60 }]));
  one.cage.next(1);
  const { tag } = parseRecord(one.cage.record());
  const other = netDevice({ queuePairs: 2 }, one.memory);
  assert.is(other.cage.restore(one.cage.stateBytes()), VALID);
  assert.equal(usedOf(one.rx), [{ id: 1, length: 0 }]);
  const host = new NetHost(other.cage, one.memory);
  host.held = one.host.held;
  stock({ ...one, ...other, host }, [100]); // one more, which is the newest
  host.deliver(received(250));
  const lengths = [100, 100, 50].map((length, i) => ({ id: [0, 2, 3][i], length }));
  assert.equal(usedOf(one.rx), lengths);
  host.deliver(received(300));
  assert.equal(
    usedOf(one.rx),
    [4, 5, 6].map((id) => ({ id, length: 100 })),
  );
  other.cage.complete(tag, 0, 0);
  assert.equal(usedOf(one.tx), [{ id: 0, length: 0 }]);
  assert.is(other.cage.check(), VALID);
});

test('states of a network device that nothing leads to are refused', () => {
  const { cage } = busyNet();
  const state = cage.stateBytes();
  const word = (address: number) => new DataView(state.buffer).getUint32(address - STATE, true);
  const held = QUEUE + 36; // u16; before it oldest and newest
  const next = (head: number) => IN_FLIGHT + 16 * head + 12; // generation, kind, next
  const linked = (head: number, to: number) => (word(next(head)) & 0xffffff) | (to << 24);
  const wrong: [string, number, number][] = [
    ['an offload that was not agreed on', NET, word(NET) | 1],
    ['an offload that does not exist', NET + 4, word(NET + 4) | 1],
    ['no queue pair', NET + 8, word(NET + 8) & ~0xffff],
    ['a queue pair too many', NET + 8, (word(NET + 8) & ~0xffff) | 3],
    ['a third state of the link', NET + 8, word(NET + 8) | (2 << 16)],
    ['a third state of the announcement', NET + 8, word(NET + 8) | (2 << 24)],
    ['an address of a group', NET + 12, word(NET + 12) | 1],
    ['something behind the device', NET + 20, 1],
    ['something behind the address', NET + 16, word(NET + 16) | (1 << 16)],
    ['a buffer held too few', held, 4],
    ['a buffer held too many', held, 6],
    ['more buffers than the queue has', held, 17],
    ['none held', held, 0],
    ['an oldest that is not held', QUEUE + 32, word(QUEUE + 32) | 1],
    ['an oldest past the queue', QUEUE + 32, word(QUEUE + 32) | 0xfff0],
    ['an oldest in the middle', QUEUE + 32, (word(QUEUE + 32) & ~0xffff) | 2],
    ['a newest that is not held', QUEUE + 32, (word(QUEUE + 32) & 0xffff) | (1 << 16)],
    ['a newest past the queue', QUEUE + 32, word(QUEUE + 32) | (16 << 16)],
    ['a newest in the middle', QUEUE + 32, (word(QUEUE + 32) & 0xffff) | (3 << 16)],
    ['an order that leaves one out', next(2), linked(2, 4)],
    ['an order that goes round', next(3), linked(3, 0)],
    ['an order through a free head', next(2), linked(2, 1)],
    ['an order past the queue', next(2), linked(2, 200)],
    ['a buffer that is a frame to be sent', next(0), word(next(0)) ^ ((9 ^ 8) << 16)],
    ['buffers held on a transmit queue', SECOND_QUEUE + 36, 1],
    ['a frame to be sent that was not taken', IN_FLIGHT + 0x1000 + 12, 8 << 16],
    ['a request on the control queue', IN_FLIGHT + 4 * 0x1000 + 12, 9 << 16],
  ];
  for (const [what, address, value] of wrong) {
    const spoilt = patched(state, address, value);
    assert.not.equal(spoilt, state, what);
    assert.is(cage.restore(spoilt), INVALID_STATE, what);
  }
  assert.is(cage.restore(state), VALID);
  assert.is(cage.restore(patched(state, CONFIG, word(CONFIG) | 1)), INVALID_CONFIG);
  assert.is(cage.restore(patched(state, CONFIG + 12, 8)), INVALID_CONFIG);
});

test('what a driver may change of a network device depends on what it agreed to', () => {
  const offloads = NET_F_GUEST_CSUM | NET_F_CSUM;
  const changes: [string, number, number, feature: bigint][] = [
    ['offloads', NET, 0, NET_F_CTRL_GUEST_OFFLOADS],
    ['pairs', NET + 8, 2, NET_F_MQ],
    ['announcement', NET + 8, 1 | (1 << 24), NET_F_GUEST_ANNOUNCE],
    ['address', NET + 12, 0x00000002, NET_F_CTRL_MAC_ADDR],
  ];
  for (const [what, address, value, feature] of changes) {
    const restored = (features: bigint, spoil = (state: Uint8Array) => state) => {
      const { cage } = busyNet({ queuePairs: 2 }, offloads | NET_F_CTRL_VQ | features);
      return cage.restore(spoil(patched(cage.stateBytes(), address, value)));
    };
    assert.is(restored(feature), VALID, what);
    assert.is(restored(0n), INVALID_STATE, what);
    // Not before it runs either: the state is that of a driver at FEATURES_OK, without queues.
    const { cage, driver } = netDevice({ queuePairs: 2 });
    driver.negotiate(offloads | NET_F_CTRL_VQ | feature);
    assert.is(cage.check(), VALID);
    assert.is(cage.restore(patched(cage.stateBytes(), address, value)), INVALID_STATE, what);
  }
});

test('at reset a network device has no offloads in force, and any link', () => {
  const { cage } = netDevice(FIXED);
  const state = cage.stateBytes();
  assert.is(cage.restore(patched(state, NET, 2)), INVALID_STATE);
  assert.is(cage.restore(patched(state, NET + 8, 1 | (1 << 16))), VALID);
});

test('the host has no request of a control queue', () => {
  const { cage, driver } = netDevice();
  driver.bringUp({ queueCount: 3 });
  const state = patched(cage.stateBytes(), QUEUE + 2 * 64 + 24, 16 | (1 << 16)); // one head taken
  for (const kind of [8, 9]) {
    const spoilt = patched(state, IN_FLIGHT + 2 * 0x1000 + 12, kind << 16);
    assert.is(cage.restore(spoilt), INVALID_STATE);
  }
});

test("a device whose queues are the kernel's has no request of them", () => {
  const { cage, driver } = netDevice({ vhost: true });
  driver.bringUp({ queueCount: 3 });
  assert.is(cage.check(), VALID);
  const request = patched(cage.stateBytes(), IN_FLIGHT + 12, 9 << 16);
  assert.is(cage.restore(patched(request, QUEUE + 24, 16 | (1 << 16))), INVALID_STATE);
});

test('a driver that agrees to fewer queues than the one before it leaves a valid state', () => {
  const { cage, driver } = netDevice({ queuePairs: 4 });
  driver.bringUp({ queueCount: 9 });
  const rx = driver.queues[6];
  rx.offer(rx.chain([{ address: NET_DATA, length: 2048, write: true }]));
  cage.next(6);
  driver.set(REG.Status, 0);
  const state = cage.stateBytes(); // with a generation in queue 6
  assert.is(cage.check(), VALID);
  driver.bringUp({ features: 0n, queueCount: 2 });
  assert.is(cage.check(), VALID);
  const at = IN_FLIGHT + 6 * 0x1000 + 12;
  assert.is(cage.restore(patched(state, at, 0x1001)), INVALID_STATE);
  assert.is(cage.restore(patched(state, at, 1 | (9 << 16))), INVALID_STATE);
  assert.is(cage.restore(patched(state, at + 3 * 0x1000, 1)), INVALID_STATE);
});

// --- Other devices ------------------------------------------------------------------------------

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
