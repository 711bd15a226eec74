// The chain that the walker followed, and what a request record may say of it (virtio 1.2 §5.2.6,
// §5.4.6; docs/abi.md, request record).
//
// A segment, 16 bytes from WALK: +0 address u64 (guest-physical)  +8 length u32
import {
  ENTROPY_BYTES_MAX, RANGE_LENGTH, RANGE_STRIDE, REQUEST, REQUEST_KIND, REQUEST_KIND_BLK_FLUSH,
  REQUEST_KIND_BLK_IN, REQUEST_KIND_BLK_OUT, REQUEST_KIND_BLK_WRITE_ZEROES, REQUEST_KIND_ENTROPY,
  REQUEST_LENGTH, REQUEST_RANGES, REQUEST_RANGE_COUNT, REQUEST_TAG, TAG_HEAD_MASK, TAG_QUEUE_MASK,
  TAG_QUEUE_SHIFT,
} from "../../assembly/abi";
import { WALK } from "./places";
import { RULE_RECORD } from "./shared";
import { violate } from "./violation";

const HEADER_BYTES: u64 = 16;

export function setSegment(segment: u32, address: u64, length: u32): void {
  const at = WALK + (<usize>segment << 4);
  store<u64>(at, address);
  store<u32>(at, length, 8);
}

export function addressOf(segment: u32): u64 {
  return load<u64>(WALK + (<usize>segment << 4));
}

export function lengthOf(segment: u32): u32 {
  return load<u32>(WALK + (<usize>segment << 4), 8);
}

/** The record is tagged as the head's. */
export function checkTag(queue: u32, head: u32): void {
  const tag = load<u32>(REQUEST, REQUEST_TAG);
  const taggedQueue = (tag >> TAG_QUEUE_SHIFT) & TAG_QUEUE_MASK;
  if ((tag & TAG_HEAD_MASK) != head || taggedQueue != queue) violate(RULE_RECORD, tag, head);
}

/** The record's ranges are the chain's bytes, in order and in their direction. */
export function checkRecord(
  queue: u32, head: u32, readableCount: u32, count: u32, readableBytes: u64, writableBytes: u64,
): void {
  const kind = load<u32>(REQUEST, REQUEST_KIND);
  const ranges = load<u32>(REQUEST, REQUEST_RANGE_COUNT);
  checkTag(queue, head);
  if (ranges == 0) {
    // FLUSH, DISCARD and WRITE_ZEROES, whose numbers follow each other.
    const bare = kind >= <u32>REQUEST_KIND_BLK_FLUSH && kind <= <u32>REQUEST_KIND_BLK_WRITE_ZEROES;
    if (!bare) violate(RULE_RECORD, kind, 2);
    return;
  }
  // What the ranges must cover: the data before the status, behind the header, or any of it.
  switch (kind) {
    case REQUEST_KIND_BLK_IN:
      checkRanges(readableCount, count, 0, writableBytes - 1);
      return;
    case REQUEST_KIND_BLK_OUT:
      checkRanges(0, readableCount, HEADER_BYTES, readableBytes - HEADER_BYTES);
      return;
    case REQUEST_KIND_ENTROPY:
      checkRanges(readableCount, count, 0, min<u64>(writableBytes, ENTROPY_BYTES_MAX));
      return;
    default: violate(RULE_RECORD, kind, 3);
  }
}

/**
 * The record's ranges are `wanted` bytes of the segments from `from` to `end`, behind the first
 * `skipped` ones.
 */
export function checkRanges(from: u32, end: u32, skipped: u64, wanted: u64): void {
  const length = load<u64>(REQUEST, REQUEST_LENGTH);
  if (length != wanted) violate(RULE_RECORD, length, wanted);
  let skip = skipped;
  let left = wanted;
  let range: usize = REQUEST + REQUEST_RANGES;
  for (let segment = from; segment < end && left != 0; segment++) {
    const bytes: u64 = lengthOf(segment);
    if (bytes <= skip) {
      skip -= bytes;
      continue;
    }
    const taken = min<u64>(bytes - skip, left);
    const same = load<u64>(range) == addressOf(segment) + skip &&
      load<u32>(range, RANGE_LENGTH) == taken;
    if (!same) violate(RULE_RECORD, load<u64>(range), addressOf(segment));
    range += RANGE_STRIDE;
    left -= taken;
    skip = 0;
  }
  const ranges = load<u32>(REQUEST, REQUEST_RANGE_COUNT);
  const covered: usize = REQUEST + REQUEST_RANGES + ranges * RANGE_STRIDE;
  if (left != 0 || range != covered) violate(RULE_RECORD, ranges, left);
}

// --- How far the chain's bytes are read, or written ----------------------------------------------

let reached: u32 = 0; // a segment
let reachedOffset: u32 = 0;

/** The next access is to the bytes from this segment on. */
export function startAt(segment: u32): void {
  reached = segment;
  reachedOffset = 0;
}

/** Whether those bytes come next of the segments before `end`; then they are behind. */
export function comesNext(address: u64, length: u32, end: u32): bool {
  while (reached < end && reachedOffset == lengthOf(reached)) {
    reached++;
    reachedOffset = 0;
  }
  const fits = reached < end && address == addressOf(reached) + reachedOffset &&
    length <= lengthOf(reached) - reachedOffset;
  if (fits) reachedOffset += length;
  return fits;
}

/** Whether those bytes come next or further on; then they are behind. */
export function comesLater(address: u64, length: u32, end: u32): bool {
  for (; reached < end; reached++) {
    const offset = address - addressOf(reached);
    const size: u64 = lengthOf(reached);
    if (offset >= reachedOffset && offset <= size && length <= size - offset) {
      reachedOffset = <u32>offset + length;
      return true;
    }
    reachedOffset = 0;
  }
  return false;
}
