// The network device: assembly/virtio-net.ts on the release core. Features, configuration space,
// queues, link, state (virtio 1.2 §5.1.2 to §5.1.5).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import {
  encodeNetConfig,
  NET_OFFLOADS,
  NET_OFFLOADS_ALL,
  type NetConfig,
} from '../host/device-config.ts';
import { ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, REG, RUNNING } from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import { type DriverQueue, guestMemory } from '../testing/queue.ts';
import { kick } from '../testing/requests.ts';
import { type Fixture, MAC, netDevice } from './fixtures.ts';

const COMMON = (1n << 28n) | (1n << 29n) | (1n << 32n);
const ALWAYS =
  COMMON |
  net.NET_F_MAC |
  net.NET_F_MRG_RXBUF |
  net.NET_F_STATUS |
  net.NET_F_CTRL_VQ |
  net.NET_F_CTRL_RX |
  net.NET_F_CTRL_RX_EXTRA |
  net.NET_F_CTRL_VLAN |
  net.NET_F_GUEST_ANNOUNCE |
  net.NET_F_CTRL_GUEST_OFFLOADS;
const REFUSED = ACKNOWLEDGE | DRIVER;
const AGREED = RUNNING & ~DRIVER_OK;

const status = ({ driver }: Fixture) => driver.get(REG.Config + net.NET_SPACE_STATUS, 2);
const generation = ({ driver }: Fixture) => driver.get(REG.ConfigGeneration);
/** Tells the device of its link; returns the effects. */
const link = ({ cage }: Fixture, up: boolean, announce = false) =>
  cage.input(Uint8Array.of(up ? 1 : 0, announce ? 1 : 0));

/** How many queues there are, by QueueNumMax. */
function queuesOf({ driver }: Fixture): number {
  for (let index = 0; ; index += 1) {
    driver.set(REG.QueueSel, index);
    if (driver.get(REG.QueueNumMax) === 0) return index;
  }
}

// --- Configuration ------------------------------------------------------------------------------

/** What init() makes of a configuration with one field replaced. */
function initWith(config: Partial<NetConfig>, spoil: (view: DataView) => void = () => {}): void {
  const bytes = encodeNetConfig({ mac: MAC, ...config });
  spoil(new DataView(bytes.buffer));
  new Cage(abi.KIND_VIRTIO_NET, guestMemory(0), bytes);
}

test('configurations at their bounds are taken', () => {
  initWith({ mtu: 68 });
  initWith({ mtu: 65535 });
  initWith({ queuePairs: abi.NET_QUEUE_PAIRS_MAX, queueSize: 4 });
  initWith({ offloads: 0n });
  initWith({ offloads: NET_OFFLOADS.CSUM | NET_OFFLOADS.GUEST_CSUM });
  initWith({ vhost: true, fixedMac: true });
  initWith({ mac: 'fe:ff:ff:ff:ff:ff' });
});

test('configurations that make no sense are refused', () => {
  const { CSUM, GUEST_CSUM, GUEST_UFO, HOST_UFO } = NET_OFFLOADS;
  const wrong: [string, Partial<NetConfig>, ((view: DataView) => void)?][] = [
    ['an MTU below what IPv4 needs', { mtu: 67 }],
    ['no queue', { queuePairs: 0 }],
    ['too many queues', { queuePairs: abi.NET_QUEUE_PAIRS_MAX + 1 }],
    ['a queue of 2', { queueSize: 2 }],
    ['a queue of 5', { queueSize: 5 }],
    ['a queue of 512', { queueSize: 512 }],
    ['a multicast address', { mac: '01:00:5e:00:00:01' }],
    ['the address of everyone', { mac: 'ff:ff:ff:ff:ff:ff' }],
    ['the address of nobody', { mac: '00:00:00:00:00:00' }],
    ['an unknown flag', {}, (view) => view.setUint32(abi.NET_CONFIG_FLAGS, 4, true)],
    ['an offload that is none', { offloads: net.NET_F_MRG_RXBUF }],
    ['HOST_UFO without CSUM', { offloads: HOST_UFO }],
    ['GUEST_UFO without GUEST_CSUM', { offloads: GUEST_UFO | CSUM }],
    ['GUEST_ECN alone', { offloads: NET_OFFLOADS.GUEST_ECN | GUEST_CSUM | GUEST_UFO }],
    ['HOST_ECN alone', { offloads: NET_OFFLOADS.HOST_ECN | CSUM | HOST_UFO }],
  ];
  for (const [what, config, spoil] of wrong) {
    assert.throws(() => initWith(config, spoil), /answer 2/, what);
  }
});

// --- Features -----------------------------------------------------------------------------------

test('it is a network device', () => {
  assert.is(netDevice().driver.get(REG.DeviceID), 1);
});

