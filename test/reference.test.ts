// The core against the reference devices (testing/reference.ts): the same calls on both, from
// drivers that are right, nearly right and hostile, must give the same effects, values, records,
// guest RAM and counters. The seed is printed when a run fails; SEED=n in the environment repeats
// it.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { encodeBlkConfig, encodeRngConfig } from '../host/device-config.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import { blkHeader, blkSegment, blkStatus } from '../testing/block.ts';
import { Driver, F_EVENT_IDX, F_INDIRECT_DESC, REG, RUNNING } from '../testing/driver.ts';
import { DATA, type GuestBuffer as DriverBuffer, type DriverQueue } from '../testing/queue.ts';
import { type Random, randomFrom } from '../testing/random.ts';
import { type ReferenceAnswer, ReferenceDevice } from '../testing/reference.ts';
import { parseRecord } from '../testing/requests.ts';
import { CAPACITY_SECTORS } from './fixtures.ts';
import {
  nasty,
  nastyAddress,
  offerNearlyRight,
  PORT_DEVICES,
  RAM_BYTES,
  spoilRings,
} from './hostile.ts';
import { TwinView } from './twin-view.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const VIRTIO_CALLS = 50_000; // for each configuration
const PORT_CALLS = 50_000; // for each kind
const LOOK_EVERY = 32; // calls between two looks at all of RAM and the registers
const INCIDENTS = Object.entries(abi).filter(([name]) => name.startsWith('INCIDENT_'));

/** Registers whose reading changes nothing, and the whole configuration space byte by byte. */
const VISIBLE: [offset: number, width: number][] = [
  ...[REG.DeviceFeatures, REG.QueueNumMax, REG.QueueReady].map((at): [number, number] => [at, 4]),
  ...[REG.InterruptStatus, REG.Status].map((at): [number, number] => [at, 4]),
  [REG.ConfigGeneration, 4],
  ...Array.from({ length: 61 }, (_, at): [number, number] => [REG.Config + at, 1]),
];

type Call =
  | { name: 'read'; args: [offset: number, width: number] }
  | { name: 'write'; args: [offset: number, width: number, value: number] }
  | { name: 'notify' | 'next'; args: [queue: number] }
  | { name: 'complete'; args: [tag: number, result: number, bytes: number] }
  | { name: 'input'; args: [bytes: Uint8Array] }
  | { name: 'reset' | 'fail'; args: [] };

type Callable = Record<string, (...args: unknown[]) => unknown>;

/** One device as the core has it and as the reference has it, with the same RAM twice. */
class Pair {
  readonly random: Random;
  readonly cage: Cage;
  reference: ReferenceDevice;
  twin: GuestMemory; // for the driver only: writes to both
  calls = 0;
  seen = 0; // effects
  lastEffects = 0;
  readonly kinds = new Set<number>(); // of the requests
  readonly kind: number;
  private readonly name: string;
  private readonly ram = new ArrayBuffer(RAM_BYTES);

  constructor(name: string, kind: number, config: Uint8Array, seed: number) {
    this.name = name;
    this.kind = kind;
    this.random = randomFrom(seed);
    this.cage = new Cage(kind, new GuestMemory(this.ram), config);
    this.reference = new ReferenceDevice(kind, config, new Uint8Array(RAM_BYTES));
    this.twin = this.#twin();
  }

  /** Makes one call on both, compares what it left behind, and returns its effects. */
  call(call: Call): number {
    this.calls += 1;
    const where = `SEED=${SEED} ${this.name}, call ${this.calls}: ${call.name}(${call.args})`;
    const effects = (this.cage as unknown as Callable)[call.name](...call.args) as number;
    const other = this.reference as unknown as Callable;
    const answer = other[call.name](...call.args) as ReferenceAnswer;
    if (answer.effects !== effects) assert.is(answer.effects, effects, `${where}: effects`);
    const valued = abi.EFFECT_CANCEL | abi.EFFECT_MARKER | abi.EFFECT_PANIC;
    if (call.name === 'read' || call.name === 'input' || effects & valued) {
      const value = Number(this.cage.value64());
      if (answer.value !== value) assert.is(answer.value, value, `${where}: value`);
    } else if (answer.value !== undefined) assert.unreachable(`${where}: a value is left`);
    this.#compareRecords(answer, where);
    if (effects & abi.EFFECT_INCIDENT) this.#compareCounters(where);
    this.seen |= effects;
    this.lastEffects = effects;
    if (this.calls % LOOK_EVERY === 0) this.look(where);
    return effects;
  }

