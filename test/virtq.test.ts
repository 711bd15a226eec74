// The split virtqueue: assembly/virtq.ts and virtio-requests.ts on the release core, as virtio 1.2
// §2.7 has it. Most chains go through the entropy device, which takes any writable buffer.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_INCIDENT,
  EFFECT_IRQ,
  EFFECT_MORE,
  EFFECT_REQUEST,
  EFFECT_SETUP,
  KIND_VIRTIO_NET,
  VALID,
} from '../assembly/abi.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import type { IncidentName } from '../host/incident-names.ts';
import { BLK_T_FLUSH, BLK_T_OUT, blkHeader, blkStatus } from '../testing/block.ts';
import {
  DEVICE_NEEDS_RESET,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  REG,
  RUNNING,
} from '../testing/driver.ts';
import { DATA, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DriverQueue } from '../testing/queue.ts';
import { kick, parseRecord } from '../testing/requests.ts';
import { blkDevice, type Fixture, netDevice, rngDevice } from './fixtures.ts';

const TABLE = 0x80000; // indirect tables
const RAM_END = 0x100000;
const HOLE_START = 3 * 2 ** 30; // RAM from there on sits at 4 GiB

interface Ring extends Fixture {
  queue: DriverQueue;
}

function ring(features = F_INDIRECT_DESC, queueSize = 16): Ring {
  const device = rngDevice(queueSize);
  return { ...device, queue: device.driver.bringUp({ features, queueSize }) };
}

const buffer = (length = 64, address: number | bigint = DATA) => ({ address, length, write: true });

/** The head comes back with length 0, one incident of that name, and the device goes on. */
function refused({ cage, driver, queue }: Ring, head: number, name: IncidentName): void {
  assert.is(cage.notify(0) & (EFFECT_REQUEST | EFFECT_INCIDENT), EFFECT_INCIDENT);
  assert.equal(queue.takeUsed(), { id: head, length: 0 });
  assert.is(cage.counters()[name], 1, name);
  assert.is(driver.get(REG.Status), RUNNING);
  const next = queue.chain([buffer()]);
  queue.offer(next);
  assert.is(kick(cage, 0).requests.length, 1, 'the queue goes on');
  assert.equal(queue.takeUsed(), { id: next, length: 64 });
  assert.is(cage.check(), VALID);
}

