// The same device in V8 and as native code, side by side: hostile registers, rings, completions and
// states must give the same answers, the same accesses to guest memory byte for byte, and the same
// state. The seed is printed when a run fails; SEED=n in the environment repeats it.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { AccessLog } from '../host/access-log.ts';
import { Cage } from '../host/core.ts';
import { encodeBlkConfig, encodeRngConfig } from '../host/device-config.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import * as native from '../host/shim.ts';
import { Driver, REG } from '../testing/driver.ts';
import type { DriverQueue } from '../testing/queue.ts';
import { type Random, randomFrom } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { CAPACITY_SECTORS } from './fixtures.ts';
import { nasty, offerNearlyRight, PORT_DEVICES, spoilRings } from './hostile.ts';
import { overrun, spin } from './traps.ts';
import { TwinView } from './twin-view.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const OPERATIONS = 200_000; // calls into each engine, for each kind
const LOOK_EVERY = 64; // operations between two looks at all of state and RAM
const RAM_BYTES = 0x100000;
const LOG_BYTES = 64 * 2 ** 20; // a trap by the step budget comes after 32 MiB of accesses
const TRAP = -1;

/** One device, twice. */
class Pair {
  readonly random: Random;
  readonly v8: Cage;
  readonly native: Cage;
  readonly ram: [Buffer, Buffer];
  readonly twin: GuestMemory; // for the driver only
  seen = 0; // effects
  traps = 0;
  refusedStates = 0;
  operations = 0;
  private readonly kind: number;
  private readonly memory: native.GuestMemory;
  private readonly log = new AccessLog();
  private readonly v8Memory = new GuestMemory(new ArrayBuffer(RAM_BYTES));

  constructor(kind: number, config: Uint8Array) {
    this.kind = kind;
    this.random = randomFrom(SEED + kind);
    this.memory = native.shim().createMemory(RAM_BYTES);
    this.v8Memory.log = this.log;
    this.v8 = new Cage(kind, this.v8Memory, config);
    this.native = new Cage(kind, this.memory, config);
    this.native.native?.logAccesses(LOG_BYTES);
    const buffers: [ArrayBuffer, ArrayBuffer] = [
      this.v8Memory.view.buffer as ArrayBuffer,
      this.memory.memory,
    ];
    this.ram = [Buffer.from(buffers[0]), Buffer.from(buffers[1])];
    this.twin = { view: new TwinView(...buffers) } as unknown as GuestMemory;
  }

  /** Makes one call in both engines; returns its effects after comparing everything of it. */
  call(name: string, run: (cage: Cage) => number): number {
    const where = `SEED=${SEED} kind ${this.kind} operation ${this.operations++}: ${name}`;
    this.log.clear();
    const [one, other] = [this.v8, this.native].map((cage) => outcome(cage, run));
    assert.is(other, one, where);
    const accesses = Buffer.from((this.native.native as native.NativeCage).takeAccesses());
    if (!accesses.equals(this.log.entries())) assert.unreachable(`${where}: accesses differ`);
    if (one === TRAP) return this.trapped(where);
    if (this.v8.value64() !== this.native.value64()) assert.unreachable(`${where}: value differs`);
    if (one & abi.EFFECT_REQUEST) this.compareRecords(where);
    this.seen |= one;
    if (this.operations % LOOK_EVERY === 0) this.compareAll(where);
    return one;
  }

  compareAll(where: string): void {
    const [one, other] = [this.v8.stateBytes(), this.native.stateBytes()];
    if (!Buffer.from(one).equals(other)) assert.unreachable(`${where}: state differs`);
    if (!this.ram[0].equals(this.ram[1])) assert.unreachable(`${where}: guest RAM differs`);
  }

  /** Has both engines check a state that is nearly right; goes back to the old one if it is not. */
  restoreSpoilt(): void {
    const good = this.v8.stateBytes();
    const bad = this.spoilt(good);
    const answer = this.call('restore', (cage) => cage.restore(bad));
    if (answer === abi.VALID) return;
    this.refusedStates++;
    this.call('restore', (cage) => cage.restore(good));
  }

  /** Runs a few calls on a state that nobody checked, which may well trap. */
  runSpoilt(act: () => void): void {
    const good = this.v8.stateBytes();
    const bad = this.spoilt(good);
    for (const cage of [this.v8, this.native]) cage.restore(bad);
    for (let count = 0; count < 8; count++) act();
    this.compareAll(`SEED=${SEED} kind ${this.kind} operation ${this.operations}: spoilt state`);
    this.call('restore', (cage) => cage.restore(good));
  }

  close(): void {
    this.compareAll(`SEED=${SEED} kind ${this.kind}: at the end`);
    this.native.close();
    this.memory.close();
  }

