// Receive buffers of the network device: assembly/virtio-net-receive.ts on the release core (virtio
// 1.2 §5.1.6.3 and §5.1.6.4).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import {
  DEVICE_NEEDS_RESET,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  REG,
  RUNNING,
} from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import { NetHost } from '../testing/net-host.ts';
import type { GuestBuffer as Buffer } from '../testing/queue.ts';
import { netDevice } from './fixtures.ts';
import { buffer, nic, numBuffers, RAM_END, RX, received, stock, usedOf } from './nic.ts';

const MERGEABLE = net.NET_F_MRG_RXBUF;

// --- Buffers and frames -------------------------------------------------------------------------

test('a receive buffer is handed out whole, up to the longest frame', () => {
  const device = nic(0n);
  device.rx.offer(device.rx.chain([buffer(12), buffer(1500, RX + 0x800)]));
  device.rx.offer(device.rx.chain([buffer(0x20000)]));
  device.host.fetch();
  const [first, second] = device.host.held;
  assert.is(first.kind, abi.REQUEST_KIND_NET_RX);
  assert.equal(first.ranges, [
    { address: BigInt(RX), length: 12 },
    { address: BigInt(RX + 0x800), length: 1500 },
  ]);
  assert.is(first.length, 1512n);
  assert.is(second.length, BigInt(12 + abi.NET_FRAME_BYTES_MAX));
  assert.is(device.rx.takeUsed(), null);
});

test('a buffer without room for a header, or to be read from, goes back unused', () => {
  const wrong: Buffer[][] = [
    [buffer(11)],
    [buffer(0)],
    [{ address: RX, length: 2048 }],
    [{ address: RX, length: 12 }, buffer(2048)],
  ];
  for (const chain of wrong) {
    const device = nic(MERGEABLE);
    device.rx.offer(device.rx.chain(chain));
    stock(device, [2048]);
    assert.is(device.host.held.length, 1);
    assert.equal(usedOf(device.rx), [{ id: 0, length: 0 }]);
    assert.is(device.cage.counters().request, 1);
    device.host.deliver(received(100));
    assert.equal(usedOf(device.rx), [{ id: chain.length, length: 100 }]);
  }
});

test('a frame goes into the oldest buffer, and its header says that it takes one', () => {
  for (const features of [0n, MERGEABLE]) {
    const device = nic(features);
    stock(device, [2048, 2048]);
    const bytes = received(112);
    assert.is(device.host.deliver(bytes), abi.EFFECT_IRQ);
    assert.equal(usedOf(device.rx), [{ id: 0, length: 112 }]);
    assert.is(numBuffers(device), 1);
    const frame = new Uint8Array(device.memory.view.buffer, RX + 12, 100);
    assert.equal(Uint8Array.from(frame), bytes.slice(12));
    device.host.deliver(bytes);
    assert.equal(usedOf(device.rx), [{ id: 1, length: 112 }]);
  }
});

test('a longer frame takes as many buffers as it fills, shown together', () => {
  const cases: [bytes: number, used: number[]][] = [
    [200, [200]],
    [201, [200, 1]],
    [500, [200, 300]],
    [501, [200, 300, 1]],
    [900, [200, 300, 400]],
  ];
  for (const [bytes, lengths] of cases) {
    const device = nic(MERGEABLE);
    stock(device, [200, 300, 400, 2048]);
    device.memory.view.setUint16(RX + 0x1000 + 10, 0xeeee, true);
    assert.is(device.host.deliver(received(bytes)), abi.EFFECT_IRQ);
    assert.equal(
      usedOf(device.rx),
      lengths.map((length, id) => ({ id, length })),
    );
    assert.is(numBuffers(device), lengths.length);
    assert.is(device.host.held.length, 4 - lengths.length);
    assert.is(device.cage.check(), abi.VALID);
  }
});

test('what does not fit into the buffers there are is cut', () => {
  const device = nic(MERGEABLE);
  stock(device, [200, 300]);
  device.cage.complete(device.host.held[0].tag, abi.RESULT_OK, 9999);
  assert.equal(usedOf(device.rx), [
    { id: 0, length: 200 },
    { id: 1, length: 300 },
  ]);
  assert.is(numBuffers(device), 2);
  const plain = nic(0n);
  stock(plain, [200, 300]);
  plain.cage.complete(plain.host.held[0].tag, abi.RESULT_OK, 9999);
  assert.equal(usedOf(plain.rx), [{ id: 0, length: 200 }]);
  assert.is(numBuffers(plain), 1);
});

