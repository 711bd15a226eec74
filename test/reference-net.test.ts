// The core's network device against its reference, as reference.test.ts does for the other devices.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { encodeNetConfig, NET_OFFLOADS, type NetConfig } from '../host/device-config.ts';
import * as net from '../testing/net.ts';
import type { GuestBuffer as DriverBuffer, DriverQueue } from '../testing/queue.ts';
import type { Random } from '../testing/random.ts';
import { nasty, nastyAddress, RAM_BYTES } from './hostile.ts';
import {
  drive,
  type Game,
  offerChain,
  reached,
  reframe,
  runVirtio,
  type Session,
} from './reference-session.ts';

const SOME_OFFLOADS = NET_OFFLOADS.CSUM | NET_OFFLOADS.HOST_TSO4 | NET_OFFLOADS.GUEST_CSUM;

// --- Features -----------------------------------------------------------------------------------

// Whatever the others require.
const BASE =
  net.NET_F_CTRL_VQ |
  net.NET_F_CSUM |
  net.NET_F_GUEST_CSUM |
  net.NET_F_HOST_TSO4 |
  net.NET_F_GUEST_TSO4;

function features(random: Random, offered: bigint): bigint {
  const some = (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32));
  const right = offered & (some | BASE);
  const plain = BigInt(random(4)) << 28n; // with and without indirect tables and event index
  const choices = [offered, right, right, right | plain, plain, some & offered, some];
  return choices[random(choices.length)];
}

// --- What drivers offer -------------------------------------------------------------------------

const anywhere = (random: Random): number => net.NET_DATA + 0x1000 + random(0x10000);

/** A header that is right for what was agreed on, or asks for a little more. */
function header(random: Random): net.NetHeader {
  const types = [0, 0, 0, 1, 3, 4, 5, 0x81, 0x83, 0x84, random(256)];
  const gsoType = types[random(types.length)];
  const flags = gsoType !== 0 || random(2) ? 1 : 0;
  return {
    flags: random(12) ? flags : random(256),
    gsoType,
    hdrLen: random(4) ? random(80) : nasty(random) % 65536,
    gsoSize: random(6) ? 1448 : random(2),
    csumStart: random(12) ? random(60) : nasty(random) % 65536,
    csumOffset: random(12) ? random(20) : nasty(random) % 65536,
    numBuffers: random(3),
  };
}

function offerFrame(session: Session, queue: DriverQueue): void {
  const { random, twin } = session.pair;
  const first = net.netHeader(twin, net.NET_DATA, header(random));
  if (random(16) === 0) first.length = random(13);
  if (random(40) === 0) first.address = RAM_BYTES - random(16);
  const body = Array.from({ length: random(4) }, () => ({
    address: random(12) ? anywhere(random) : RAM_BYTES - random(64),
    length: random(6) ? 14 + random(1500) : random(16) ? 20000 + random(4000) : nasty(random),
    write: random(60) === 0,
  }));
  offerChain(session, queue, reframe(random, [first, ...body]));
}

function offerBuffer(session: Session, queue: DriverQueue): void {
  const { random } = session.pair;
  const chain = Array.from({ length: 1 + random(3) }, () => ({
    address: random(12) ? anywhere(random) : RAM_BYTES - random(64),
    length: random(3) ? 12 + random(100) : random(16) ? random(14) : nasty(random),
    write: random(40) > 0,
  }));
  offerChain(session, queue, reframe(random, chain));
}

const u16 = (value: number): number[] => [value % 256, Math.floor(value / 256) % 256];
const u32 = (value: number): number[] => [...u16(value % 65536), ...u16(Math.floor(value / 65536))];

/** A table of addresses, which says itself how many it has, or something else. */
function table(random: Random): number[] {
  const entries = random(4);
  const addresses = Array.from({ length: 6 * entries }, () => random(256));
  return [...u32(random(8) ? entries : nasty(random)), ...addresses];
}

/** Class, command and data. */
function command(random: Random): number[] {
  const some = (length: number) => Array.from({ length }, () => random(256));
  switch (random(8)) {
    case 0:
      return [0, random(7), random(6) ? random(2) : random(256)];
    case 1:
      return [1, 0, ...table(random), ...(random(6) ? table(random) : [])];
    case 2:
      return [1, 1, ...(random(3) ? [2 * random(128), ...some(5)] : some(random(8)))];
    case 3:
      return [2, random(3), ...u16(random(3) ? random(4100) : nasty(random))];
    case 4:
      return [3, random(6) ? 0 : random(3), ...some(random(8) ? 0 : 1)];
    case 5:
      return [4, random(6) ? 0 : random(3), ...u16(random(8) ? random(5) : nasty(random))];
    case 6: {
      const low = BigInt(random(2) ? random(0x800) : nasty(random));
      const offloads = low | (BigInt(random(2) ? random(4) : 0) << 54n);
      return [5, random(6) ? 0 : 1, ...new Uint8Array(BigUint64Array.of(offloads).buffer)];
    }
    default:
      return some(random(12));
  }
}

