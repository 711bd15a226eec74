// The guest's side of virtio-mmio and of the split virtqueue, for tests, benches and fuzzing alike.
// Virtio 1.2 §3.1.1 (initialisation), §2.7 (queues), §4.2 (registers), §5.2.6 (block requests). It
// plays a correct driver, and gives hostile tests every field to spoil. It never asserts.
import {
  EFFECT_MORE,
  EFFECT_REQUEST,
  RANGE_ADDRESS,
  RANGE_LENGTH,
  RANGE_STRIDE,
  REQUEST_FLAGS,
  REQUEST_KIND,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_RANGE_COUNT,
  REQUEST_RANGES,
  REQUEST_TAG,
  RESULT_OK,
} from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import { GuestMemory } from '../host/guest-memory.ts';

/** Register offsets, by their name in the spec. */
export const REG = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  DeviceFeatures: 0x010,
  DeviceFeaturesSel: 0x014,
  DriverFeatures: 0x020,
  DriverFeaturesSel: 0x024,
  QueueSel: 0x030,
  QueueNumMax: 0x034,
  QueueNum: 0x038,
  QueueReady: 0x044,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  QueueDescLow: 0x080,
  QueueDescHigh: 0x084,
  QueueDriverLow: 0x090,
  QueueDriverHigh: 0x094,
  QueueDeviceLow: 0x0a0,
  QueueDeviceHigh: 0x0a4,
  SHMSel: 0x0ac,
  SHMLenLow: 0x0b0,
  SHMLenHigh: 0x0b4,
  SHMBaseLow: 0x0b8,
  SHMBaseHigh: 0x0bc,
  QueueReset: 0x0c0,
  ConfigGeneration: 0x0fc,
  Config: 0x100,
} as const;

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const DEVICE_NEEDS_RESET = 0x40;
export const FAILED = 0x80;
export const RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

export const F_INDIRECT_DESC = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;

export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;

/** Where the driver puts things in a small guest; data goes anywhere from DATA on. */
export const QUEUE_BASE = 0x10000;
export const QUEUE_AREA = 0x4000; // per queue: table, then avail ring, then used ring
export const DATA = 0x40000;

/** Guest RAM for a test: zeroed, from address 0. */
export function guestMemory(lengthBytes = 0x100000): GuestMemory {
  return new GuestMemory(new ArrayBuffer(lengthBytes));
}

export interface Buffer {
  address: number | bigint;
  length: number;
  write?: boolean; // device-writable
}

export interface UsedElement {
  id: number;
  length: number;
}

/** A split virtqueue as its driver sees it. */
export class DriverQueue {
  readonly memory: GuestMemory;
  readonly index: number;
  readonly size: number;
  descTable: number;
  availRing: number;
  usedRing: number;
  availIndex = 0; // free-running, as on the ring
  usedIndex = 0;
  #nextFree = 0;

  constructor(memory: GuestMemory, index: number, size: number) {
    this.memory = memory;
    this.index = index;
    this.size = size;
    this.descTable = QUEUE_BASE + index * QUEUE_AREA;
    this.availRing = this.descTable + 0x1000;
    this.usedRing = this.descTable + 0x2000;
  }

  /** Writes descriptor `index` of the table at `table` (the queue's own by default). */
  setDescriptor(
    index: number,
    buffer: Buffer,
    flags: number,
    next: number,
    table = this.descTable,
  ): void {
    const at = table + index * 16;
    this.memory.view.setBigUint64(at, BigInt(buffer.address), true);
    this.memory.view.setUint32(at + 8, buffer.length, true);
    this.memory.view.setUint16(at + 12, flags | (buffer.write ? DESC_F_WRITE : 0), true);
    this.memory.view.setUint16(at + 14, next, true);
  }

  /** Builds a chain of the queue's own descriptors and returns its head. */
  chain(buffers: Buffer[]): number {
    const head = this.#nextFree;
    for (const [position, buffer] of buffers.entries()) {
      const last = position === buffers.length - 1;
      const slot = (head + position) % this.size;
      this.setDescriptor(slot, buffer, last ? 0 : DESC_F_NEXT, last ? 0 : (slot + 1) % this.size);
    }
    this.#nextFree = (head + buffers.length) % this.size;
    return head;
  }

