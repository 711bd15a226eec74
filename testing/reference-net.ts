// The network device's side of the reference: virtio 1.2 §5.1, features, configuration, control
// queue. A test oracle for assembly/virtio-net.ts and assembly/virtio-net-control.ts;
// reference-net-frames.ts has the frames.
import * as abi from '../assembly/abi.ts';
import { receive, serveReceive, serveTransmit } from './reference-net-frames.ts';
import { bytesOf, cut, type Piece, storeBytes, totalBytes } from './reference-ring.ts';
import type { VirtioModel } from './reference-transport.ts';
import { COMMON_FEATURES, type DeviceType } from './reference-type.ts';

/** Numbers of feature bits (§5.1.3). */
const CSUM = 0;
const GUEST_CSUM = 1;
const CTRL_GUEST_OFFLOADS = 2;
const MTU = 3;
const MAC = 5;
const GUEST_TSO4 = 7;
const GUEST_TSO6 = 8;
const GUEST_ECN = 9;
const GUEST_UFO = 10;
const HOST_TSO4 = 11;
const HOST_TSO6 = 12;
const HOST_ECN = 13;
const HOST_UFO = 14;
const MRG_RXBUF = 15;
const STATUS = 16;
const CTRL_VQ = 17;
const CTRL_RX = 18;
const CTRL_VLAN = 19;
const CTRL_RX_EXTRA = 20;
const GUEST_ANNOUNCE = 21;
const MQ = 22;
const CTRL_MAC_ADDR = 23;
const GUEST_USO4 = 54;
const GUEST_USO6 = 55;
const HOST_USO = 56;

// §5.1.3.1: each needs one at least of those behind it.
const REQUIRES: [feature: number, oneOf: number[]][] = [
  ...[GUEST_TSO4, GUEST_TSO6, GUEST_UFO, GUEST_USO4, GUEST_USO6].map(
    (feature): [number, number[]] => [feature, [GUEST_CSUM]],
  ),
  [GUEST_ECN, [GUEST_TSO4, GUEST_TSO6]],
  ...[HOST_TSO4, HOST_TSO6, HOST_UFO, HOST_USO].map((feature): [number, number[]] => [
    feature,
    [CSUM],
  ]),
  [HOST_ECN, [HOST_TSO4, HOST_TSO6]],
  ...[CTRL_RX, CTRL_VLAN, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR].map((feature): [number, number[]] => [
    feature,
    [CTRL_VQ],
  ]),
];

// What received frames may leave to the driver.
const GUEST_OFFLOADS = [
  ...[GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO, GUEST_USO4, GUEST_USO6],
];

/** The configuration that init() takes, read once. */
interface Card {
  mac: number[];
  mtu: number;
  pairs: number;
  queueSize: number;
  vhost: boolean;
  fixedMac: boolean;
  offloads: bigint;
}

function cardOf(config: Uint8Array): Card {
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const flags = view.getUint32(abi.NET_CONFIG_FLAGS, true);
  return {
    mac: [...config.subarray(abi.NET_CONFIG_MAC, abi.NET_CONFIG_MAC + 6)],
    mtu: view.getUint16(abi.NET_CONFIG_MTU, true),
    pairs: view.getUint16(abi.NET_CONFIG_QUEUE_PAIRS, true),
    queueSize: view.getUint16(abi.NET_CONFIG_QUEUE_SIZE, true),
    vhost: (flags & abi.NET_FLAG_VHOST) !== 0,
    fixedMac: (flags & abi.NET_FLAG_FIXED_MAC) !== 0,
    offloads: view.getBigUint64(abi.NET_CONFIG_OFFLOADS, true),
  };
}

function featuresOf(card: Card): number[] {
  const offloads = Array.from({ length: 64 }, (_, bit) => bit).filter(
    (bit) => (card.offloads >> BigInt(bit)) % 2n === 1n,
  );
  return [
    ...COMMON_FEATURES,
    ...offloads,
    ...[MAC, MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE],
    CTRL_GUEST_OFFLOADS,
    ...(card.mtu ? [MTU] : []),
    ...(card.pairs > 1 ? [MQ] : []),
    ...(card.fixedMac ? [] : [CTRL_MAC_ADDR]),
  ];
}