/** The device asks for a reset, tells so by a configuration interrupt, and does nothing more. */
function broken({ cage, driver, queue }: Ring, name: IncidentName): void {
  assert.is(cage.notify(0), EFFECT_INCIDENT | EFFECT_IRQ);
  assert.is(driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
  assert.is(driver.get(REG.InterruptStatus), 2);
  assert.is(cage.counters()[name], 1, name);
  assert.is(queue.takeUsed(), null);
  assert.is(cage.notify(0), EFFECT_INCIDENT);
  assert.is(cage.check(), VALID);
  const again = driver.bringUp();
  again.offer(again.chain([buffer()]));
  assert.is(kick(cage, 0).requests.length, 1, 'a reset brings it back');
}

// --- Walking chains -----------------------------------------------------------------------------

test('a chain of as many descriptors as the queue holds is walked in order', () => {
  const device = ring();
  const buffers = [...Array(16).keys()].map((index) => buffer(16 + index, DATA + index * 0x100));
  device.queue.offer(device.queue.chain(buffers));
  const { requests } = kick(device.cage, 0);
  assert.equal(
    requests[0].ranges,
    buffers.map(({ address, length }) => ({ address: BigInt(address), length })),
  );
});

test('descriptors are taken by their next fields, not by their place', () => {
  const device = ring();
  device.queue.setDescriptor(9, buffer(1, DATA), DESC_F_NEXT, 3);
  device.queue.setDescriptor(3, buffer(2, DATA), DESC_F_NEXT, 15);
  device.queue.setDescriptor(15, buffer(3, DATA), 0, 9);
  device.queue.offer(9);
  const { requests } = kick(device.cage, 0);
  assert.equal(
    requests[0].ranges.map((range) => range.length),
    [1, 2, 3],
  );
  assert.equal(device.queue.takeUsed(), { id: 9, length: 6 });
});

test('heads are taken and given back across the wrap of the 16-bit indexes', () => {
  const device = ring(0n, 4);
  for (let round = 0; round < 0x10000 + 8; round += 1) {
    const head = device.queue.chain([buffer(1)]);
    device.queue.offer(head);
    device.cage.notify(0);
    device.cage.complete(parseRecord(device.cage.record()).tag, 0, 1);
    const used = device.queue.takeUsed();
    if (used?.id !== head) assert.equal(used, { id: head, length: 1 });
  }
  assert.is(device.cage.check(), VALID);
});

test('a chain that loops is refused', () => {
  const device = ring();
  const head = device.queue.chain([buffer(), buffer()]);
  device.queue.setDescriptor(head + 1, buffer(), DESC_F_NEXT, head);
  device.queue.offer(head);
  let reads = 0;
  device.memory.observer = (kind) => {
    if (kind === 'read') reads += 1;
    if (kind === 'fence') device.memory.observer = null;
  };
  refused(device, head, 'chain');
  assert.is(reads, 17, 'it is found out after as many descriptors as the queue has');
});

test('a descriptor that is its own next is refused', () => {
  const device = ring();
  device.queue.setDescriptor(5, buffer(), DESC_F_NEXT, 5);
  device.queue.offer(5);
  refused(device, 5, 'chain');
});

test('a next index past the table is refused', () => {
  for (const next of [16, 0xffff]) {
    const device = ring();
    device.queue.setDescriptor(7, buffer(), DESC_F_NEXT, next);
    device.queue.offer(7);
    refused(device, 7, 'chain');
  }
});

test('a readable descriptor after a writable one is refused', () => {
  const device = ring();
  const head = device.queue.chain([buffer(), { address: DATA, length: 16 }]);
  device.queue.offer(head);
  refused(device, head, 'chain');
});

test('a chain of more than 2^32 bytes is refused, one of exactly 2^32 is not', () => {
  const device = ring();
  const head = device.queue.chain([buffer(0xffffffff), buffer(2)]);
  device.queue.offer(head);
  refused(device, head, 'chain');
  const exact = device.queue.chain([buffer(0xffffffff), buffer(1)]);
  device.queue.offer(exact);
  assert.is(kick(device.cage, 0).requests.length, 1);
});

test('a buffer that wraps past 2^64 is refused', () => {
  const device = ring();
  const head = device.queue.chain([buffer(0x20, 0xfffffffffffffff0n)]);
  device.queue.offer(head);
  refused(device, head, 'memory');
});

test('empty descriptors count against the bound and give no range', () => {
  const device = ring();
  const head = device.queue.chain([buffer(0), buffer(8), buffer(0), buffer(4, DATA + 64)]);
  device.queue.offer(head);
  const { requests } = kick(device.cage, 0);
  assert.equal(requests[0].ranges, [
    { address: BigInt(DATA), length: 8 },
    { address: BigInt(DATA + 64), length: 4 },
  ]);
});

// --- Indirect tables ----------------------------------------------------------------------------

test('an indirect table is walked in place of its descriptor', () => {
  const device = ring();
  const head = device.queue.indirectChain([buffer(1), buffer(2), buffer(3)], TABLE);
  device.queue.offer(head);
  assert.equal(
    kick(device.cage, 0).requests[0].ranges.map((range) => range.length),
    [1, 2, 3],
  );
  assert.equal(device.queue.takeUsed(), { id: head, length: 6 });
});

test('an indirect table may follow direct descriptors', () => {
  const device = ring();
  device.queue.setDescriptor(0, buffer(1), DESC_F_NEXT, 1);
  device.queue.setDescriptor(1, { address: TABLE, length: 16 }, DESC_F_INDIRECT, 0);
  device.queue.setDescriptor(0, buffer(2), 0, 0, TABLE);
  device.queue.offer(0);
  assert.equal(
    kick(device.cage, 0).requests[0].ranges.map((range) => range.length),
    [1, 2],
  );
});

test('the write flag of the descriptor that holds a table is ignored', () => {
  const device = ring();
  device.queue.setDescriptor(0, buffer(2), 0, 0, TABLE);
  device.queue.setDescriptor(0, { address: TABLE, length: 16, write: true }, DESC_F_INDIRECT, 0);
  device.queue.offer(0);
  assert.is(kick(device.cage, 0).requests.length, 1);
});

test('a nested indirect table is refused', () => {
  const device = ring();
  const head = device.queue.indirectChain([buffer(), buffer()], TABLE);
  device.queue.setDescriptor(1, { address: TABLE + 64, length: 16 }, DESC_F_INDIRECT, 0, TABLE);
  device.queue.setDescriptor(0, buffer(), 0, 0, TABLE + 64);
  device.queue.offer(head);
  refused(device, head, 'chain');
});

test('an indirect descriptor with a next is refused', () => {
  const device = ring();
  device.queue.setDescriptor(0, { address: TABLE, length: 16 }, DESC_F_INDIRECT | DESC_F_NEXT, 1);
  device.queue.setDescriptor(0, buffer(), 0, 0, TABLE);
  device.queue.setDescriptor(1, buffer(), 0, 0);
  device.queue.offer(0);
  refused(device, 0, 'chain');
});

test('an indirect table that was not negotiated is refused', () => {
  const device = ring(0n);
  const head = device.queue.indirectChain([buffer()], TABLE);
  device.queue.offer(head);
  refused(device, head, 'chain');
});

test('a table length that is no multiple of 16, or 0, is refused', () => {
  for (const length of [0, 1, 15, 17, 0xffffffff]) {
    const device = ring();
    device.queue.setDescriptor(0, buffer(), 0, 0, TABLE);
    device.queue.setDescriptor(4, { address: TABLE, length }, DESC_F_INDIRECT, 0);
    device.queue.offer(4);
    refused(device, 4, 'chain');
  }
});

test('a misaligned table is read all the same: the spec asks for no alignment', () => {
  const device = ring();
  const head = device.queue.indirectChain([buffer(1), buffer(2)], TABLE + 3);
  device.queue.offer(head);
  assert.is(kick(device.cage, 0).requests[0].ranges.length, 2);
});

test('a table outside RAM, at its edge or past 2^64, is refused', () => {
  for (const address of [RAM_END, RAM_END - 8, 0xc0000000, 0xfffffffffffffff0n]) {
    const device = ring();
    device.queue.setDescriptor(2, { address, length: 32 }, DESC_F_INDIRECT, 0);
    device.queue.offer(2);
    refused(device, 2, 'memory');
  }
});

test('a next index past an indirect table is refused, within it a loop too', () => {
  for (const next of [2, 0]) {
    const device = ring();
    const head = device.queue.indirectChain([buffer(), buffer()], TABLE);
    device.queue.setDescriptor(1, buffer(), DESC_F_NEXT, next, TABLE);
    device.queue.offer(head);
    refused(device, head, 'chain');
  }
});

test('an indirect chain may be longer than the queue, but not than the largest queue', () => {
  const device = ring();
  const buffers = (count: number) => [...Array(count).keys()].map(() => buffer(1));
  device.queue.offer(device.queue.indirectChain(buffers(256), TABLE));
  assert.is(kick(device.cage, 0).requests[0].ranges.length, 256);
  device.queue.takeUsed();
  const head = device.queue.indirectChain(buffers(257), TABLE);
  device.queue.offer(head);
  refused(device, head, 'chain');
});

// --- The available ring -------------------------------------------------------------------------

test('a head past the table breaks the device', () => {
  for (const head of [16, 0xffff]) {
    const device = ring();
    device.queue.offer(head);
    broken(device, 'head');
  }
});

test('the same head twice in flight breaks the device', () => {
  const device = ring();
  const head = device.queue.chain([buffer()]);
  device.queue.offer(head);
  device.queue.offer(head);
  assert.is(device.cage.notify(0), EFFECT_REQUEST | EFFECT_MORE);
  broken(device, 'head');
});

test('a head is free again once its request is complete', () => {
  const device = ring();
  const head = device.queue.chain([buffer()]);
  for (let round = 0; round < 3; round += 1) {
    device.queue.offer(head);
    assert.is(kick(device.cage, 0).requests.length, 1);
  }
});

test('an available index that jumps past the queue size breaks the device', () => {
  const device = ring();
  device.queue.chain([buffer()]);
  device.queue.setAvailIndex(17);
  broken(device, 'availIndex');
});

test('an available index that runs backwards breaks the device', () => {
  const device = ring();
  device.queue.offer(device.queue.chain([buffer()]));
  kick(device.cage, 0);
  device.queue.takeUsed();
  device.driver.set(REG.InterruptACK, 1);
  device.queue.setAvailIndex(0);
  broken(device, 'availIndex');
});

test('an available index exactly one queue ahead is fine', () => {
  const device = ring();
  for (let count = 0; count < 16; count += 1) device.queue.offer(device.queue.chain([buffer()]));
  assert.is(kick(device.cage, 0).requests.length, 16);
});

test('rings outside RAM break the device at the first kick', () => {
  for (const part of ['availRing', 'descTable', 'usedRing'] as const) {
    const device = rngDevice();
    const queue = device.driver.bringUp({ features: 0n });
    device.driver.negotiate(0n);
    queue.offer(queue.chain([buffer()]));
    queue[part] = RAM_END;
    device.driver.configureQueue(queue);
    device.driver.set(REG.QueueReady, 1);
    device.driver.addStatus(4);
    kick(device.cage, 0);
    assert.is(device.driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET, part);
    assert.ok(device.cage.counters().memory >= 1);
  }
});

// --- Bounds and order ---------------------------------------------------------------------------

test('one kick answers at most one queue of chains, then says that there is more', () => {
  const device = ring();
  const bad = { address: DATA, length: 16 }; // nothing to write: answered inside the core
  for (let count = 0; count < 16; count += 1) device.queue.offer(device.queue.chain([bad]));
  let last = 0;
  device.memory.observer = (kind, address) => {
    // A driver that refills as fast as the device drains would hold an unbounded loop for ever.
    if (kind !== 'write' || address < device.queue.usedRing || last > 100) return;
    last += 1;
    device.queue.offer(last % 16);
  };
  const effects = device.cage.notify(0);
  assert.is(effects & (EFFECT_MORE | EFFECT_REQUEST), EFFECT_MORE);
  assert.is(last, 16);
});

test('each call hands out one request and asks to be called again', () => {
  const device = ring();
  device.queue.offer(device.queue.chain([buffer(1)]));
  device.queue.offer(device.queue.chain([buffer(2)]));
  assert.is(device.cage.notify(0), EFFECT_REQUEST | EFFECT_MORE);
  assert.is(parseRecord(device.cage.record()).length, 1n);
  assert.is(device.cage.next(0), EFFECT_REQUEST | EFFECT_MORE);
  assert.is(parseRecord(device.cage.record()).length, 2n);
  assert.is(device.cage.next(0), 0);
});

test('requests complete in any order', () => {
  const device = ring();
  const heads = [1, 2, 3].map((length) => {
    const head = device.queue.chain([buffer(length)]);
    device.queue.offer(head);
    return head;
  });
  const tags = heads.map((_, index) => {
    if (index === 0) device.cage.notify(0);
    else device.cage.next(0);
    return parseRecord(device.cage.record()).tag;
  });
  for (const index of [2, 0, 1]) device.cage.complete(tags[index], 0, index + 1);
  const used = [2, 0, 1].map((index) => ({ id: heads[index], length: index + 1 }));
  assert.equal([device.queue.takeUsed(), device.queue.takeUsed(), device.queue.takeUsed()], used);
});

test('a descriptor that changes after the walk changes nothing', () => {
  const device = ring();
  const head = device.queue.chain([buffer(64)]);
  device.queue.offer(head);
  device.cage.notify(0);
  const record = parseRecord(device.cage.record());
  device.queue.setDescriptor(head, buffer(0xffffffff, 0xdeadbeefn), DESC_F_WRITE, 0);
  device.cage.complete(record.tag, 0, 0xffffffff); // a host that claims too much is cut short
  assert.equal(device.queue.takeUsed(), { id: head, length: 64 });
});

test('the element is written before the index that publishes it', () => {
  const device = blkDevice();
  const queue = device.driver.bringUp({ features: 0n });
  const header = blkHeader(device.memory, DATA, BLK_T_FLUSH);
  queue.offer(queue.chain([header, blkStatus(device.memory, DATA + 16)]));
  device.cage.notify(0);
  const { tag } = parseRecord(device.cage.record());
  const order: [string, number][] = [];
  device.memory.observer = (kind, address) => order.push([kind, address]);
  device.cage.complete(tag, 0, 0);
  assert.equal(order, [
    ['write', DATA + 16],
    ['write', queue.usedRing + 4],
    ['store16', queue.usedRing + 2],
    ['fence', 0],
    ['load16', queue.availRing],
  ]);
});

// --- Notification suppression -------------------------------------------------------------------

test('NO_INTERRUPT is obeyed without the event index', () => {
  const device = ring(0n);
  device.queue.suppressInterrupts(true);
  device.queue.offer(device.queue.chain([buffer()]));
  assert.is(kick(device.cage, 0).effects & EFFECT_IRQ, 0);
  assert.is(device.driver.get(REG.InterruptStatus), 0);
  device.queue.suppressInterrupts(false);
  device.queue.offer(device.queue.chain([buffer()]));
  assert.is(kick(device.cage, 0).effects & EFFECT_IRQ, EFFECT_IRQ);
});

test('an available ring of which only the flags lie outside RAM breaks the device too', () => {
  // Its index is the first thing in the RAM after the hole; its flags are the last in the hole.
  const high = new DataView(new ArrayBuffer(0x1000));
  const memory = new GuestMemory([new ArrayBuffer(RAM_END), high.buffer], HOLE_START);
  const { cage, driver } = rngDevice(16, memory);
  driver.negotiate(0n);
  const queue = new DriverQueue(memory, 0, 16);
  driver.configureQueue(queue);
  driver.set(REG.QueueDriverLow, 0xfffffffe);
  driver.set(REG.QueueReady, 1);
  driver.addStatus(4);
  high.setUint16(2, queue.chain([buffer()]), true);
  high.setUint16(0, 1, true);
  assert.is(cage.notify(0) & (EFFECT_REQUEST | EFFECT_INCIDENT), EFFECT_REQUEST);
  const effects = cage.complete(parseRecord(cage.record()).tag, 0, 64);
  assert.is(effects, EFFECT_INCIDENT | EFFECT_IRQ);
  assert.is(driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
  assert.is(cage.counters().memory, 1);
});

test('a head that is given back breaks every device whose ring is refused then', () => {
  // Beside RAM's hole, each of these may lie outside RAM alone: here the host refuses it.
  const parts: [string, bigint, (queue: DriverQueue) => number][] = [
    ['an element', 0n, ({ usedRing }) => usedRing + 4],
    ['the used index', 0n, ({ usedRing }) => usedRing + 2],
    ['the flags of the available ring', 0n, ({ availRing }) => availRing],
    ['used_event', F_EVENT_IDX, ({ availRing, size }) => availRing + 4 + 2 * size],
  ];
  for (const [what, features, place] of parts) {
    for (const device of [rngDevice(16), netDevice({ queueSize: 16 })]) {
      const { cage, driver, memory } = device;
      const queue = driver.bringUp({ features });
      queue.offer(queue.chain([buffer()]));
      cage.next(0);
      const { tag } = parseRecord(cage.record());
      const refused = place(queue);
      const offsetOf = memory.offsetOf.bind(memory);
      memory.offsetOf = (at, length) => (at === refused ? -1 : offsetOf(at, length));
      const network = cage.kind === KIND_VIRTIO_NET ? EFFECT_SETUP : 0;
      assert.is(cage.complete(tag, 0, 64), EFFECT_INCIDENT | EFFECT_IRQ | network, what);
      assert.is(driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET, what);
      assert.is(cage.check(), VALID, what);
    }
  }
});

test('with the event index the interrupt comes when used_event is passed', () => {
  const device = ring(F_EVENT_IDX);
  device.queue.suppressInterrupts(true); // means nothing with the event index
  device.queue.setUsedEvent(2);
  const interrupts = [0, 1, 2, 3].map(() => {
    device.queue.offer(device.queue.chain([buffer()]));
    return kick(device.cage, 0).effects & EFFECT_IRQ;
  });
  assert.equal(interrupts, [0, 0, EFFECT_IRQ, 0]);
});

test('the device asks for the next kick once the ring is drained', () => {
  const device = ring(F_EVENT_IDX);
  for (let count = 1; count <= 3; count += 1) {
    device.queue.offer(device.queue.chain([buffer()]));
    kick(device.cage, 0);
    assert.is(device.queue.availEvent(), count);
  }
});

test('a buffer added while the device asks for a kick is not missed', () => {
  const device = ring(F_EVENT_IDX);
  device.queue.offer(device.queue.chain([buffer(1)]));
  const late = device.queue.chain([buffer(2)]);
  device.memory.observer = (kind) => {
    if (kind !== 'fence') return;
    device.memory.observer = null;
    device.queue.offer(late); // the driver saw the old avail_event and will not kick
  };
  device.cage.notify(0);
  assert.is(device.cage.next(0), EFFECT_REQUEST | EFFECT_MORE);
  assert.is(parseRecord(device.cage.record()).length, 2n);
});

test('without the event index neither event field is touched', () => {
  const device = ring(0n);
  const availEvent = device.queue.usedRing + 4 + 16 * 8;
  device.memory.observer = (_kind, address) => assert.is.not(address, availEvent);
  device.queue.offer(device.queue.chain([buffer()]));
  kick(device.cage, 0);
});

test('a header that leaves RAM is an I/O error, not a trap', () => {
  const device = blkDevice();
  const queue = device.driver.bringUp();
  const header = { address: RAM_END - 8, length: 16 };
  const data = { address: DATA, length: 512 };
  blkHeader(device.memory, DATA + 0x1000, BLK_T_OUT);
  queue.offer(queue.chain([header, data, blkStatus(device.memory, DATA + 0x800)]));
  assert.is(device.cage.notify(0) & EFFECT_INCIDENT, EFFECT_INCIDENT);
  assert.is(device.memory.view.getUint8(DATA + 0x800), 1);
  assert.is(device.cage.counters().memory, 1);
});

test.run();
