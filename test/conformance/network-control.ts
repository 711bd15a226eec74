// Virtio 1.2 §5.1.6.5: the control queue of the network device.
import * as assert from 'uvu/assert';
import * as abi from '../../assembly/abi.ts';
import type { NetConfig } from '../../host/device-config.ts';
import { F_EVENT_IDX, REG, RUNNING } from '../../testing/driver.ts';
import * as net from '../../testing/net.ts';
import type { DriverQueue } from '../../testing/queue.ts';
import { type Fixture, netDevice } from '../fixtures.ts';
import { offloadsOf } from './network.ts';
import { legacy, OWN_READING, type Row, type Section } from './statement.ts';

const REFUSED = 'the command is answered with VIRTIO_NET_ERR';
const NOT_FILTERED = 'nothing is filtered: every frame of the interface reaches the driver';
const NO_TABLE = 'no table is kept, since nothing is filtered by one';
const ANSWER = net.NET_DATA + 0x1000;

interface Controlled extends Fixture {
  queue: DriverQueue;
}

/** A running device of which a driver accepted these features, and the control queue. */
function controlled(features: bigint, config: Partial<NetConfig> = {}): Controlled {
  const device = netDevice(config);
  const mq = (features & net.NET_F_MQ) !== 0n;
  const queueCount = mq ? 2 * (config.queuePairs ?? 1) + 1 : 3;
  device.driver.bringUp({ features: features | net.NET_F_CTRL_VQ, queueCount });
  assert.is(device.driver.get(REG.Status), RUNNING);
  return { ...device, queue: device.driver.queues[queueCount - 1] };
}

/** Has a command carried out: the answer. */
function ask(device: Controlled, command: readonly [number, number], data: number[] = []): number {
  const { memory, queue, cage } = device;
  const chain = [net.netCommand(memory, net.NET_DATA, command, data), net.netAck(memory, ANSWER)];
  queue.offer(queue.chain(chain));
  cage.notify(queue.index);
  assert.is(queue.takeUsed()?.length, 1);
  return memory.view.getUint8(ANSWER);
}

const pairsOf = ({ cage }: Fixture): number => {
  const state = cage.stateBytes();
  const at = abi.NET_STATE + abi.NET_STATE_QUEUE_PAIRS - abi.STATE;
  return new DataView(state.buffer).getUint16(at, true);
};

/** A row about a mode that is switched by a command of one byte. */
const mode = (says: string, command: number, feature: bigint): Row => ({
  level: 'MUST',
  says,
  test() {
    for (const on of [1, 0]) assert.is(ask(controlled(feature), [0, command], [on]), net.NET_OK);
  },
});

const notWithout = (says: string, feature: bigint, commands: readonly [number, number][]): Row => ({
  level: 'MUST NOT',
  says,
  answer: REFUSED,
  test() {
    const all = netDevice({ queuePairs: 2 }).driver.offeredFeatures() & ~F_EVENT_IDX;
    for (const command of commands) {
      for (const data of [[1], [1, 0], [2, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]]) {
        const device = controlled(all & ~feature, { queuePairs: 2 });
        assert.is(ask(device, command, data), net.NET_ERR);
      }
    }
  },
});

const deviceFiltering: Section = {
  number: '5.1.6.5.1.1',
  title: 'Packet receive filtering',
  side: 'device',
  rows: [
    mode('With CTRL_RX, takes PROMISC.', 0, net.NET_F_CTRL_RX),
    mode('With CTRL_RX, takes ALLMULTI.', 1, net.NET_F_CTRL_RX),
    mode('With CTRL_RX_EXTRA, takes ALLUNI.', 2, net.NET_F_CTRL_RX_EXTRA),
    mode('With CTRL_RX_EXTRA, takes NOMULTI.', 3, net.NET_F_CTRL_RX_EXTRA),
    mode('With CTRL_RX_EXTRA, takes NOUNI.', 4, net.NET_F_CTRL_RX_EXTRA),
    mode('With CTRL_RX_EXTRA, takes NOBCAST.', 5, net.NET_F_CTRL_RX_EXTRA),
    {
      level: 'SHOULD NOT',
      says: 'Passes on no frame of a kind that was suppressed.',
      gap: NOT_FILTERED,
    },
  ],
};

const driverFiltering: Section = {
  number: '5.1.6.5.1.2',
  title: 'Packet receive filtering',
  side: 'driver',
  rows: [
    notWithout('Without CTRL_RX, sends no PROMISC or ALLMULTI.', net.NET_F_CTRL_RX, [
      [0, 0],
      [0, 1],
    ]),
    notWithout('Without CTRL_RX_EXTRA, sends none of the others.', net.NET_F_CTRL_RX_EXTRA, [
      [0, 2],
      [0, 3],
      [0, 4],
      [0, 5],
    ]),
  ],
};

