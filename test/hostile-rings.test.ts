// A hostile driver: random registers, rings and descriptors against the release core. Whatever it
// does, no call traps, spins or touches memory outside the guest's, and the state stays valid. The
// seed is printed when a run fails; SEED=n in the environment repeats it.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_MORE,
  EFFECT_REQUEST,
  RANGE_COUNT_MAX,
  REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT,
  VALID,
} from '../assembly/abi.ts';
import { type Cage, INCIDENT_NAMES } from '../host/core.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import {
  BLK_T_IN,
  blkHeader,
  DATA,
  type DriverQueue,
  guestMemory,
  parseRecord,
  REG,
  RUNNING,
  type VirtioDriver,
} from './driver.ts';
import { blkDevice, CAPACITY_SECTORS, rngDevice } from './fixtures.ts';
import { type Random, randomFrom } from './random.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const RUNS = 300;
const ACTIONS = 600;
const RAM_BYTES = 0x80000;
const ACCESSES_PER_CALL_MAX = 200_000; // a queue of chains, each of as many descriptors

/** Numbers at which checks go wrong, as often as any others. */
function nasty(random: Random): number {
  const edges = [0, 1, 15, 16, 17, 255, 256, 511, 512, 0xfff, 0x10000, RAM_BYTES - 1, RAM_BYTES];
  const high = [0x7fffffff, 0x80000000, 0xc0000000, 0xfffffff0, 0xfffffffe, 0xffffffff];
  const all = [...edges, ...high];
  return random(3) === 0 ? random(2 ** 32 - 1) : all[random(all.length)];
}

function nastyAddress(random: Random): bigint {
  const low = random(2) ? BigInt(random(RAM_BYTES)) : BigInt(nasty(random));
  return random(8) ? low : low | (BigInt(nasty(random)) << 32n);
}

/** Spoils one thing in the rings, or sets up something half sensible. */
function spoilRings(random: Random, queue: DriverQueue): void {
  const table = random(3) ? queue.descTable : DATA + 0x8000;
  const buffer = {
    address: random(3) ? DATA + random(0x8000) : nastyAddress(random),
    length: random(3) ? 16 * random(64) : nasty(random),
    write: random(2) === 0,
  };
  const flags = random(4) ? random(2) : random(8);
  const next = random(8) ? random(queue.size) : random(0x10000);
  queue.setDescriptor(random(queue.size), buffer, flags, next, table);
  if (random(60) === 0) queue.setAvailIndex(random(0x10000));
  if (random(12) === 0) queue.offer(random(16) ? random(queue.size) : random(0x10000));
  if (random(16) === 0) queue.setUsedEvent(random(0x10000));
}

/** Offers a request that is nearly right, so that the deep paths are reached too. */
function offerNearlyRight(random: Random, memory: GuestMemory, queue: DriverQueue): void {
  const type = random(8) ? random(2) : random(4) ? random(15) : nasty(random);
  const sector = random(8) ? BigInt(random(CAPACITY_SECTORS + 2)) : nastyAddress(random);
  const header = blkHeader(memory, DATA, type, sector);
  const write = (type === BLK_T_IN) === random(8) > 0;
  const length = random(8) ? 512 * (1 + random(8)) : random(80);
  const data = { address: DATA + 0x1000, length, write };
  const status = { address: DATA + 0x800, length: random(8) ? 1 : random(3), write: true };
  const chain = [header, data, status].slice(random(8) ? 0 : 1);
  const head = random(2)
    ? queue.chain(chain)
    : queue.indirectChain(chain, DATA + 0x9000 + random(2));
  queue.offer(head);
}

interface Session {
  cage: Cage;
  memory: GuestMemory;
  driver: VirtioDriver;
  queues: DriverQueue[];
  inFlight: number[];
  accesses: number;
  requests: number;
}

/** Checks what the host can rely on, and keeps the request for a later completion. */
function takeRequest(session: Session): void {
  const request = parseRecord(session.cage.record());
  session.requests += 1;
  assert.ok(request.ranges.length <= RANGE_COUNT_MAX);
  assert.not.ok(session.inFlight.includes(request.tag), 'a tag is in flight once');
  const sum = request.ranges.reduce((total, range) => total + BigInt(range.length), 0n);
  if (request.ranges.length) assert.is(request.length, sum);
  if (request.kind === REQUEST_KIND_BLK_IN || request.kind === REQUEST_KIND_BLK_OUT) {
    assert.ok(request.offset + request.length <= BigInt(CAPACITY_SECTORS * 512));
    assert.ok(request.length > 0n && request.length % 512n === 0n);
  }
  session.inFlight.push(request.tag);
}