  /** Builds the chain in a table at `table`, behind one descriptor, and returns its head. */
  indirectChain(buffers: Buffer[], table: number): number {
    for (const [position, buffer] of buffers.entries()) {
      const last = position === buffers.length - 1;
      this.setDescriptor(position, buffer, last ? 0 : DESC_F_NEXT, last ? 0 : position + 1, table);
    }
    const head = this.#nextFree;
    const reference = { address: table, length: buffers.length * 16 };
    this.setDescriptor(head, reference, DESC_F_INDIRECT, 0);
    this.#nextFree = (head + 1) % this.size;
    return head;
  }

  /** Puts a head on the available ring and publishes it. */
  offer(head: number): void {
    const slot = this.availRing + 4 + (this.availIndex % this.size) * 2;
    this.memory.view.setUint16(slot, head, true);
    this.setAvailIndex(this.availIndex + 1);
  }

  setAvailIndex(index: number): void {
    this.availIndex = index & 0xffff;
    this.memory.view.setUint16(this.availRing + 2, this.availIndex, true);
  }

  /** The next element of the used ring, or null. */
  takeUsed(): UsedElement | null {
    if (this.memory.view.getUint16(this.usedRing + 2, true) === this.usedIndex) return null;
    const slot = this.usedRing + 4 + (this.usedIndex % this.size) * 8;
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    return {
      id: this.memory.view.getUint32(slot, true),
      length: this.memory.view.getUint32(slot + 4, true),
    };
  }

  /** VIRTQ_AVAIL_F_NO_INTERRUPT. */
  suppressInterrupts(suppress: boolean): void {
    this.memory.view.setUint16(this.availRing, suppress ? 1 : 0, true);
  }

  /** With the event index: interrupt once the used index passes this one. */
  setUsedEvent(index: number): void {
    this.memory.view.setUint16(this.availRing + 4 + this.size * 2, index, true);
  }

  /** With the event index: the available index at which the device wants a kick. */
  availEvent(): number {
    return this.memory.view.getUint16(this.usedRing + 4 + this.size * 8, true);
  }
}

export interface BringUpOptions {
  queueCount?: number; // 1
  queueSize?: number; // 16
  features?: bigint; // accepted on top of VERSION_1; all that are offered by default
}

/** A virtio-mmio driver and the device it drives. */
export class VirtioDriver {
  readonly cage: Cage;
  readonly memory: GuestMemory;
  queues: DriverQueue[] = [];

  constructor(cage: Cage, memory: GuestMemory) {
    this.cage = cage;
    this.memory = memory;
  }

  get(register: number, width = 4): number {
    this.cage.read(register, width);
    return this.cage.value();
  }

  /** Returns the effects. */
  set(register: number, value: number, width = 4): number {
    return this.cage.write(register, width, value);
  }

  /** Adds bits to the status, as drivers do; returns what it reads afterwards. */
  addStatus(bits: number): number {
    this.set(REG.Status, this.get(REG.Status) | bits);
    return this.get(REG.Status);
  }

  offeredFeatures(): bigint {
    this.set(REG.DeviceFeaturesSel, 0);
    const low = BigInt(this.get(REG.DeviceFeatures));
    this.set(REG.DeviceFeaturesSel, 1);
    return low | (BigInt(this.get(REG.DeviceFeatures)) << 32n);
  }

  acceptFeatures(features: bigint): void {
    this.set(REG.DriverFeaturesSel, 0);
    this.set(REG.DriverFeatures, Number(features & 0xffffffffn));
    this.set(REG.DriverFeaturesSel, 1);
    this.set(REG.DriverFeatures, Number(features >> 32n));
  }

  /** Reset to FEATURES_OK; returns the status. */
  negotiate(features?: bigint): number {
    this.set(REG.Status, 0);
    this.addStatus(ACKNOWLEDGE);
    this.addStatus(DRIVER);
    const accepted = features === undefined ? this.offeredFeatures() : features | F_VERSION_1;
    this.acceptFeatures(accepted);
    return this.addStatus(FEATURES_OK);
  }

  /** Writes a queue's size and addresses, but not QueueReady. */
  configureQueue(queue: DriverQueue): void {
    this.set(REG.QueueSel, queue.index);
    this.set(REG.QueueNum, queue.size);
    this.set(REG.QueueDescLow, queue.descTable);
    this.set(REG.QueueDescHigh, 0);
    this.set(REG.QueueDriverLow, queue.availRing);
    this.set(REG.QueueDriverHigh, 0);
    this.set(REG.QueueDeviceLow, queue.usedRing);
    this.set(REG.QueueDeviceHigh, 0);
  }