test('the number of buffers is found wherever descriptors cut the header', () => {
  for (let cut = 0; cut <= 12; cut += 1) {
    const device = nic(MERGEABLE);
    device.rx.offer(device.rx.chain([buffer(cut), buffer(0), buffer(100 - cut, RX + 0x800)]));
    stock(device, []);
    device.rx.offer(device.rx.chain([buffer(100, RX + 0x1000)]));
    device.host.fetch();
    device.host.deliver(received(150));
    const byte = (at: number) =>
      device.memory.view.getUint8(at < cut ? RX + at : RX + 0x800 + at - cut);
    assert.equal([byte(9), byte(10), byte(11), byte(12)], [0, 2, 0, received(150)[12]], `${cut}`);
    assert.is(device.cage.counters().memory, 0);
  }
});

test('an indirect table is a buffer as good as any', () => {
  const device = nic(MERGEABLE | F_INDIRECT_DESC);
  const chain = [buffer(11), buffer(100, RX + 0x800)]; // cuts num_buffers
  device.rx.offer(device.rx.indirectChain(chain, net.NET_DATA));
  device.host.fetch();
  device.host.deliver(received(80));
  assert.equal(usedOf(device.rx), [{ id: 0, length: 80 }]);
  assert.is(device.memory.view.getUint8(RX + 10), 1);
  assert.is(device.cage.counters().memory, 0);
});

test("buffers outside RAM are the host's to find, but the header's number is the core's", () => {
  const device = nic(MERGEABLE);
  device.rx.offer(device.rx.chain([buffer(2048, RAM_END)]));
  device.host.fetch();
  assert.is(device.host.deliver(received(100)), null);
  const effects = device.cage.complete(device.host.held[0].tag, abi.RESULT_OK, 100);
  assert.is(effects, abi.EFFECT_INCIDENT | abi.EFFECT_IRQ);
  assert.is(device.cage.counters().memory, 1);
  assert.equal(usedOf(device.rx), [{ id: 0, length: 100 }]);
});

test('a header that is cut is found again as it is by then, or nowhere', () => {
  // What becomes of the chain [10 or 11 bytes, rest] while the host has it.
  const changes: [string, (rx: ReturnType<typeof nic>) => void, memory: number][] = [
    ['the same', () => {}, 0],
    ['a loop', ({ rx }) => rx.setDescriptor(1, buffer(9, RX), 1, 0), 1],
    ['too short', ({ rx }) => rx.setDescriptor(1, buffer(0), 0, 0), 1],
    ['all to be read', ({ rx }) => rx.setDescriptor(0, { address: RX, length: 60 }, 0, 0), 1],
    ['outside RAM', ({ rx }) => rx.setDescriptor(1, buffer(90, RAM_END), 0, 0), 1],
  ];
  for (const [what, change, memory] of changes) {
    const device = nic(MERGEABLE);
    device.rx.offer(device.rx.chain([buffer(11), buffer(90, RX + 0x800)]));
    device.host.fetch();
    change(device);
    const effects = device.cage.complete(device.host.held[0].tag, abi.RESULT_OK, 50);
    assert.is(effects & abi.EFFECT_IRQ, abi.EFFECT_IRQ, what);
    assert.is(device.cage.counters().memory, memory, what);
    assert.equal(usedOf(device.rx), [{ id: 0, length: 50 }], what);
    assert.is(device.driver.get(REG.Status), RUNNING, what);
  }
});

// --- Buffers that the host gives back -----------------------------------------------------------

test('a buffer given back at any place leaves the others in order', () => {
  for (const first of [0, 1, 2, 3]) {
    for (const second of [0, 1, 2]) {
      const device = nic(MERGEABLE);
      stock(device, [100, 200, 300, 400]);
      const ids = device.host.held.map(({ tag }) => tag & abi.TAG_HEAD_MASK);
      for (const index of [first, second]) {
        device.host.refuse(index);
        const [id] = ids.splice(index, 1);
        assert.equal(usedOf(device.rx), [{ id, length: 0 }]);
        assert.is(device.cage.check(), abi.VALID);
      }
      stock(device, [500]); // behind the others
      ids.push(4);
      const total = device.host.held.reduce((sum, { length }) => sum + Number(length), 0);
      device.host.deliver(received(total));
      const lengths = ids.map((id) => ({ id, length: 100 * (id + 1) }));
      assert.equal(usedOf(device.rx), lengths, `${first}, ${second}`);
      assert.is(device.cage.check(), abi.VALID);
    }
  }
});

