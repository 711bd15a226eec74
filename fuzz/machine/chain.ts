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

/** The record's ranges are the chain's bytes, in order and in their direction. */
export function checkRecord(
  queue: u32, head: u32, readableCount: u32, count: u32, readableBytes: u64, writableBytes: u64,
): void {
  const kind = load<u32>(REQUEST, REQUEST_KIND);
  const length = load<u64>(REQUEST, REQUEST_LENGTH);
  const ranges = load<u32>(REQUEST, REQUEST_RANGE_COUNT);
  const tag = load<u32>(REQUEST, REQUEST_TAG);
  const taggedQueue = (tag >> TAG_QUEUE_SHIFT) & TAG_QUEUE_MASK;
  if ((tag & TAG_HEAD_MASK) != head || taggedQueue != queue) violate(RULE_RECORD, tag, head);
  if (ranges == 0) {
    // FLUSH, DISCARD and WRITE_ZEROES, whose numbers follow each other.
    const bare = kind >= <u32>REQUEST_KIND_BLK_FLUSH && kind <= <u32>REQUEST_KIND_BLK_WRITE_ZEROES;
    if (!bare) violate(RULE_RECORD, kind, 2);
    return;
  }
  // What the ranges must cover: the data before the status, behind the header, or any of it.
  const writes = kind == REQUEST_KIND_BLK_OUT;
  let skip: u64 = 0;
  let segment: u32 = readableCount;
  let wanted: u64 = writableBytes;
  if (kind == REQUEST_KIND_BLK_IN) wanted = writableBytes - 1;
  else if (writes) {
    skip = HEADER_BYTES;
    segment = 0;
    wanted = readableBytes - HEADER_BYTES;
  } else wanted = min<u64>(writableBytes, ENTROPY_BYTES_MAX);
  const end = writes ? readableCount : count;
  const known = kind == REQUEST_KIND_BLK_IN || writes || kind == REQUEST_KIND_ENTROPY;
  if (length != wanted || !known) violate(RULE_RECORD, length, wanted);
  let left = wanted;
  let range: usize = REQUEST + REQUEST_RANGES;
  for (; segment < end && left != 0; segment++) {
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
  const covered: usize = REQUEST + REQUEST_RANGES + ranges * RANGE_STRIDE;
  if (left != 0 || range != covered) violate(RULE_RECORD, ranges, left);
}