const deviceAddress: Section = {
  number: '5.1.6.5.2.1',
  title: 'Setting MAC address filtering',
  side: 'device',
  rows: [
    { level: 'MUST', says: 'Has empty tables after a reset.', notApplicable: NO_TABLE },
    {
      level: 'MUST',
      says: 'Updates its tables before it gives the command back.',
      notApplicable: NO_TABLE,
    },
    {
      level: 'MUST',
      says: 'Updates `mac` before it gives MAC_ADDR_SET back.',
      test() {
        const device = controlled(net.NET_F_CTRL_MAC_ADDR | net.NET_F_MAC);
        const index = device.queue.usedRing + 2;
        let seen = 0;
        device.memory.observer = (_, address) => {
          if (address !== index) return;
          device.memory.observer = null;
          const state = device.cage.stateBytes();
          seen = state[abi.NET_STATE + abi.NET_STATE_MAC + 5 - abi.STATE];
        };
        assert.is(ask(device, net.NET_CTRL_MAC_ADDR_SET, [2, 0, 0, 0, 0, 99]), net.NET_OK);
        assert.is(seen, 99);
        assert.is(device.driver.get(REG.Config + 5, 1), 99);
      },
    },
    {
      level: 'SHOULD',
      says: 'Drops frames to an address that is neither its own nor in a table.',
      gap: NOT_FILTERED,
    },
  ],
};

const driverAddress: Section = {
  number: '5.1.6.5.2.2',
  title: 'Setting MAC address filtering',
  side: 'driver',
  rows: [
    notWithout('Without CTRL_RX, sets no tables.', net.NET_F_CTRL_RX, [[1, 0]]),
    { level: 'SHOULD', says: 'Sets its address if it is not `mac`.', unseen: OWN_READING },
    {
      level: 'MUST',
      says: 'Sends two tables, each behind the number of its entries.',
      answer: REFUSED,
      test() {
        const device = controlled(net.NET_F_CTRL_RX);
        const table = [1, 0, 0, 0, 2, 0, 0, 0, 0, 1];
        const set = (data: number[]) => ask(device, net.NET_CTRL_MAC_TABLE_SET, data);
        assert.is(set([...table, ...table]), net.NET_OK);
        for (const data of [table, [...table, ...table, 0], [...table, ...table.slice(1)]]) {
          assert.is(set(data), net.NET_ERR);
        }
      },
    },
    {
      level: 'MAY',
      says: 'Leaves either of them empty.',
      answer: 'the command is obeyed',
      test() {
        const device = controlled(net.NET_F_CTRL_RX);
        assert.is(ask(device, net.NET_CTRL_MAC_TABLE_SET, new Array(8).fill(0)), net.NET_OK);
      },
    },
  ],
};

const ANNOUNCE = net.NET_F_GUEST_ANNOUNCE | net.NET_F_STATUS;

const driverAnnounce: Section = {
  number: '5.1.6.5.4.1',
  title: 'Gratuitous packet sending',
  side: 'driver',
  rows: [
    { level: 'SHOULD', says: 'Tells its peers where it is when asked.', unseen: OWN_READING },
    {
      level: 'MUST',
      says: 'Sends ANNOUNCE_ACK.',
      answer: 'the bit stays until it does',
      test() {
        const device = controlled(ANNOUNCE);
        const status = () => device.driver.get(REG.Config + net.NET_SPACE_STATUS, 2);
        device.cage.input(Uint8Array.of(1, 1));
        device.cage.input(Uint8Array.of(1, 0));
        assert.is(status() & net.NET_S_ANNOUNCE, net.NET_S_ANNOUNCE);
        assert.is(ask(device, net.NET_CTRL_ANNOUNCE_ACK), net.NET_OK);
        assert.is(status() & net.NET_S_ANNOUNCE, 0);
      },
    },
  ],
};

const deviceAnnounce: Section = {
  number: '5.1.6.5.4.2',
  title: 'Gratuitous packet sending',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'Clears the bit before it gives ANNOUNCE_ACK back.',
      test() {
        const device = controlled(ANNOUNCE);
        device.cage.input(Uint8Array.of(1, 1));
        const index = device.queue.usedRing + 2;
        let announce = 2;
        device.memory.observer = (_, address) => {
          if (address !== index) return;
          const state = device.cage.stateBytes();
          announce = state[abi.NET_STATE + abi.NET_STATE_ANNOUNCE - abi.STATE];
        };
        assert.is(ask(device, net.NET_CTRL_ANNOUNCE_ACK), net.NET_OK);
        device.memory.observer = null;
        assert.is(announce, 0);
      },
    },
  ],
};