test('features follow from the configuration', () => {
  const offered = (config: Partial<NetConfig>) => netDevice(config).driver.offeredFeatures();
  const { NET_F_CTRL_MAC_ADDR, NET_F_MTU, NET_F_MQ } = net;
  assert.is(offered({ offloads: 0n, fixedMac: true }), ALWAYS);
  assert.is(offered({ offloads: 0n }), ALWAYS | NET_F_CTRL_MAC_ADDR);
  assert.is(offered({ offloads: 0n, fixedMac: true, mtu: 1500 }), ALWAYS | NET_F_MTU);
  assert.is(offered({ offloads: 0n, fixedMac: true, queuePairs: 2 }), ALWAYS | NET_F_MQ);
  assert.is(offered({ fixedMac: true, vhost: true }), ALWAYS | NET_OFFLOADS_ALL);
});

test('a feature is not agreed on without those that it requires', () => {
  const requires: [feature: bigint, one: bigint[]][] = [
    [net.NET_F_GUEST_TSO4, [net.NET_F_GUEST_CSUM]],
    [net.NET_F_GUEST_TSO6, [net.NET_F_GUEST_CSUM]],
    [net.NET_F_GUEST_UFO, [net.NET_F_GUEST_CSUM]],
    [net.NET_F_GUEST_USO4, [net.NET_F_GUEST_CSUM]],
    [net.NET_F_GUEST_USO6, [net.NET_F_GUEST_CSUM]],
    [
      net.NET_F_GUEST_ECN | net.NET_F_GUEST_CSUM | net.NET_F_GUEST_UFO,
      [net.NET_F_GUEST_TSO4, net.NET_F_GUEST_TSO6],
    ],
    [net.NET_F_HOST_TSO4, [net.NET_F_CSUM]],
    [net.NET_F_HOST_TSO6, [net.NET_F_CSUM]],
    [net.NET_F_HOST_UFO, [net.NET_F_CSUM]],
    [net.NET_F_HOST_USO, [net.NET_F_CSUM]],
    [
      net.NET_F_HOST_ECN | net.NET_F_CSUM | net.NET_F_HOST_UFO,
      [net.NET_F_HOST_TSO4, net.NET_F_HOST_TSO6],
    ],
    [net.NET_F_CTRL_RX, [net.NET_F_CTRL_VQ]],
    [net.NET_F_CTRL_VLAN, [net.NET_F_CTRL_VQ]],
    [net.NET_F_GUEST_ANNOUNCE, [net.NET_F_CTRL_VQ]],
    [net.NET_F_MQ, [net.NET_F_CTRL_VQ]],
    [net.NET_F_CTRL_MAC_ADDR, [net.NET_F_CTRL_VQ]],
  ];
  for (const [feature, ones] of requires) {
    const { driver, cage } = netDevice({ queuePairs: 2 });
    assert.is(driver.negotiate(feature), REFUSED, `${feature}`);
    assert.is(cage.counters().features, 1);
    for (const one of ones)
      assert.is(driver.negotiate(feature | one), AGREED, `${feature}, ${one}`);
  }
  // Of these two the specification requires nothing: they mean nothing without a control queue.
  const { driver } = netDevice();
  assert.is(driver.negotiate(net.NET_F_CTRL_RX_EXTRA | net.NET_F_CTRL_GUEST_OFFLOADS), AGREED);
});

test('no feature of the device is needed', () => {
  assert.is(netDevice().driver.negotiate(0n), AGREED);
  assert.is(netDevice().driver.negotiate(), AGREED);
});

// --- Configuration space ------------------------------------------------------------------------

test('the configuration space has address, status, pairs and MTU in every width', () => {
  const { driver, cage } = netDevice({ mac: '02:11:22:33:44:55', mtu: 9000, queuePairs: 3 });
  const expected = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 1, 0, 3, 0, 9000 & 0xff, 9000 >> 8];
  const read = (width: number) =>
    Array.from({ length: 12 / width }, (_, i) => driver.get(REG.Config + width * i, width));
  assert.equal(read(1), expected);
  const pairs = Array.from({ length: 6 }, (_, i) => expected[2 * i] | (expected[2 * i + 1] << 8));
  assert.equal(read(2), pairs);
  assert.equal(read(4), [0x33221102, 0x00015544, 3 | (9000 << 16)]);
  assert.is(cage.counters().register, 0);
});

test('fields of what is not offered read 0, and past the end is nothing', () => {
  const { driver, cage } = netDevice();
  assert.is(driver.get(REG.Config + net.NET_SPACE_MAX_VIRTQUEUE_PAIRS, 2), 0);
  assert.is(driver.get(REG.Config + net.NET_SPACE_MTU, 2), 0);
  assert.is(driver.get(REG.Config + 12, 4), 0xffffffff);
  assert.is(cage.counters().register, 1);
  driver.get(REG.Config + 1, 2);
  assert.is(cage.counters().width, 1);
});

