// A virtio-mmio device of the reference: virtio 1.2 §2.1 and §3.1 (status), §2.2 (features), with
// registers in reference-registers.ts and rings in reference-ring.ts. A test oracle for
// assembly/virtio-mmio.ts and assembly/virtio-requests.ts. Left out: the legacy layout, shared
// memory, queue reset.
import * as abi from '../assembly/abi.ts';
import type { Ledger, Model } from './reference-answer.ts';
import { readRegister, writeRegister } from './reference-registers.ts';
import {
  emptyRing,
  giveBack,
  type Piece,
  type Ram,
  type Ring,
  readChain,
  ringPossible,
  takeHead,
} from './reference-ring.ts';

/** Numbers of feature bits. */
export const INDIRECT_DESC = 28;
export const EVENT_IDX = 29;
export const VERSION_1 = 32;
export const COMMON_FEATURES = [INDIRECT_DESC, EVENT_IDX, VERSION_1];

const ACKNOWLEDGE = 1;
const DRIVER = 2;
const DRIVER_OK = 4;
const FEATURES_OK = 8;
const NEEDS_RESET = 0x40;
const FAILED = 0x80;
const SETTING_UP = ACKNOWLEDGE | DRIVER | FEATURES_OK; // when queues are set up (§3.1.1, step 7)
const RUNNING = SETTING_UP | DRIVER_OK;

// Each step of §3.1.1 by the status that it starts from.
const STEPS = new Map([
  [0, ACKNOWLEDGE],
  [ACKNOWLEDGE, ACKNOWLEDGE | DRIVER],
  [ACKNOWLEDGE | DRIVER, SETTING_UP],
  [SETTING_UP, RUNNING],
]);

const INTERRUPT_USED = 1;
const INTERRUPT_CONFIG = 2;

// What a ring that is beyond repair is counted as.
const BREAKS = {
  memory: abi.INCIDENT_MEMORY,
  index: abi.INCIDENT_AVAIL_INDEX,
  head: abi.INCIDENT_HEAD,
};

/** What a request asks of the host. */
export interface Job {
  kind: number;
  offset: bigint;
  length: number;
  flags: number;
  ranges: { address: bigint; length: number }[];
}

/** What the device remembers of a request that the host has. */
export interface Flight {
  payload: number; // bytes that the host may have written at most
  status?: bigint; // where virtio-blk's status byte goes
}

/** What §5 leaves to each type of device. */
export interface DeviceType {
  id: number;
  queueCount: number;
  queueSize: number;
  features: readonly number[];
  configSpace: Uint8Array; // without the writeback field, which is state
  serve(device: VirtioModel, queue: number, head: number, chain: Piece[]): void;
  finish(
    device: VirtioModel,
    queue: number,
    head: number,
    flight: Flight,
    result: number,
    written: number,
  ): void;
  /** Whether the field takes the value. */
  writeConfig(device: VirtioModel, offset: number, width: number, value: number): boolean;
  restart(device: VirtioModel): void;
  agreed(device: VirtioModel): void; // FEATURES_OK was granted
}

interface Registers {
  status: number;
  interruptStatus: number;
  deviceFeaturesSel: number;
  driverFeaturesSel: number;
  featuresLow: number; // as the driver wrote them
  featuresHigh: number;
  featuresBeyond: boolean; // a bit past 63 was once asked for
  queueSel: number;
  configGeneration: number;
  writeback: number; // virtio-blk's only writable field
}

const powerOn = (): Registers => ({
  status: 0,
  interruptStatus: 0,
  deviceFeaturesSel: 0,
  driverFeaturesSel: 0,
  featuresLow: 0,
  featuresHigh: 0,
  featuresBeyond: false,
  queueSel: 0,
  configGeneration: 0,
  writeback: 0,
});

const bitsOf = (features: readonly number[], page: number): number =>
  features
    .filter((bit) => Math.floor(bit / 32) === page)
    .reduce((sum, bit) => sum + 2 ** (bit % 32), 0);

/** A virtio device behind virtio-mmio registers. */
export class VirtioModel implements Model {
  readonly ledger: Ledger;
  readonly ram: Ram;
  readonly type: DeviceType;
  readonly offered: readonly [low: number, high: number];
  now = powerOn();
  rings: Ring[];
  readonly flights = new Map<number, Flight>(); // by queue * 65536 + head
  readonly generations = new Uint16Array(abi.QUEUE_COUNT_MAX * abi.QUEUE_SIZE_MAX);