  /** Compares all of RAM, and what a driver can read of a virtio device. */
  look(where: string): void {
    const same = Buffer.from(this.ram).equals(this.reference.ram);
    if (!same) assert.unreachable(`${where}, or one of the ${LOOK_EVERY} before it: guest RAM`);
    this.#compareCounters(where);
    if (this.kind < abi.KIND_VIRTIO_BLK) return;
    for (const [offset, width] of VISIBLE) {
      this.cage.read(offset, width);
      const { value } = this.reference.read(offset, width);
      if (value !== this.cage.value()) {
        assert.is(value, this.cage.value(), `${where}: register ${offset}`);
      }
    }
  }

  /** Goes on with a copy of the reference: nothing may get lost on the way. */
  useCopy(): void {
    const stale = this.reference;
    this.reference = stale.clone();
    stale.reset();
    stale.ram.fill(0xee);
    this.twin = this.#twin();
  }

  #twin(): GuestMemory {
    const view = new TwinView(this.ram, this.reference.ram.buffer as ArrayBuffer);
    return { view } as unknown as GuestMemory;
  }

  #compareRecords(answer: ReferenceAnswer, where: string): void {
    const asked = (answer.effects & abi.EFFECT_REQUEST) !== 0;
    if (asked !== (answer.record !== undefined)) assert.unreachable(`${where}: record or effect`);
    if (!asked) return;
    const record = parseRecord(this.cage.record());
    this.kinds.add(record.kind);
    const inline = record.kind === abi.REQUEST_KIND_CONSOLE_OUT;
    const bytes = inline ? record.bytes : new Uint8Array(0);
    assert.equal(answer.record, { ...record, bytes }, `${where}: record`);
  }

  #compareCounters(where: string): void {
    const counters = Object.values(this.cage.counters());
    const other = this.reference.counters.slice(0, counters.length);
    if (String(other) !== String(counters)) assert.equal(other, counters, `${where}: counters`);
  }
}

// --- Virtio devices -----------------------------------------------------------------------------

interface Session {
  pair: Pair;
  driver: Driver;
  queueCount: number;
  queueSizeMax: number;
  queues: DriverQueue[];
  tags: number[]; // of requests in flight, and stale ones
  requests: number;
}

/** The driver's way to a running device; now and then with rings in bad places. */
function bringUp(session: Session): void {
  const { pair, driver } = session;
  const { random } = pair;
  const plain = BigInt(random(4)) << 28n; // with and without indirect tables and event index
  const someBits = BigInt(random(2 ** 15)) | plain;
  const offered = driver.offeredFeatures();
  const features = [offered, offered, plain, someBits & offered, nastyAddress(random)][random(5)];
  const queueSize = Math.min(1 << random(7), session.queueSizeMax);
  driver.bringUp({ queueSize, queueCount: 1 + random(session.queueCount), features });
  session.queues = driver.queues;
  if (random(4) === 0) session.tags = [];
  if (random(8) === 0) misplaceRing(session);
}

/** Brings up again by hand with one part of a queue at the end of RAM, or past it. */
function misplaceRing({ pair, driver, queues }: Session): void {
  const { random } = pair;
  const queue = queues[random(queues.length)];
  if (!queue) return;
  driver.negotiate(random(2) ? F_EVENT_IDX : F_INDIRECT_DESC);
  const parts = ['descTable', 'availRing', 'usedRing'] as const;
  const part = parts[random(3)];
  const before = queue[part];
  queue[part] = RAM_BYTES - 4 * random(40);
  if (part === 'availRing' && queue.availRing < RAM_BYTES) {
    pair.twin.view.setUint32(queue.availRing, 0x10000, true); // one head, which lies beyond
  }
  driver.configureQueue(queue);
  if (random(4) === 0) driver.set(REG.QueueDeviceHigh, nasty(random));
  driver.set(REG.QueueReady, 1);
  driver.addStatus(RUNNING);
  queue[part] = before; // the driver itself goes on writing where there is RAM
}

/** Cuts a buffer in two, or leaves an empty one beside it: framing must not matter. */
function reframe(random: Random, buffers: DriverBuffer[]): DriverBuffer[] {
  return buffers.flatMap((buffer) => {
    if (random(4)) return [buffer];
    const first = random(buffer.length + 1);
    const rest = { ...buffer, address: Number(buffer.address) + first };
    return [
      { ...buffer, length: first },
      { ...rest, length: buffer.length - first },
    ];
  });
}

