// What the driver and the host of a network device do: whole frames, receive buffers, commands, and
// frames that arrive (virtio 1.2 §5.1.6; shared.ts, OP_FRAME and after).
import { TAG_GENERATION_SHIFT, TAG_QUEUE_MASK } from "../../assembly/abi";
import {
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE,
} from "../../assembly/virtq";
import {
  BUFFERS, FRAME_BUFFER, FRAME_CSUM_OFFSET, FRAME_CSUM_START, FRAME_HDR_LEN, FRAME_LENGTH,
  FRAME_SEGMENTS, SHAPE_EMPTY_STATUS, SHAPE_INDIRECT, SHAPE_NO_STATUS, SHAPE_SPLIT_HEADER,
  SHAPE_WRONG_WAY, STATUSES,
} from "./shared";
import { callComplete } from "./core";
import { descriptor, headerAt, offer, queueAt, queueSize, tableAt } from "./driver";
import { heldCount, heldTag } from "./held";
import { ramStore } from "./memory";
import { controlQueue } from "./net";

const HEADER_BYTES: u32 = 12;
const MAC_TABLE_SET: u32 = 1; // class 1, command 0
const MAC_BYTES: u32 = 6;

// --- A chain, piece by piece ---------------------------------------------------------------------

let queue: u32 = 0;
let head: u32 = 0;
let nested: bool = false;
let table: u64 = 0;
let mask: u32 = 0;
let place: u32 = 0; // of the next descriptor
let before: u64 = 0; // the last descriptor; all ones: none
let beforeAddress: u64 = 0;
let beforeLength: u32 = 0;
let beforeFlags: u32 = 0;

function begin(index: u32, first: u32, slot: u32, how: u32): void {
  queue = index;
  head = first & (queueSize - 1);
  nested = (how & SHAPE_INDIRECT) != 0;
  table = nested ? tableAt(slot) : queueAt(index);
  mask = nested ? 15 : queueSize - 1;
  place = nested ? 0 : head;
  before = u64.MAX_VALUE;
}

function piece(address: u64, length: u32, flags: u32): void {
  if (before != u64.MAX_VALUE) {
    descriptor(before, beforeAddress, beforeLength, beforeFlags | VIRTQ_DESC_F_NEXT, place);
  }
  before = table + (place << 4);
  beforeAddress = address;
  beforeLength = length;
  beforeFlags = flags;
  place = (place + 1) & mask;
  descriptor(before, address, length, flags, 0);
}

/** Shows the chain to the device; the place behind its own descriptors. */
function end(): u32 {
  const bytes = (place == 0 ? 16 : place) << 4;
  if (nested) descriptor(queueAt(queue) + (head << 4), table, bytes, VIRTQ_DESC_F_INDIRECT, 0);
  offer(queue, head);
  return nested ? head + 1 : place;
}

// --- The driver ----------------------------------------------------------------------------------

/** A frame to send. `first`: low byte descriptor, high byte header slot. */
export function frame(index: u32, first: u32, start: u32, shape: u64): void {
  const how = <u32>shape & 0xff;
  const segments = <u32>(shape >> FRAME_SEGMENTS) & 7;
  const length = <u32>(shape >> FRAME_LENGTH) & 0xffff;
  const buffer: u64 = BUFFERS + ((shape >> FRAME_BUFFER) & 0x7f) * 256;
  const to = headerAt(first >> 8);
  const csumStart = (shape >> FRAME_CSUM_START) & 0xff;
  const csumOffset = (shape >> FRAME_CSUM_OFFSET) & 0xff;
  // `start`: flags, type of segmentation, and the size of a segment.
  const begins: u64 = (start & 0xffff) | (shape >> FRAME_HDR_LEN) << 16 |
    <u64>(start >> 16) << 32 | csumStart << 48;
  ramStore(to, 8, begins);
  ramStore(to + 8, 4, csumOffset);
  const flags: u32 = how & SHAPE_WRONG_WAY ? VIRTQ_DESC_F_WRITE : 0;
  begin(index, first & 0xff, first >> 8, how);
  if (how & SHAPE_SPLIT_HEADER) {
    piece(to, 5, 0);
    piece(to + 5, HEADER_BYTES - 5, 0);
  } else piece(to, HEADER_BYTES, 0);
  for (let segment: u32 = 0; segment < segments; segment++) {
    piece(buffer + segment * length, length, flags);
  }
  end();
}

/** Receive buffers. `first`: low byte descriptor, then how many, then SHAPE_*. */
export function offerBuffers(index: u32, first: u32, lengths: u32, shape: u64): void {
  const how = first >> 12;
  const pieces: u32 = 1 + (<u32>shape & 3);
  const many: u32 = 1 + (first >> 8 & 15);
  let address: u64 = BUFFERS + ((shape >> 8) & 0x7f) * 256;
  let next = first & 0xff;
  for (let each: u32 = 0; each < many; each++) {
    begin(index, next, each, how);
    for (let which: u32 = 0; which < pieces; which++) {
      const length = which == 0 ? lengths & 0xffff : lengths >> 16;
      piece(address, length, how & SHAPE_WRONG_WAY ? 0 : VIRTQ_DESC_F_WRITE);
      address += length;
    }
    next = end();
  }
}

/** A command. `what`: class, command, bytes of data, SHAPE_*. */
export function command(first: u32, what: u32, data: u64): void {
  const how = what >> 24;
  const slot = first >> 8;
  const to = headerAt(slot);
  ramStore(to, 2, what);
  if ((what & 0xffff) == MAC_TABLE_SET) {
    ramStore(to + 2, 4, data & 0xff);
    ramStore(to + 6 + (data & 0xff) * MAC_BYTES, 4, data >> 8 & 0xff);
  } else ramStore(to + 2, 8, data);
  begin(controlQueue() & 7, first & 0xff, slot, how);
  if (how & SHAPE_SPLIT_HEADER) {
    piece(to, 1, 0);
    piece(to + 1, 1, 0);
    piece(to + 2, what >> 16 & 0xff, 0);
  } else piece(to, 2 + (what >> 16 & 0xff), 0);
  if (!(how & SHAPE_NO_STATUS)) {
    const bytes = how & SHAPE_EMPTY_STATUS ? 0 : 1;
    piece(STATUSES + slot, bytes, how & SHAPE_WRONG_WAY ? 0 : VIRTQ_DESC_F_WRITE);
  }
  end();
}

// --- The host ------------------------------------------------------------------------------------

/** A frame arrived, or a buffer is of no use. `how`: low byte which one, high byte the result. */
export function receive(index: u32, stale: u32, how: u32, bytes: u32): void {
  const from = index & TAG_QUEUE_MASK;
  const held = from <= 16 ? heldCount(from) : 0;
  if (held == 0) return;
  const tag = heldTag(from, (how & 0xff) % held);
  callComplete(stale ? tag ^ (1 << TAG_GENERATION_SHIFT) : tag, how >> 8, bytes);
}
