// Virtio 1.2 §5.1: the network device, all but its control queue.
import * as assert from 'uvu/assert';
import { NET_STATE, STATE } from '../../assembly/abi.ts';
import { REG, RUNNING } from '../../testing/driver.ts';
import * as net from '../../testing/net.ts';
import { headerOf } from '../../testing/net-host.ts';
import { kick } from '../../testing/requests.ts';
import { type Fixture, netDevice } from '../fixtures.ts';
import { type Nic, nic, RX, received, stock } from '../nic.ts';
import { ignored } from './setup.ts';
import { legacy, OWN_READING, type Row, type Section } from './statement.ts';

const NO_RSS = 'VIRTIO_NET_F_RSS and VIRTIO_NET_F_HASH_REPORT are not offered';
const NO_STANDBY = 'VIRTIO_NET_F_STANDBY is not offered';
const NO_SPEED = 'VIRTIO_NET_F_SPEED_DUPLEX is not offered';
const NO_HDRLEN = 'VIRTIO_NET_F_GUEST_HDRLEN is not offered';
const CONTENT = 'about what the frame holds';
const TSO4 = net.NET_F_CSUM | net.NET_F_HOST_TSO4;

/** The offloads of received frames that the host is told of. */
export function offloadsOf({ cage }: Fixture): bigint {
  const state = cage.stateBytes();
  return new DataView(state.buffer).getBigUint64(NET_STATE - STATE, true);
}

/** Sends a frame of 200 bytes: its header as the host gets it, or null where it was dropped. */
function sent(device: Nic, header: net.NetHeader): Required<net.NetHeader> | null {
  const { memory, tx, cage, driver } = device;
  const frame = { address: net.NET_DATA + 0x100, length: 200 };
  const head = tx.chain([net.netHeader(memory, net.NET_DATA, header), frame]);
  tx.offer(head);
  const { requests } = kick(cage, 1);
  assert.equal(tx.takeUsed(), { id: head, length: 0 });
  assert.is(driver.get(REG.Status), RUNNING);
  return requests.length === 0 ? null : net.parseNetHeader(headerOf(requests[0]));
}

const CSUM = { flags: net.NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 16, gsoSize: 1448 };

/** A row about one kind of segmentation, which needs a feature. */
const segmentation = (name: string, gsoType: number, feature: bigint): Row => ({
  level: 'MUST NOT',
  says: `Asks for ${name} only with its feature.`,
  answer: 'the frame is dropped and counted',
  test() {
    const header = { ...CSUM, gsoType };
    assert.is(sent(nic(net.NET_F_CSUM | feature), header)?.gsoType, gsoType);
    assert.is(sent(nic(net.NET_F_CSUM), header), null);
  },
});

const deviceLayout: Section = {
  number: '5.1.4.1',
  title: 'Device configuration layout',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'With MQ, `max_virtqueue_pairs` is from 1 to 0x8000.',
      test() {
        for (const queuePairs of [2, 8]) {
          const { driver } = netDevice({ queuePairs });
          assert.is(driver.get(REG.Config + net.NET_SPACE_MAX_VIRTQUEUE_PAIRS, 2), queuePairs);
        }
      },
    },
    {
      level: 'MUST',
      says: 'With MTU, `mtu` is from 68 to 65535.',
      test() {
        for (const mtu of [68, 1500, 65535]) {
          const { driver } = netDevice({ mtu });
          assert.is(driver.offeredFeatures() & net.NET_F_MTU, net.NET_F_MTU);
          assert.is(driver.get(REG.Config + net.NET_SPACE_MTU, 2), mtu);
        }
        assert.throws(() => netDevice({ mtu: 67 }));
        assert.is(netDevice().driver.offeredFeatures() & net.NET_F_MTU, 0n);
      },
    },
    {
      level: 'SHOULD',
      says: 'With MTU, `mtu` is 1280 at least.',
      gap: 'it is what the user chose, from 68 on',
    },
    {
      level: 'MUST NOT',
      says: 'Changes `mtu` once it is set.',
      test() {
        const device = nic(net.NET_F_MTU, { mtu: 1400 });
        const mtu = () => device.driver.get(REG.Config + net.NET_SPACE_MTU, 2);
        device.cage.input(Uint8Array.of(0, 1));
        assert.is(mtu(), 1400);
        device.driver.set(REG.Status, 0);
        assert.is(mtu(), 1400);
      },
    },
    {
      level: 'MUST NOT',
      says: 'With MTU accepted, passes on no plain received frame that is longer.',
      gap: "the host's interface sets the limit, and the device looks at no frame",
    },
    {
      level: 'MUST',
      says: 'With MTU accepted, sends plain frames up to that length, in one piece.',
      test() {
        const device = nic(net.NET_F_MTU, { mtu: 9000 });
        const header = net.netHeader(device.memory, net.NET_DATA);
        device.tx.offer(device.tx.chain([header, { address: RX, length: 9014 }]));
        const { requests } = kick(device.cage, 1);
        assert.equal(requests[0].ranges, [{ address: BigInt(RX), length: 9014 }]);
      },
    },
    { level: 'MUST', says: 'Tells an RSS key of 40 bytes at least.', notApplicable: NO_RSS },
    { level: 'MUST', says: 'Tells an RSS table of 128 entries at least.', notApplicable: NO_RSS },
    { level: 'MAY', says: 'Stands by for another device.', notApplicable: NO_STANDBY },
    { level: 'MUST', says: 'Tells its speed.', notApplicable: NO_SPEED },
    { level: 'MUST', says: 'Tells whether it is duplex.', notApplicable: NO_SPEED },
    { level: 'SHOULD NOT', says: 'Changes both while the link is up.', notApplicable: NO_SPEED },
  ],
};