  constructor(type: DeviceType, ram: Ram, ledger: Ledger) {
    this.type = type;
    this.ram = ram;
    this.ledger = ledger;
    this.offered = [bitsOf(type.features, 0), bitsOf(type.features, 1)];
    this.rings = Array.from({ length: type.queueCount }, emptyRing);
    this.type.restart(this);
  }

  copyFrom(other: Model): void {
    const source = other as VirtioModel;
    this.now = { ...source.now };
    this.rings = source.rings.map((ring) => ({ ...ring }));
    this.flights.clear();
    // A flight never changes, so both may hold it.
    for (const [key, flight] of source.flights) this.flights.set(key, flight);
    this.generations.set(source.generations);
  }

  // --- What the two device types use ------------------------------------------------------------

  /** Whether the driver accepted a feature bit. */
  has(bit: number): boolean {
    const page = bit < 32 ? this.now.featuresLow : this.now.featuresHigh;
    return Math.floor(page / 2 ** (bit % 32)) % 2 === 1;
  }

  /** Returns a head to the driver with `written` bytes, and interrupts it where it wants that. */
  giveBack(queue: number, head: number, written: number): void {
    const { ram, rings } = this;
    const outcome = giveBack(ram, rings[queue], head, written, this.has(EVENT_IDX));
    if (outcome === 'memory') this.#breakDown(abi.INCIDENT_MEMORY);
    if (outcome !== 'interrupt') return;
    this.now.interruptStatus |= INTERRUPT_USED;
    this.ledger.effects |= abi.EFFECT_IRQ;
  }

  /** Hands a request to the host. Its tag differs from that of the head's last request. */
  submit(queue: number, head: number, job: Job, flight: Flight): void {
    const slot = queue * abi.QUEUE_SIZE_MAX + head;
    const generation = (this.generations[slot] + 1) % 4096;
    this.generations[slot] = generation;
    this.flights.set(queue * 65536 + head, flight);
    const { kind, offset, flags, ranges } = job;
    const tag = generation * 2 ** 20 + queue * 2 ** 15 + head;
    const length = BigInt(job.length);
    this.ledger.record = { kind, tag, offset, length, flags, ranges, bytes: new Uint8Array(0) };
    this.ledger.effects |= abi.EFFECT_REQUEST;
  }

  // --- Status -----------------------------------------------------------------------------------