/** The configuration space (§5.1.4); fields of features that are not offered are zero. */
function configSpaceOf(card: Card, device: VirtioModel): Uint8Array {
  const { net } = device;
  const status = (net.linkDown ? 0 : 1) + (net.announce ? 2 : 0);
  const pairs = card.pairs > 1 ? card.pairs : 0;
  const words = [status, pairs, card.mtu].flatMap((word) => [word % 256, Math.floor(word / 256)]);
  return Uint8Array.from([...net.mac, ...words]);
}

/** §5.1.2: pairs of queues, then the control queue. */
function queueCount(card: Card, device: VirtioModel): number {
  if (device.has(MQ)) return 2 * card.pairs + 1;
  return device.has(CTRL_VQ) ? 3 : 2;
}

const isControl = (card: Card, device: VirtioModel, queue: number): boolean =>
  device.has(CTRL_VQ) && queue === queueCount(card, device) - 1;

const agreedOffloads = (device: VirtioModel): bigint =>
  GUEST_OFFLOADS.filter((bit) => device.has(bit)).reduce(
    (sum, bit) => sum + (1n << BigInt(bit)),
    0n,
  );

// --- Control queue (§5.1.6.5) -------------------------------------------------------------------

/** A command: its class, its number, and a view of its data. */
interface Command {
  device: VirtioModel;
  card: Card;
  readable: Piece[];
  bytes: number; // of data
}

/** So many bytes of data from `from` on; nothing where one of them is not RAM. */
const dataOf = ({ device, readable }: Command, from: number, length: number) =>
  bytesOf(device.ram, readable, 2 + from, length);

/** All of the data, which must be just so long. */
function wholeData(command: Command, length: number): DataView | undefined {
  return command.bytes === length ? dataOf(command, 0, length) : undefined;
}

const interfaceAddress = (mac: readonly number[]): boolean =>
  mac[0] % 2 === 0 && mac.some((byte) => byte !== 0);

/** Two tables of addresses, one behind the other, each behind the number of its entries. */
function tablesWhole(command: Command): boolean {
  if (command.bytes + 2 > 2 ** 20) return false; // the core's own bound (docs/abi.md)
  let at = 0;
  for (const _ of ['interfaces', 'groups']) {
    const entries = at + 4 <= command.bytes ? dataOf(command, at, 4) : undefined;
    if (!entries) return false;
    at += 4 + 6 * entries.getUint32(0, true);
  }
  return at === command.bytes;
}

function setAddress(command: Command): boolean {
  const data = wholeData(command, 6);
  if (!data) return false;
  const mac = [0, 1, 2, 3, 4, 5].map((at) => data.getUint8(at));
  if (!interfaceAddress(mac)) return false;
  command.device.net.mac = mac;
  command.device.now.configGeneration += 1;
  return true;
}

function acknowledge({ device, bytes }: Command): boolean {
  if (bytes !== 0) return false;
  device.net.announce = false;
  device.now.configGeneration += 1;
  return true;
}

function setPairs(command: Command): boolean {
  const pairs = wholeData(command, 2)?.getUint16(0, true) ?? 0;
  if (pairs < 1 || pairs > command.card.pairs) return false;
  command.device.net.queuePairs = pairs;
  return true;
}

function setOffloads(command: Command): boolean {
  const offloads = wholeData(command, 8)?.getBigUint64(0, true);
  if (offloads === undefined) return false;
  if ((offloads & ~agreedOffloads(command.device)) !== 0n) return false;
  command.device.net.offloads = offloads;
  return true;
}

const mode = (command: Command): boolean => (wholeData(command, 1)?.getUint8(0) ?? 2) < 2;
const vlan = (command: Command): boolean =>
  (wholeData(command, 2)?.getUint16(0, true) ?? 4096) < 4096;

/** Commands by class and number: the feature that each needs, and whether it is obeyed. */
const COMMANDS = new Map<string, [feature: number, obey: (command: Command) => boolean]>([
  ['0 0', [CTRL_RX, mode]], // promiscuous
  ['0 1', [CTRL_RX, mode]], // all multicast
  ['0 2', [CTRL_RX_EXTRA, mode]], // all unicast
  ['0 3', [CTRL_RX_EXTRA, mode]], // no multicast
  ['0 4', [CTRL_RX_EXTRA, mode]], // no unicast
  ['0 5', [CTRL_RX_EXTRA, mode]], // no broadcast
  ['1 0', [CTRL_RX, tablesWhole]],
  ['1 1', [CTRL_MAC_ADDR, setAddress]],
  ['2 0', [CTRL_VLAN, vlan]],
  ['2 1', [CTRL_VLAN, vlan]],
  ['3 0', [GUEST_ANNOUNCE, acknowledge]],
  ['4 0', [MQ, setPairs]],
  ['5 0', [CTRL_GUEST_OFFLOADS, setOffloads]],
]);

