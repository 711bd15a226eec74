// The control queue of the network device: assembly/virtio-net-control.ts on the release core
// (virtio 1.2 §5.1.6.5).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { F_EVENT_IDX, REG, RUNNING } from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import type { GuestBuffer as Buffer, DriverQueue } from '../testing/queue.ts';
import { type Fixture, netDevice } from './fixtures.ts';

const COMMAND = net.NET_DATA;
const ACK = net.NET_DATA + 0x8000;
const RAM_END = 0x100000;

interface Controlled extends Fixture {
  queue: DriverQueue;
}

function controlled(features?: bigint): Controlled {
  const device = netDevice({ queuePairs: 4 });
  const queueCount = features !== undefined && !(features & net.NET_F_MQ) ? 3 : 9;
  const all = device.driver.offeredFeatures() & ~F_EVENT_IDX; // each answer interrupts
  const wanted = features === undefined ? all : features | net.NET_F_CTRL_VQ;
  device.driver.bringUp({ features: wanted, queueCount });
  assert.is(device.driver.get(REG.Status), RUNNING);
  return { ...device, queue: device.driver.queues[queueCount - 1] };
}

type Command = readonly [number, number];
type Data = readonly number[] | Uint8Array;

/** Gives a chain to the control queue: the answer, and the effects. */
function submit(device: Controlled, chain: Buffer[]): { effects: number; length?: number } {
  const head = device.queue.chain(chain);
  device.queue.offer(head);
  const effects = device.cage.notify(device.queue.index);
  const used = device.queue.takeUsed();
  assert.is(used?.id, head);
  assert.is(effects & abi.EFFECT_REQUEST, 0);
  return { effects, length: used?.length };
}

/** Sends a command, checks the one byte of its answer against counters and effects. */
function ask(device: Controlled, command: Command, data: Data = []): number {
  const chain = [
    net.netCommand(device.memory, COMMAND, command, data),
    net.netAck(device.memory, ACK),
  ];
  const before = device.cage.counters().request;
  const { effects, length } = submit(device, chain);
  const answer = device.memory.view.getUint8(ACK);
  assert.is(length, 1);
  const expected = answer === net.NET_OK ? abi.EFFECT_SETUP : abi.EFFECT_INCIDENT;
  assert.is(effects, expected | abi.EFFECT_IRQ);
  assert.is(device.cage.counters().request, before + (answer === net.NET_OK ? 0 : 1));
  return answer;
}

const obeys = (device: Controlled, command: Command, data: Data = [], what = '') =>
  assert.is(ask(device, command, data), net.NET_OK, what || `${command}: ${data}`);
const refuses = (device: Controlled, command: Command, data: Data = [], what = '') =>
  assert.is(ask(device, command, data), net.NET_ERR, what || `${command}: ${data}`);

const u16 = (value: number) => [value & 0xff, value >> 8];
const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)];

/** What stands at NET_STATE. */
function agreed({ cage }: Fixture) {
  const state = cage.stateBytes();
  const view = new DataView(state.buffer, abi.NET_STATE - abi.STATE);
  return {
    offloads: view.getBigUint64(abi.NET_STATE_OFFLOADS, true),
    pairs: view.getUint16(abi.NET_STATE_QUEUE_PAIRS, true),
    mac: [0, 1, 2, 3, 4, 5].map((at) => view.getUint8(abi.NET_STATE_MAC + at)),
  };
}

// --- Commands -----------------------------------------------------------------------------------

test('receive modes go on and off, each with its feature', () => {
  const device = controlled();
  for (let command = 0; command < 6; command += 1) {
    obeys(device, [0, command], [1]);
    obeys(device, [0, command], [0]);
    refuses(device, [0, command], [2]);
    refuses(device, [0, command], []);
    refuses(device, [0, command], [1, 0]);
  }
  refuses(device, [0, 6], [1]);
  const plain = controlled(net.NET_F_CTRL_RX);
  const extra = controlled(net.NET_F_CTRL_RX_EXTRA);
  for (let command = 0; command < 6; command += 1) {
    const [may, mayNot] = command < 2 ? [plain, extra] : [extra, plain];
    obeys(may, [0, command], [1]);
    refuses(mayNot, [0, command], [1]);
  }
});

