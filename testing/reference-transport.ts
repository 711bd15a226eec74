// A virtio-mmio device of the reference: virtio 1.2 §2.1 and §3.1 (status), §2.2 (features), with
// registers in reference-registers.ts and rings in reference-ring.ts. A test oracle for
// assembly/virtio-mmio.ts and assembly/virtio-requests.ts. Left out: the legacy layout, shared
// memory, queue reset.
import * as abi from '../assembly/abi.ts';
import type { Ledger, Model, NetworkState } from './reference-answer.ts';
import { powerOn, readRegister, writeRegister } from './reference-registers.ts';
import {
  emptyRing,
  type Ram,
  type Ring,
  readChain,
  ringPossible,
  showUsed,
  storeUsed,
  takeHead,
} from './reference-ring.ts';
import {
  type DeviceType,
  EVENT_IDX,
  type Flight,
  INDIRECT_DESC,
  type Job,
  VERSION_1,
} from './reference-type.ts';

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

const NO_NETWORK = { offloads: 0n, queuePairs: 1, linkDown: false, announce: false, mac: [] };

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
  net: NetworkState; // of a network device only
  held: number[][]; // likewise: heads of the receive buffers that the host has, by queue
  readonly flights = new Map<number, Flight>(); // by queue * 65536 + head
  readonly generations = new Uint16Array(abi.QUEUE_COUNT_MAX * abi.QUEUE_SIZE_MAX);

  constructor(type: DeviceType, ram: Ram, ledger: Ledger) {
    this.type = type;
    this.ram = ram;
    this.ledger = ledger;
    this.offered = [bitsOf(type.features, 0), bitsOf(type.features, 1)];
    this.rings = Array.from({ length: type.queueCount }, emptyRing);
    this.net = { ...(type.network?.initial ?? NO_NETWORK) };
    this.held = this.rings.map(() => []);
    this.type.restart(this);
  }

  copyFrom(other: Model): void {
    const source = other as VirtioModel;
    this.now = { ...source.now };
    this.rings = source.rings.map((ring) => ({ ...ring }));
    this.net = { ...source.net };
    this.held = source.held.map((heads) => [...heads]);
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
    if (storeUsed(this.ram, this.rings[queue], 0, { head, written })) this.showUsed(queue, 1);
    else this.breakDown(abi.INCIDENT_MEMORY);
  }

  /** Shows the driver elements that were stored before. */
  showUsed(queue: number, count: number): void {
    const outcome = showUsed(this.ram, this.rings[queue], count, this.has(EVENT_IDX));
    if (outcome === 'memory') this.breakDown(abi.INCIDENT_MEMORY);
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

  running(): boolean {
    return this.now.status === RUNNING;
  }

  breakDown(incident: number): void {
    this.ledger.blame(incident);
    this.fail();
  }

  /** DEVICE_NEEDS_RESET, and a configuration change interrupt that tells of it (§2.1.2). */
  fail(): void {
    this.now.status |= NEEDS_RESET;
    this.now.interruptStatus |= INTERRUPT_CONFIG;
    this.ledger.effects |= abi.EFFECT_IRQ;
    this.#setUp();
  }

  /** The host of a network device hears of queues that start or stop. */
  #setUp(): void {
    if (this.type.network) this.ledger.effects |= abi.EFFECT_SETUP;
  }

  /** The configuration space changed, and a driver that runs is told (§2.5). */
  configChanged(): void {
    this.now.configGeneration += 1;
    if (!this.running()) return;
    this.now.interruptStatus |= INTERRUPT_CONFIG;
    this.ledger.effects |= abi.EFFECT_IRQ;
  }

  reset(): void {
    this.now = powerOn();
    this.rings = this.rings.map(emptyRing);
    this.flights.clear();
    this.type.restart(this);
    this.held = this.rings.map(() => []);
    this.ledger.value = abi.ALL_QUEUES;
    this.ledger.effects |= abi.EFFECT_CANCEL;
    this.#setUp();
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
      this.#setUp();
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
    if (to === RUNNING) this.#setUp();
  }

  // Every accepted bit was offered, VERSION_1 among them (§2.2.2, §6.2).
  #featuresAgree(): boolean {
    const { featuresLow, featuresHigh, featuresBeyond } = this.now;
    const foreign = (featuresLow & ~this.offered[0]) | (featuresHigh & ~this.offered[1]);
    const match = this.type.network?.featuresMatch(this) ?? true;
    return foreign === 0 && !featuresBeyond && this.has(VERSION_1) && match;
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
    return this.#exists(this.now.queueSel) ? this.rings[this.now.queueSel] : undefined;
  }

  #exists(queue: number): boolean {
    return queue < (this.type.network?.queueCount(this) ?? this.rings.length);
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
      this.#setUp();
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
    this.held[queue] = [];
  }

  #live(queue: number): boolean {
    return this.running() && this.#exists(queue) && this.rings[queue].ready;
  }

  notify(queue: number): void {
    if (!this.#live(queue)) this.ledger.blame(abi.INCIDENT_NOTIFY);
    else if (!this.type.network?.isKernels(this, queue)) this.#serve(queue, true);
  }

  next(queue: number): void {
    if (!this.#live(queue)) return;
    if (this.type.network?.isKernels(this, queue)) this.#tellRings(this.rings[queue]);
    else this.#serve(queue, !this.type.network?.isOfFrames(this, queue));
  }

  // Where a queue lies that the kernel serves: no request, and it has no tag.
  #tellRings({ size, descriptors, available, used }: Ring): void {
    const parts = [16 * size, 6 + 2 * size, 6 + 8 * size];
    const ranges = [descriptors, available, used].map((address, i) => ({
      address,
      length: parts[i],
    }));
    const { featuresLow, featuresHigh } = this.now;
    this.ledger.record = {
      kind: abi.REQUEST_KIND_NET_RINGS,
      tag: 0,
      offset: (BigInt(featuresHigh) << 32n) + BigInt(featuresLow),
      length: BigInt(parts[0] + parts[1] + parts[2]),
      flags: size,
      ranges,
      bytes: new Uint8Array(0),
    };
    this.ledger.effects |= abi.EFFECT_REQUEST;
  }

  // One request for the host, or as many answers as the queue has entries; then the host is asked
  // to call again, even if nothing is left by then. `ask`: for the doorbell, where nothing is there.
  #serve(queue: number, ask: boolean): void {
    for (let turns = this.rings[queue].size; turns > 0; turns -= 1) {
      if (!this.#serveOne(queue, ask)) return;
      if (this.ledger.record) break;
      if (!this.running()) return;
    }
    this.ledger.effects |= abi.EFFECT_MORE;
  }

  #serveOne(queue: number, ask: boolean): boolean {
    const { ram } = this;
    const ring = this.rings[queue];
    const busy = (head: number) => this.flights.has(queue * 65536 + head);
    const head = takeHead(ram, ring, ask && this.has(EVENT_IDX), busy);
    if (head === 'none') return false;
    if (typeof head === 'string') {
      this.breakDown(BREAKS[head]);
      return false;
    }
    const chain = readChain(ram, ring, head, this.has(INDIRECT_DESC));
    if (chain === 'ring') {
      this.breakDown(abi.INCIDENT_MEMORY);
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
    const live = this.#live(queue);
    if (live && this.type.network?.isReceive(this, queue)) {
      this.type.network.receive(this, queue, head, result, bytes);
      return;
    }
    this.drop(queue, head);
    if (!live) return;
    this.type.finish(this, queue, head, flight, result, Math.min(bytes, flight.payload));
  }

  /** Forgets one request. */
  drop(queue: number, head: number): void {
    this.flights.delete(queue * 65536 + head);
    this.held[queue] = this.held[queue].filter((other) => other !== head);
  }

  /** InterruptStatus as it reads: the kernel's interrupts pass the device by. */
  interrupts(): number {
    const kernels = this.type.network?.isKernels(this, 0) && this.running();
    return this.now.interruptStatus | (kernels ? INTERRUPT_USED : 0);
  }

  acknowledge(bits: number): void {
    this.now.interruptStatus &= ~bits;
  }

  input(bytes: Uint8Array): void {
    this.ledger.value = 0;
    this.type.network?.input(this, bytes);
  }

  read(offset: number, width: number): void {
    readRegister(this, offset, width);
  }

  write(offset: number, width: number, value: number): void {
    writeRegister(this, offset, width, value);
  }
}