function obey(card: Card, device: VirtioModel, readable: Piece[]): boolean {
  const bytes = totalBytes(readable) - 2;
  const head = bytes < 0 ? undefined : bytesOf(device.ram, readable, 0, 2);
  if (!head) return false;
  const known = COMMANDS.get(`${head.getUint8(0)} ${head.getUint8(1)}`);
  if (!known) return false;
  const [feature, carryOut] = known;
  return device.has(feature) && carryOut({ device, card, readable, bytes });
}

function serveControl(
  card: Card,
  device: VirtioModel,
  queue: number,
  head: number,
  chain: Piece[],
) {
  const [answer] = cut(
    chain.filter((piece) => piece.write),
    0,
    1,
  );
  if (!answer) {
    device.ledger.blame(abi.INCIDENT_REQUEST);
    device.giveBack(queue, head, 0);
    return;
  }
  const readable = chain.filter((piece) => !piece.write);
  const obeyed = obey(card, device, readable);
  if (obeyed) device.ledger.effects |= abi.EFFECT_SETUP;
  else device.ledger.blame(abi.INCIDENT_REQUEST);
  const stored = storeBytes(device.ram, answer.address, Uint8Array.of(obeyed ? 0 : 1));
  if (!stored) device.ledger.blame(abi.INCIDENT_MEMORY);
  device.giveBack(queue, head, stored ? 1 : 0);
}

// --- The device type ----------------------------------------------------------------------------

function input(device: VirtioModel, bytes: Uint8Array): void {
  if (bytes.length < 2) return;
  device.ledger.value = 2;
  const { net } = device;
  const asked = bytes[1] !== 0 && device.running() && device.has(GUEST_ANNOUNCE);
  const before = `${net.linkDown} ${net.announce}`;
  net.linkDown = bytes[0] === 0;
  net.announce ||= asked;
  if (before !== `${net.linkDown} ${net.announce}`) device.configChanged();
}

/** The device type, from the configuration that init() takes. */
export function netType(config: Uint8Array): DeviceType {
  const card = cardOf(config);
  const isReceive = (device: VirtioModel, queue: number): boolean =>
    queue % 2 === 0 && !isControl(card, device, queue);
  const { mac, pairs, queueSize, vhost } = card;
  return {
    id: 1,
    queueCount: 2 * pairs + 1,
    queueSize,
    features: featuresOf(card),
    configSpace: new Uint8Array(0),
    serve(device, queue, head, chain) {
      if (isControl(card, device, queue)) serveControl(card, device, queue, head, chain);
      else if (isReceive(device, queue)) serveReceive(device, queue, head, chain);
      else serveTransmit(device, queue, head, chain);
    },
    // A frame that could not be sent is lost, and nobody is told.
    finish: (device, queue, head) => device.giveBack(queue, head, 0),
    writeConfig: () => false,
    restart(device) {
      const { linkDown } = device.net; // the host's
      device.net = { offloads: 0n, queuePairs: 1, linkDown, announce: false, mac };
    },
    agreed(device) {
      device.net.offloads = agreedOffloads(device);
    },
    network: {
      initial: { offloads: 0n, queuePairs: 1, linkDown: false, announce: false, mac },
      queueCount: (device) => queueCount(card, device),
      featuresMatch: (device) =>
        REQUIRES.every(
          ([feature, oneOf]) => !device.has(feature) || oneOf.some((b) => device.has(b)),
        ),
      configSpace: (device) => configSpaceOf(card, device),
      isOfFrames: (device, queue) => !isControl(card, device, queue),
      isKernels: (device, queue) => vhost && !isControl(card, device, queue),
      isReceive,
      receive: (device, ...rest) => receive(device, device.has(MRG_RXBUF), ...rest),
      input,
    },
  };
}