test('address tables are taken when they are whole', () => {
  const device = controlled();
  const table = (entries: number, ...addresses: number[]) => [...u16(entries), 0, 0, ...addresses];
  const one = [2, 0, 0, 0, 0, 9];
  obeys(device, net.NET_CTRL_MAC_TABLE_SET, [...table(0), ...table(0)]);
  obeys(device, net.NET_CTRL_MAC_TABLE_SET, [...table(1, ...one), ...table(0)]);
  obeys(device, net.NET_CTRL_MAC_TABLE_SET, [...table(1, ...one), ...table(2, ...one, ...one)]);
  const wrong: [string, number[]][] = [
    ['nothing', []],
    ['one table', table(0)],
    ['half a number', [...table(0), 0, 0]],
    ['an address too few', [...table(2, ...one), ...table(0)]],
    ['an address too few at the end', [...table(0), ...table(2, ...one)]],
    ['half an address', [...table(0), ...table(1, 1, 2, 3)]],
    ['more behind it', [...table(0), ...table(0), 0]],
    ['a third table', [...table(0), ...table(0), ...table(0)]],
    ['as many as there are numbers', [255, 255, 255, 255, ...table(0)]],
  ];
  for (const [what, data] of wrong) refuses(device, net.NET_CTRL_MAC_TABLE_SET, data, what);
  refuses(controlled(net.NET_F_CTRL_MAC_ADDR), net.NET_CTRL_MAC_TABLE_SET, new Uint8Array(8));
});

test('address tables of a size without sense are not gone through', () => {
  const device = controlled();
  const length = 2 ** 20 - 100;
  const { memory } = device;
  net.netCommand(memory, COMMAND, net.NET_CTRL_MAC_TABLE_SET, [0, 0, 0, 0]);
  const chain = [
    { address: COMMAND, length: 6 },
    { address: 0, length },
  ];
  submit(device, [...chain, { address: 0, length: 4096 }, net.netAck(memory, ACK)]);
  assert.is(memory.view.getUint8(ACK), net.NET_ERR);
});

test('the address is changed to one that an interface can have', () => {
  const device = controlled();
  const { driver } = device;
  const generation = () => driver.get(REG.ConfigGeneration);
  const before = generation();
  obeys(device, net.NET_CTRL_MAC_ADDR_SET, [2, 1, 2, 3, 4, 5]);
  assert.equal(agreed(device).mac, [2, 1, 2, 3, 4, 5]);
  assert.is(driver.get(REG.Config, 4), 0x03020102);
  assert.is(driver.get(REG.Config + 4, 2), 0x0504);
  assert.is(generation(), before + 1);
  assert.is(driver.get(REG.InterruptStatus) & 2, 0);
  const wrong = [
    [1, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0],
    [2, 1, 2, 3, 4],
    [2, 1, 2, 3, 4, 5, 6],
  ];
  for (const data of wrong) refuses(device, net.NET_CTRL_MAC_ADDR_SET, data);
  assert.equal(agreed(device).mac, [2, 1, 2, 3, 4, 5]);
  driver.set(REG.Status, 0);
  assert.equal(agreed(device).mac, [2, 0, 0, 0xaa, 0xbb, 0xcc]);
});

test('the address stays where it is fixed, or the feature was not accepted', () => {
  const fixed = netDevice({ fixedMac: true });
  fixed.driver.bringUp({ queueCount: 3 });
  refuses(
    { ...fixed, queue: fixed.driver.queues[2] },
    net.NET_CTRL_MAC_ADDR_SET,
    [2, 1, 2, 3, 4, 5],
  );
  refuses(controlled(net.NET_F_CTRL_RX), net.NET_CTRL_MAC_ADDR_SET, [2, 1, 2, 3, 4, 5]);
  refuses(controlled(), [1, 2], [2, 1, 2, 3, 4, 5]);
});

