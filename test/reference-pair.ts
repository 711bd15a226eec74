// One device twice: as the core has it and as the reference has it, called together and compared.
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import { REG } from '../testing/driver.ts';
import { type Random, randomFrom } from '../testing/random.ts';
import { type ReferenceAnswer, ReferenceDevice } from '../testing/reference.ts';
import { parseRecord } from '../testing/requests.ts';
import { RAM_BYTES } from './hostile.ts';
import { TwinView } from './twin-view.ts';

/** Printed when a run fails; SEED=n in the environment repeats it. */
export const SEED = Number(process.env.SEED ?? 20240229);
const LOOK_EVERY = 32; // calls between two looks at all of RAM and the registers

/** Registers whose reading changes nothing, and the whole configuration space byte by byte. */
const VISIBLE: [offset: number, width: number][] = [
  ...[REG.DeviceFeatures, REG.QueueNumMax, REG.QueueReady].map((at): [number, number] => [at, 4]),
  ...[REG.InterruptStatus, REG.Status].map((at): [number, number] => [at, 4]),
  [REG.ConfigGeneration, 4],
  ...Array.from({ length: 61 }, (_, at): [number, number] => [REG.Config + at, 1]),
];

export type Call =
  | { name: 'read'; args: [offset: number, width: number] }
  | { name: 'write'; args: [offset: number, width: number, value: number] }
  | { name: 'notify' | 'next'; args: [queue: number] }
  | { name: 'complete'; args: [tag: number, result: number, bytes: number] }
  | { name: 'input'; args: [bytes: Uint8Array] }
  | { name: 'reset' | 'fail'; args: [] };

type Callable = Record<string, (...args: unknown[]) => unknown>;

/** One device as the core has it and as the reference has it, with the same RAM twice. */
export class Pair {
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
    // Whatever happened, a device is in a state that it may be restored to.
    if (this.cage.check() !== abi.VALID) assert.unreachable(`${where}: the core's check()`);
    if (this.kind < abi.KIND_VIRTIO_BLK) return;
    this.#compareNetwork(where);
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

  #compareNetwork(where: string): void {
    const { network } = this.reference;
    if (!network) return;
    const state = this.cage.stateBytes();
    const view = new DataView(state.buffer, abi.NET_STATE - abi.STATE);
    const [down, announce] = [abi.NET_STATE_LINK_DOWN, abi.NET_STATE_ANNOUNCE];
    const same: typeof network = {
      offloads: view.getBigUint64(abi.NET_STATE_OFFLOADS, true),
      queuePairs: view.getUint16(abi.NET_STATE_QUEUE_PAIRS, true),
      linkDown: view.getUint8(down) === 1,
      announce: view.getUint8(announce) === 1,
      mac: [0, 1, 2, 3, 4, 5].map((at) => view.getUint8(abi.NET_STATE_MAC + at)),
    };
    assert.equal(network, same, `${where}: what was agreed on`);
  }

  #compareCounters(where: string): void {
    const counters = Object.values(this.cage.counters());
    const other = this.reference.counters.slice(0, counters.length);
    if (String(other) !== String(counters)) assert.equal(other, counters, `${where}: counters`);
  }
}
