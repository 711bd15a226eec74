// A chain as its descriptors are read: each once, and only where the chain leads (virtio 1.2
// §2.7.5). Its segments go to chain.ts.
import { VIRTIO_RING_F_INDIRECT_DESC, virtio } from "../../assembly/virtio";
import {
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE,
} from "../../assembly/virtq";
import { WALK_MAX } from "./places";
import { RULE_READ } from "./shared";
import { setSegment } from "./chain";
import { violate } from "./violation";

export let count: u32 = 0;
export let readableCount: u32 = 0;
export let readableBytes: u64 = 0;
export let writableBytes: u64 = 0;

let table: u64 = 0;
let tableSize: u32 = 0;
let nextDescriptor: u32 = 0;
let indirect: bool = false;
let over: bool = false; // the chain is malformed: no more of it may be read
let limit: u32 = 0;

export function accepted(feature: u64): bool {
  return (virtio().driverFeatures & feature) != 0;
}

export function beginWalk(head: u32, descTable: u64, size: u32): void {
  table = descTable;
  tableSize = size;
  nextDescriptor = head;
  indirect = false;
  over = false;
  limit = size;
  count = 0;
  readableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
}

/** A descriptor is read, and lies at `at`. True: it was the last one. */
export function stepWalk(address: u64, length: u32, at: usize, allowed: bool): bool {
  if (over || length != 16 || address != table + (<u64>nextDescriptor << 4)) {
    violate(RULE_READ, address, nextDescriptor);
    return false;
  }
  if (!allowed) {
    over = true;
    return false;
  }
  const bufferLength = load<u32>(at, 8);
  const flags: u32 = load<u16>(at, 12);
  if (flags & VIRTQ_DESC_F_INDIRECT) {
    if (indirect || !accepted(VIRTIO_RING_F_INDIRECT_DESC)) over = true;
    indirect = true;
    table = load<u64>(at);
    tableSize = bufferLength / 16;
    nextDescriptor = 0;
    limit = 256;
    if (bufferLength == 0 || flags & VIRTQ_DESC_F_NEXT) over = true;
    return false;
  }
  if (count == limit || count == WALK_MAX) {
    over = true;
    return false;
  }
  setSegment(count, load<u64>(at), bufferLength);
  count++;
  if (flags & VIRTQ_DESC_F_WRITE) writableBytes += bufferLength;
  else {
    readableCount = count;
    readableBytes += bufferLength;
  }
  if (!(flags & VIRTQ_DESC_F_NEXT)) return true;
  nextDescriptor = load<u16>(at, 14);
  if (nextDescriptor >= tableSize) over = true;
  return false;
}