/** Offers a chain, in a table of its own at times; rarely one that leaves RAM or all addresses. */
function offerChain({ pair }: Session, queue: DriverQueue, chain: DriverBuffer[]): void {
  const { random, twin } = pair;
  const indirect = random(3) === 0 || chain.length > queue.size;
  const head = indirect ? queue.indirectChain(chain, DATA + 0xa000) : queue.chain(chain);
  const last = 2n ** 64n - BigInt(random(64));
  if (indirect && random(24) === 0) {
    twin.view.setBigUint64(queue.descTable + 16 * head, nastyAddress(random), true);
  } else if (random(48) === 0) twin.view.setBigUint64(queue.descTable + 16 * head, last, true);
  queue.offer(head);
}

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

/** A call that may hand out a request, whose tag is kept. */
function drive(session: Session, call: Call): void {
  const { pair } = session;
  if (!(pair.call(call) & abi.EFFECT_REQUEST)) return;
  session.requests += 1;
  session.tags.push(parseRecord(pair.cage.record()).tag);
}

function complete({ pair, tags }: Session): void {
  const { random } = pair;
  if (tags.length > 40) tags.splice(0, 20);
  const known = tags.length > 0 && random(8) > 0;
  const at = random(tags.length || 1);
  const tag = known ? tags[at] : nasty(random);
  if (known && random(8)) tags.splice(at, 1);
  pair.call({ name: 'complete', args: [tag, random(5), random(2) ? 512 : nasty(random)] });
}

/** What a driver and a host without faults do: some requests, all served and completed. */
function politeRound(session: Session, queue: DriverQueue): void {
  const { pair, tags } = session;
  const { random } = pair;
  const before = tags.length;
  for (let count = random(Math.min(3, queue.size)); count >= 0; count -= 1) offer(session, queue);
  drive(session, { name: 'notify', args: [queue.index] });
  while (pair.lastEffects & abi.EFFECT_MORE) drive(session, { name: 'next', args: [queue.index] });
  while (tags.length > before) {
    const at = before + random(tags.length - before);
    const [tag] = tags.splice(at, 1);
    pair.call({ name: 'complete', args: [tag, random(4) ? 0 : random(5), 512 * random(4)] });
  }
}

function touchRegister({ pair }: Session): void {
  const { random } = pair;
  const registers = Object.values(REG);
  const named = random(3) ? registers[random(registers.length)] : REG.Config + random(64);
  const offset = random(10) ? named : nasty(random);
  const width = random(4) ? (offset < REG.Config ? 4 : 1 << random(3)) : random(10);
  if (random(2)) {
    pair.call({ name: 'read', args: [offset, width] });
    return;
  }
  const value = random(3) ? random(16) : nasty(random);
  pair.call({ name: 'write', args: [offset, width, value] });
}

/** The write cache mode, a queue stopped, a status out of turn: what changes a device's course. */
function interfere({ pair, queueCount }: Session): void {
  const { random } = pair;
  const set = (offset: number, value: number, width = 4) =>
    pair.call({ name: 'write', args: [offset, width, value] });
  const choice = random(8);
  if (choice < 4) set(REG.Config + 32, random(8) ? random(2) : nasty(random), 1);
  else if (choice === 4) {
    set(REG.QueueSel, random(queueCount + 1));
    set(REG.QueueReady, random(8) ? 0 : random(3));
  } else if (choice === 5) set(REG.Status, random(4) ? random(256) : nasty(random));
  else if (choice === 6) pair.call({ name: random(2) ? 'fail' : 'reset', args: [] });
  else set(REG.DriverFeatures, nasty(random));
}

/** Takes the steps of a bring-up one by one, each of them right or wrong. */
function stumble({ pair, queueSizeMax }: Session): void {
  const { random } = pair;
  const set = (offset: number, value: number) =>
    pair.call({ name: 'write', args: [offset, 4, value] });
  const maybe = (run: () => void) => random(10) && run();
  for (const status of [0, 1, 3]) maybe(() => set(REG.Status, status));
  maybe(() => set(REG.DriverFeaturesSel, random(3)));
  maybe(() => set(REG.DriverFeatures, random(4) ? 2 ** 28 * random(4) : nasty(random)));
  maybe(() => set(REG.DriverFeaturesSel, 1));
  maybe(() => set(REG.DriverFeatures, 1));
  if (random(6) === 0) pair.call({ name: 'fail', args: [] });
  maybe(() => set(REG.Status, 11));
  maybe(() => set(REG.QueueSel, random(3)));
  const size = random(2) ? queueSizeMax : random(300);
  maybe(() => set(REG.QueueNum, size));
  const parts = [
    { low: REG.QueueDescLow, bytes: 16 * size },
    { low: REG.QueueDriverLow, bytes: 6 + 2 * size },
    { low: REG.QueueDeviceLow, bytes: 6 + 8 * size },
  ];
  for (const { low, bytes } of parts) {
    maybe(() => set(low, random(3) ? 16 * random(RAM_BYTES / 16) : nasty(random)));
    if (random(6) === 0) {
      set(low, 2 ** 32 - bytes - 2 * random(3)); // to the very end of all addresses, or nearly
      set(low + 4, 0xffffffff);
    } else if (random(5) === 0) set(low + 4, nasty(random));
  }
  maybe(() => set(REG.QueueReady, random(8) ? 1 : random(3)));
  maybe(() => set(REG.Status, 15));
}

