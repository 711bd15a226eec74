// Virtio 1.2 §5.1.6.3 and §5.1.6.4: the frames that a network device receives.
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_IRQ, VALID } from '../../assembly/abi.ts';
import { NET_OFFLOADS } from '../../host/device-config.ts';
import * as net from '../../testing/net.ts';
import { buffer, nic, numBuffers, RX, received, stock, usedOf } from '../nic.ts';
import { offloadsOf } from './network.ts';
import { OWN_READING, type Row, type Section } from './statement.ts';

const MERGEABLE = net.NET_F_MRG_RXBUF;
const BACKEND = 'the core tells its host which offloads it may use: those accepted';
const NO_HASH = 'VIRTIO_NET_F_HASH_REPORT is not offered';
const NO_RSC = 'VIRTIO_NET_F_RSC_EXT is not offered';
const CHECKSUMS = "about the sender's checksums, which the host's network stack has looked at";

/** A row about what received frames may need, each with a feature. */
const told = (level: Row['level'], says: string, features: bigint): Row => ({
  level,
  says,
  test() {
    const base = features === net.NET_F_GUEST_CSUM ? 0n : net.NET_F_GUEST_CSUM;
    const needed = features & net.NET_F_GUEST_ECN ? net.NET_F_GUEST_TSO4 : 0n;
    assert.is(offloadsOf(nic(base | needed)) & features, 0n, BACKEND);
    assert.is(offloadsOf(nic(base | needed | features)) & features, features, BACKEND);
  },
});

const driverBuffers: Section = {
  number: '5.1.6.3.1',
  title: 'Setting up receive buffers',
  side: 'driver',
  rows: [
    {
      level: 'SHOULD',
      says: 'Without MRG_RXBUF, offers buffers for the longest frame.',
      answer: 'the host knows how long each is, and gives it no longer frame',
      test() {
        const device = nic(0n);
        stock(device, [1526, 600]);
        assert.equal(
          device.host.held.map(({ length }) => length),
          [1526n, 600n],
        );
      },
    },
    {
      level: 'MUST',
      says: 'With MRG_RXBUF, offers no buffer shorter than a header.',
      answer: 'it comes back with length 0',
      test() {
        const device = nic(MERGEABLE);
        device.rx.offer(device.rx.chain([buffer(11)]));
        assert.is(device.host.fetch() & EFFECT_INCIDENT, EFFECT_INCIDENT);
        assert.equal(usedOf(device.rx), [{ id: 0, length: 0 }]);
        stock(device, [12]);
        assert.is(device.host.held.length, 1);
      },
    },
    {
      level: 'MUST',
      says: 'Counts the header with all its fields: 12 bytes, 20 with HASH_REPORT.',
      answer: 'the frame begins 12 bytes into the buffer',
      test() {
        for (const features of [0n, MERGEABLE]) {
          const device = nic(features);
          stock(device, [100]);
          device.host.deliver(received(20));
          assert.is(device.memory.view.getUint8(RX + 12), received(20)[12]);
        }
      },
    },
    { level: 'SHOULD', says: 'With MQ, fills each queue that it uses.', unseen: OWN_READING },
  ],
};

const deviceBuffers: Section = {
  number: '5.1.6.3.2',
  title: 'Setting up receive buffers',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'Sets `num_buffers` to how many hold the frame.',
      test() {
        for (const count of [1, 2, 5]) {
          const device = nic(MERGEABLE);
          stock(device, [100, 100, 100, 100, 100]);
          device.host.deliver(received(100 * count));
          assert.is(numBuffers(device), count);
        }
      },
    },
    {
      level: 'MUST',
      says: 'Without MRG_RXBUF, uses a single one.',
      test() {
        const device = nic(0n);
        stock(device, [100, 100]);
        device.cage.complete(device.host.held[0].tag, 0, 150);
        assert.equal(usedOf(device.rx), [{ id: 0, length: 100 }]);
      },
    },
  ],
};