test('all buffers given back and offered again', () => {
  const device = nic(MERGEABLE);
  for (let round = 0; round < 3; round += 1) {
    stock(device, [100, 200]);
    device.host.refuse(1);
    device.host.refuse(0);
    assert.is(usedOf(device.rx).length, 2);
  }
  stock(device, [100]);
  device.host.deliver(received(50));
  assert.equal(usedOf(device.rx), [{ id: 6, length: 50 }]);
});

// --- Completions that are wrong -----------------------------------------------------------------

test("a frame is delivered by the oldest buffer's tag only, and no shorter than a header", () => {
  const device = nic(MERGEABLE);
  const { cage, host } = device;
  stock(device, [200, 200]);
  assert.is(cage.complete(host.held[1].tag, abi.RESULT_OK, 100), abi.EFFECT_INCIDENT);
  assert.is(cage.complete(host.held[0].tag, abi.RESULT_OK, 11), abi.EFFECT_INCIDENT);
  assert.is(cage.complete(host.held[0].tag, abi.RESULT_OK, 0), abi.EFFECT_INCIDENT);
  assert.is(cage.counters().tag, 3);
  assert.equal(usedOf(device.rx), []);
  host.deliver(received(12));
  assert.equal(usedOf(device.rx), [{ id: 0, length: 12 }]);
  host.deliver(received(100));
  assert.equal(usedOf(device.rx), [{ id: 1, length: 100 }]);
});

test('a tag of before, of a later buffer that was used up, or of nothing is only counted', () => {
  const device = nic(MERGEABLE);
  const { cage, host } = device;
  stock(device, [200, 200, 200]);
  const tags = host.held.map(({ tag }) => tag);
  host.deliver(received(300));
  for (const tag of [tags[0], tags[1], tags[2] ^ (1 << abi.TAG_GENERATION_SHIFT)]) {
    assert.is(cage.complete(tag, abi.RESULT_OK, 100), abi.EFFECT_INCIDENT);
    assert.is(cage.complete(tag, abi.RESULT_IOERR, 0), abi.EFFECT_INCIDENT);
  }
  for (const tag of [0xffffffff, 16, 31 << abi.TAG_QUEUE_SHIFT, 5 << abi.TAG_QUEUE_SHIFT]) {
    assert.is(cage.complete(tag, abi.RESULT_OK, 100), abi.EFFECT_INCIDENT);
  }
  assert.is(usedOf(device.rx).length, 2);
});

test('completions after a reset, a stopped queue or a broken ring touch nothing', () => {
  const ends: [string, (device: ReturnType<typeof nic>) => void, counted: boolean][] = [
    ['reset', ({ driver }) => driver.set(REG.Status, 0), true],
    [
      'stop',
      ({ driver }) => {
        driver.set(REG.QueueSel, 0);
        driver.set(REG.QueueReady, 0);
      },
      true,
    ],
    ['needs reset', ({ cage }) => cage.fail(), false],
  ];
  for (const [what, end, counted] of ends) {
    for (const result of [abi.RESULT_OK, abi.RESULT_IOERR]) {
      const device = nic(MERGEABLE);
      stock(device, [200, 200, 200]);
      end(device);
      device.memory.observer = () => assert.unreachable(what);
      for (const { tag } of [1, 0, 2].map((index) => device.host.held[index])) {
        const effects = device.cage.complete(tag, result, 100);
        assert.is(effects, counted ? abi.EFFECT_INCIDENT : 0, what);
      }
      device.memory.observer = null;
      assert.is(device.cage.check(), abi.VALID, what);
      device.host.held = [];
      const rx = device.driver.bringUp({ features: MERGEABLE, queueCount: 2 });
      const again = { ...device, rx };
      stock(again, [200, 200]);
      again.host.deliver(received(250));
      assert.equal(
        usedOf(rx),
        [
          { id: 0, length: 200 },
          { id: 1, length: 50 },
        ],
        what,
      );
    }
  }
});