function act(session: Session): void {
  const { pair, queues } = session;
  const { random } = pair;
  const queue = queues[random(queues.length)];
  const choice = random(1000);
  if (choice < 30) spoilRings(random, queue);
  else if (choice < 90) offerNearlyRight(random, pair.twin, queue);
  else if (choice < 150) offer(session, queue);
  else if (choice < 460) politeRound(session, queue);
  else if (choice < 560) drive(session, { name: 'notify', args: [queue.index] });
  else if (choice < 720) drive(session, { name: 'next', args: [queue.index] });
  else if (choice < 860) complete(session);
  else if (choice < 930) touchRegister(session);
  else if (choice < 950) interfere(session);
  else if (choice < 970) stumble(session);
  else if (choice < 973) pair.useCopy();
  else if (choice < 975) drive(session, { name: 'notify', args: [nasty(random)] });
  else if (choice < 977) drive(session, { name: 'next', args: [nasty(random)] });
  else if (choice < 979) pair.call({ name: 'input', args: [new Uint8Array(random(9))] });
  // A device that stopped is of little interest for long.
  const stopped = pair.cage.read(REG.Status, 4) === 0 && pair.cage.value() !== RUNNING;
  if (choice > 995 || (stopped && random(2) === 0)) bringUp(session);
}

function sessionOf(name: string, kind: number, config: Uint8Array): Session {
  const pair = new Pair(name, kind, config, SEED + config.reduce((sum, byte) => sum + byte, kind));
  const cage = {
    read: (offset: number, width: number) => pair.call({ name: 'read', args: [offset, width] }),
    write: (offset: number, width: number, value: number) =>
      pair.call({ name: 'write', args: [offset, width, value] }),
    value: () => pair.cage.value(),
  };
  const memory = {
    get view() {
      return pair.twin.view;
    },
  };
  const driver = new Driver(cage as unknown as Cage, memory as unknown as GuestMemory);
  driver.set(REG.QueueSel, 0);
  const queueSizeMax = driver.get(REG.QueueNumMax);
  const queueCount = kind === abi.KIND_VIRTIO_BLK ? config[abi.BLK_CONFIG_QUEUE_COUNT] : 1;
  return { pair, driver, queueCount, queueSizeMax, queues: [], tags: [], requests: 0 };
}

function runVirtio(name: string, kind: number, config: Uint8Array): Session {
  const session = sessionOf(name, kind, config);
  bringUp(session);
  while (session.pair.calls < VIRTIO_CALLS) act(session);
  session.pair.look(`SEED=${SEED} ${name}, at the end`);
  return session;
}

/** Everything there is to reach was reached; a driver that gets nowhere would show nothing. */
function reached({ pair, requests }: Session, kinds: number[]): void {
  const wanted = abi.EFFECT_REQUEST | abi.EFFECT_MORE | abi.EFFECT_IRQ | abi.EFFECT_CANCEL;
  assert.is(pair.seen & wanted, wanted);
  assert.ok(requests > VIRTIO_CALLS / 200, `only ${requests} requests`);
  assert.equal([...pair.kinds].sort(), kinds);
  const quiet = INCIDENTS.filter(([, index]) => !pair.reference.counters[index as number]);
  assert.equal(
    quiet.map(([name]) => name),
    ['INCIDENT_OVERRUN'],
  );
}

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
    reached(runVirtio(name, abi.KIND_VIRTIO_BLK, encodeBlkConfig(config)), kinds);
  });
}

for (const queueSize of [1, 8, 64, 256]) {
  test(`core and reference agree on an entropy device of ${queueSize} descriptors`, () => {
    const config = encodeRngConfig({ queueSize });
    const session = runVirtio(`entropy device ${queueSize}`, abi.KIND_VIRTIO_RNG, config);
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
  const { pair, driver } = sessionOf('tags', abi.KIND_VIRTIO_RNG, config);
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