/** One call into the cage and all that must hold after it. */
function call(session: Session, run: () => number): void {
  session.accesses = 0;
  const effects = run();
  assert.ok(session.accesses < ACCESSES_PER_CALL_MAX, `${session.accesses} accesses in one call`);
  if (effects & EFFECT_REQUEST) takeRequest(session);
  if (effects & EFFECT_REQUEST) assert.is(effects & EFFECT_MORE, EFFECT_MORE);
}

function act(random: Random, session: Session): void {
  const { cage, driver, memory, queues } = session;
  const queue = queues[random(queues.length)];
  const choice = random(100);
  if (choice < 30) spoilRings(random, queue);
  else if (choice < 50) offerNearlyRight(random, memory, queue);
  else if (choice < 62) call(session, () => cage.notify(random(16) ? queue.index : nasty(random)));
  else if (choice < 78) call(session, () => cage.next(queue.index));
  else if (choice < 90) {
    const known = session.inFlight.length && random(8);
    const [tag] = known
      ? session.inFlight.splice(random(session.inFlight.length), 1)
      : [nasty(random)];
    call(session, () => cage.complete(tag, random(5), nasty(random)));
  } else if (choice < 94) {
    const width = [1, 2, 4, 8, 3, 0][random(6)];
    call(session, () => cage.read(random(2) ? random(0x200) : nasty(random), width));
  } else if (choice < 97) {
    const registers = Object.values(REG);
    const offset = registers[random(registers.length)];
    call(session, () => driver.set(offset, nasty(random)));
  } else if (choice < 98) {
    call(session, () => driver.set(REG.Status, random(256)));
  } else {
    bringUp(random, session);
  }
  // A device that stopped is of little interest for long.
  const stopped = driver.get(REG.Status) !== RUNNING;
  if (stopped && random(6) === 0) bringUp(random, session);
}

function bringUp(random: Random, session: Session): void {
  session.inFlight = [];
  const features = [undefined, undefined, undefined, 0n, 0n, nastyAddress(random)][random(6)];
  session.driver.bringUp({ queueCount: session.queues.length, features });
  session.queues = session.driver.queues;
}

function hostileRun(seed: number, seen: Set<string>): number {
  const random = randomFrom(seed);
  const memory = guestMemory(RAM_BYTES);
  const device = random(4) ? blkDevice({ queueCount: 2 }, memory) : rngDevice(16, memory);
  const { cage, driver } = device;
  driver.bringUp({ queueCount: driver.get(REG.DeviceID) === 2 ? 2 : 1 });
  const session: Session = {
    ...{ cage, memory, driver, queues: driver.queues },
    ...{ inFlight: [], accesses: 0, requests: 0 },
  };
  memory.observer = (kind, address, length, allowed) => {
    session.accesses += 1;
    if (allowed && kind !== 'fence') assert.ok(address >= 0 && address + length <= RAM_BYTES);
  };
  for (let action = 0; action < ACTIONS; action += 1) act(random, session);
  assert.is(cage.check(), VALID);
  for (const [name, count] of Object.entries(cage.counters())) if (count) seen.add(name);
  return session.requests;
}

test('hostile rings never trap, never leave guest memory and never spoil the state', () => {
  const seen = new Set<string>();
  let requests = 0;
  for (let run = 0; run < RUNS; run += 1) {
    try {
      requests += hostileRun(SEED + run, seen);
    } catch (error) {
      console.error(`repeat with SEED=${SEED + run}`);
      throw error;
    }
  }
  // The driver is good enough to reach everything that is there to spoil.
  assert.ok(requests > 10 * RUNS, `only ${requests} requests got through`);
  const missed = INCIDENT_NAMES.filter((name) => name !== 'overrun' && !seen.has(name));
  assert.equal(missed, []);
});

test('hostile states are refused or run without a trap', () => {
  const random = randomFrom(SEED);
  const { cage, driver, memory } = blkDevice({}, guestMemory(RAM_BYTES));
  const queue = driver.bringUp();
  offerNearlyRight(random, memory, queue);
  cage.notify(0);
  const state = cage.stateBytes();
  let accepted = 0;
  for (let round = 0; round < 3000; round += 1) {
    const spoilt = state.slice();
    // Where something is: counters to transport, queue slots, first heads in flight.
    const from = [0, 0x400, 0x1000][random(3)];
    for (let count = random(3); count >= 0; count -= 1) spoilt[from + random(0x200)] = random(256);
    if (cage.restore(spoilt) !== VALID) continue;
    accepted += 1;
    cage.notify(0);
    cage.next(0);
    cage.complete(random(16), 0, 512);
    cage.read(REG.Config, 4);
    driver.set(REG.Status, 0);
    assert.is(cage.check(), VALID);
  }
  assert.ok(accepted > 0 && accepted < 3000, `${accepted} accepted`);
});

test.run();
