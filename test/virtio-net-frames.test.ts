// Frames of the network device: assembly/virtio-net-frames.ts on the release core. Transmission,
// receive buffers and mergeable ones (virtio 1.2 §5.1.6.2 to §5.1.6.4), rings of the kernel.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import type { NetConfig } from '../host/device-config.ts';
import { DEVICE_NEEDS_RESET, F_INDIRECT_DESC, REG, RUNNING } from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import { headerOf, NetHost } from '../testing/net-host.ts';
import type { GuestBuffer as Buffer, DriverQueue } from '../testing/queue.ts';
import { kick, parseRecord, type RequestRecord } from '../testing/requests.ts';
import { type Fixture, netDevice } from './fixtures.ts';

const HEADER = net.NET_DATA;
const FRAME = net.NET_DATA + 0x1000;
const RX = net.NET_DATA + 0x20000;
const RAM_END = 0x100000;
const MERGEABLE = net.NET_F_MRG_RXBUF;
const OFFLOADS =
  net.NET_F_CSUM |
  net.NET_F_HOST_TSO4 |
  net.NET_F_HOST_TSO6 |
  net.NET_F_HOST_UFO |
  net.NET_F_HOST_USO |
  net.NET_F_HOST_ECN;

interface Nic extends Fixture {
  rx: DriverQueue;
  tx: DriverQueue;
  host: NetHost;
}

function nic(features: bigint, config: Partial<NetConfig> = {}, queueSize = 16): Nic {
  const device = netDevice(config);
  const rx = device.driver.bringUp({ features, queueCount: 2, queueSize });
  const host = new NetHost(device.cage, device.memory);
  return { ...device, rx, tx: device.driver.queues[1], host };
}

// --- Transmission -------------------------------------------------------------------------------

/** Offers a chain to be sent, and what came of it. */
function send(device: Nic, chain: Buffer[]) {
  const head = device.tx.chain(chain);
  device.tx.offer(head);
  const { requests, effects } = kick(device.cage, 1, () => ({ result: 0, bytes: 999 }));
  assert.equal(device.tx.takeUsed(), { id: head, length: 0 });
  assert.is(device.driver.get(REG.Status), RUNNING);
  return { requests, effects };
}

/** The frame is not sent, which is counted, and its chain comes back. */
function dropped(device: Nic, chain: Buffer[], counter: 'request' | 'memory' = 'request'): void {
  const before = device.cage.counters()[counter];
  const { requests, effects } = send(device, chain);
  assert.equal(requests, []);
  assert.is(effects & abi.EFFECT_INCIDENT, abi.EFFECT_INCIDENT);
  assert.is(device.cage.counters()[counter], before + 1);
}

const frame = (length: number, address: number | bigint = FRAME): Buffer => ({ address, length });

/** Sends a frame of so many bytes behind this header; what the host got as the header. */
function sentHeader(device: Nic, header: net.NetHeader, length = 60): net.NetHeader {
  const chain = [net.netHeader(device.memory, HEADER, header), frame(length)];
  const { requests } = send(device, chain);
  assert.is(requests.length, 1);
  return net.parseNetHeader(headerOf(requests[0]));
}

const refusesHeader = (device: Nic, header: net.NetHeader, length = 60) =>
  dropped(device, [net.netHeader(device.memory, HEADER, header), frame(length)]);

const NOTHING = net.parseNetHeader(new Uint8Array(12));

test('a frame behind a header of its own is sent without it', () => {
  const device = nic(0n);
  const { requests } = send(device, [net.netHeader(device.memory, HEADER), frame(60)]);
  const [{ kind, length, ranges, offset, flags, tag }] = requests;
  assert.is(kind, abi.REQUEST_KIND_NET_TX);
  assert.is(length, 60n);
  assert.equal(ranges, [{ address: BigInt(FRAME), length: 60 }]);
  assert.equal([offset, flags], [0n, 0]);
  assert.is((tag >>> abi.TAG_QUEUE_SHIFT) & abi.TAG_QUEUE_MASK, 1);
});