test('VLANs are added and removed by their number', () => {
  const device = controlled();
  for (const command of [net.NET_CTRL_VLAN_ADD, net.NET_CTRL_VLAN_DEL]) {
    obeys(device, command, u16(0));
    obeys(device, command, u16(4095));
    refuses(device, command, u16(4096));
    refuses(device, command, [1]);
    refuses(device, command, [1, 0, 0]);
    refuses(controlled(net.NET_F_CTRL_RX), command, u16(1));
  }
  refuses(device, [2, 2], u16(1));
});

test('an announcement is acknowledged by a command without data', () => {
  const device = controlled();
  device.cage.input(Uint8Array.of(1, 1));
  refuses(device, net.NET_CTRL_ANNOUNCE_ACK, [0]);
  refuses(device, [3, 1]);
  assert.is(device.driver.get(REG.Config + net.NET_SPACE_STATUS, 2), 3);
  obeys(device, net.NET_CTRL_ANNOUNCE_ACK);
  assert.is(device.driver.get(REG.Config + net.NET_SPACE_STATUS, 2), 1);
  refuses(controlled(net.NET_F_CTRL_RX), net.NET_CTRL_ANNOUNCE_ACK);
});

test('queue pairs in use are set from one to as many as there are', () => {
  const device = controlled();
  for (const pairs of [4, 2, 1, 3]) {
    obeys(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, u16(pairs));
    assert.is(agreed(device).pairs, pairs);
  }
  for (const pairs of [0, 5, 0x8000, 0xffff]) {
    refuses(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, u16(pairs));
  }
  refuses(device, net.NET_CTRL_MQ_VQ_PAIRS_SET, [1]);
  refuses(device, [4, 1], u16(1)); // RSS
  refuses(device, [4, 2], u16(1)); // hash reports
  refuses(controlled(net.NET_F_CTRL_RX), net.NET_CTRL_MQ_VQ_PAIRS_SET, u16(1));
  assert.is(agreed(device).pairs, 3);
  device.driver.set(REG.Status, 0);
  assert.is(agreed(device).pairs, 1);
});

test('offloads in force are any of those agreed on', () => {
  const guest = net.NET_F_GUEST_CSUM | net.NET_F_GUEST_TSO4 | net.NET_F_GUEST_USO4;
  const device = controlled(guest | net.NET_F_CTRL_GUEST_OFFLOADS | net.NET_F_CSUM);
  assert.is(agreed(device).offloads, guest);
  for (const offloads of [0n, net.NET_F_GUEST_CSUM, guest]) {
    obeys(device, net.NET_CTRL_GUEST_OFFLOADS_SET, u64(offloads));
    assert.is(agreed(device).offloads, offloads);
  }
  for (const other of [net.NET_F_GUEST_TSO6, net.NET_F_CSUM, 1n << 63n]) {
    refuses(device, net.NET_CTRL_GUEST_OFFLOADS_SET, u64(guest | other));
  }
  refuses(device, net.NET_CTRL_GUEST_OFFLOADS_SET, u64(0n).slice(1));
  refuses(device, [5, 1], u64(0n));
  refuses(controlled(guest), net.NET_CTRL_GUEST_OFFLOADS_SET, u64(0n));
  assert.is(agreed(device).offloads, guest);
});

test('classes that do not exist are refused', () => {
  const device = controlled();
  for (const unknown of [6, 7, 0x80, 0xff]) refuses(device, [unknown, 0], [1]);
});

// --- Chains -------------------------------------------------------------------------------------

