// Split virtqueue, device side.
// Virtio 1.2 §2.7, with indirect tables (§2.7.5.3) and the event index (§2.7.7, §2.7.10). Left out:
// packed rings, in-order completion.
//
// Virtq, one slot per queue, QUEUE_STRIDE bytes apart from QUEUES:
//   +0 descTable  +8 availRing  +16 usedRing  (guest-physical, u64)
//   +24 size u16  +26 availNext u16  +28 usedNext u16  +30 ready u8
//   of a receive queue, the buffers handed out:
//   +32 oldest u16  +34 newest u16 (heads)  +36 held u16
// Chain (scratch at CHAIN), what the last walk found; its segments are in chain order at SEGMENTS:
//   +0 readableCount u32  +4 writableCount u32  +8 readableBytes u64  +16 writableBytes u64
// Segment: +0 address u64 (guest-physical)  +8 length u32
import {
  EFFECT_IRQ, INCIDENT_AVAIL_INDEX, INCIDENT_CHAIN, INCIDENT_HEAD, INCIDENT_MEMORY, QUEUE_SIZE_MAX,
} from "./abi";
import { guestFence, guestLoad16, guestRead, guestStore16, guestWrite } from "./guest";
import { inFlight } from "./in-flight";
import {
  CHAIN, DESCRIPTOR, QUEUES, QUEUE_STRIDE, SEGMENTS, SEGMENT_STRIDE, USED_ELEMENT,
} from "./layout";
import {
  VIRTIO_MMIO_INT_VRING, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, negotiated, virtio,
  virtioBroken,
} from "./virtio";

export const VIRTQ_DESC_F_NEXT: u32 = 1; // buffer continues at `next`
export const VIRTQ_DESC_F_WRITE: u32 = 2; // device-writable
export const VIRTQ_DESC_F_INDIRECT: u32 = 4; // buffer is a table of descriptors
export const VIRTQ_AVAIL_F_NO_INTERRUPT: i32 = 1;

// Descriptor (§2.7.5): addr u64, len u32, flags u16, next u16.
const DESC_LEN: usize = 8;
const DESC_FLAGS: usize = 12;
const DESC_NEXT: usize = 14;
export const DESC_BYTES: u32 = 16;

// Available and used ring (§2.7.6, §2.7.8): flags u16, idx u16, ring[], then the event index.
const RING_IDX: u64 = 2;
const RING_ENTRIES: u64 = 4;
export const RING_BYTES: u64 = 6; // of a ring without its entries
export const USED_ELEMENT_BYTES: u32 = 8;
const CHAIN_BYTES_MAX: u64 = 1 << 32; // §2.7.4.2

// Answers of virtqPop() that are no head; a broken ring is POP_BROKEN minus its incident.
export const POP_EMPTY: i32 = -1;
export const POP_BROKEN: i32 = -2;
// Answers of virtqWalk() that are no incident of the chain: the table itself may be out of RAM.
export const WALK_OK: i32 = -1;
export const WALK_BROKEN: i32 = -2;

@unmanaged export class Virtq {
  descTable: u64;
  availRing: u64;
  usedRing: u64;
  size: u16;
  availNext: u16;
  usedNext: u16;
  ready: u8;
  oldest: u16;
  newest: u16;
  held: u16;
}
if (offsetof<Virtq>("ready") != 30) ERROR("Virtq moved: snapshots would break");
if (offsetof<Virtq>("held") != 36) ERROR("Virtq moved: snapshots would break");

@unmanaged export class Chain {
  readableCount: u32;
  writableCount: u32;
  readableBytes: u64;
  writableBytes: u64;
}

@unmanaged export class Segment {
  address: u64;
  length: u32;
}

// @ts-ignore: decorator
@inline export function virtq(index: u32): Virtq {
  return changetype<Virtq>(QUEUES + <usize>index * QUEUE_STRIDE);
}

// @ts-ignore: decorator
@inline export function walked(): Chain {
  return changetype<Chain>(CHAIN);
}

/** Segment `index` of the last walked chain: readable ones first, then writable ones. */
// @ts-ignore: decorator
@inline export function segment(index: u32): Segment {
  return changetype<Segment>(SEGMENTS + <usize>index * SEGMENT_STRIDE);
}

/** Whether the queue's size and addresses are ones the spec allows (§2.7, §2.7.1). */
export function virtqPlausible(queue: Virtq, sizeMax: u32): bool {
  const size: u32 = queue.size;
  if (size > sizeMax || popcnt(size) != 1) return false;
  return fits(queue.descTable, 16, <u64>size * DESC_BYTES) &&
    fits(queue.availRing, 2, RING_BYTES + 2 * <u64>size) &&
    fits(queue.usedRing, 4, RING_BYTES + USED_ELEMENT_BYTES * <u64>size);
}

