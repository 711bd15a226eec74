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
import type { Cage } from '../host/core.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { INCIDENT_NAMES } from '../host/incident-names.ts';
import { type Driver, REG, RUNNING } from '../testing/driver.ts';
import { type DriverQueue, guestMemory } from '../testing/queue.ts';
import { type Random, randomFrom } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { blkDevice, CAPACITY_SECTORS, rngDevice } from './fixtures.ts';
import { nasty, nastyAddress, offerNearlyRight, RAM_BYTES, spoilRings } from './hostile.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const RUNS = 300;
const ACTIONS = 600;
const ACCESSES_PER_CALL_MAX = 200_000; // a queue of chains, each of as many descriptors

interface Session {
  cage: Cage;
  memory: GuestMemory;
  driver: Driver;
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
