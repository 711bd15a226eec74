// Changes to bytes that know nothing of their format: single bits and bytes, numbers of all widths
// at aligned places, words of the parser's own, blocks moved, copied, cut and crossed.
import type { Random } from '../../testing/random.ts';

const STACKED_MAX = 5; // changes to one input, as a power of two
const BLOCK_BYTES_MAX = 64;

/** Numbers around which parsers err: ends of ranges, signs, pages. */
const EDGES: readonly bigint[] = [
  ...[0n, 1n, 2n, 3n, 4n, 7n, 8n, 16n, 31n, 32n, 63n, 64n, 100n, 127n, 128n, 255n, 256n, 511n],
  ...[512n, 1023n, 1024n, 4095n, 4096n, 0x7fffn, 0x8000n, 0xffffn, 0x10000n, 0x100000n],
  ...[0x1000000n, 0x7fffffffn, 0x80000000n, 0xfffffffcn, 0xffffffffn, 0x100000000n],
  ...[2n ** 40n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n],
];

const WIDTHS = [1, 2, 4, 8] as const;

/** A copy. Not by slice(), which in a Buffer shares what it was taken from. */
export const copyOf = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes);

/** Writes the low `width` bytes of `value`, little-endian; what does not fit is left out. */
function put(bytes: Uint8Array, at: number, width: number, value: bigint): void {
  for (let i = 0; i < width && at + i < bytes.length; i++) {
    bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
  }
}

function get(bytes: Uint8Array, at: number, width: number): bigint {
  let value = 0n;
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i] ?? 0);
  return value;
}

/** A number to put into a field: an edge, near an edge, near what was there, or the length. */
export function nastyNumber(random: Random, was: bigint, inputBytes: number): bigint {
  const near = BigInt(random(9) - 4);
  switch (random(5)) {
    case 0:
      return was + near;
    case 1:
      return BigInt(inputBytes) + near;
    case 2:
      return BigInt(random(inputBytes + 1));
    case 3:
      return EDGES[random(EDGES.length)] + near;
    default:
      return EDGES[random(EDGES.length)];
  }
}

/** Puts a nasty number into the field of `width` bytes at `at`. */
export function spoilField(bytes: Uint8Array, at: number, width: number, random: Random): void {
  put(bytes, at, width, nastyNumber(random, get(bytes, at, width), bytes.length));
}

/** The bytes with those from `from` to `to` replaced. */
export function splice(
  bytes: Uint8Array,
  from: number,
  to: number,
  middle: Uint8Array,
): Uint8Array {
  const result = new Uint8Array(from + middle.length + bytes.length - to);
  result.set(bytes.subarray(0, from));
  result.set(middle, from);
  result.set(bytes.subarray(to), from + middle.length);
  return result;
}

type Change = (bytes: Uint8Array, random: Random, context: Context) => Uint8Array;

interface Context {
  words: readonly Uint8Array[];
  other: Uint8Array; // another input of the corpus, to cross with
}

const somewhere = (bytes: Uint8Array, random: Random): number => random(bytes.length + 1);

/** A block inside the bytes, seldom a large one. */
function block(bytes: Uint8Array, random: Random): [from: number, to: number] {
  const from = somewhere(bytes, random);
  const limit = random(8) === 0 ? bytes.length : BLOCK_BYTES_MAX;
  return [from, Math.min(bytes.length, from + 1 + random(limit + 1))];
}

function inPlace(change: (bytes: Uint8Array, random: Random, context: Context) => void): Change {
  return (bytes, random, context) => {
    if (bytes.length > 0) change(bytes, random, context);
    return bytes;
  };
}

const CHANGES: readonly Change[] = [
  inPlace((bytes, random) => {
    bytes[random(bytes.length)] ^= 1 << random(8);
  }),
  inPlace((bytes, random) => {
    bytes[random(bytes.length)] = random(256);
  }),
  inPlace((bytes, random) => {
    const width = WIDTHS[random(WIDTHS.length)];
    const at = random(bytes.length);
    spoilField(bytes, random(4) ? at - (at % width) : at, width, random);
  }),
  inPlace((bytes, random, { words }) => {
    if (words.length === 0) return;
    const word = words[random(words.length)];
    const at = random(bytes.length);
    bytes.set(word.subarray(0, bytes.length - at), at);
  }),
  (bytes, random, { words }) => {
    if (words.length === 0) return bytes;
    const at = somewhere(bytes, random);
    return splice(bytes, at, at, words[random(words.length)]);
  },
  (bytes, random) => splice(bytes, ...block(bytes, random), new Uint8Array(0)),
  (bytes, random) => {
    const [from, to] = block(bytes, random);
    const at = somewhere(bytes, random);
    return splice(bytes, at, at, bytes.subarray(from, to));
  },
  inPlace((bytes, random) => {
    const [from, to] = block(bytes, random);
    bytes.copyWithin(random(bytes.length), from, to);
  }),
  inPlace((bytes, random) => {
    const [from, to] = block(bytes, random);
    bytes.fill([0, 0xff, 0x20, 0x41][random(4)], from, to);
  }),
  (bytes, random) => {
    const at = somewhere(bytes, random);
    return splice(bytes, at, at, new Uint8Array(1 + random(BLOCK_BYTES_MAX)).fill(random(256)));
  },
  (bytes, random) => (random(4) ? bytes : bytes.subarray(0, somewhere(bytes, random))),
  (bytes, random, { other }) => {
    const at = somewhere(bytes, random);
    return splice(bytes, at, bytes.length, other.subarray(Math.min(at, other.length)));
  },
  (bytes, random, { other }) => {
    const at = somewhere(bytes, random);
    return splice(bytes, at, at, other.subarray(...block(other, random)));
  },
];

/** A changed copy. */
export function havoc(input: Uint8Array, random: Random, context: Context): Uint8Array {
  let bytes = copyOf(input);
  for (let left = 1 << random(STACKED_MAX); left > 0; left--) {
    bytes = CHANGES[random(CHANGES.length)](bytes, random, context);
  }
  return bytes;
}