test('header and frame may be cut anywhere', () => {
  const whole = Uint8Array.from({ length: 12 + 40 }, (_, at) => (at < 12 ? 0 : at));
  for (let cut = 0; cut <= whole.length; cut += 1) {
    for (const indirect of [false, true]) {
      const device = nic(F_INDIRECT_DESC);
      const { memory, tx, host } = device;
      net.netFrame(memory, HEADER, whole.subarray(0, cut));
      net.netFrame(memory, FRAME, whole.subarray(cut));
      const chain = [frame(cut, HEADER), frame(0), frame(whole.length - cut)];
      tx.offer(indirect ? tx.indirectChain(chain, net.NET_DATA + 0x4000) : tx.chain(chain));
      host.transmit();
      assert.equal(host.sent, [whole], `${cut}`);
    }
  }
});

test('a frame of as many pieces as a queue has descriptors is sent', () => {
  const device = nic(0n, {}, 256);
  const pieces = Array.from({ length: 255 }, (_, at) => frame(1, FRAME + 2 * at));
  const { requests } = send(device, [net.netHeader(device.memory, HEADER), ...pieces]);
  assert.is(requests[0].ranges.length, 255);
});

test('frames are sent from an Ethernet header on up to 64 KiB and no further', () => {
  const device = nic(0n);
  const header = net.netHeader(device.memory, HEADER);
  for (const length of [abi.NET_FRAME_BYTES_MIN, abi.NET_FRAME_BYTES_MAX]) {
    assert.is(send(device, [header, frame(length)]).requests[0].length, BigInt(length));
  }
  dropped(device, [header, frame(abi.NET_FRAME_BYTES_MIN - 1)]);
  dropped(device, [header, frame(abi.NET_FRAME_BYTES_MAX + 1)]);
  dropped(device, [header]);
  dropped(device, [frame(11, HEADER)]);
  dropped(device, [frame(0)]);
  dropped(device, [header, frame(0xfffffff0)]);
});

test('a chain to be sent has nothing to be written to', () => {
  const device = nic(0n);
  const header = net.netHeader(device.memory, HEADER);
  dropped(device, [header, frame(60), { address: RX, length: 1, write: true }]);
  dropped(device, [header, frame(60), { address: RX, length: 0, write: true }]);
  dropped(device, [{ address: HEADER, length: 72, write: true }]);
});

test("a header outside RAM is not sent, a frame there is the host's to find", () => {
  const device = nic(0n);
  dropped(device, [frame(72, RAM_END)], 'memory');
  dropped(device, [frame(12, RAM_END - 6), frame(60)], 'memory');
  dropped(device, [frame(6, HEADER), frame(66, RAM_END - 5)], 'memory');
  const { requests } = send(device, [net.netHeader(device.memory, HEADER), frame(60, RAM_END)]);
  assert.is(requests.length, 1);
  device.tx.offer(device.tx.chain([net.netHeader(device.memory, HEADER), frame(60, RAM_END)]));
  device.host.transmit();
  assert.equal(device.host.sent, []);
  assert.is(device.tx.takeUsed()?.length, 0);
});

test("of a plain frame's header nothing reaches the host but the hint of its length", () => {
  const device = nic(OFFLOADS);
  const flags = 0xff & ~net.NET_HDR_F_NEEDS_CSUM;
  const sent = sentHeader(device, {
    flags,
    hdrLen: 54,
    gsoSize: 1448,
    csumStart: 9999,
    csumOffset: 9999,
    numBuffers: 7,
  });
  assert.equal(sent, { ...NOTHING, hdrLen: 54 });
});

test('a hint that points out of the frame is dropped, not the frame', () => {
  const device = nic(OFFLOADS);
  assert.is(sentHeader(device, { hdrLen: 60 }).hdrLen, 60);
  assert.is(sentHeader(device, { hdrLen: 61 }).hdrLen, 0);
  assert.is(sentHeader(device, { hdrLen: 0xffff }).hdrLen, 0);
});

test('a checksum is left to the host if that was agreed on and it lies in the frame', () => {
  const needs = { flags: net.NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 16 };
  const device = nic(net.NET_F_CSUM);
  assert.equal(sentHeader(device, { ...needs, gsoSize: 1448 }), { ...NOTHING, ...needs });
  assert.equal(sentHeader(device, needs, 52), { ...NOTHING, ...needs });
  assert.is(sentHeader(device, { ...needs, flags: 0xff }).flags, net.NET_HDR_F_NEEDS_CSUM);
  refusesHeader(device, needs, 51);
  refusesHeader(device, { ...needs, csumStart: 0xffff });
  refusesHeader(device, { ...needs, csumOffset: 0xffff });
  refusesHeader(device, { ...needs, csumStart: 0xffff, csumOffset: 0xffff }, 65000);
  refusesHeader(nic(net.NET_F_GUEST_CSUM), needs);
});