test('no field can be written', () => {
  const { driver, cage } = netDevice({ mtu: 1500 });
  driver.bringUp();
  for (let at = 0; at < 12; at += 1) {
    assert.is(driver.set(REG.Config + at, 0xff, 1), abi.EFFECT_INCIDENT);
  }
  assert.is(cage.counters().register, 12);
  assert.is(driver.get(REG.Config, 4), 0xaa000002);
});

// --- Queues -------------------------------------------------------------------------------------

test('there are as many queues as were agreed on', () => {
  const count = (features: bigint | undefined, queuePairs: number) => {
    const device = netDevice({ queuePairs, queueSize: 64 });
    assert.is(device.driver.negotiate(features), AGREED);
    return queuesOf(device);
  };
  assert.is(count(0n, 1), 2);
  assert.is(count(0n, 4), 2);
  assert.is(count(net.NET_F_CTRL_VQ, 1), 3);
  assert.is(count(net.NET_F_CTRL_VQ, 4), 3);
  assert.is(count(net.NET_F_CTRL_VQ | net.NET_F_MQ, 4), 9);
  assert.is(count(undefined, 8), abi.QUEUE_COUNT_MAX);
  const { driver } = netDevice({ queueSize: 64 });
  driver.set(REG.QueueSel, 1);
  assert.is(driver.get(REG.QueueNumMax), 64);
});

test('what a queue is for depends on what was agreed on', () => {
  const kinds = (features: bigint, queuePairs: number, queueCount: number) => {
    const { driver, cage, memory } = netDevice({ queuePairs });
    driver.bringUp({ features, queueCount });
    return driver.queues.map((queue) => {
      const command = [...net.NET_CTRL_RX_PROMISC, 1, ...new Array(60).fill(0)];
      const chain = net.netFrame(memory, net.NET_DATA, Uint8Array.from(command));
      // A buffer to be filled, a frame to be sent, or a command with an answer.
      queue.offer(queue.chain([{ address: net.NET_DATA + 0x1000, length: 2048, write: true }]));
      queue.offer(queue.chain([chain]));
      queue.offer(queue.chain([{ ...chain, length: 3 }, net.netAck(memory, net.NET_DATA + 0x800)]));
      const { requests } = kick(cage, queue.index, () => ({ result: 0, bytes: 2048 }));
      const answer = memory.view.getUint8(net.NET_DATA + 0x800);
      if (answer === net.NET_OK) return 'control';
      return requests.map(({ kind }) => (kind === abi.REQUEST_KIND_NET_RX ? 'rx' : 'tx')).join();
    });
  };
  const control = net.NET_F_CTRL_VQ | net.NET_F_CTRL_RX;
  assert.equal(kinds(0n, 2, 2), ['rx', 'tx']);
  assert.equal(kinds(control, 2, 3), ['rx', 'tx', 'control']);
  assert.equal(kinds(control | net.NET_F_MQ, 2, 5), ['rx', 'tx', 'rx', 'tx', 'control']);
  const most = kinds(control | net.NET_F_MQ, 8, 17);
  assert.equal([most.length, most[15], most[16]], [17, 'tx', 'control']);
});

test('a kick of a queue that was not agreed on is counted', () => {
  const { driver, cage } = netDevice({ queuePairs: 2 });
  driver.bringUp({ features: net.NET_F_CTRL_VQ, queueCount: 3 });
  assert.is(cage.notify(3), abi.EFFECT_INCIDENT);
  assert.is(cage.next(3), 0);
  assert.is(cage.counters().notify, 1);
});

// --- Link ---------------------------------------------------------------------------------------

test('a change of the link is told once, by a configuration change', () => {
  const device = netDevice();
  device.driver.bringUp({ queueCount: 3 });
  const before = generation(device);
  assert.is(link(device, true), 0);
  assert.is(status(device), net.NET_S_LINK_UP);
  assert.is(link(device, false), abi.EFFECT_IRQ);
  assert.is(status(device), 0);
  assert.is(device.driver.get(REG.InterruptStatus), 2);
  assert.is(generation(device), before + 1);
  assert.is(link(device, false), 0);
  assert.is(link(device, true), abi.EFFECT_IRQ);
  assert.is(status(device), net.NET_S_LINK_UP);
  assert.is(generation(device), before + 2);
});

test("the link is the host's: no interrupt before DRIVER_OK, and it outlives resets", () => {
  const device = netDevice();
  assert.is(link(device, false), 0);
  assert.is(generation(device), 1);
  assert.is(device.driver.get(REG.InterruptStatus), 0);
  device.driver.bringUp();
  assert.is(status(device), 0);
  device.cage.reset();
  assert.is(status(device), 0);
  assert.is(link(device, true), 0);
  assert.is(status(device), net.NET_S_LINK_UP);
});

