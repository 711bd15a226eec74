// Native cages in the addon: what they take and refuse, their log of accesses, and who keeps alive
// what they reach. That they compute what V8 computes is engines.test.ts's to show.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  CAGE_MEMORY_BYTES,
  COUNTERS,
  INCIDENT_REGISTER,
  KIND_I8042,
  KIND_VIRTIO_RNG,
  OUTBOX_VALUE,
  RNG_CONFIG_BYTES,
  VALID,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { encodeRngConfig } from '../host/device-config.ts';
import { FaradayError } from '../host/errors.ts';
import { parseAccesses } from '../host/replay/accesses.ts';
import * as native from '../host/shim.ts';
import { Driver, REG } from '../testing/driver.ts';
import { guestMemory } from '../testing/queue.ts';
import { failureOf } from './bare-metal.ts';
import { overrun, spin } from './traps.ts';

const MIB = 2 ** 20;

test('a native cage starts as zeros and is one device of its own', () => {
  const memory = native.shim().createMemory(MIB);
  const [one, other] = [memory.createCage(), memory.createCage()];
  assert.is(one.memory.byteLength, CAGE_MEMORY_BYTES);
  assert.ok(new Uint8Array(one.memory).every((byte) => byte === 0));
  assert.is(one.init(KIND_I8042), VALID);
  one.read(100, 1);
  const count = (cage: native.NativeCage) =>
    new DataView(cage.memory).getUint32(COUNTERS + 4 * INCIDENT_REGISTER, true);
  assert.equal([count(one), count(other)], [1, 0]);
  memory.close();
});

test('arguments are u32 and nothing else', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = memory.createCage();
  const bad = [-1, 2 ** 32, 0.5, Number.NaN, '4', undefined, null, 4n];
  for (const value of bad as number[]) {
    assert.is(
      failureOf(() => cage.read(value, 1)),
      'cage EINVAL',
    );
    assert.is(
      failureOf(() => cage.write(0, 1, value)),
      'cage EINVAL',
    );
  }
  assert.is(
    failureOf(() => cage.logAccesses(2 ** 31)),
    'logAccesses EINVAL',
  );
  assert.not.throws(() => cage.write(0xffffffff, 0xffffffff, 0xffffffff));
  memory.close();
});

test('a closed cage answers EBADF and its buffer is gone; closing again is nothing', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = memory.createCage();
  cage.close();
  cage.close();
  assert.is(cage.memory.byteLength, 0);
  assert.is(
    failureOf(() => cage.notify(0)),
    'cage EBADF',
  );
  assert.is(
    failureOf(() => cage.takeAccesses()),
    'takeAccesses EBADF',
  );
  memory.close();
});

test('a cage whose machine is closed answers EBADF; a closed machine makes none', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = memory.createCage();
  memory.close();
  assert.is(
    failureOf(() => cage.notify(0)),
    'cage EBADF',
  );
  assert.is(
    failureOf(() => memory.createCage()),
    'createCage EBADF',
  );
  cage.close();
});

/** A cage whose memory object nobody else holds. */
function lonelyCage(): native.NativeCage {
  return native.shim().createMemory(MIB).createCage();
}

async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let round = 0; round < 5; round++) {
    await new Promise((resolve) => setImmediate(resolve));
    collect();
  }
}

test('a cage keeps the memory it reaches alive', async () => {
  const cage = new Cage(
    KIND_VIRTIO_RNG,
    native.shim().createMemory(MIB),
    encodeRngConfig({ queueSize: 16 }),
  );
  await collectGarbage();
  new Driver(cage, guestMemory(MIB)).bringUp();
  cage.notify(0);
  assert.is(cage.counters().memory, 0, 'its rings are still RAM');
});

test('a cage that nobody holds is collected', async () => {
  const buffer = (() => new WeakRef(lonelyCage().memory))();
  await collectGarbage();
  assert.is(buffer.deref(), undefined);
});

test('the log holds each access with its bytes, refused ones without', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = new Cage(KIND_VIRTIO_RNG, memory, encodeRngConfig({ queueSize: 16 }));
  const log = cage.native as native.NativeCage;
  const driver = new Driver(cage, guestMemory(MIB));
  const queue = driver.bringUp();
  log.logAccesses(4096);
  memory.loadBytes(Uint8Array.of(0, 0, 9, 0), queue.availRing);
  cage.notify(0);
  const entries = log.takeAccesses();
  const view = new DataView(entries.buffer);
  assert.is(view.getUint32(native.ACCESS_ENTRY_KIND, true), native.ACCESS_LOAD16);
  assert.is(view.getUint32(native.ACCESS_ENTRY_LENGTH, true), 2);
  assert.is(view.getBigUint64(native.ACCESS_ENTRY_ADDRESS, true), BigInt(queue.availRing + 2));
  assert.is(view.getUint16(native.ACCESS_ENTRY_BYTES, true), 9);
  assert.is(log.takeAccesses().length, 0, 'taken once');
  log.logAccesses(0);
  cage.notify(0);
  assert.is(log.takeAccesses().length, 0, 'stopped');
  memory.close();
});

