// The split virtqueue as its driver sees it. Virtio 1.2 §2.7, with indirect tables (§2.7.5.3) and
// the event index (§2.7.10). It builds correct chains; hostile tests may spoil every field.
import { GuestMemory } from '../host/guest-memory.ts';

/** Descriptor flags (§2.7.5): VIRTQ_DESC_F_*. */
export const DESC_F_NEXT = 1; // the chain goes on at `next`
export const DESC_F_WRITE = 2; // device-writable
export const DESC_F_INDIRECT = 4; // the buffer is a table of descriptors

/** Guest-physical address at which a DriverQueue puts queue 0; the next ones follow. */
export const QUEUE_BASE = 0x10000;
/** Bytes that one queue takes: its table, the available ring 0x1000 on, the used ring 0x2000 on. */
export const QUEUE_AREA = 0x4000;
/** The first guest-physical address that no queue uses: headers and data go from here on. */
export const DATA = 0x40000;

/**
 * Guest RAM for a test: `lengthBytes` zeroed bytes from address 0 on, 1 MiB by default. Queues and
 * data want more than DATA bytes.
 */
export function guestMemory(lengthBytes = 0x100000): GuestMemory {
  return new GuestMemory(new ArrayBuffer(lengthBytes));
}

/** A piece of guest memory, as a descriptor names it (§2.7.5). */
export interface GuestBuffer {
  /** Guest-physical; a bigint reaches all 64 bits. */
  address: number | bigint;
  /** Bytes, a u32. */
  length: number;
  /** Device-writable; false by default, for what the device only reads. */
  write?: boolean;
}

/** An element of the used ring (§2.7.8). */
export interface UsedElement {
  /** The head of the chain, as it was offered. */
  id: number;
  /** Bytes that the device says it wrote into the chain's buffers. */
  length: number;
}

/**
 * A split virtqueue as its driver sees it. Addresses are guest-physical, and at the same time
 * offsets into `memory.view`: both are the same below 3 GiB. Whatever leaves guest memory throws a
 * RangeError.
 */
export class DriverQueue {
  /** Where the queue lies. */
  readonly memory: GuestMemory;
  /** The queue's number, as QueueSel and QueueNotify have it. */
  readonly index: number;
  /** Descriptors in the table, a power of two. */
  readonly size: number;
  /** Address of the descriptor table, 16 bytes a descriptor. May be changed before the bring-up. */
  descTable: number;
  /** Address of the available ring (§2.7.6), which the driver writes. */
  availRing: number;
  /** Address of the used ring (§2.7.8), which the device writes. */
  usedRing: number;
  /** The available index as published last: it runs freely, modulo 65536. */
  availIndex = 0;
  /** The used index up to which elements were taken, likewise. */
  usedIndex = 0;
  #nextFree = 0;

  /** Chooses places from QUEUE_BASE on, and writes nothing yet. Driver.bringUp() makes queues. */
  constructor(memory: GuestMemory, index: number, size: number) {
    this.memory = memory;
    this.index = index;
    this.size = size;
    this.descTable = QUEUE_BASE + index * QUEUE_AREA;
    this.availRing = this.descTable + 0x1000;
    this.usedRing = this.descTable + 0x2000;
  }

  /**
   * Writes descriptor `index` of the table at `table` (the queue's own by default), with whatever
   * `flags` (DESC_F_*) and `next` say; DESC_F_WRITE comes from the buffer.
   */
  setDescriptor(
    index: number,
    buffer: GuestBuffer,
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

  /**
   * Builds a chain of the queue's own descriptors (§2.7.13.1) and returns its head. It takes the
   * next ones in turn, and does not look whether a request in flight still has them.
   */
  chain(buffers: GuestBuffer[]): number {
    const head = this.#nextFree;
    for (const [position, buffer] of buffers.entries()) {
      const last = position === buffers.length - 1;
      const slot = (head + position) % this.size;
      this.setDescriptor(slot, buffer, last ? 0 : DESC_F_NEXT, last ? 0 : (slot + 1) % this.size);
    }
    this.#nextFree = (head + buffers.length) % this.size;
    return head;
  }

  /** Builds the chain in a table at `table` behind one descriptor (§2.7.5.3); returns its head. */
  indirectChain(buffers: GuestBuffer[], table: number): number {
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

  /** Puts a head on the available ring and publishes it (§2.7.13.2, §2.7.13.3). No kick. */
  offer(head: number): void {
    const slot = this.availRing + 4 + (this.availIndex % this.size) * 2;
    this.memory.view.setUint16(slot, head, true);
    this.setAvailIndex(this.availIndex + 1);
  }

  /** Publishes an available index, modulo 65536; a wrong one is the caller's to try. */
  setAvailIndex(index: number): void {
    this.availIndex = index & 0xffff;
    this.memory.view.setUint16(this.availRing + 2, this.availIndex, true);
  }

  /** The next element of the used ring (§2.7.14), or null where the device published no other. */
  takeUsed(): UsedElement | null {
    if (this.memory.view.getUint16(this.usedRing + 2, true) === this.usedIndex) return null;
    const slot = this.usedRing + 4 + (this.usedIndex % this.size) * 8;
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    return {
      id: this.memory.view.getUint32(slot, true),
      length: this.memory.view.getUint32(slot + 4, true),
    };
  }

  /** Sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.7), which counts without the event index. */
  suppressInterrupts(suppress: boolean): void {
    this.memory.view.setUint16(this.availRing, suppress ? 1 : 0, true);
  }

  /** used_event (§2.7.7): with the event index, interrupt once the used index passes this one. */
  setUsedEvent(index: number): void {
    this.memory.view.setUint16(this.availRing + 4 + this.size * 2, index, true);
  }

  /** avail_event (§2.7.10): with the event index, where the device wants its next kick. */
  availEvent(): number {
    return this.memory.view.getUint16(this.usedRing + 4 + this.size * 8, true);
  }
}
