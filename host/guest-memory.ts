// Guest RAM as the cages see it: the five accessors that the core imports, each checking both its
// guest range and its cage range (docs/abi.md).
import type { AccessLog } from './access-log.ts';

const GIB = 2 ** 30;
const HOLE_START = 3 * GIB; // RAM below it sits at its own offset in the buffer
const HOLE_END = 4 * GIB; // RAM from here on sits HOLE_END - HOLE_START lower
const REFUSED = 1;

/** What an accessor did: copied in, copied out, a 16-bit load-acquire or store-release, a fence. */
export type AccessKind = 'read' | 'write' | 'load16' | 'store16' | 'fence';

/** Sees every access of every cage on this memory: `allowed` says whether it was carried out. */
export type AccessObserver = (
  kind: AccessKind,
  address: number,
  lengthBytes: number,
  allowed: boolean,
) => void;

/**
 * Guest RAM as one row of bytes: gpa below 3 GiB at its own offset, gpa from 4 GiB on 1 GiB lower.
 * It comes as one buffer, or as windows that begin `strideBytes` apart and overlap by more than a
 * cage's memory, because no buffer that Node takes from outside is larger than 4 GiB.
 */
export class GuestMemory {
  /** The first window; all of a small guest's RAM, by guest-physical address. */
  readonly view: DataView;
  /** Is told of every access before it happens. */
  observer: AccessObserver | null = null;
  /** Takes every access with the bytes it moved. */
  log: AccessLog | null = null;
  readonly #views: DataView[];
  readonly #stride: number;
  readonly #lowEnd: number;
  readonly #highEnd: number;

  /** Takes RAM as one buffer, or as overlapping windows `strideBytes` apart. */
  constructor(memory: ArrayBuffer | readonly ArrayBuffer[], strideBytes = 2 ** 52) {
    const windows = memory instanceof ArrayBuffer ? [memory] : memory;
    this.#views = windows.map((window) => new DataView(window));
    this.#stride = strideBytes;
    this.view = this.#views[0];
    const last = windows.length - 1;
    const lengthBytes = (last && last * strideBytes) + windows[last].byteLength;
    this.#lowEnd = Math.min(lengthBytes, HOLE_START);
    this.#highEnd = Math.max(lengthBytes, HOLE_START) + (HOLE_END - HOLE_START);
  }

  /**
   * The offset of a guest-physical range in the row, or -1 where it leaves RAM. Both numbers are
   * exact or refused: a double holds every integer up to 2^53, and RAM ends far below that.
   */
  offsetOf(address: number, lengthBytes: number): number {
    const end = address + lengthBytes;
    if (address >= 0 && end <= this.#lowEnd) return address;
    if (address >= HOLE_END && end <= this.#highEnd) return address - (HOLE_END - HOLE_START);
    return -1;
  }

  /** The accessors a cage imports; `cage()` is that instance's memory, known only after linking. */
  importsFor(cage: () => DataView): Record<string, (...args: never[]) => unknown> {
    return {
      // A u64 arrives as a signed BigInt: one past 2^63 turns negative here, and is refused.
      read: (address: bigint, destination: number, length: number) =>
        this.#copy('read', address, cage(), destination >>> 0, length >>> 0),
      write: (address: bigint, source: number, length: number) =>
        this.#copy('write', address, cage(), source >>> 0, length >>> 0),
      load16: (address: bigint) => this.#load16(address),
      store16: (address: bigint, value: number) => this.#store16(address, value),
      // The vCPU runs on this very thread, between calls into the cage: the order is the program's.
      fence: () => {
        this.observer?.('fence', 0, 0, true);
        this.log?.add('fence', 0n, 0, this.view, 0);
      },
    };
  }

  #copy(
    kind: 'read' | 'write',
    asked: bigint,
    cage: DataView,
    cageOffset: number,
    length: number,
  ): number {
    const address = Number(asked);
    const offset = this.offsetOf(address, length);
    const allowed = offset >= 0 && cageOffset + length <= cage.byteLength;
    if (this.observer) this.observer(kind, address, length, allowed);
    if (allowed) {
      const index = this.#windowAt(offset);
      const guest = this.#views[index];
      const guestOffset = offset - index * this.#stride;
      if (kind === 'read') copyBytes(guest, guestOffset, cage, cageOffset, length);
      else copyBytes(cage, cageOffset, guest, guestOffset, length);
    }
    if (this.log) this.log.add(kind, asked, length, allowed ? cage : null, cageOffset);
    return allowed ? 0 : REFUSED;
  }

  #load16(asked: bigint): number {
    const address = Number(asked);
    const offset = address % 2 === 0 ? this.offsetOf(address, 2) : -1;
    if (this.observer) this.observer('load16', address, 2, offset >= 0);
    const index = this.#windowAt(offset);
    const guest = this.#views[index];
    const guestOffset = offset - index * this.#stride;
    if (this.log) this.log.add('load16', asked, 2, offset < 0 ? null : guest, guestOffset);
    return offset < 0 ? -1 : guest.getUint16(guestOffset, true);
  }

  #store16(asked: bigint, value: number): number {
    const address = Number(asked);
    const offset = address % 2 === 0 ? this.offsetOf(address, 2) : -1;
    if (this.observer) this.observer('store16', address, 2, offset >= 0);
    const index = this.#windowAt(offset);
    const guest = this.#views[index];
    const guestOffset = offset - index * this.#stride;
    if (offset >= 0) guest.setUint16(guestOffset, value, true);
    if (this.log) this.log.add('store16', asked, 2, offset < 0 ? null : guest, guestOffset);
    return offset < 0 ? REFUSED : 0;
  }

  // The window in which an access at that offset lies whole. The last one may be longer than the
  // stride, so what lies in its tail counts as its own.
  #windowAt(offset: number): number {
    if (offset < this.#stride) return 0;
    return Math.min(Math.floor(offset / this.#stride), this.#views.length - 1);
  }
}

// What cages copy is short (descriptors, headers): four bytes at a time beat a typed array, which
// would have to be made for each copy and cannot span a buffer of more than 4 GiB.
function copyBytes(
  from: DataView,
  fromOffset: number,
  to: DataView,
  toOffset: number,
  length: number,
): void {
  let done = 0;
  for (; done + 4 <= length; done += 4) {
    to.setUint32(toOffset + done, from.getUint32(fromOffset + done, true), true);
  }
  for (; done < length; done += 1) {
    to.setUint8(toOffset + done, from.getUint8(fromOffset + done));
  }
}