  private spoilt(state: Uint8Array): Uint8Array {
    const bad = state.slice();
    for (let count = 1 + this.random(4); count > 0; count--) {
      // Mostly where something is: the first two queues, or what comes before them, or anything.
      const places = [0x400 + this.random(0x60), this.random(0x400), this.random(abi.STATE_BYTES)];
      const at = places[this.random(places.length)];
      if (at >= abi.STATE_KIND - abi.STATE && at < abi.STATE_KIND - abi.STATE + 4) continue;
      bad[at] = this.random(3) ? this.random(256) : bad[at] ^ (1 << this.random(8));
    }
    return bad;
  }

  private trapped(where: string): number {
    this.traps++;
    this.compareAll(`${where} trapped`);
    for (const cage of [this.v8, this.native]) cage.restart();
    return this.call('fail', (cage) => cage.fail());
  }

  private compareRecords(where: string): void {
    const [one, other] = [this.v8, this.native].map(recordOf);
    if (!one.equals(other)) assert.unreachable(`${where}: record differs`);
  }
}

function outcome(cage: Cage, run: (cage: Cage) => number): number {
  try {
    return run(cage);
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) return TRAP;
    throw error;
  }
}

/** The record, or nothing where a spoilt state made it claim too much. */
function recordOf(cage: Cage): Buffer {
  try {
    return Buffer.from(cage.record());
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) return Buffer.from('trap');
    throw error;
  }
}

/** A call that fits no particular device: any export, any numbers. */
function anyCall(pair: Pair): void {
  const { random } = pair;
  const [a, b, c] = [nasty(random), random(9), nasty(random)];
  const calls: [string, (cage: Cage) => number][] = [
    ['read', (cage) => cage.read(a, b)],
    ['write', (cage) => cage.write(a, b, c)],
    ['notify', (cage) => cage.notify(a)],
    ['next', (cage) => cage.next(a)],
    ['complete', (cage) => cage.complete(a, b, c)],
    ['reset', (cage) => cage.reset()],
    ['fail', (cage) => cage.fail()],
    ['check', (cage) => cage.check()],
  ];
  const [name, run] = calls[random(calls.length)];
  pair.call(`${name}(${a}, ${b}, ${c})`, run);
}

// --- Port devices -------------------------------------------------------------------------------

function actOnPorts(pair: Pair): void {
  const { random } = pair;
  const [offset, width] = [random(9), random(16) ? 1 : random(9)];
  const choice = random(100);
  if (choice < 40) pair.call(`read(${offset}, ${width})`, (cage) => cage.read(offset, width));
  else if (choice < 75) {
    const value = random(8) ? random(256) : nasty(random);
    const name = `write(${offset}, ${width}, ${value})`;
    pair.call(name, (cage) => cage.write(offset, width, value));
  } else if (choice < 85) {
    const bytes = Uint8Array.from({ length: random(24) }, () => random(256));
    pair.call(`input(${bytes})`, (cage) => cage.input(bytes));
  } else if (choice < 90) {
    const seconds = random(2) ? random(2 ** 32 - 1) : 2 ** 32 * random(2 ** 20) + random(2 ** 31);
    pair.call(`inputTime(${seconds})`, (cage) => cage.inputTime(seconds));
  } else if (choice < 96) pair.call('next(0)', (cage) => cage.next(0));
  else if (choice < 98) anyCall(pair);
  else if (random(2)) pair.restoreSpoilt();
  else pair.runSpoilt(() => actOnPorts(pair));
}

for (const [name, kind, effects] of PORT_DEVICES) {
  test(`V8 and native code agree on the ${name}`, () => {
    const pair = new Pair(kind, new Uint8Array(0));
    while (pair.operations < OPERATIONS) actOnPorts(pair);
    const wanted = effects | abi.EFFECT_INCIDENT;
    assert.is(pair.seen & wanted, wanted, 'the calls reach what there is to reach');
    assert.ok(pair.refusedStates > 100, `${pair.refusedStates} states refused`);
    pair.close();
  });
}

// --- Virtio devices -----------------------------------------------------------------------------

interface Session {
  pair: Pair;
  queues: DriverQueue[];
  inFlight: number[];
  requests: number;
}

/** The driver's way from reset to DRIVER_OK, in both engines. */
function bringUp(session: Session): void {
  const { pair } = session;
  const both = {
    read: (offset: number, width: number) => pair.call('read', (cage) => cage.read(offset, width)),
    write: (offset: number, width: number, value: number) =>
      pair.call(`write(${offset}, ${width}, ${value})`, (cage) => cage.write(offset, width, value)),
    value: () => pair.v8.value(),
  };
  const driver = new Driver(both as unknown as Cage, pair.twin);
  const queueSize = 1 << (2 + pair.random(4));
  const features = pair.random(2) ? undefined : BigInt(pair.random(4)) << 28n;
  driver.bringUp({ queueSize, queueCount: 1 + pair.random(2), features });
  session.queues = driver.queues;
  session.inFlight = [];
}

