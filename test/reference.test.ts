// The core against the reference devices (testing/reference.ts): the same calls on both, from
// drivers that are right, nearly right and hostile, must give the same effects, values, records,
// guest RAM and counters. The seed is printed when a run fails; SEED=n in the environment repeats
// it. reference-net.test.ts has the network device.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { encodeBlkConfig, encodeRngConfig } from '../host/device-config.ts';
import { blkHeader, blkSegment, blkStatus } from '../testing/block.ts';
import { DATA, type GuestBuffer as DriverBuffer, type DriverQueue } from '../testing/queue.ts';
import type { Random } from '../testing/random.ts';
import { ReferenceDevice } from '../testing/reference.ts';
import { parseRecord } from '../testing/requests.ts';
import { CAPACITY_SECTORS } from './fixtures.ts';
import { nasty, nastyAddress, PORT_DEVICES, RAM_BYTES } from './hostile.ts';
import { Pair, SEED } from './reference-pair.ts';
import {
  type Game,
  offerChain,
  politeRound,
  reached,
  reframe,
  runVirtio,
  type Session,
  sessionOf,
} from './reference-session.ts';

const PORT_CALLS = 50_000; // for each kind

// --- Virtio devices -----------------------------------------------------------------------------

/** Offers a chain about as long as the core takes any. */
function offerLongChain(session: Session, queue: DriverQueue): void {
  const { random, twin, kind } = session.pair;
  const write = kind === abi.KIND_VIRTIO_RNG || random(2) === 0;
  const length = 254 + random(5);
  const body = Array.from({ length }, () => ({ address: DATA + 0x1000, length: 512, write }));
  const frame = [blkHeader(twin, DATA, write ? 0 : 1), blkStatus(twin, DATA + 0x900)];
  const chain = kind === abi.KIND_VIRTIO_RNG ? body : [frame[0], ...body.slice(2), frame[1]];
  queue.offer(queue.indirectChain(chain, DATA + 0xa000));
}

/** A request that is right, or wrong in one thing at most. */
function offerRequest(session: Session, queue: DriverQueue): void {
  const { random, twin } = session.pair;
  const type = [0, 0, 1, 1, 4, 8, 11, 11, 13, 13, random(16)][random(11)];
  const sector = BigInt(random(6) ? random(CAPACITY_SECTORS) : CAPACITY_SECTORS - random(10));
  const header = blkHeader(twin, DATA, type, random(50) ? sector : nastyAddress(random));
  const body: DriverBuffer[] = [];
  if (type === 11 || type === 13) {
    const flags = random(6) ? random(type === 13 ? 2 : 1) : nasty(random);
    const count = random(8) ? 1 + random(100) : nasty(random);
    const command = blkSegment(twin, DATA + 0x100, sector, count, flags);
    body.push(random(24) ? command : { ...command, address: nastyAddress(random) });
    if (random(12) === 0) body.push({ address: DATA + 0x200, length: 16 });
  } else if (type !== 4 || random(8) === 0) {
    const length = type === 8 ? 16 + random(12) : 512 * random(12);
    for (let parts = random(3); parts >= 0; parts -= 1) {
      const address = random(12) ? DATA + 0x1000 + 0x2000 * parts : RAM_BYTES - random(16);
      body.push({ address, length: random(24) ? length : random(1024), write: type !== 1 });
    }
  }
  const status = blkStatus(twin, DATA + 0x900 + random(16));
  const place = random(32) ? status : { ...status, address: nastyAddress(random) };
  offerChain(session, queue, reframe(random, [header, ...body, place]));
}

/** Buffers for the entropy device. */
function offerBuffers(session: Session, queue: DriverQueue): void {
  const { random } = session.pair;
  const chain = Array.from({ length: 1 + random(3) }, () => ({
    address: DATA + random(0x4000),
    length: random(4) ? random(200) : nasty(random),
    write: random(12) > 0,
  }));
  offerChain(session, queue, chain);
}

function offer(session: Session, queue: DriverQueue): void {
  if (session.pair.random(60) === 0) offerLongChain(session, queue);
  else if (session.pair.kind === abi.KIND_VIRTIO_BLK) offerRequest(session, queue);
  else offerBuffers(session, queue);
}

/** All that is offered, some of it, or anything. */
function features(random: Random, offered: bigint): bigint {
  const plain = BigInt(random(4)) << 28n; // with and without indirect tables and event index
  const someBits = BigInt(random(2 ** 15)) | plain;
  return [offered, offered, plain, someBits & offered, nastyAddress(random)][random(5)];
}

const GAME: Game = { features, offer, round: politeRound, input: () => new Uint8Array(0) };