  #running(): boolean {
    return this.now.status === RUNNING;
  }

  #breakDown(incident: number): void {
    this.ledger.blame(incident);
    this.fail();
  }

  /** DEVICE_NEEDS_RESET, and a configuration change interrupt that tells of it (§2.1.2). */
  fail(): void {
    this.now.status |= NEEDS_RESET;
    this.now.interruptStatus |= INTERRUPT_CONFIG;
    this.ledger.effects |= abi.EFFECT_IRQ;
  }

  reset(): void {
    this.now = powerOn();
    this.rings = this.rings.map(emptyRing);
    this.flights.clear();
    this.type.restart(this);
    this.ledger.value = abi.ALL_QUEUES;
    this.ledger.effects |= abi.EFFECT_CANCEL;
  }

  writeStatus(value: number): void {
    if (value === 0) {
      this.reset();
      return;
    }
    const old = this.now.status;
    const kept = old & NEEDS_RESET; // the device's own bit, whatever the driver writes
    const [from, to] = [old - kept, (value & ~NEEDS_RESET) >>> 0];
    if (to === from) return;
    if (to === (from | FAILED)) {
      this.now.status = to | kept;
      return;
    }
    if (kept || STEPS.get(from) !== to) {
      this.ledger.blame(abi.INCIDENT_STATUS);
      return;
    }
    if (to === SETTING_UP && !this.#featuresAgree()) {
      this.ledger.blame(abi.INCIDENT_FEATURES);
      return;
    }
    this.now.status = to;
    if (to === SETTING_UP) this.type.agreed(this);
  }

  // Every accepted bit was offered, VERSION_1 among them (§2.2.2, §6.2).
  #featuresAgree(): boolean {
    const { featuresLow, featuresHigh, featuresBeyond } = this.now;
    const foreign = (featuresLow & ~this.offered[0]) | (featuresHigh & ~this.offered[1]);
    return foreign === 0 && !featuresBeyond && this.has(VERSION_1);
  }

  writeFeatures(value: number): void {
    const { now } = this;
    if (now.status !== (ACKNOWLEDGE | DRIVER)) {
      this.ledger.blame(abi.INCIDENT_STATUS);
    } else if (now.driverFeaturesSel === 0) {
      now.featuresLow = value;
    } else if (now.driverFeaturesSel === 1) {
      now.featuresHigh = value;
    } else if (value !== 0) {
      now.featuresBeyond = true;
    }
  }

  // --- Queues -----------------------------------------------------------------------------------

  selected(): Ring | undefined {
    return this.rings[this.now.queueSel];
  }

  /** A write to a queue's size or addresses: only while queues are being set up. */
  changeRing(change: (ring: Ring) => boolean): void {
    const ring = this.selected();
    if (!ring) this.ledger.blame(abi.INCIDENT_QUEUE_CONFIG);
    else if (this.now.status !== SETTING_UP || ring.ready) this.ledger.blame(abi.INCIDENT_FROZEN);
    else if (!change(ring)) this.ledger.blame(abi.INCIDENT_QUEUE_CONFIG);
  }

  writeSize(value: number): void {
    this.changeRing((ring) => {
      if (value > this.type.queueSize) return false;
      ring.size = value;
      return true;
    });
  }

  writeReady(value: number): void {
    const { ledger, now, type } = this;
    const ring = this.selected();
    if (!ring && value === 0) return;
    if (!ring || value > 1) {
      ledger.blame(abi.INCIDENT_QUEUE_CONFIG);
    } else if (ring.ready && value === 0) {
      ring.ready = false;
      this.#forget(now.queueSel);
      ledger.value = now.queueSel;
      ledger.effects |= abi.EFFECT_CANCEL;
    } else if (!ring.ready && value === 1) {
      if (now.status !== SETTING_UP) ledger.blame(abi.INCIDENT_FROZEN);
      else if (!ringPossible(ring, type.queueSize)) ledger.blame(abi.INCIDENT_QUEUE_CONFIG);
      else ring.ready = true; // its indexes are 0: only a running device moves them
    }
  }

  #forget(queue: number): void {
    for (const key of this.flights.keys()) {
      if (Math.floor(key / 65536) === queue) this.flights.delete(key);
    }
  }

  #live(queue: number): boolean {
    return this.#running() && this.rings[queue]?.ready === true;
  }

  notify(queue: number): void {
    if (this.#live(queue)) this.#serve(queue);
    else this.ledger.blame(abi.INCIDENT_NOTIFY);
  }

  next(queue: number): void {
    if (this.#live(queue)) this.#serve(queue);
  }

  // One request for the host, or as many answers as the queue has entries; then the host is asked
  // to call again, even if nothing is left by then.
  #serve(queue: number): void {
    for (let turns = this.rings[queue].size; turns > 0; turns -= 1) {
      if (!this.#serveOne(queue)) return;
      if (this.ledger.record) break;
      if (!this.#running()) return;
    }
    this.ledger.effects |= abi.EFFECT_MORE;
  }

  #serveOne(queue: number): boolean {
    const { ram } = this;
    const ring = this.rings[queue];
    const busy = (head: number) => this.flights.has(queue * 65536 + head);
    const head = takeHead(ram, ring, this.has(EVENT_IDX), busy);
    if (head === 'none') return false;
    if (typeof head === 'string') {
      this.#breakDown(BREAKS[head]);
      return false;
    }
    const chain = readChain(ram, ring, head, this.has(INDIRECT_DESC));
    if (chain === 'ring') {
      this.#breakDown(abi.INCIDENT_MEMORY);
      return false;
    }
    if (typeof chain === 'string') {
      this.ledger.blame(chain === 'memory' ? abi.INCIDENT_MEMORY : abi.INCIDENT_CHAIN);
      this.giveBack(queue, head, 0);
    } else {
      this.type.serve(this, queue, head, chain);
    }
    return true;
  }

  complete(tag: number, result: number, bytes: number): void {
    const head = tag % 2 ** 15;
    const queue = Math.floor(tag / 2 ** 15) % 32;
    const generation = Math.floor(tag / 2 ** 20);
    const flight = this.flights.get(queue * 65536 + head);
    const known = this.generations[queue * abi.QUEUE_SIZE_MAX + head];
    if (!flight || known !== generation) {
      this.ledger.blame(abi.INCIDENT_TAG);
      return;
    }
    this.flights.delete(queue * 65536 + head);
    if (!this.#live(queue)) return;
    this.type.finish(this, queue, head, flight, result, Math.min(bytes, flight.payload));
  }

  acknowledge(bits: number): void {
    this.now.interruptStatus &= ~bits;
  }

  input(): void {
    this.ledger.value = 0;
  }

  read(offset: number, width: number): void {
    readRegister(this, offset, width);
  }

  write(offset: number, width: number, value: number): void {
    writeRegister(this, offset, width, value);
  }
}
