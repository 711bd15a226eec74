// The layout of a recording (docs/replay.md): its constants, and reading and writing its numbers.
// A varint holds a u32 in groups of seven bits, lowest first; the top bit says that more follow.

export const MAGIC = 'FARADREC';
export const FORMAT_VERSION = 2;

// The preamble: MAGIC, FORMAT_VERSION u32, ABI_VERSION u32. Then blocks.
export const PREAMBLE_BYTES = 16;
export const PREAMBLE_FORMAT = 8;
export const PREAMBLE_ABI = 12;

// A block: the length of its payload u32, the payload's CRC-32 u32, the payload.
export const BLOCK_CHECKSUM = 4;
export const BLOCK_HEADER_BYTES = 8;
export const BLOCK_BYTES_MAX = 64 * 2 ** 20; // one event, whatever the core does, is smaller

/** The engines by their number in the first block. */
export const ENGINES = ['v8', 'cell'] as const;
export type RecordedEngine = (typeof ENGINES)[number];
export const ENGINE_FIRST = 1; // the number of 'v8'

export const CALL_END = 0; // the last event: the checksum of every device's state
export const CALL_READ = 1;
export const CALL_WRITE = 2;
export const CALL_NOTIFY = 3;
export const CALL_NEXT = 4;
export const CALL_COMPLETE = 5;
export const CALL_INPUT = 6;
export const CALL_FAIL = 7;
export const CALL_RESTART = 8; // the device's cage is a fresh one from here on

export const CALL_NAMES = [
  'end',
  'read',
  'write',
  'notify',
  'next',
  'complete',
  'input',
  'fail',
  'restart',
];

/** How many numbers each call takes; the bytes of input() come as bytes. */
export const CALL_ARGUMENTS = [0, 2, 3, 1, 1, 3, 0, 0, 0];

// In place of effects where the call trapped.
export const TRAPPED = 0x80000000;

export const HASH_BYTES = 32; // SHA-256, of the core
export const TIME_MAX_US = 0xffffffff; // between two events; a longer pause is written as this
export const DEVICES_MAX = 255;

const INITIAL_BYTES = 0x20000;
const COPIED_BYTES_MAX = 128;

/** Bytes in the making. */
export class Encoder {
  #bytes = new Uint8Array(INITIAL_BYTES);
  #used = 0;

  get length(): number {
    return this.#used;
  }

  u8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#used++] = value;
  }

  u32(value: number): void {
    this.#reserve(4);
    for (let shift = 0; shift < 32; shift += 8) this.#bytes[this.#used++] = value >>> shift;
  }

  varint(value: number): void {
    this.#reserve(5);
    // Most are small; as a signed number none is an object to V8.
    let left = value | 0;
    for (; left < 0 || left > 0x7f; left >>>= 7) this.#bytes[this.#used++] = (left & 0x7f) | 0x80;
    this.#bytes[this.#used++] = left;
  }

  /** Three varints, which are mostly small: one call in place of three, on the path of an exit. */
  three(a: number, b: number, c: number): void {
    if ((a | b | c) >>> 7 !== 0) {
      this.varint(a);
      this.varint(b);
      this.varint(c);
      return;
    }
    this.#reserve(3);
    const bytes = this.#bytes;
    const used = this.#used;
    bytes[used] = a;
    bytes[used + 1] = b;
    bytes[used + 2] = c;
    this.#used = used + 3;
  }

  raw(bytes: Uint8Array): void {
    this.part(bytes, 0, bytes.length);
  }

  /** `length` bytes of `source` from `start` on. A few are copied here: a view costs far more. */
  part(source: Uint8Array, start: number, length: number): void {
    this.#reserve(length);
    const bytes = this.#bytes;
    const used = this.#used;
    if (length <= COPIED_BYTES_MAX) {
      for (let i = 0; i < length; i++) bytes[used + i] = source[start + i];
    } else {
      bytes.set(source.subarray(start, start + length), used);
    }
    this.#used = used + length;
  }

  /** Bytes behind their length. */
  bytes(bytes: Uint8Array): void {
    this.varint(bytes.length);
    this.raw(bytes);
  }

  /** What was written since the last call; good until the next one. */
  take(): Uint8Array {
    const taken = this.#bytes.subarray(0, this.#used);
    this.#used = 0;
    return taken;
  }

  #reserve(count: number): void {
    if (this.#used + count <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#used + count));
    larger.set(this.#bytes.subarray(0, this.#used));
    this.#bytes = larger;
  }
}

/** Thrown where bytes do not hold what should be there; the reader makes an error of it. */
export class Malformed extends Error {}

/** Reads what an Encoder wrote; every number is hostile. */
export class Decoder {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** How many bytes were read. */
  get at(): number {
    return this.#at;
  }

  u8(): number {
    return this.raw(1)[0];
  }

  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.u8();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80 && value < 2 ** 32) return value;
    }
    throw new Malformed('a number of more than 32 bits');
  }

  u32(): number {
    const [a, b, c, d] = this.raw(4);
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  raw(count: number): Uint8Array {
    if (count > this.#bytes.length - this.#at) throw new Malformed('an entry runs over its block');
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  bytes(): Uint8Array {
    return this.raw(this.varint());
  }
}