function offerCommand(session: Session, queue: DriverQueue): void {
  const { random, twin } = session.pair;
  const bytes = net.netFrame(twin, net.NET_DATA + 0x400, Uint8Array.from(command(random)));
  if (random(24) === 0) bytes.address = RAM_BYTES - random(8);
  if (random(40) === 0) bytes.length = nasty(random);
  const answer: DriverBuffer = net.netAck(twin, net.NET_DATA + 0x800);
  if (random(16) === 0) answer.length = random(3);
  if (random(24) === 0) answer.address = nastyAddress(random);
  const chain = random(24) ? [bytes, answer] : [random(2) ? bytes : answer];
  offerChain(session, queue, reframe(random, chain));
}

function offer(session: Session, queue: DriverQueue): void {
  const { pair, features, queueCount } = session;
  const all = (features & net.NET_F_MQ) !== 0n;
  const control = all ? queueCount - 1 : 2;
  // Now and then what is for another queue.
  const role = pair.random(20) ? queue.index : pair.random(3);
  if (role === control) offerCommand(session, queue);
  else if (role % 2 === 0) offerBuffer(session, queue);
  else offerFrame(session, queue);
}

// --- What hosts do ------------------------------------------------------------------------------

const queueOf = (tag: number): number => (tag >>> abi.TAG_QUEUE_SHIFT) & abi.TAG_QUEUE_MASK;

/** Buffers and frames offered and handed out, then some of them completed, the oldest first. */
function round(session: Session, queue: DriverQueue): void {
  const { pair, tags } = session;
  const { random } = pair;
  for (let count = random(Math.min(4, queue.size)); count >= 0; count -= 1) offer(session, queue);
  drive(session, { name: 'notify', args: [queue.index] });
  for (let turns = 0; pair.lastEffects & abi.EFFECT_MORE && turns < 300; turns += 1) {
    drive(session, { name: 'next', args: [queue.index] });
  }
  const own = tags.filter((tag) => queueOf(tag) === queue.index);
  const most = Math.max(0, own.length - random(3));
  for (let done = 0; done < most; done += 1) {
    const [tag] = own.splice(random(8) ? 0 : random(own.length), 1);
    tags.splice(tags.indexOf(tag), 1);
    const bytes = random(12) ? 12 + random(random(2) ? 100 : 400) : nasty(random);
    pair.call({ name: 'complete', args: [tag, random(10) ? 0 : random(5), bytes] });
  }
}

const input = (random: Random): Uint8Array =>
  Uint8Array.from({ length: random(8) ? 2 : random(5) }, () => random(2) * random(256));

const GAME: Game = { features, offer, round, input };

// --- Devices ------------------------------------------------------------------------------------

const FRAMES = [abi.REQUEST_KIND_NET_TX, abi.REQUEST_KIND_NET_RX];
const NICS: [name: string, config: Partial<NetConfig>, kinds: number[]][] = [
  ['network device', { queueSize: 64 }, FRAMES],
  ['network device of small queues', { queueSize: 4, mtu: 1500, offloads: SOME_OFFLOADS }, FRAMES],
  ['network device of three pairs', { queueSize: 16, queuePairs: 3 }, FRAMES],
  ['network device with its own address', { fixedMac: true, offloads: 0n }, FRAMES],
  ['network device of eight pairs', { queuePairs: 8, queueSize: 32, mtu: 9000 }, FRAMES],
  [
    "network device whose queues are the kernel's",
    { vhost: true, queuePairs: 2, queueSize: 64 },
    [abi.REQUEST_KIND_NET_RINGS],
  ],
];

for (const [name, config, kinds] of NICS) {
  test(`core and reference agree on a ${name}`, () => {
    const bytes = encodeNetConfig({ mac: '02:00:00:00:00:01', ...config });
    const count = 2 * (config.queuePairs ?? 1) + 1;
    const session = runVirtio(name, abi.KIND_VIRTIO_NET, bytes, GAME, count);
    // A command is answered at once, so that its head is hardly ever in flight already.
    reached(session, kinds, config.vhost ? 'INCIDENT_HEAD' : '');
    assert.is(session.pair.seen & abi.EFFECT_SETUP, abi.EFFECT_SETUP);
  });
}

test.run();