// Aligned, and not wrapping past 2^64. Whether RAM is there shows at the first access.
function fits(address: u64, alignment: u64, lengthBytes: u64): bool {
  return (address & (alignment - 1)) == 0 && address <= u64.MAX_VALUE - lengthBytes;
}

/**
 * Takes the next head off the available ring; negative: POP_EMPTY, or POP_BROKEN and below. `ask`:
 * where there is none, the driver is asked for a kick at the next one.
 */
export function virtqPop(index: u32, ask: bool): i32 {
  const queue = virtq(index);
  const availNext = queue.availNext;
  let availIndex = guestLoad16(queue.availRing + RING_IDX);
  if (availIndex == availNext) {
    if (!ask || !negotiated(VIRTIO_RING_F_EVENT_IDX)) return POP_EMPTY;
    availIndex = askForKick(queue);
    if (availIndex == availNext) return POP_EMPTY;
  }
  if (availIndex < 0) return POP_BROKEN - INCIDENT_MEMORY;
  const size: u32 = queue.size;
  if (((<u32>availIndex - availNext) & 0xffff) > size) return POP_BROKEN - INCIDENT_AVAIL_INDEX;

  const slot = <u64>(availNext & (size - 1)) << 1;
  const head = guestLoad16(queue.availRing + RING_ENTRIES + slot);
  if (head < 0) return POP_BROKEN - INCIDENT_MEMORY;
  if (<u32>head >= size || inFlight(index, head).kind != 0) return POP_BROKEN - INCIDENT_HEAD;
  queue.availNext = availNext + 1;
  return head;
}

// The ring is drained: publish the index at which a kick is wanted, then look once more, because
// the driver may have added a buffer before it could see that (§2.7.10.1). Returns the new index.
function askForKick(queue: Virtq): i32 {
  const availEvent = queue.usedRing + RING_ENTRIES + <u64>queue.size * USED_ELEMENT_BYTES;
  if (!guestStore16(availEvent, queue.availNext)) return -1;
  guestFence();
  return guestLoad16(queue.availRing + RING_IDX);
}

/**
 * Copies the chain at `head` into SEGMENTS and describes it in Chain.
 * Returns WALK_OK, WALK_BROKEN, or the incident that makes the chain unusable.
 */
export function virtqWalk(index: u32, head: u32): i32 {
  const queue = virtq(index);
  let table = queue.descTable;
  let tableSize: u32 = queue.size;
  let indirect = false;
  let next = head;
  let limit = tableSize; // no chain is longer than its queue: a loop ends here (§2.7.5.2)
  let count: u32 = 0;
  let readableCount: u32 = 0;
  let readableBytes: u64 = 0;
  let totalBytes: u64 = 0;
  for (;;) {
    if (!guestRead(table + (<u64>next << 4), DESCRIPTOR, DESC_BYTES)) {
      return indirect ? INCIDENT_MEMORY : WALK_BROKEN;
    }
    const address = load<u64>(DESCRIPTOR);
    const length = load<u32>(DESCRIPTOR, DESC_LEN);
    const flags: u32 = load<u16>(DESCRIPTOR, DESC_FLAGS);
    if (flags & VIRTQ_DESC_F_INDIRECT) {
      // One table per chain, as its last element, and only if negotiated (§2.7.5.3.1).
      if (indirect || flags & VIRTQ_DESC_F_NEXT) return INCIDENT_CHAIN;
      if (!negotiated(VIRTIO_RING_F_INDIRECT_DESC)) return INCIDENT_CHAIN;
      if (length == 0 || length % DESC_BYTES != 0) return INCIDENT_CHAIN;
      indirect = true;
      table = address;
      tableSize = length / DESC_BYTES;
      next = 0;
      // A driver that shrank its queue may still build tables for the size it was offered.
      limit = QUEUE_SIZE_MAX;
      continue;
    }
    if (count == limit) return INCIDENT_CHAIN;
    if (address + length < address) return INCIDENT_MEMORY;
    const entry = segment(count++);
    entry.length = length; // the higher field first: native code then checks one bound, not two
    entry.address = address;
    totalBytes += length;
    if (totalBytes > CHAIN_BYTES_MAX) return INCIDENT_CHAIN;
    if (!(flags & VIRTQ_DESC_F_WRITE)) {
      if (readableCount + 1 != count) return INCIDENT_CHAIN; // readable parts come first (§2.7.4.2)
      readableCount = count;
      readableBytes = totalBytes;
    }
    if (!(flags & VIRTQ_DESC_F_NEXT)) break;
    next = load<u16>(DESCRIPTOR, DESC_NEXT);
    if (next >= tableSize) return INCIDENT_CHAIN;
  }
  const chain = walked();
  chain.readableCount = readableCount;
  chain.writableCount = count - readableCount;
  chain.readableBytes = readableBytes;
  chain.writableBytes = totalBytes - readableBytes;
  return WALK_OK;
}