const CSUM = { flags: net.NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 16, gsoSize: 1448 };
const SEGMENTS: [gsoType: number, feature: bigint][] = [
  [net.NET_HDR_GSO_TCPV4, net.NET_F_HOST_TSO4],
  [net.NET_HDR_GSO_TCPV6, net.NET_F_HOST_TSO6],
  [net.NET_HDR_GSO_UDP, net.NET_F_HOST_UFO],
  [net.NET_HDR_GSO_UDP_L4, net.NET_F_HOST_USO],
];

test('each kind of segmentation is left to the host with its own feature', () => {
  for (const [gsoType, feature] of SEGMENTS) {
    const header = { ...CSUM, gsoType, hdrLen: 54 };
    const device = nic(net.NET_F_CSUM | feature);
    assert.equal(sentHeader(device, header, 9000), { ...NOTHING, ...header });
    for (const [other] of SEGMENTS) {
      if (other !== gsoType) refusesHeader(device, { ...header, gsoType: other }, 9000);
    }
    refusesHeader(device, { ...header, gsoSize: 0 }, 9000);
    refusesHeader(device, { ...header, flags: 0 }, 9000);
    refusesHeader(nic(net.NET_F_CSUM), header, 9000);
  }
});

test('ECN goes with TCP, and only if agreed on', () => {
  const ecn = (gsoType: number) => ({ ...CSUM, gsoType: gsoType | net.NET_HDR_GSO_ECN });
  const device = nic(OFFLOADS);
  for (const gsoType of [net.NET_HDR_GSO_TCPV4, net.NET_HDR_GSO_TCPV6]) {
    assert.is(sentHeader(device, ecn(gsoType), 9000).gsoType, gsoType | net.NET_HDR_GSO_ECN);
    refusesHeader(nic(OFFLOADS & ~net.NET_F_HOST_ECN), ecn(gsoType), 9000);
  }
  for (const gsoType of [net.NET_HDR_GSO_UDP, net.NET_HDR_GSO_UDP_L4, net.NET_HDR_GSO_NONE]) {
    refusesHeader(device, ecn(gsoType), 9000);
  }
});

test('a kind of segmentation that does not exist is refused', () => {
  const device = nic(OFFLOADS);
  for (const gsoType of [2, 6, 7, 0x40, 0x7f, 0xff]) refusesHeader(device, { ...CSUM, gsoType });
});

test('frames may be completed in any order, and a failed one looks like a sent one', () => {
  const device = nic(0n);
  const tags: RequestRecord[] = [];
  for (let i = 0; i < 3; i += 1) {
    device.tx.offer(device.tx.chain([net.netHeader(device.memory, HEADER), frame(60)]));
    device.cage.next(1);
    tags.push(parseRecord(device.cage.record()));
  }
  device.cage.complete(tags[2].tag, abi.RESULT_OK, 0);
  device.cage.complete(tags[0].tag, abi.RESULT_IOERR, 12);
  device.cage.complete(tags[1].tag, 77, 0);
  const used = [4, 0, 2].map((id) => ({ id, length: 0 }));
  assert.equal([device.tx.takeUsed(), device.tx.takeUsed(), device.tx.takeUsed()], used);
  assert.is(device.cage.complete(tags[1].tag, 0, 0), abi.EFFECT_INCIDENT);
  assert.is(device.cage.counters().tag, 1);
});

// --- Receive buffers ----------------------------------------------------------------------------

const buffer = (length: number, address: number | bigint = RX): Buffer => ({
  address,
  length,
  write: true,
});

/** Offers receive buffers, one descriptor each, and lets the host take them. */
function stock(device: Nic, lengths: number[]): void {
  for (const [i, length] of lengths.entries()) {
    device.rx.offer(device.rx.chain([buffer(length, RX + 0x1000 * i)]));
  }
  device.host.fetch();
}

const received = (length: number) =>
  Uint8Array.from({ length }, (_, i) => (i < 12 ? 0 : 1 + (i % 250)));

const numBuffers = ({ memory }: Fixture, at = RX) => memory.view.getUint16(at + 10, true);

function usedOf(queue: DriverQueue) {
  const found = [];
  for (let used = queue.takeUsed(); used; used = queue.takeUsed()) found.push(used);
  return found;
}

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

test.run();
