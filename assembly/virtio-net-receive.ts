// Receive buffers of a network device: handed out before there is a frame, filled in their order.
// Virtio 1.2 §5.1.6.3 and §5.1.6.4, with mergeable buffers. Descriptors may cut the header anywhere
// (§2.7.4.1).
//
// Virtq.oldest is the buffer that is used next, and each names the one after it (InFlight.next).
import {
  EFFECT_REQUEST, INCIDENT_MEMORY, INCIDENT_REQUEST, INCIDENT_TAG, NET_FRAME_BYTES_MAX,
  NET_HEADER_BYTES, REQUEST_KIND_NET_RX, RESULT_OK,
} from "./abi";
import { guestWrite } from "./guest";
import { emitRanges, inFlight, submit } from "./in-flight";
import { HEADER } from "./layout";
import { incident } from "./registers";
import { negotiated, virtioBroken } from "./virtio";
import { VIRTIO_NET_F_MRG_RXBUF } from "./virtio-net";
import {
  Virtq, chainWrite, segment, virtq, virtqFill, virtqPublish, virtqPush, virtqWalk, walked, WALK_OK,
} from "./virtq";

const HEADER_BYTES: u32 = NET_HEADER_BYTES;
const FRAME_BYTES_MAX: u32 = NET_FRAME_BYTES_MAX;
const HEADER_NUM_BUFFERS: u32 = 10; // u16, of struct virtio_net_hdr
const NUM_BUFFERS_BYTES: u32 = 2;
const CUT: u64 = u64.MAX_VALUE; // num_buffers lies in two descriptors: found again when it counts

/** Hands the walked chain out as a buffer; one that cannot hold a header goes back unused. */
export function netReceiveBuffer(queueIndex: u32, head: u32): u32 {
  const chain = walked();
  if (chain.readableCount != 0 || chain.writableBytes < HEADER_BYTES) {
    return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  }
  const bytes = <u32>min<u64>(chain.writableBytes, HEADER_BYTES + FRAME_BYTES_MAX);
  const rangeCount = emitRanges(0, 0, bytes);
  submit(
    queueIndex, head, REQUEST_KIND_NET_RX, 0, bytes, rangeCount, 0, numBuffersAddress(), bytes,
  );
  hold(virtq(queueIndex), queueIndex, head);
  return EFFECT_REQUEST;
}

function numBuffersAddress(): u64 {
  let skip = HEADER_NUM_BUFFERS;
  let index: u32 = 0;
  // The caller made sure that the chain has a whole header.
  for (; segment(index).length <= skip; index++) skip -= segment(index).length;
  const found = segment(index);
  return found.length - skip >= NUM_BUFFERS_BYTES ? found.address + skip : CUT;
}

function hold(queue: Virtq, queueIndex: u32, head: u32): void {
  if (queue.held == 0) queue.oldest = <u16>head;
  else inFlight(queueIndex, queue.newest).next = <u8>head;
  queue.newest = <u16>head;
  queue.held++;
}

/**
 * A frame of so many bytes, its header among them, lies in the buffers from `head` on, which must
 * be the oldest; or the host could not use that buffer, which may be any.
 */
export function netReceived(queueIndex: u32, head: u32, result: u32, bytes: u32): u32 {
  const queue = virtq(queueIndex);
  if (result != RESULT_OK) {
    dropHeld(queueIndex, head);
    return virtqPush(queueIndex, head, 0);
  }
  if (head != queue.oldest || bytes < HEADER_BYTES) return incident(INCIDENT_TAG);
  const first = inFlight(queueIndex, head);
  const most: u32 = negotiated(VIRTIO_NET_F_MRG_RXBUF) ? queue.held : 1;
  let left = bytes;
  let count: u32 = 0;
  do {
    const next: u32 = queue.oldest;
    const buffer = inFlight(queueIndex, next);
    const taken = min<u32>(left, buffer.payloadBytes);
    if (!virtqFill(queueIndex, count, next, taken)) return virtioBroken(INCIDENT_MEMORY);
    buffer.kind = 0;
    queue.oldest = buffer.next;
    queue.held--;
    left -= taken;
    count++;
  } while (left != 0 && count < most);
  const effects = writeNumBuffers(queueIndex, head, first.statusAddress, count);
  return effects | virtqPublish(queueIndex, count);
}

/** Takes a buffer out of the order, wherever it stands there. */
export function dropHeld(queueIndex: u32, head: u32): void {
  const queue = virtq(queueIndex);
  let before: u32 = queue.oldest;
  if (before == head) {
    queue.oldest = inFlight(queueIndex, head).next;
  } else {
    while (inFlight(queueIndex, before).next != head) before = inFlight(queueIndex, before).next;
    inFlight(queueIndex, before).next = inFlight(queueIndex, head).next;
    if (queue.newest == head) queue.newest = <u16>before;
  }
  inFlight(queueIndex, head).kind = 0;
  queue.held--;
}

// The device always says how many buffers a frame has, one too (§5.1.6.4.1).
function writeNumBuffers(queueIndex: u32, head: u32, address: u64, count: u32): u32 {
  store<u16>(HEADER, <u16>count);
  let written = false;
  if (address != CUT) {
    written = guestWrite(address, HEADER, NUM_BUFFERS_BYTES);
  } else if (virtqWalk(queueIndex, head) == WALK_OK) {
    // It may be another chain by now: its own driver's memory all the same, or nobody's.
    const chain = walked();
    written = chain.writableBytes >= HEADER_BYTES &&
      chainWrite(HEADER_NUM_BUFFERS, HEADER, NUM_BUFFERS_BYTES);
  }
  return written ? 0 : incident(INCIDENT_MEMORY);
}

/** Whether the order of the buffers held is whole: as many as check.ts counted. */
export function netHeldValid(queueIndex: u32): bool {
  const queue = virtq(queueIndex);
  let head: u32 = queue.oldest;
  for (let left: u32 = queue.held; left != 0; left--) {
    const entry = inFlight(queueIndex, head);
    if (head >= queue.size || entry.kind != REQUEST_KIND_NET_RX) return false;
    // The newest comes last and only there: so none comes twice either.
    if ((head == queue.newest) != (left == 1)) return false;
    head = entry.next;
  }
  return true;
}