const deviceIncoming: Section = {
  number: '5.1.6.4.1',
  title: 'Processing of incoming packets',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'Without MRG_RXBUF, sets `num_buffers` to 1.',
      test() {
        const device = nic(0n);
        stock(device, [100]);
        device.host.deliver(received(60));
        assert.is(numBuffers(device), 1);
      },
    },
    {
      level: 'MUST',
      says: 'With it, to the number of buffers over which frame and header spread.',
      test() {
        const device = nic(MERGEABLE);
        stock(device, [12, 100]); // a header that fills its buffer
        device.host.deliver(received(60));
        assert.is(numBuffers(device), 2);
      },
    },
    {
      level: 'MUST',
      says: 'Fills each of them but the last.',
      test() {
        const device = nic(MERGEABLE);
        stock(device, [100, 300, 200]);
        device.host.deliver(received(450));
        assert.equal(
          usedOf(device.rx).map(({ length }) => length),
          [100, 300, 50],
        );
        assert.is(device.cage.check(), VALID);
      },
    },
    {
      level: 'MUST',
      says: 'Shows them together.',
      test() {
        const device = nic(MERGEABLE);
        stock(device, [100, 100, 100]);
        const index = device.rx.usedRing + 2;
        const shown: number[] = [];
        device.memory.observer = (kind, address) => {
          if (address !== index) shown.push(device.memory.view.getUint16(index, true));
          else assert.is(kind, 'store16');
        };
        assert.is((device.host.deliver(received(300)) ?? 0) & EFFECT_IRQ, EFFECT_IRQ);
        device.memory.observer = null;
        assert.equal([...new Set(shown)], [0, 3]);
      },
    },
    told('MUST', 'Without GUEST_CSUM, sets no flag.', net.NET_F_GUEST_CSUM),
    told('MUST NOT', 'Sets TCPV4 only with GUEST_TSO4.', net.NET_F_GUEST_TSO4),
    told('MUST NOT', 'Sets UDP only with GUEST_UFO.', net.NET_F_GUEST_UFO),
    told('MUST NOT', 'Sets TCPV6 only with GUEST_TSO6.', net.NET_F_GUEST_TSO6),
    told(
      'MUST NOT',
      'Sets UDP_L4 only with GUEST_USO4 or GUEST_USO6.',
      net.NET_F_GUEST_USO4 | net.NET_F_GUEST_USO6,
    ),
    told('SHOULD NOT', 'Leaves segments with ECN only with GUEST_ECN.', net.NET_F_GUEST_ECN),
    {
      level: 'MUST',
      says: 'Where it sets NEEDS_CSUM, has validated the checksums before that one.',
      notApplicable: CHECKSUMS,
    },
    {
      level: 'MUST',
      says: 'Without any of these features, sets `gso_type` to NONE.',
      test() {
        const others = net.NET_F_CSUM | net.NET_F_HOST_TSO4 | net.NET_F_HOST_USO;
        assert.is(offloadsOf(nic(others | net.NET_F_GUEST_CSUM)), NET_OFFLOADS.GUEST_CSUM);
      },
    },
    {
      level: 'MUST',
      says: 'With another `gso_type`, sets NEEDS_CSUM and `gso_size`.',
      test() {
        // The host's header reaches the driver as it is, but for the number of buffers.
        const device = nic(net.NET_F_GUEST_CSUM | net.NET_F_GUEST_TSO4);
        stock(device, [2048]);
        const header = { flags: 1, gsoType: 1, gsoSize: 1448, csumStart: 34, csumOffset: 16 };
        const bytes = received(1500);
        bytes.set(net.netHeaderBytes(header));
        device.host.deliver(bytes);
        const got = new Uint8Array(device.memory.view.buffer, RX, 12);
        assert.equal(net.parseNetHeader(got), { ...header, hdrLen: 0, numBuffers: 1 });
      },
    },
    { level: 'MUST', says: 'With RSC_EXT, tells of coalesced segments.', notApplicable: NO_RSC },
    {
      level: 'SHOULD',
      says: 'Sets `hdr_len` to no less than the length of the headers.',
      notApplicable: CHECKSUMS.replace('checksums', 'header lengths'),
    },
    {
      level: 'MUST',
      says: 'Where it sets DATA_VALID, has validated the checksum.',
      notApplicable: CHECKSUMS,
    },
  ],
};

const driverIncoming: Section = {
  number: '5.1.6.4.2',
  title: 'Processing of incoming packets',
  side: 'driver',
  rows: [
    { level: 'MUST', says: 'Ignores flags that it does not know.', unseen: OWN_READING },
    { level: 'MUST NOT', says: 'Without NEEDS_CSUM, uses no offset.', unseen: OWN_READING },
    { level: 'MUST NOT', says: 'Does not rely on `hdr_len`.', unseen: OWN_READING },
    {
      level: 'MUST NOT',
      says: 'Without NEEDS_CSUM and DATA_VALID, does not rely on the checksum.',
      unseen: OWN_READING,
    },
  ],
};

const hash = (number: string, title: string): Section => ({
  number,
  title,
  side: 'device',
  rows: [{ level: 'MUST', says: 'What devices with hashes do.', notApplicable: NO_HASH }],
});

export const NETWORK_RECEIVE: Section[] = [
  driverBuffers,
  deviceBuffers,
  deviceIncoming,
  driverIncoming,
  hash('5.1.6.4.3', 'Hash calculation for incoming packets'),
  hash('5.1.6.4.4', 'Hash reporting for incoming packets'),
];
