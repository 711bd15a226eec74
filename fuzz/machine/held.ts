// The receive buffers that the host of a network device holds, in the order in which it got them:
// what a frame fills next (virtio 1.2 §5.1.6.4; docs/abi.md, a network device's queues). Judged
// apart from the core's own list.
//
// An entry, 16 bytes: +0 tag u32  +4 bytes u32  +8 where the number of buffers goes u64
import {
  ALL_QUEUES, QUEUE_COUNT_MAX, REQUEST_KIND_NET_RX, TAG_GENERATION_SHIFT, TAG_HEAD_MASK,
  TAG_QUEUE_SHIFT,
} from "../../assembly/abi";
import { inFlight } from "../../assembly/in-flight";
import { virtq } from "../../assembly/virtq";
import { presentRun } from "./heads";
import { HELD, HELD_COUNTS } from "./places";

const QUEUE_SHIFT: usize = 12; // 256 entries
const ENTRY_SHIFT: usize = 4;

export const ABSENT: u32 = 0xffffffff;

function entry(queue: u32, place: u32): usize {
  return HELD + (<usize>queue << QUEUE_SHIFT) + (<usize>place << ENTRY_SHIFT);
}

function countAt(queue: u32): usize {
  return HELD_COUNTS + (<usize>queue << 3);
}

/** How many buffers the host holds; what a run before left counts for nothing. */
export function heldCount(queue: u32): u32 {
  const at = countAt(queue);
  return load<u32>(at) == presentRun() ? load<u32>(at, 4) : 0;
}

function setCount(queue: u32, count: u32): void {
  const at = countAt(queue);
  store<u32>(at, presentRun());
  store<u32>(at, count, 4);
}

export function heldTag(queue: u32, place: u32): u32 {
  return load<u32>(entry(queue, place));
}

export function heldBytes(queue: u32, place: u32): u32 {
  return load<u32>(entry(queue, place), 4);
}

export function heldNumber(queue: u32, place: u32): u64 {
  return load<u64>(entry(queue, place), 8);
}

/** Where in the order the buffer with that tag stands, or ABSENT. */
export function heldPlace(queue: u32, tag: u32): u32 {
  const count = heldCount(queue);
  for (let place: u32 = 0; place < count; place++) {
    if (heldTag(queue, place) == tag) return place;
  }
  return ABSENT;
}

/** The host got another buffer. */
export function hold(queue: u32, tag: u32, bytes: u32, number: u64): void {
  const count = heldCount(queue);
  const at = entry(queue, count & 0xff);
  store<u32>(at, tag);
  store<u32>(at, bytes, 4);
  store<u64>(at, number, 8);
  setCount(queue, min<u32>(count + 1, 256));
}

/** One goes back to the driver. */
export function letGo(queue: u32, place: u32): void {
  const rest = heldCount(queue) - place - 1;
  memory.copy(entry(queue, place), entry(queue, place + 1), <usize>rest << ENTRY_SHIFT);
  setCount(queue, heldCount(queue) - 1);
}

/** The driver reset the device, or stopped that queue (all: 0xffff). */
export function forgetHeld(queue: u32): void {
  for (let each: u32 = 0; each < <u32>QUEUE_COUNT_MAX; each++) {
    if (queue == <u32>ALL_QUEUES || queue == each) setCount(each, 0);
  }
}

/** A state was loaded: what it says of buffers held is taken over, as a host does. */
export function adoptHeld(): void {
  for (let queue: u32 = 0; queue < <u32>QUEUE_COUNT_MAX; queue++) {
    setCount(queue, 0);
    let head: u32 = virtq(queue).oldest;
    for (let left: u32 = virtq(queue).held; left != 0; left--) {
      const flight = inFlight(queue, head & 0xff);
      if (flight.kind != REQUEST_KIND_NET_RX) break;
      const tag = <u32>flight.generation << TAG_GENERATION_SHIFT | queue << TAG_QUEUE_SHIFT |
        head & TAG_HEAD_MASK;
      hold(queue, tag, flight.payloadBytes, flight.statusAddress);
      head = flight.next;
    }
  }
}