/**
 * Copies bytes of the readable part of the walked chain into the cage, from `skipBytes` on; the
 * caller made sure that it has as many. False: a buffer lies outside guest RAM.
 */
export function chainRead(skipBytes: u32, destination: usize, lengthBytes: u32): bool {
  let skip = skipBytes;
  let left = lengthBytes;
  let to = destination;
  for (let index: u32 = 0; left != 0; index++) {
    const source = segment(index);
    const length = source.length;
    if (length <= skip) {
      skip -= length;
      continue;
    }
    const taken = min<u32>(length - skip, left);
    if (!guestRead(source.address + skip, to, taken)) return false;
    to += taken;
    left -= taken;
    skip = 0;
  }
  return true;
}

/** The same the other way: cage bytes into the writable part. */
export function chainWrite(skipBytes: u32, source: usize, lengthBytes: u32): bool {
  let skip = skipBytes;
  let left = lengthBytes;
  let from = source;
  for (let index = walked().readableCount; left != 0; index++) {
    const target = segment(index);
    const length = target.length;
    if (length <= skip) {
      skip -= length;
      continue;
    }
    const taken = min<u32>(length - skip, left);
    if (!guestWrite(target.address + skip, from, taken)) return false;
    from += taken;
    left -= taken;
    skip = 0;
  }
  return true;
}

/** Gives `head` back on the used ring with `lengthBytes` written, and interrupts if wanted. */
export function virtqPush(index: u32, head: u32, lengthBytes: u32): u32 {
  if (!virtqFill(index, 0, head, lengthBytes)) return virtioBroken(INCIDENT_MEMORY);
  return virtqPublish(index, 1);
}

/** Writes the element `ahead` places behind the last one published. False: outside guest RAM. */
export function virtqFill(index: u32, ahead: u32, head: u32, lengthBytes: u32): bool {
  const queue = virtq(index);
  const size: u32 = queue.size;
  // id u32, len u32 in one store: a processor passes a store on to a load only where it is as wide.
  store<u64>(USED_ELEMENT, <u64>head | (<u64>lengthBytes << 32));
  const slot = <u64>((queue.usedNext + ahead) & (size - 1)) * USED_ELEMENT_BYTES;
  return guestWrite(queue.usedRing + RING_ENTRIES + slot, USED_ELEMENT, USED_ELEMENT_BYTES);
}

/** Shows the driver the `count` elements that were filled, and interrupts if it wants that. */
export function virtqPublish(index: u32, count: u32): u32 {
  const queue = virtq(index);
  const before = queue.usedNext;
  const after: u16 = before + <u16>count;
  // The store releases the elements (and what they tell of) before the index (§2.7.8.2).
  if (!guestStore16(queue.usedRing + RING_IDX, after)) return virtioBroken(INCIDENT_MEMORY);
  queue.usedNext = after;
  // The index must be visible before the driver's wish is read: the driver does both the other way
  // round (§2.7.7.2).
  guestFence();
  return interruptIfWanted(queue, after, count);
}

function interruptIfWanted(queue: Virtq, after: u16, count: u32): u32 {
  let wanted: bool;
  if (negotiated(VIRTIO_RING_F_EVENT_IDX)) {
    const usedEvent = guestLoad16(queue.availRing + RING_ENTRIES + (<u64>queue.size << 1));
    if (usedEvent < 0) return virtioBroken(INCIDENT_MEMORY);
    wanted = <u32><u16>(after - <u16>usedEvent - 1) < count; // the index went past it (§2.7.10)
  } else {
    const flags = guestLoad16(queue.availRing);
    if (flags < 0) return virtioBroken(INCIDENT_MEMORY);
    wanted = !(flags & VIRTQ_AVAIL_F_NO_INTERRUPT);
  }
  if (!wanted) return 0;
  virtio().interruptStatus |= VIRTIO_MMIO_INT_VRING;
  return EFFECT_IRQ;
}