const driverLayout: Section = {
  number: '5.1.4.2',
  title: 'Device configuration layout',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Writes no field of the configuration.',
      answer: 'the write is ignored and counted',
      test() {
        const { driver } = nic(net.NET_F_MAC);
        const before = driver.get(REG.Config);
        for (let at = 0; at < 12; at += 1) ignored(driver.set(REG.Config + at, 0xff, 1));
        assert.is(driver.get(REG.Config), before);
      },
    },
    { level: 'SHOULD', says: 'Accepts MAC where it is offered.', unseen: OWN_READING },
    { level: 'MUST', says: 'With MAC, takes `mac` as its address.', unseen: OWN_READING },
    { level: 'SHOULD', says: 'Without it, makes up a local address.', unseen: OWN_READING },
    { level: 'SHOULD', says: 'Without STATUS, takes the link for up.', unseen: OWN_READING },
    { level: 'SHOULD', says: 'Accepts MTU where it is offered.', unseen: OWN_READING },
    {
      level: 'MUST',
      says: 'With MTU, supplies buffers for a frame of that length.',
      answer: 'a frame that finds no buffer waits at the host',
      test() {
        const device = nic(net.NET_F_MTU | net.NET_F_MRG_RXBUF, { mtu: 1500 });
        stock(device, [1000]);
        assert.is(device.host.deliver(received(1526)), null);
        stock(device, [1000]);
        assert.is.not(device.host.deliver(received(1526)), null);
      },
    },
    {
      level: 'MUST NOT',
      says: 'With MTU, sends no plain frame that is longer.',
      answer: "it is sent as far as the host's interface takes it",
      test() {
        const device = nic(net.NET_F_MTU, { mtu: 100 });
        assert.is.not(sent(device, {}), null);
      },
    },
    { level: 'SHOULD', says: 'Accepts STANDBY where offered.', notApplicable: NO_STANDBY },
    { level: 'MUST', says: 'Takes speeds out of range for unknown.', notApplicable: NO_SPEED },
    { level: 'SHOULD', says: 'Reads the speed again when told.', notApplicable: NO_SPEED },
  ],
};