const BLK = { capacityBytes: CAPACITY_SECTORS * 512, readOnly: false, id: 'disk' };
const DISKS: [name: string, config: Parameters<typeof encodeBlkConfig>[0], kinds: number[]][] = [
  ['disk of one queue', { ...BLK, queueSize: 64 }, [1, 2, 3, 4, 5]],
  ['disk of three queues', { ...BLK, queueCount: 3, queueSize: 16 }, [1, 2, 3, 4, 5]],
  ['read-only disk', { ...BLK, readOnly: true, queueSize: 8, id: 'x'.repeat(20) }, [1, 3]],
  [
    'disk with narrow limits',
    { ...BLK, queueSize: 256, segMax: 2, sizeMax: 1024, maxDiscardSectors: 50 },
    [1, 2, 3, 4, 5],
  ],
  [
    'disk without discard',
    { ...BLK, queueCount: 8, queueSize: 4, discard: false, writeback: false, blockSize: 4096 },
    [1, 2, 3, 5],
  ],
];

for (const [name, config, kinds] of DISKS) {
  test(`core and reference agree on a ${name}`, () => {
    const bytes = encodeBlkConfig(config);
    const queueCount = config.queueCount ?? 1;
    reached(runVirtio(name, abi.KIND_VIRTIO_BLK, bytes, GAME, queueCount), kinds);
  });
}

for (const queueSize of [1, 8, 64, 256]) {
  test(`core and reference agree on an entropy device of ${queueSize} descriptors`, () => {
    const config = encodeRngConfig({ queueSize });
    const session = runVirtio(`entropy of ${queueSize}`, abi.KIND_VIRTIO_RNG, config, GAME, 1);
    reached(session, [abi.REQUEST_KIND_ENTROPY]);
  });
}

// --- Port devices -------------------------------------------------------------------------------

function actOnPorts(pair: Pair): void {
  const { random } = pair;
  const [offset, width] = [random(9), random(16) ? 1 : random(10)];
  const choice = random(1000);
  if (choice < 400) pair.call({ name: 'read', args: [offset, width] });
  else if (choice < 750) {
    const value = random(8) ? random(256) : nasty(random);
    // Of 128 places behind the index, the clock has the first ones.
    const clock = pair.kind === abi.KIND_RTC && offset % 2 === 0;
    const [at, what] = clock ? [0, random(random(2) ? 16 : 128)] : [offset, value];
    pair.call({ name: 'write', args: [at, width, what] });
  } else if (choice < 850) {
    const bytes = Uint8Array.from({ length: random(24) }, () => random(256));
    pair.call({ name: 'input', args: [bytes] });
  } else if (choice < 900) {
    const time = new DataView(new ArrayBuffer(8));
    const beyond = random(4) ? random(60) : nasty(random);
    time.setBigUint64(0, BigInt(nasty(random)) | (BigInt(beyond) << 32n), true);
    pair.call({ name: 'input', args: [new Uint8Array(time.buffer)] });
  } else if (choice < 960) pair.call({ name: 'next', args: [random(2)] });
  else if (choice < 970) pair.call({ name: 'complete', args: [nasty(random), 0, 0] });
  else if (choice < 980) pair.call({ name: 'notify', args: [random(3)] });
  else if (choice < 982) pair.call({ name: random(2) ? 'reset' : 'fail', args: [] });
  else if (choice < 984) pair.useCopy();
}

for (const [name, kind, effects] of PORT_DEVICES) {
  test(`core and reference agree on the ${name}`, () => {
    const pair = new Pair(name, kind, new Uint8Array(0), SEED + kind);
    while (pair.calls < PORT_CALLS) actOnPorts(pair);
    const wanted = effects | abi.EFFECT_INCIDENT;
    assert.is(pair.seen & wanted, wanted, 'the calls reach what there is to reach');
  });
}

test('tags go round at the same request', () => {
  const rounds = abi.TAG_GENERATION_MASK + 100;
  const config = encodeRngConfig({ queueSize: 1 });
  const { pair, driver } = sessionOf('tags', abi.KIND_VIRTIO_RNG, config, GAME, 1);
  const queue = driver.bringUp({ queueSize: 1 });
  queue.setDescriptor(0, { address: DATA, length: 8, write: true }, 0, 0);
  const generations = new Set<number>();
  for (let round = 0; round < rounds; round += 1) {
    queue.offer(0);
    pair.call({ name: 'notify', args: [0] });
    const { tag } = parseRecord(pair.cage.record());
    generations.add(tag >>> abi.TAG_GENERATION_SHIFT);
    pair.call({ name: 'complete', args: [tag, abi.RESULT_OK, 8] });
  }
  assert.is(generations.size, abi.TAG_GENERATION_MASK + 1);
});

test('the reference runs without Node and takes nothing but numbers from the core', () => {
  const folder = join(import.meta.dirname, '../testing');
  const files = readdirSync(folder).filter((name) => name.startsWith('reference'));
  assert.ok(files.length > 5, `${files}`);
  const imports = files.flatMap((name) =>
    [...readFileSync(join(folder, name), 'utf8').matchAll(/from '([^']+)'/g)].map((m) => m[1]),
  );
  const foreign = imports.filter((from) => !from.startsWith('./reference'));
  assert.equal([...new Set(foreign)], ['../assembly/abi.ts']);
});

test('there is no reference of a kind that the core does not have', () => {
  assert.throws(() => new ReferenceDevice(99, new Uint8Array(0), new Uint8Array(0)), RangeError);
});

test.run();
