// Frames that the network device sends: assembly/virtio-net-frames.ts on the release core (virtio
// 1.2 §5.1.6.2). Also the rings that the kernel serves.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { F_INDIRECT_DESC, REG, RUNNING } from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import { headerOf } from '../testing/net-host.ts';
import type { GuestBuffer as Buffer } from '../testing/queue.ts';
import { kick, parseRecord, type RequestRecord } from '../testing/requests.ts';
import { netDevice } from './fixtures.ts';
import { type Nic, nic, RAM_END, RX } from './nic.ts';

const HEADER = net.NET_DATA;
const FRAME = net.NET_DATA + 0x1000;
const OFFLOADS =
  net.NET_F_CSUM |
  net.NET_F_HOST_TSO4 |
  net.NET_F_HOST_TSO6 |
  net.NET_F_HOST_UFO |
  net.NET_F_HOST_USO |
  net.NET_F_HOST_ECN;

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

// --- The kernel's queues ------------------------------------------------------------------------

test('with vhost a queue is three rings, and its doorbell does nothing', () => {
  const { driver, cage, memory } = netDevice({ vhost: true, queueSize: 64 });
  const features = net.NET_F_CTRL_VQ | net.NET_F_CTRL_RX | net.NET_F_MRG_RXBUF;
  const queue = driver.bringUp({ features, queueCount: 3, queueSize: 32 });
  queue.offer(queue.chain([{ address: net.NET_DATA, length: 2048, write: true }]));
  for (const index of [0, 1]) {
    assert.is(cage.notify(index), 0);
    assert.is(cage.next(index), abi.EFFECT_REQUEST);
    const record = parseRecord(cage.record());
    const at = driver.queues[index];
    assert.equal(
      { ...record, bytes: 0 },
      {
        kind: abi.REQUEST_KIND_NET_RINGS,
        tag: 0,
        offset: features | (1n << 32n),
        length: BigInt(32 * 16 + 6 + 32 * 2 + 6 + 32 * 8),
        flags: 32,
        ranges: [
          { address: BigInt(at.descTable), length: 32 * 16 },
          { address: BigInt(at.availRing), length: 6 + 32 * 2 },
          { address: BigInt(at.usedRing), length: 6 + 32 * 8 },
        ],
        bytes: 0,
      },
    );
  }
  assert.is(memory.view.getUint16(queue.usedRing + 2, true), 0);
  assert.is(cage.complete(0, 0, 0), abi.EFFECT_INCIDENT);
  const command = net.netCommand(memory, net.NET_DATA, net.NET_CTRL_RX_PROMISC, [1]);
  driver.queues[2].offer(driver.queues[2].chain([command, net.netAck(memory, net.NET_DATA + 8)]));
  assert.is(cage.notify(2) & abi.EFFECT_IRQ, abi.EFFECT_IRQ);
  assert.is(memory.view.getUint8(net.NET_DATA + 8), net.NET_OK);
});

test('with vhost rings are handed out only of live queues', () => {
  const { driver, cage } = netDevice({ vhost: true });
  assert.is(cage.next(0), 0);
  driver.bringUp({ queueCount: 1 });
  assert.is(cage.next(1), 0);
  assert.is(cage.notify(1), abi.EFFECT_INCIDENT);
  driver.set(REG.QueueSel, 0);
  assert.is(driver.set(REG.QueueReady, 0), abi.EFFECT_CANCEL | abi.EFFECT_SETUP);
  assert.is(cage.next(0), 0);
});

test('with vhost whoever looks is told of used buffers, as long as the device runs', () => {
  const { driver } = netDevice({ vhost: true });
  assert.is(driver.get(REG.InterruptStatus), 0);
  driver.bringUp({ queueCount: 2 });
  assert.is(driver.get(REG.InterruptStatus), 1);
  driver.set(REG.InterruptACK, 1);
  assert.is(driver.get(REG.InterruptStatus), 1);
  driver.set(REG.Status, 0);
  assert.is(driver.get(REG.InterruptStatus), 0);
  const plain = netDevice();
  plain.driver.bringUp({ queueCount: 2 });
  assert.is(plain.driver.get(REG.InterruptStatus), 0);
});

test.run();
