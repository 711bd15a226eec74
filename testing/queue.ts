// The split virtqueue as its driver sees it. Virtio 1.2 §2.7, with indirect tables (§2.7.5.3) and
// the event index (§2.7.10). It builds correct chains, and gives hostile tests every field to spoil.
import { GuestMemory } from '../host/guest-memory.ts';

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
