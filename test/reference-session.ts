// Drivers and hosts that are right, nearly right and hostile, for any virtio device: they drive the
// core and its reference.
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { Driver, F_EVENT_IDX, F_INDIRECT_DESC, REG, RUNNING } from '../testing/driver.ts';
import { DATA, type GuestBuffer as DriverBuffer, type DriverQueue } from '../testing/queue.ts';
import type { Random } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { nasty, nastyAddress, offerNearlyRight, RAM_BYTES, spoilRings } from './hostile.ts';
import { type Call, Pair, SEED } from './reference-pair.ts';

const VIRTIO_CALLS = 50_000; // for each configuration
const INCIDENTS = Object.entries(abi).filter(([name]) => name.startsWith('INCIDENT_'));

/** What differs from one kind of device to another. */
export interface Game {
  /** Features to accept, of those that are offered or not. */
  features(random: Random, offered: bigint): bigint;
  /** Puts something on a queue: mostly right, sometimes nearly so. */
  offer(session: Session, queue: DriverQueue): void;
  /** What a driver and a host without faults do: some requests, all served and completed. */
  round(session: Session, queue: DriverQueue): void;
  /** What happens to the device from its host's side. */
  input(random: Random): Uint8Array;
}

export interface Session {
  pair: Pair;
  driver: Driver;
  queueCount: number;
  queueSizeMax: number;
  queues: DriverQueue[];
  tags: number[]; // of requests in flight, and stale ones
  requests: number;
  features: bigint; // as the driver last asked for them
  game: Game;
}

/** The driver's way to a running device; now and then with rings in bad places. */
function bringUp(session: Session): void {
  const { pair, driver } = session;
  const { random } = pair;
  const features = session.game.features(random, driver.offeredFeatures());
  session.features = features;
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
export function reframe(random: Random, buffers: DriverBuffer[]): DriverBuffer[] {
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
export function offerChain({ pair }: Session, queue: DriverQueue, chain: DriverBuffer[]): void {
  const { random, twin } = pair;
  const indirect = random(3) === 0 || chain.length > queue.size;
  const head = indirect ? queue.indirectChain(chain, DATA + 0xa000) : queue.chain(chain);
  const last = 2n ** 64n - BigInt(random(64));
  if (indirect && random(24) === 0) {
    twin.view.setBigUint64(queue.descTable + 16 * head, nastyAddress(random), true);
  } else if (random(48) === 0) twin.view.setBigUint64(queue.descTable + 16 * head, last, true);
  queue.offer(head);
}

/** A call that may hand out a request, whose tag is kept. */
export function drive(session: Session, call: Call): void {
  const { pair } = session;
  if (!(pair.call(call) & abi.EFFECT_REQUEST)) return;
  session.requests += 1;
  session.tags.push(parseRecord(pair.cage.record()).tag);
}

export function complete({ pair, tags }: Session): void {
  const { random } = pair;
  if (tags.length > 40) tags.splice(0, 20);
  const known = tags.length > 0 && random(8) > 0;
  const at = random(tags.length || 1);
  const tag = known ? tags[at] : nasty(random);
  if (known && random(8)) tags.splice(at, 1);
  pair.call({ name: 'complete', args: [tag, random(5), random(2) ? 512 : nasty(random)] });
}

/** A round of requests that may be completed in any order. */
export function politeRound(session: Session, queue: DriverQueue): void {
  const { pair, tags, game } = session;
  const { random } = pair;
  const before = tags.length;
  for (let count = random(Math.min(3, queue.size)); count >= 0; count -= 1) {
    game.offer(session, queue);
  }
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
  const { pair, queues, game } = session;
  const { random } = pair;
  const queue = queues[random(queues.length)];
  const choice = random(1000);
  if (choice < 30) spoilRings(random, queue);
  else if (choice < 90) offerNearlyRight(random, pair.twin, queue);
  else if (choice < 150) game.offer(session, queue);
  else if (choice < 460) game.round(session, queue);
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
  else if (choice < 985) pair.call({ name: 'input', args: [game.input(random)] });
  // A device that stopped is of little interest for long.
  const stopped = pair.cage.read(REG.Status, 4) === 0 && pair.cage.value() !== RUNNING;
  if (choice > 995 || (stopped && random(2) === 0)) bringUp(session);
}

export function sessionOf(
  name: string,
  kind: number,
  config: Uint8Array,
  game: Game,
  queueCount: number,
): Session {
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
  const counts = { queueCount, queueSizeMax, requests: 0 };
  return { pair, driver, ...counts, queues: [], tags: [], features: 0n, game };
}

/** Calls a device of each in many ways and compares all the while. */
export function runVirtio(...what: Parameters<typeof sessionOf>): Session {
  const session = sessionOf(...what);
  bringUp(session);
  while (session.pair.calls < VIRTIO_CALLS) act(session);
  session.pair.look(`SEED=${SEED} ${what[0]}, at the end`);
  return session;
}

/** Everything there is to reach was reached; a driver that gets nowhere would show nothing. */
export function reached({ pair, requests }: Session, kinds: number[], mayBeQuiet = ''): void {
  const wanted = abi.EFFECT_REQUEST | abi.EFFECT_MORE | abi.EFFECT_IRQ | abi.EFFECT_CANCEL;
  assert.is(pair.seen & wanted, wanted);
  assert.ok(requests > VIRTIO_CALLS / 200, `only ${requests} requests`);
  assert.equal([...pair.kinds].sort(), kinds);
  const quiet = INCIDENTS.filter(
    ([name, index]) => name !== mayBeQuiet && !pair.reference.counters[index as number],
  );
  assert.equal(
    quiet.map(([name]) => name),
    ['INCIDENT_OVERRUN'],
  );
}
