// The chain that the walker followed, and what a request record may say of it (virtio 1.2 §5.2.6,
// §5.4.6; docs/abi.md, request record).
//
// A segment, 16 bytes from WALK: +0 address u64 (guest-physical)  +8 length u32
import { WALK } from "./places";
import { RULE_RECORD } from "./shared";
import { violate } from "./violation";

const REQUEST: usize = 0x3010; // assembly/abi.ts
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
  const kind = load<u32>(REQUEST);
  const length = load<u64>(REQUEST, 16);
  const ranges = load<u32>(REQUEST, 24);
  const tag = load<u32>(REQUEST, 4);
  if ((tag & 0xffff) != head || ((tag >> 16) & 0xf) != queue) violate(RULE_RECORD, tag, head);
  if (ranges == 0) {
    if (kind < 3 || kind > 5) violate(RULE_RECORD, kind, 2);
    return;
  }
  // What the ranges must cover: the data before the status, behind the header, or any of it.
  let skip: u64 = 0;
  let segment: u32 = readableCount;
  let wanted: u64 = writableBytes;
  if (kind == 1) wanted = writableBytes - 1;
  else if (kind == 2) {
    skip = HEADER_BYTES;
    segment = 0;
    wanted = readableBytes - HEADER_BYTES;
  } else wanted = min<u64>(writableBytes, 0x10000);
  const end = kind == 2 ? readableCount : count;
  const known = kind == 1 || kind == 2 || kind == 6;
  if (length != wanted || !known) violate(RULE_RECORD, length, wanted);
  let left = wanted;
  let range: usize = REQUEST + 32;
  for (; segment < end && left != 0; segment++) {
    const bytes: u64 = lengthOf(segment);
    if (bytes <= skip) {
      skip -= bytes;
      continue;
    }
    const taken = min<u64>(bytes - skip, left);
    const same = load<u64>(range) == addressOf(segment) + skip && load<u32>(range, 8) == taken;
    if (!same) violate(RULE_RECORD, load<u64>(range), addressOf(segment));
    range += 16;
    left -= taken;
    skip = 0;
  }
  if (left != 0 || range != REQUEST + 32 + (<usize>ranges << 4)) violate(RULE_RECORD, ranges, left);
}
