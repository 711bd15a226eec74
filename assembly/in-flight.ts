// Heads in flight: requests the host has, and what to do when it is done with one.
// No specification: this is how a completion is tied to its chain (docs/abi.md, tags).
//
// InFlight, one per head, from IN_FLIGHT, IN_FLIGHT_QUEUE_BYTES per queue:
//   +0 statusAddress u64 (guest-physical; virtio-blk: of the status byte; receive buffer of
//      virtio-net: of num_buffers)
//   +8 payloadBytes u32 (what the host may have written at most; virtio-blk: all before the status)
//   +12 generation u16 (stays when the head is free)  +14 kind u8 (REQUEST_KIND_*, 0: free)
//   +15 next u8 (virtio-net: the head of the receive buffer that was handed out after this one)
import {
  QUEUE_SIZE_MAX, REQUEST, REQUEST_FLAGS, REQUEST_KIND, REQUEST_LENGTH,
  REQUEST_OFFSET, REQUEST_RANGES, REQUEST_RANGE_COUNT, REQUEST_TAG, TAG_GENERATION_MASK,
  TAG_GENERATION_SHIFT, TAG_QUEUE_SHIFT, RANGE_LENGTH, RANGE_STRIDE,
} from "./abi";
import { IN_FLIGHT, IN_FLIGHT_QUEUE_BYTES, IN_FLIGHT_STRIDE } from "./layout";
import { segment } from "./virtq";

@unmanaged export class InFlight {
  statusAddress: u64;
  payloadBytes: u32;
  generation: u16;
  kind: u8;
  next: u8;
}
if (offsetof<InFlight>("kind") != 14) ERROR("InFlight moved: snapshots would break");
if (QUEUE_SIZE_MAX > 256) ERROR("a head has to fit into a byte");

// @ts-ignore: decorator
@inline export function inFlight(queueIndex: u32, head: u32): InFlight {
  return changetype<InFlight>(
    IN_FLIGHT + <usize>queueIndex * IN_FLIGHT_QUEUE_BYTES + <usize>head * IN_FLIGHT_STRIDE,
  );
}

/** Forgets every request of a queue; the generations stay, so that late completions miss. */
export function forgetQueue(queueIndex: u32): void {
  for (let head: u32 = 0; head < <u32>QUEUE_SIZE_MAX; head++) {
    const entry = inFlight(queueIndex, head);
    // Only what is set: a page that nobody has written to costs the host no memory.
    if (entry.kind != 0) entry.kind = 0;
  }
}

/** The same of the first `queueCount` queues, which must be all that can have any. */
export function forgetQueues(queueCount: u32): void {
  for (let index: u32 = 0; index < queueCount; index++) forgetQueue(index);
}

/** Enters a request into the table and writes the fixed part of its record; the ranges stand. */
export function submit(
  queueIndex: u32, head: u32, kind: u32, offset: u64, lengthBytes: u64, rangeCount: u32, flags: u32,
  statusAddress: u64, payloadBytes: u32,
): void {
  const entry = inFlight(queueIndex, head);
  const generation = (entry.generation + 1) & TAG_GENERATION_MASK;
  entry.kind = <u8>kind; // the highest field first: native code then checks one bound for all
  entry.generation = <u16>generation;
  entry.payloadBytes = payloadBytes;
  entry.statusAddress = statusAddress;
  const tag = <u32>generation << TAG_GENERATION_SHIFT | queueIndex << TAG_QUEUE_SHIFT | head;
  store<u32>(REQUEST + REQUEST_KIND, kind);
  store<u32>(REQUEST + REQUEST_TAG, tag);
  store<u64>(REQUEST + REQUEST_OFFSET, offset);
  store<u64>(REQUEST + REQUEST_LENGTH, lengthBytes);
  store<u32>(REQUEST + REQUEST_RANGE_COUNT, rangeCount);
  store<u32>(REQUEST + REQUEST_FLAGS, flags);
}

/**
 * Writes the record's ranges: `lengthBytes` bytes of the walked chain, from `skipBytes` into
 * segment `first` on. The caller made sure that the chain has as many. Returns how many ranges.
 */
export function emitRanges(first: u32, skipBytes: u64, lengthBytes: u64): u32 {
  let skip = skipBytes;
  let left = lengthBytes;
  let range: usize = REQUEST + REQUEST_RANGES;
  // At most one round per segment: the segments from `first` on hold skip + left bytes.
  for (let index = first; left != 0; index++) {
    const source = segment(index);
    const length: u64 = source.length;
    if (length <= skip) {
      skip -= length; // empty descriptors end here too
      continue;
    }
    const taken = min<u64>(length - skip, left);
    store<u64>(range, taken, RANGE_LENGTH); // the four bytes after the length are zero
    store<u64>(range, source.address + skip);
    range += RANGE_STRIDE;
    left -= taken;
    skip = 0;
  }
  return <u32>((range - (REQUEST + REQUEST_RANGES)) / RANGE_STRIDE);
}
