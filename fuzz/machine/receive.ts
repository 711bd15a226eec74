// A frame was received: as many buffers as it fills are given back, the oldest first, their number
// goes into the first one's header, and all are shown together (virtio 1.2 §5.1.6.4; docs/abi.md, a
// network device's queues).
import { TAG_HEAD_MASK } from "../../assembly/abi";
import { RULE_USED_HEAD, RULE_USED_LENGTH, RULE_WRITE } from "./shared";
import { addressOf, lengthOf } from "./chain";
import { setOutstanding } from "./heads";
import { heldBytes, heldCount, heldNumber, heldTag, letGo } from "./held";
import { violate } from "./violation";
import { accepted, beginWalk, count, readableCount, stepWalk } from "./walk";

const MRG_RXBUF: u64 = 1 << 15;
const NUM_BUFFERS: u32 = 10; // where it is in the header
const NUMBER_BYTES: u32 = 2;
const CUT: u64 = u64.MAX_VALUE; // in two descriptors, which are then read again

let queue: u32 = 0;
let descTable: u64 = 0;
let usedEntries: u64 = 0;
let size: u32 = 0;
let usedNext: u32 = 0;

let planned: u32 = 0; // buffers that the frame fills
let filled: u32 = 0; // of them written to the ring
let left: u32 = 0; // bytes of the frame beyond those
let first: u32 = 0; // head
let number: u64 = 0; // its place
let numberBytes: u32 = 0; // written
let refused: bool = false; // its place is no RAM
let walking: bool = false;
let walked: bool = false; // again, to the end

/** Where the number of buffers goes in the chain that was just walked, or CUT. */
export function numberPlace(): u64 {
  let skip = NUM_BUFFERS;
  for (let segment: u32 = 0; segment < count; segment++) {
    const length = lengthOf(segment);
    if (length > skip) return length - skip >= NUMBER_BYTES ? addressOf(segment) + skip : CUT;
    skip -= length;
  }
  return CUT;
}

export function beginReceive(
  index: u32, table: u64, usedRing: u64, queueSize: u32, next: u32, bytes: u32,
): void {
  queue = index;
  descTable = table;
  usedEntries = usedRing + 4;
  size = queueSize;
  usedNext = next;
  const most: u32 = accepted(MRG_RXBUF) ? heldCount(index) : 1;
  planned = 0;
  for (let rest = bytes; planned < most && (planned == 0 || rest != 0); planned++) {
    rest -= min<u32>(rest, heldBytes(index, planned));
  }
  filled = 0;
  left = bytes;
  first = heldTag(index, 0) & TAG_HEAD_MASK;
  number = heldNumber(index, 0);
  numberBytes = 0;
  refused = false;
  walking = false;
  walked = false;
}

/** How many buffers the frame fills; 0: not all of it is written that must be. */
export function received(): u32 {
  if (filled != planned) return 0;
  if (number != CUT) return numberBytes == NUMBER_BYTES ? planned : 0;
  // Read again the chain may be malformed, and then there is no number: the reference knows.
  return walking && (numberBytes != 1 || refused) ? planned : 0;
}

/** A descriptor is read again. False: that has no place here. */
export function receiveRead(address: u64, length: u32, at: usize, allowed: bool): bool {
  if (filled != planned || number != CUT || walked) return false;
  if (!walking) beginWalk(first, descTable, size);
  walking = true;
  walked = stepWalk(address, length, at, allowed);
  return true;
}

/** A write of those bytes, which lie at `from`. False: the ring is no RAM, and all is over. */
export function receiveWrite(address: u64, from: u32, length: u32, allowed: bool): bool {
  if (filled < planned) return fill(address, from, length, allowed);
  const place = number == CUT ? cutPlace(NUM_BUFFERS + numberBytes) : number;
  const due = !refused && length != 0 && numberBytes + length <= NUMBER_BYTES &&
    (number == CUT ? walked : length == NUMBER_BYTES);
  if (!due || address != place) violate(RULE_WRITE, address, length);
  for (let index: u32 = 0; index < length; index++) {
    const byte = (planned >> (numberBytes << 3)) & 0xff;
    if (load<u8>(from + index) != byte) violate(RULE_USED_LENGTH, planned, index);
    numberBytes++;
  }
  refused = !allowed;
  return true;
}

// Where that byte of the header is in the chain that was read again.
function cutPlace(offset: u32): u64 {
  let skip = offset;
  for (let segment = readableCount; segment < count; segment++) {
    if (lengthOf(segment) > skip) return addressOf(segment) + skip;
    skip -= lengthOf(segment);
  }
  return CUT;
}

function fill(address: u64, from: u32, length: u32, allowed: bool): bool {
  const slot = usedEntries + (<u64>((usedNext + filled) & (size - 1)) << 3);
  if (length != 8 || address != slot) {
    violate(RULE_WRITE, address, length);
    return true;
  }
  const head = heldTag(queue, 0) & TAG_HEAD_MASK;
  const expected = min<u32>(left, heldBytes(queue, 0));
  if (load<u32>(from) != head) violate(RULE_USED_HEAD, load<u32>(from), head);
  if (load<u32>(from, 4) != expected) violate(RULE_USED_LENGTH, load<u32>(from, 4), expected);
  if (!allowed) return false;
  letGo(queue, 0);
  setOutstanding(queue, head, 0);
  left -= expected;
  filled++;
  return true;
}