test('reads find what is served, each in its turn, and what is not served as it is', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = new Cage(KIND_VIRTIO_RNG, memory, encodeRngConfig({ queueSize: 16 }));
  const traced = cage.native as native.NativeCage;
  const queue = new Driver(cage, guestMemory(MIB)).bringUp();
  traced.logAccesses(4096);
  const availIndex = (value: number, address = queue.availRing + 2): Uint8Array => {
    const entry = new DataView(new ArrayBuffer(native.ACCESS_ENTRY_BYTES + 2));
    entry.setUint32(native.ACCESS_ENTRY_KIND, native.ACCESS_LOAD16, true);
    entry.setUint32(native.ACCESS_ENTRY_LENGTH, 2, true);
    entry.setBigUint64(native.ACCESS_ENTRY_ADDRESS, BigInt(address), true);
    entry.setUint16(native.ACCESS_ENTRY_BYTES, value, true);
    return new Uint8Array(entry.buffer);
  };
  const indexes = (): number[] => {
    const accesses = parseAccesses(traced.takeAccesses());
    const ours = accesses.filter(({ address }) => Number(address) === queue.availRing + 2);
    return ours.map(({ data }) => data[0]! | (data[1]! << 8));
  };
  traced.serveAccesses(availIndex(77)); // more than the queue holds: the device stops there
  cage.notify(0);
  assert.equal(indexes(), [77]);
  new Driver(cage, guestMemory(MIB)).bringUp();
  memory.loadBytes(Uint8Array.of(0, 0), queue.availRing + 2);
  const scripts = [availIndex(78, queue.availRing), availIndex(79).subarray(0, 17), []];
  for (const script of scripts) {
    traced.serveAccesses(Uint8Array.from(script));
    cage.notify(0);
    assert.equal([...new Set(indexes())], [0], 'another address, half an entry, nothing');
  }
  assert.throws(() => traced.serveAccesses([] as unknown as Uint8Array), /is no Uint8Array/);
  memory.close();
});

test('a log that is too small says so once, and goes on', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = new Cage(KIND_VIRTIO_RNG, memory, encodeRngConfig({ queueSize: 16 }));
  const log = cage.native as native.NativeCage;
  new Driver(cage, guestMemory(MIB)).bringUp();
  log.logAccesses(8);
  cage.notify(0);
  assert.is(
    failureOf(() => log.takeAccesses()),
    'takeAccesses ENOBUFS',
  );
  assert.is(log.takeAccesses().length, 0);
  memory.close();
});

for (const [name, provoke] of Object.entries({ 'spins on': spin, 'leaves its memory': overrun })) {
  test(`a native cage that ${name} traps, and serves again after a restart`, () => {
    const memory = native.shim().createMemory(MIB);
    const cage = new Cage(KIND_VIRTIO_RNG, memory, encodeRngConfig({ queueSize: 16 }));
    const state = cage.stateBytes();
    const memoryBytes = new Uint8Array((cage.native as native.NativeCage).memory);
    const trap = (error: Error) => error instanceof WebAssembly.RuntimeError;
    for (let round = 0; round < 3; round++) {
      new Driver(cage, guestMemory(MIB)).bringUp();
      provoke(memoryBytes, new Uint8Array(memory.memory));
      assert.throws(() => cage.notify(0), trap);
      cage.restart();
      assert.equal(cage.stateBytes(), state);
    }
    cage.read(REG.MagicValue, 4);
    assert.is(cage.value(), 0x74726976);
    memory.close();
  });
}

test('a device that the core refuses is our own error in both engines', () => {
  const memory = native.shim().createMemory(MIB);
  for (const place of [memory, guestMemory(0)]) {
    assert.throws(
      () => new Cage(KIND_VIRTIO_RNG, place, new Uint8Array(RNG_CONFIG_BYTES)),
      (error: FaradayError) => error instanceof FaradayError && error.code === 'internal',
    );
  }
  memory.close();
});

test('values are read where the core leaves them', () => {
  const memory = native.shim().createMemory(MIB);
  const cage = new Cage(KIND_I8042, memory);
  cage.read(0, 8);
  assert.is(cage.value64(), 2n ** 64n - 1n);
  const view = new DataView((cage.native as native.NativeCage).memory);
  assert.is(view.getUint32(OUTBOX_VALUE, true), 0xffffffff);
  cage.close();
  memory.close();
});

test.run();