/** Calls that may answer a request, whose tag is kept for a completion. */
function callQueue(session: Session, name: string, run: (cage: Cage) => number): void {
  const effects = session.pair.call(name, run);
  if (!(effects & abi.EFFECT_REQUEST)) return;
  const record = recordOf(session.pair.v8);
  if (record.length < abi.REQUEST_RANGES) return;
  session.requests++;
  session.inFlight.push(parseRecord(record).tag);
  if (session.inFlight.length > 64) session.inFlight.shift();
}

function complete({ pair, inFlight }: Session): void {
  const { random } = pair;
  const known = inFlight.length > 0 && random(8) > 0;
  const [tag] = known ? inFlight.splice(random(inFlight.length), 1) : [nasty(random)];
  const [result, bytes] = [random(5), random(2) ? 512 : nasty(random)];
  pair.call(`complete(${tag}, ${result}, ${bytes})`, (cage) => cage.complete(tag, result, bytes));
}

function touchRegister({ pair }: Session): void {
  const { random } = pair;
  const registers = Object.values(REG);
  const offset = random(8) ? registers[random(registers.length)] : nasty(random);
  const width = random(4) ? 4 : random(9);
  if (random(3)) {
    pair.call(`read(${offset}, ${width})`, (cage) => cage.read(offset, width));
    return;
  }
  const value = random(2) ? random(16) : nasty(random);
  pair.call(`write(${offset}, ${width}, ${value})`, (cage) => cage.write(offset, width, value));
}

/** Provokes one of the two ways a cage can trap, in both engines. */
function provokeTrap(session: Session): void {
  const { pair } = session;
  bringUp(session);
  const provoke = pair.random(4) ? overrun : spin;
  const state = new Uint8Array(abi.CAGE_MEMORY_BYTES);
  state.set(pair.v8.stateBytes(), abi.STATE);
  for (const ram of pair.ram) provoke(state, ram);
  for (const cage of [pair.v8, pair.native]) cage.restore(state.subarray(abi.STATE));
  const before = pair.traps;
  pair.call(provoke.name, (cage) => cage.notify(0));
  assert.is(pair.traps, before + 1, `${provoke.name} traps`);
}

function actOnVirtio(session: Session): void {
  const { pair, queues } = session;
  const { random } = pair;
  const queue = queues[random(queues.length)];
  const choice = random(1000);
  if (choice < 250) spoilRings(random, queue);
  else if (choice < 480) offerNearlyRight(random, pair.twin, queue);
  else if (choice < 600) callQueue(session, 'notify', (cage) => cage.notify(queue.index));
  else if (choice < 760) callQueue(session, 'next', (cage) => cage.next(queue.index));
  else if (choice < 900) complete(session);
  else if (choice < 950) touchRegister(session);
  else if (choice < 955) anyCall(pair);
  else if (choice < 965) pair.restoreSpoilt();
  else if (choice < 967) pair.runSpoilt(() => callQueue(session, 'next', (cage) => cage.next(0)));
  else if (choice === 967 && random(20) === 0) provokeTrap(session);
  else if (choice >= 985) bringUp(session);
}

const BLK = { capacityBytes: CAPACITY_SECTORS * 512, readOnly: false, id: 'disk', queueCount: 2 };
const VIRTIO_DEVICES: [name: string, kind: number, config: Uint8Array][] = [
  ['disk', abi.KIND_VIRTIO_BLK, encodeBlkConfig({ ...BLK, queueSize: 64 })],
  ['entropy device', abi.KIND_VIRTIO_RNG, encodeRngConfig({ queueSize: 64 })],
];

for (const [name, kind, config] of VIRTIO_DEVICES) {
  test(`V8 and native code agree on the ${name}, guest memory and traps included`, () => {
    const session: Session = {
      pair: new Pair(kind, config),
      queues: [],
      inFlight: [],
      requests: 0,
    };
    const { pair } = session;
    bringUp(session);
    while (pair.operations < OPERATIONS) actOnVirtio(session);
    const wanted = abi.EFFECT_REQUEST | abi.EFFECT_IRQ | abi.EFFECT_CANCEL | abi.EFFECT_INCIDENT;
    assert.is(pair.seen & wanted, wanted, 'the calls reach what there is to reach');
    assert.ok(session.requests > 500, `${session.requests} requests`);
    assert.ok(pair.traps > 0, `${pair.traps} traps`);
    assert.ok(pair.refusedStates > 100, `${pair.refusedStates} states refused`);
    pair.close();
  });
}

test.run();