const driverTransmission: Section = {
  number: '5.1.6.2.1',
  title: 'Packet transmission',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Sets `num_buffers` to 0.',
      answer: 'the host gets 0 all the same',
      test: () => assert.is(sent(nic(0n), { numBuffers: 3 })?.numBuffers, 0),
    },
    {
      level: 'MUST',
      says: 'Without CSUM, sets no flag, and checksums the frame itself.',
      answer: 'a frame that leaves its checksum to the device is dropped and counted',
      test() {
        assert.is(sent(nic(0n), { flags: 1, csumStart: 34, csumOffset: 16 }), null);
      },
    },
    segmentation('segmentation of TCP over IPv4', net.NET_HDR_GSO_TCPV4, net.NET_F_HOST_TSO4),
    segmentation('segmentation of TCP over IPv6', net.NET_HDR_GSO_TCPV6, net.NET_F_HOST_TSO6),
    segmentation('fragmentation of UDP', net.NET_HDR_GSO_UDP, net.NET_F_HOST_UFO),
    segmentation('segmentation of UDP', net.NET_HDR_GSO_UDP_L4, net.NET_F_HOST_USO),
    {
      level: 'SHOULD NOT',
      says: 'Leaves segments with ECN to the device only with HOST_ECN, and says so.',
      answer: 'without the feature, a frame that says so is dropped and counted',
      test() {
        const gsoType = net.NET_HDR_GSO_TCPV4 | net.NET_HDR_GSO_ECN;
        assert.is(sent(nic(TSO4), { ...CSUM, gsoType }), null);
        const agreed = nic(TSO4 | net.NET_F_HOST_ECN);
        assert.is(sent(agreed, { ...CSUM, gsoType })?.gsoType, gsoType);
      },
    },
    {
      level: 'MAY',
      says: 'With CSUM, leaves the checksum to the device.',
      answer: 'the host gets the request as it is',
      test() {
        const header = { flags: 1, csumStart: 34, csumOffset: 16 };
        const got = sent(nic(net.NET_F_CSUM), header);
        assert.equal([got?.flags, got?.csumStart, got?.csumOffset], [1, 34, 16]);
      },
    },
    { level: 'MUST', says: 'Has then validated the checksums before it.', unseen: CONTENT },
    { level: 'MUST', says: "Stores the pseudo header's sum there.", unseen: CONTENT },
    {
      level: 'MUST',
      says: 'Points at the checksum that is to be computed.',
      answer: 'a frame that points out of itself is dropped and counted',
      test() {
        const device = nic(net.NET_F_CSUM);
        assert.is.not(sent(device, { flags: 1, csumStart: 150, csumOffset: 48 }), null);
        assert.is(sent(device, { flags: 1, csumStart: 150, csumOffset: 49 }), null);
      },
    },
    {
      level: 'MUST',
      says: 'Without a feature for segmentation, sets `gso_type` to NONE.',
      answer: 'the frame is dropped and counted',
      test() {
        for (const gsoType of [1, 3, 4, 5, 2, 0x80]) {
          assert.is(sent(nic(net.NET_F_CSUM), { ...CSUM, gsoType }), null);
        }
      },
    },
    {
      level: 'MUST',
      says: 'With another `gso_type`, sets NEEDS_CSUM and `gso_size`.',
      answer: 'the frame is dropped and counted',
      test() {
        assert.is(sent(nic(TSO4), { ...CSUM, gsoType: 1, flags: 0 }), null);
        assert.is(sent(nic(TSO4), { ...CSUM, gsoType: 1, gsoSize: 0 }), null);
      },
    },
    { level: 'MUST', says: 'With GUEST_HDRLEN, sets `hdr_len`.', notApplicable: NO_HDRLEN },
    {
      level: 'SHOULD',
      says: 'Sets `hdr_len` to no less than the length of the headers.',
      answer: 'it is a hint, and may be anything',
      test() {
        assert.is.not(sent(nic(TSO4), { ...CSUM, gsoType: 1, hdrLen: 0 }), null);
        assert.is.not(sent(nic(TSO4), { ...CSUM, gsoType: 1, hdrLen: 0xffff }), null);
      },
    },
    { level: 'SHOULD', says: 'Accepts GUEST_HDRLEN where offered.', notApplicable: NO_HDRLEN },
    {
      level: 'MUST NOT',
      says: 'Sets DATA_VALID or RSC_INFO.',
      answer: 'the host does not get them',
      test: () => assert.is(sent(nic(net.NET_F_CSUM), { flags: 6 })?.flags, 0),
    },
  ],
};

const deviceTransmission: Section = {
  number: '5.1.6.2.2',
  title: 'Packet transmission',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'Ignores flags that it does not know.',
      test() {
        assert.is(sent(nic(0n), { flags: 0xfe })?.flags, 0);
        assert.is(sent(nic(net.NET_F_CSUM), { ...CSUM, flags: 0xff })?.flags, 1);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Without NEEDS_CSUM, uses neither `csum_start` nor `csum_offset`.',
      test() {
        const got = sent(nic(net.NET_F_CSUM), { csumStart: 0xffff, csumOffset: 0xffff });
        assert.equal([got?.csumStart, got?.csumOffset], [0, 0]);
      },
    },
    { level: 'MAY', says: 'With GUEST_HDRLEN, goes by `hdr_len`.', notApplicable: NO_HDRLEN },
    {
      level: 'MUST NOT',
      says: 'Without it, does not rely on `hdr_len`.',
      test() {
        for (const hdrLen of [0, 1, 200, 201, 0xffff]) {
          const got = sent(nic(TSO4), { ...CSUM, gsoType: 1, hdrLen });
          assert.is(got?.hdrLen, hdrLen <= 200 ? hdrLen : 0);
        }
      },
    },
    {
      level: 'MUST NOT',
      says: 'Without NEEDS_CSUM, does not rely on the checksum being right.',
      test: () => assert.is(sent(nic(0n), {})?.flags, 0),
    },
  ],
};

export const NETWORK: Section[] = [
  legacy('5.1.3.2', 'Feature bits'),
  deviceLayout,
  driverLayout,
  legacy('5.1.4.3', 'Device configuration layout'),
  legacy('5.1.6.1', 'Device operation'),
  driverTransmission,
  deviceTransmission,
];