test('command and answer may be cut anywhere', () => {
  const device = controlled();
  const { memory } = device;
  const bytes = [...net.NET_CTRL_MAC_ADDR_SET, 2, 1, 2, 3, 4, 5];
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    bytes[7] = cut;
    net.netFrame(memory, COMMAND, Uint8Array.from(bytes.slice(0, cut)));
    net.netFrame(memory, COMMAND + 0x100, Uint8Array.from(bytes.slice(cut)));
    const parts = [
      { address: COMMAND, length: cut },
      { address: COMMAND + 0x100, length: bytes.length - cut },
    ];
    const answer = [{ address: ACK, length: 0, write: true }, net.netAck(memory, ACK + 8)];
    assert.is(submit(device, [...parts, ...answer]).length, 1);
    assert.is(memory.view.getUint8(ACK + 8), net.NET_OK);
    assert.is(agreed(device).mac[5], cut);
  }
});

test('the answer is the first byte of a longer buffer', () => {
  const device = controlled();
  device.memory.view.setUint8(ACK + 1, 0xee);
  const command = net.netCommand(device.memory, COMMAND, net.NET_CTRL_RX_PROMISC, [1]);
  assert.is(submit(device, [command, { address: ACK, length: 16, write: true }]).length, 1);
  assert.is(device.memory.view.getUint8(ACK), net.NET_OK);
  assert.is(device.memory.view.getUint8(ACK + 1), 0xee);
});

test('a command that is not whole, or not there, is refused', () => {
  const device = controlled();
  const ack = () => net.netAck(device.memory, ACK);
  const command = net.netCommand(device.memory, COMMAND, net.NET_CTRL_RX_PROMISC, [1]);
  const wrong: Buffer[][] = [
    [ack()],
    [{ ...command, length: 1 }, ack()],
    [{ ...command, address: RAM_END }, ack()],
    [{ ...command, length: 2 }, { address: RAM_END, length: 1 }, ack()],
  ];
  for (const chain of wrong) {
    ack();
    const { effects } = submit(device, chain);
    assert.is(effects, abi.EFFECT_INCIDENT | abi.EFFECT_IRQ);
    assert.is(device.memory.view.getUint8(ACK), net.NET_ERR);
  }
  assert.is(device.cage.counters().request, wrong.length);
});

test('a command without room for its answer is not obeyed', () => {
  const device = controlled();
  const command = net.netCommand(
    device.memory,
    COMMAND,
    net.NET_CTRL_MAC_ADDR_SET,
    [2, 1, 1, 1, 1, 1],
  );
  for (const chain of [[command], [command, { address: ACK, length: 0, write: true }]]) {
    const { effects, length } = submit(device, chain);
    assert.is(effects, abi.EFFECT_INCIDENT | abi.EFFECT_IRQ);
    assert.is(length, 0);
  }
  assert.is(agreed(device).mac[1], 0);
});

test('an answer outside RAM gets lost', () => {
  const device = controlled();
  const command = net.netCommand(device.memory, COMMAND, net.NET_CTRL_MQ_VQ_PAIRS_SET, u16(2));
  const { effects, length } = submit(device, [
    command,
    { address: RAM_END, length: 1, write: true },
  ]);
  assert.is(effects, abi.EFFECT_INCIDENT | abi.EFFECT_IRQ | abi.EFFECT_SETUP);
  assert.is(length, 0);
  assert.is(device.cage.counters().memory, 1);
  assert.is(agreed(device).pairs, 2);
});

test('a ring full of commands is answered at one kick', () => {
  const device = controlled();
  const { queue, memory, cage } = device;
  const heads = Array.from({ length: 8 }, (_, i) =>
    queue.chain([
      net.netCommand(memory, COMMAND + 16 * i, net.NET_CTRL_MQ_VQ_PAIRS_SET, u16(1 + (i % 5))),
      net.netAck(memory, ACK + i),
    ]),
  );
  for (const head of heads) queue.offer(head);
  cage.notify(queue.index);
  const answers = heads.map((_, i) => memory.view.getUint8(ACK + i));
  assert.equal(answers, [0, 0, 0, 0, 1, 0, 0, 0]);
  assert.is(agreed(device).pairs, 3);
});

test.run();
