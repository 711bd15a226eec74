// Split virtqueues, device side, as plain functions over guest RAM: virtio 1.2 §2.7. A test oracle
// for assembly/virtq.ts, so it shares nothing with it. Left out: packed rings, in-order completion.

/** Guest RAM from address 0; whatever is past its end is not RAM. */
export interface Ram {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** A queue as its driver set it up, and how far the device is. */
export interface Ring {
  size: number;
  descriptors: bigint; // the three addresses, as the registers hold them
  available: bigint;
  used: bigint;
  ready: boolean;
  nextAvailable: number; // free-running, 16 bits
  nextUsed: number;
}

/** One buffer of a chain. */
export interface Piece {
  address: bigint;
  length: number; // bytes
  write: boolean; // for the device to write
}

const DESCRIPTOR_BYTES = 16;
const FLAG_NEXT = 1;
const FLAG_WRITE = 2;
const FLAG_INDIRECT = 4;
const INDIRECT_CHAIN_MAX = 256; // docs/design.md, 'Bounded': whatever the queue's own size
const CHAIN_BYTES_MAX = 2 ** 32; // §2.7.5.1
const ADDRESS_END = 2n ** 64n;

export const emptyRing = (): Ring => ({
  size: 0,
  descriptors: 0n,
  available: 0n,
  used: 0n,
  ready: false,
  nextAvailable: 0,
  nextUsed: 0,
});

// An address past 2^53 loses bits as a number, but stays far outside any RAM.
const inRam = (ram: Ram, address: number, length: number): boolean =>
  address + length <= ram.bytes.length;

function load16(ram: Ram, address: number): number | undefined {
  return inRam(ram, address, 2) ? ram.view.getUint16(address, true) : undefined;
}

/** Copies `bytes` to a guest-physical address; false where that is not RAM. */
export function storeBytes(ram: Ram, address: bigint, bytes: Uint8Array): boolean {
  const at = Number(address);
  if (!inRam(ram, at, bytes.length)) return false;
  ram.bytes.set(bytes, at);
  return true;
}

/** Whether a queue of that size may be enabled (§2.7, table of alignments and sizes). */
export function ringPossible(ring: Ring, sizeMax: number): boolean {
  const powers = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  if (!powers.includes(ring.size) || ring.size > sizeMax) return false;
  const parts = [
    { at: ring.descriptors, alignment: 16n, bytes: 16 * ring.size },
    { at: ring.available, alignment: 2n, bytes: 6 + 2 * ring.size },
    { at: ring.used, alignment: 4n, bytes: 6 + 8 * ring.size },
  ];
  return parts.every(
    ({ at, alignment, bytes }) => at % alignment === 0n && at + BigInt(bytes) < ADDRESS_END,
  );
}

/**
 * Takes the next head off the available ring (§2.7.6). 'none': the ring is empty, and with `ask`
 * the driver was told where to kick next (§2.7.10). Else what is wrong with the ring.
 */
export function takeHead(
  ram: Ram,
  ring: Ring,
  ask: boolean,
  busy: (head: number) => boolean,
): number | 'none' | 'memory' | 'index' | 'head' {
  const available = Number(ring.available);
  let index = load16(ram, available + 2);
  if (index === ring.nextAvailable && ask) {
    const availEvent = Number(ring.used) + 4 + 8 * ring.size;
    if (!inRam(ram, availEvent, 2)) return 'memory';
    ram.view.setUint16(availEvent, ring.nextAvailable, true);
    index = load16(ram, available + 2);
  }
  if (index === undefined) return 'memory';
  const waiting = (index + 0x10000 - ring.nextAvailable) % 0x10000;
  if (waiting === 0) return 'none';
  if (waiting > ring.size) return 'index';
  const head = load16(ram, available + 4 + 2 * (ring.nextAvailable % ring.size));
  if (head === undefined) return 'memory';
  if (head >= ring.size || busy(head)) return 'head';
  ring.nextAvailable = (ring.nextAvailable + 1) % 0x10000;
  return head;
}

/**
 * The buffers of the chain at `head` (§2.7.5). 'ring': the queue's own table is not RAM; 'memory':
 * an indirect table is not, or a buffer runs past the address space; 'chain': no chain at all.
 */
export function readChain(
  ram: Ram,
  ring: Ring,
  head: number,
  indirectAllowed: boolean,
): Piece[] | 'ring' | 'memory' | 'chain' {
  const pieces: Piece[] = [];
  let table = { at: Number(ring.descriptors), entries: ring.size, longest: ring.size };
  let nested = false;
  let bytes = 0;
  for (let entry = head; ; ) {
    const at = table.at + DESCRIPTOR_BYTES * entry;
    if (!inRam(ram, at, DESCRIPTOR_BYTES)) return nested ? 'memory' : 'ring';
    const address = ram.view.getBigUint64(at, true);
    const length = ram.view.getUint32(at + 8, true);
    const flags = ram.view.getUint16(at + 12, true);
    if (flags & FLAG_INDIRECT) {
      // One table, only at the end, of whole descriptors; WRITE says nothing here (§2.7.5.3).
      const misplaced = nested || !indirectAllowed || (flags & FLAG_NEXT) !== 0;
      if (misplaced || length === 0 || length % DESCRIPTOR_BYTES !== 0) return 'chain';
      const entries = length / DESCRIPTOR_BYTES;
      table = { at: Number(address), entries, longest: INDIRECT_CHAIN_MAX };
      nested = true;
      entry = 0;
      continue;
    }
    const write = (flags & FLAG_WRITE) !== 0;
    if (pieces.length === table.longest) return 'chain'; // a loop, then
    // The core takes no buffer that ends at the very end of the address space either.
    if (length > 0 && address + BigInt(length) >= ADDRESS_END) return 'memory';
    bytes += length;
    if (bytes > CHAIN_BYTES_MAX) return 'chain';
    if (!write && pieces.at(-1)?.write) return 'chain'; // readable ones come first (§2.7.4.2)
    pieces.push({ address, length, write });
    if (!(flags & FLAG_NEXT)) return pieces;
    entry = ram.view.getUint16(at + 14, true);
    if (entry >= table.entries) return 'chain';
  }
}

/** An element of the used ring (§2.7.8). */
export interface UsedElement {
  head: number;
  written: number;
}

/** Writes one element, `ahead` places behind those that the driver sees; false where no RAM is. */
export function storeUsed(ram: Ram, ring: Ring, ahead: number, element: UsedElement): boolean {
  const at = Number(ring.used) + 4 + 8 * ((ring.nextUsed + ahead) % ring.size);
  if (!inRam(ram, at, 8)) return false;
  ram.view.setUint32(at, element.head, true);
  ram.view.setUint32(at + 4, element.written, true);
  return true;
}

/** Shows the driver so many elements, and says whether it wants to hear of it (§2.7.7). */
export function showUsed(
  ram: Ram,
  ring: Ring,
  count: number,
  eventIndex: boolean,
): 'interrupt' | 'quiet' | 'memory' {
  const oldIndex = ring.nextUsed;
  ring.nextUsed = (oldIndex + count) % 0x10000;
  ram.view.setUint16(Number(ring.used) + 2, ring.nextUsed, true); // before an element, so in RAM
  const available = Number(ring.available);
  const wish = load16(ram, eventIndex ? available + 4 + 2 * ring.size : available);
  if (wish === undefined) return 'memory';
  if (!eventIndex) return wish % 2 === 0 ? 'interrupt' : 'quiet';
  // Whether one of the indexes that the used index just left is used_event.
  for (let i = 0; i < count; i += 1) {
    if (wish === (oldIndex + i) % 0x10000) return 'interrupt';
  }
  return 'quiet';
}

// --- A chain as one row of bytes (§2.7.4: the framing says nothing) -----------------------------

export const totalBytes = (pieces: Piece[]): number =>
  pieces.reduce((sum, piece) => sum + piece.length, 0);

/** Where `length` bytes from byte `from` on lie; every part holds at least one byte. */
export function cut(
  pieces: Piece[],
  from: number,
  length: number,
): { address: bigint; length: number }[] {
  const parts: { address: bigint; length: number }[] = [];
  let start = 0; // of the piece, in the row
  for (const piece of pieces) {
    const first = Math.max(from, start);
    const end = Math.min(from + length, start + piece.length);
    if (first < end) {
      parts.push({ address: piece.address + BigInt(first - start), length: end - first });
    }
    start += piece.length;
  }
  return parts;
}

/** Copies bytes of the row out of RAM; nothing where one of them is not RAM. */
export function bytesOf(
  ram: Ram,
  pieces: Piece[],
  from: number,
  length: number,
): DataView | undefined {
  const copy = new Uint8Array(length);
  let filled = 0;
  for (const part of cut(pieces, from, length)) {
    const at = Number(part.address);
    if (!inRam(ram, at, part.length)) return undefined;
    for (let i = 0; i < part.length; i += 1) copy[filled + i] = ram.bytes[at + i];
    filled += part.length;
  }
  return new DataView(copy.buffer);
}
