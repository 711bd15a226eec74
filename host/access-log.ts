// What cages did to guest memory, access by access and byte for byte, laid out as the shim's own
// log (host/shim.ts, ACCESS_ENTRY_*), so that the logs of both engines compare as bytes.
import * as format from './access-format.ts';
import type { AccessKind } from './guest-memory.ts';

const KIND_NUMBERS: Record<AccessKind, number> = {
  read: format.ACCESS_READ,
  write: format.ACCESS_WRITE,
  load16: format.ACCESS_LOAD16,
  store16: format.ACCESS_STORE16,
  fence: format.ACCESS_FENCE,
};

const INITIAL_BYTES = 0x10000;

/**
 * A log that grows as far as one call's accesses need; the core bounds those. It is put to work as
 * GuestMemory.log, and read by parseAccesses().
 */
export class AccessLog {
  #bytes = new Uint8Array(INITIAL_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #used = 0;

  /** Notes an access; the bytes it moved are at `offset` of `data`, null for a refused one. */
  add(
    kind: AccessKind,
    address: bigint,
    length: number,
    data: DataView | null,
    offset: number,
  ): void {
    const start = this.#used;
    const moved = data ? length : 0;
    this.#reserve(format.ACCESS_ENTRY_BYTES + moved);
    const number = KIND_NUMBERS[kind] | (data ? 0 : format.ACCESS_REFUSED);
    this.#view.setUint32(start + format.ACCESS_ENTRY_KIND, number, true);
    this.#view.setUint32(start + format.ACCESS_ENTRY_LENGTH, length, true);
    this.#view.setBigUint64(start + format.ACCESS_ENTRY_ADDRESS, address, true);
    const to = start + format.ACCESS_ENTRY_BYTES;
    for (let i = 0; i < moved; i++) this.#bytes[to + i] = (data as DataView).getUint8(offset + i);
    this.#used = to + moved;
  }

  /** Bytes noted since clear(). */
  get length(): number {
    return this.#used;
  }

  /** Forgets what was noted. */
  clear(): void {
    this.#used = 0;
  }

  /** What was noted since clear(); good until the next access. */
  entries(): Uint8Array {
    return this.#bytes.subarray(0, this.#used);
  }

  #reserve(bytes: number): void {
    if (this.#used + bytes <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#used + bytes));
    larger.set(this.entries());
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}