test('a used ring that left RAM breaks the device, whatever was to be shown', () => {
  for (const [bytes, place] of [
    [100, 4],
    [250, 4 + 8],
  ] as const) {
    const device = netDevice();
    const { driver, memory, cage } = device;
    driver.negotiate(MERGEABLE);
    const probe = netDevice({}, memory).driver.bringUp({ queueSize: 4 });
    probe.usedRing = RAM_END - place; // its index and maybe one element
    driver.configureQueue(probe);
    driver.set(REG.QueueReady, 1);
    driver.set(REG.Status, RUNNING);
    const host = new NetHost(cage, memory);
    for (const i of [0, 1, 2]) probe.offer(probe.chain([buffer(200, RX + 0x1000 * i)]));
    host.fetch();
    const effects = host.deliver(received(bytes)) as number;
    const broke = abi.EFFECT_IRQ | abi.EFFECT_SETUP | abi.EFFECT_INCIDENT;
    assert.is(effects, broke);
    assert.is(driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
    assert.is(cage.check(), abi.VALID);
  }
});

// --- Interrupts ---------------------------------------------------------------------------------

test('buffers shown together interrupt where the index passes used_event, also past 65535', () => {
  const device = nic(MERGEABLE | F_EVENT_IDX);
  const { rx, host, memory } = device;
  const rounds = 5;
  for (let index = 0; index < 65536 - 6; index += 2) {
    rx.setUsedEvent(index + 100);
    stock(device, [20, 20]);
    assert.is(host.deliver(received(30)), 0);
    rx.usedIndex = (rx.usedIndex + 2) & 0xffff;
  }
  for (let round = 0; round < rounds; round += 1) {
    for (let ahead = -2; ahead < 5; ahead += 1) {
      rx.setUsedEvent((rx.usedIndex + ahead) & 0xffff);
      stock(device, [20, 20, 20]);
      const wanted = ahead >= 0 && ahead < 3 ? abi.EFFECT_IRQ : 0;
      assert.is(host.deliver(received(50)), wanted, `${rx.usedIndex}, ${ahead}`);
      assert.is(usedOf(rx).length, 3);
    }
  }
  assert.ok(rx.usedIndex < 200);
  assert.is(memory.view.getUint16(rx.usedRing + 2, true), rx.usedIndex);
});

test('no interrupt where none is wanted, and a kick asked for at the end of the ring', () => {
  const device = nic(MERGEABLE);
  device.rx.suppressInterrupts(true);
  stock(device, [20, 20]);
  assert.is(device.host.deliver(received(30)), 0);
  assert.is(device.driver.get(REG.InterruptStatus), 0);
  const events = nic(MERGEABLE | F_EVENT_IDX);
  stock(events, [20, 20, 20]);
  assert.is(events.rx.availEvent(), 0); // by who wants one, and not by who looks
  events.driver.cage.notify(events.host.receiveQueue);
  assert.is(events.rx.availEvent(), 3);
});

// --- Many queues --------------------------------------------------------------------------------

test('each pair has buffers and frames of its own', () => {
  const { driver, cage, memory } = netDevice({ queuePairs: 3 });
  const features = MERGEABLE | net.NET_F_MQ | net.NET_F_CTRL_VQ;
  driver.bringUp({ features, queueCount: 7 });
  const hosts = [0, 1, 2].map((pair) => new NetHost(cage, memory, pair));
  for (const { receiveQueue } of hosts) {
    const [rx, tx] = driver.queues.slice(receiveQueue);
    for (const i of [0, 1])
      rx.offer(rx.chain([buffer(100, RX + 0x4000 * receiveQueue + 0x800 * i)]));
    const header = net.netHeader(memory, net.NET_DATA);
    tx.offer(tx.chain([header, { address: net.NET_DATA + 0x1000, length: 60 + receiveQueue }]));
  }
  for (const host of hosts) host.fetch();
  for (const host of [...hosts].reverse()) {
    host.transmit();
    assert.equal(
      host.sent.map(({ length }) => length),
      [72 + host.receiveQueue],
    );
    host.deliver(received(110 + host.receiveQueue));
    const used = usedOf(driver.queues[host.receiveQueue]);
    assert.equal(used, [
      { id: 0, length: 100 },
      { id: 1, length: 10 + host.receiveQueue },
    ]);
    assert.is(numBuffers({ memory, cage, driver }, RX + 0x4000 * host.receiveQueue), 2);
  }
});

test.run();