const MQ = net.NET_F_MQ;

const driverSteering: Section = {
  number: '5.1.6.5.6.1',
  title: 'Automatic receive steering in multiqueue mode',
  side: 'driver',
  rows: [
    { level: 'MUST', says: 'Sets queues up before it enables them.', unseen: OWN_READING },
    {
      level: 'MUST NOT',
      says: 'Asks for no pair, or for more than `max_virtqueue_pairs`.',
      answer: REFUSED,
      test() {
        const device = controlled(MQ, { queuePairs: 4 });
        for (const pairs of [0, 5, 0x8000]) {
          const data = [pairs & 0xff, pairs >> 8];
          assert.is(ask(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, data), net.NET_ERR);
        }
        assert.is(ask(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, [4, 0]), net.NET_OK);
      },
    },
    {
      level: 'MUST',
      says: 'Sends on the first queue only before that, and on those enabled after it.',
      answer: 'frames on another queue are sent all the same',
      test() {
        const { driver, memory, cage } = controlled(MQ, { queuePairs: 2 });
        const frame = { address: net.NET_DATA + 64, length: 60 };
        const queue = driver.queues[3];
        queue.offer(queue.chain([net.netHeader(memory, net.NET_DATA), frame]));
        assert.is(cage.notify(3) & abi.EFFECT_REQUEST, abi.EFFECT_REQUEST);
      },
    },
  ],
};

const deviceSteering: Section = {
  number: '5.1.6.5.6.2',
  title: 'Automatic receive steering in multiqueue mode',
  side: 'device',
  rows: [
    {
      level: 'MUST',
      says: 'After a reset, receives on the first queue only.',
      test() {
        const device = controlled(MQ, { queuePairs: 4 });
        assert.is(pairsOf(device), 1); // what the host goes by
        ask(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, [4, 0]);
        device.driver.set(REG.Status, 0);
        assert.is(pairsOf(device), 1);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Receives on no queue past those set, once it gave the command back.',
      test() {
        const device = controlled(MQ, { queuePairs: 4 });
        for (const pairs of [4, 2]) {
          assert.is(ask(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, [pairs, 0]), net.NET_OK);
          assert.is(pairsOf(device), pairs);
        }
      },
    },
  ],
};

const driverOffloads: Section = {
  number: '5.1.6.5.8.2',
  title: 'Setting offloads state',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Enables no offload whose feature was not accepted.',
      answer: REFUSED,
      test() {
        const device = controlled(net.NET_F_CTRL_GUEST_OFFLOADS | net.NET_F_GUEST_CSUM);
        const set = (low: number) =>
          ask(device, net.NET_CTRL_GUEST_OFFLOADS_SET, [low, 0, 0, 0, 0, 0, 0, 0]);
        assert.is(set(0x82), net.NET_ERR); // with TSO4
        assert.is(offloadsOf(device), net.NET_F_GUEST_CSUM);
        assert.is(set(0), net.NET_OK);
        assert.is(offloadsOf(device), 0n);
      },
    },
  ],
};

/** A section about what is not offered here, as one row. */
const absent = (number: string, title: string, feature: string): Section => ({
  number,
  title,
  side: 'both',
  rows: [
    { level: 'MUST', says: 'What it asks of both.', notApplicable: `${feature} is not offered` },
  ],
});

export const NETWORK_CONTROL: Section[] = [
  deviceFiltering,
  driverFiltering,
  deviceAddress,
  driverAddress,
  legacy('5.1.6.5.2.3', 'Setting MAC address filtering'),
  legacy('5.1.6.5.3.1', 'VLAN filtering'),
  driverAnnounce,
  deviceAnnounce,
  driverSteering,
  deviceSteering,
  legacy('5.1.6.5.6.3', 'Automatic receive steering in multiqueue mode'),
  absent('5.1.6.5.6.4', 'Hash calculation', 'VIRTIO_NET_F_HASH_REPORT'),
  absent('5.1.6.5.7', 'Receive-side scaling', 'VIRTIO_NET_F_RSS'),
  driverOffloads,
  legacy('5.1.6.5.8.3', 'Setting offloads state'),
  absent('5.1.6.5.9', 'Notifications coalescing', 'VIRTIO_NET_F_NOTF_COAL'),
  legacy('5.1.6.6', 'Framing requirements'),
];