  /** The whole of §3.1.1; returns the first queue. */
  bringUp(options: BringUpOptions = {}): DriverQueue {
    this.negotiate(options.features);
    this.queues = [];
    for (let index = 0; index < (options.queueCount ?? 1); index += 1) {
      const queue = new DriverQueue(this.memory, index, options.queueSize ?? 16);
      this.memory.view.setUint32(queue.availRing, 0, true);
      this.memory.view.setUint32(queue.usedRing, 0, true);
      this.configureQueue(queue);
      this.set(REG.QueueReady, 1);
      this.queues.push(queue);
    }
    this.addStatus(DRIVER_OK);
    return this.queues[0] as DriverQueue;
  }
}

// --- Requests -----------------------------------------------------------------------------------

export interface RequestRecord {
  kind: number;
  tag: number;
  offset: bigint;
  length: bigint;
  flags: number;
  ranges: { address: bigint; length: number }[];
  bytes: Uint8Array; // of a CONSOLE_OUT record
}

/** Takes a record apart (abi.ts, 'request record'). */
export function parseRecord(record: Uint8Array): RequestRecord {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const rangeCount = view.getUint32(REQUEST_RANGE_COUNT, true);
  const ranges = [];
  for (let index = 0; index < rangeCount; index += 1) {
    const at = REQUEST_RANGES + index * RANGE_STRIDE;
    ranges.push({
      address: view.getBigUint64(at + RANGE_ADDRESS, true),
      length: view.getUint32(at + RANGE_LENGTH, true),
    });
  }
  return {
    kind: view.getUint32(REQUEST_KIND, true),
    tag: view.getUint32(REQUEST_TAG, true),
    offset: view.getBigUint64(REQUEST_OFFSET, true),
    length: view.getBigUint64(REQUEST_LENGTH, true),
    flags: view.getUint32(REQUEST_FLAGS, true),
    ranges,
    bytes: record.subarray(REQUEST_RANGES),
  };
}

/** What a host does with one request: its result and the bytes it wrote. */
export type Executor = (request: RequestRecord) => { result: number; bytes: number };

export const everythingSucceeds: Executor = (request) => ({
  result: RESULT_OK,
  bytes: request.ranges.reduce((sum, range) => sum + range.length, 0),
});

/** Rings the doorbell and plays the host until the queue is empty. Returns all effects seen. */
export function kick(
  cage: Cage,
  queue: number,
  execute: Executor = everythingSucceeds,
): { effects: number; requests: RequestRecord[] } {
  const requests: RequestRecord[] = [];
  let effects = cage.notify(queue);
  let seen = effects;
  while (effects & (EFFECT_REQUEST | EFFECT_MORE)) {
    if (effects & EFFECT_REQUEST) {
      const request = parseRecord(cage.record());
      requests.push(request);
      const { result, bytes } = execute(request);
      seen |= cage.complete(request.tag, result, bytes);
    }
    effects = effects & EFFECT_MORE ? cage.next(queue) : 0;
    seen |= effects;
  }
  return { effects: seen, requests };
}

// --- Block requests (§5.2.6) --------------------------------------------------------------------

export const BLK_T_IN = 0;
export const BLK_T_OUT = 1;
export const BLK_T_FLUSH = 4;
export const BLK_T_GET_ID = 8;
export const BLK_T_DISCARD = 11;
export const BLK_T_WRITE_ZEROES = 13;

export const BLK_S_OK = 0;
export const BLK_S_IOERR = 1;
export const BLK_S_UNSUPP = 2;
export const STATUS_UNTOUCHED = 0xa5; // what tests put there before the device answers

/** Writes a request header at `address`. */
export function blkHeader(memory: GuestMemory, address: number, type: number, sector = 0n): Buffer {
  memory.view.setUint32(address, type, true);
  memory.view.setUint32(address + 4, 0, true);
  memory.view.setBigUint64(address + 8, sector, true);
  return { address, length: 16 };
}

/** A status byte at `address`, not yet written by the device. */
export function blkStatus(memory: GuestMemory, address: number): Buffer {
  memory.view.setUint8(address, STATUS_UNTOUCHED);
  return { address, length: 1, write: true };
}

/** Writes the one segment of a discard or write zeroes command at `address`. */
export function blkSegment(
  memory: GuestMemory,
  address: number,
  sector: bigint,
  sectorCount: number,
  flags = 0,
): Buffer {
  memory.view.setBigUint64(address, sector, true);
  memory.view.setUint32(address + 8, sectorCount, true);
  memory.view.setUint32(address + 12, flags, true);
  return { address, length: 16 };
}