test('an announcement is asked for until the driver acknowledges it', () => {
  const device = netDevice();
  const { cage, driver, memory } = device;
  driver.bringUp({ queueCount: 3 });
  assert.is(link(device, true, true), abi.EFFECT_IRQ);
  assert.is(status(device), net.NET_S_LINK_UP | net.NET_S_ANNOUNCE);
  assert.is(link(device, true, true), 0);
  assert.is(link(device, true, false), 0);
  assert.is(status(device), net.NET_S_LINK_UP | net.NET_S_ANNOUNCE);
  const before = generation(device);
  const chain = [
    net.netCommand(memory, net.NET_DATA, net.NET_CTRL_ANNOUNCE_ACK),
    net.netAck(memory, net.NET_DATA + 64),
  ];
  driver.queues[2].offer(driver.queues[2].chain(chain));
  assert.is(cage.notify(2) & abi.EFFECT_SETUP, abi.EFFECT_SETUP);
  assert.is(memory.view.getUint8(net.NET_DATA + 64), net.NET_OK);
  assert.is(status(device), net.NET_S_LINK_UP);
  assert.is(generation(device), before + 1);
  assert.is(link(device, true, true), abi.EFFECT_IRQ);
  driver.set(REG.Status, 0);
  assert.is(status(device), net.NET_S_LINK_UP);
});

test('nobody is asked to announce who did not agree to, or does not run', () => {
  const device = netDevice();
  device.driver.bringUp({ features: net.NET_F_STATUS | net.NET_F_CTRL_VQ });
  assert.is(link(device, true, true), 0);
  device.driver.negotiate();
  assert.is(link(device, true, true), 0);
  assert.is(status(device), net.NET_S_LINK_UP);
});

test('input that is too short is not taken', () => {
  const device = netDevice();
  device.driver.bringUp();
  assert.is(device.cage.input(Uint8Array.of(0)), 0);
  assert.is(device.cage.value(), 0);
  assert.is(status(device), net.NET_S_LINK_UP);
  device.cage.input(Uint8Array.of(0, 0, 7, 7));
  assert.is(device.cage.value(), abi.NET_INPUT_BYTES);
  assert.is(status(device), 0);
});

// --- What the host is told ----------------------------------------------------------------------

/** What stands at NET_STATE. */
function netState({ cage }: Fixture) {
  const state = cage.stateBytes();
  const view = new DataView(state.buffer, abi.NET_STATE - abi.STATE, 24);
  return {
    offloads: view.getBigUint64(abi.NET_STATE_OFFLOADS, true),
    pairs: view.getUint16(abi.NET_STATE_QUEUE_PAIRS, true),
    mac: [0, 1, 2, 3, 4, 5].map((at) => view.getUint8(abi.NET_STATE_MAC + at)),
  };
}

const MAC_BYTES = [0x02, 0, 0, 0xaa, 0xbb, 0xcc];
const GUEST = net.NET_F_GUEST_CSUM | net.NET_F_GUEST_TSO4;

test('the host reads what was agreed on, from DRIVER_OK to the reset', () => {
  const device = netDevice({ queuePairs: 2 });
  const none = { offloads: 0n, pairs: 1, mac: MAC_BYTES };
  assert.equal(netState(device), none);
  device.driver.negotiate(GUEST | net.NET_F_CSUM | net.NET_F_CTRL_VQ | net.NET_F_MQ);
  assert.is(device.driver.set(REG.Status, RUNNING), abi.EFFECT_SETUP);
  assert.equal(netState(device), { ...none, offloads: GUEST });
  const effects = device.driver.set(REG.Status, 0);
  assert.is(effects, abi.EFFECT_SETUP | abi.EFFECT_CANCEL);
  assert.equal(netState(device), none);
});

test('the host is told whenever queues may have started or stopped', () => {
  const device = netDevice();
  const { driver, cage } = device;
  const spoilt = (queue: DriverQueue) => {
    queue.setAvailIndex(17);
    return cage;
  };
  const stops: [string, () => number][] = [
    ['a queue stops', () => driver.set(REG.QueueReady, 0)],
    ['the driver gives up', () => driver.set(REG.Status, RUNNING | FAILED)],
    ['the host restarted it', () => cage.fail()],
    ['the machine is reset', () => cage.reset()],
    ['a ring is beyond repair', () => spoilt(driver.queues[0]).next(0)],
  ];
  for (const [what, stop] of stops) {
    driver.bringUp();
    assert.is(stop() & abi.EFFECT_SETUP, abi.EFFECT_SETUP, what);
  }
});

test.run();
