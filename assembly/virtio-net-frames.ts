// Frames of a network device: from a walked chain to a request record, and back to the driver.
// Virtio 1.2 §5.1.6: struct virtio_net_hdr, transmission (§5.1.6.2), receive buffers and mergeable
// ones (§5.1.6.3, §5.1.6.4). Descriptors may cut header and frame anywhere (§2.7.4.1).
//
// struct virtio_net_hdr: +0 flags u8  +1 gso_type u8  +2 hdr_len u16  +4 gso_size u16
//   +6 csum_start u16  +8 csum_offset u16  +10 num_buffers u16
// Receive buffers are used in the order in which they were handed out: Virtq.oldest is the next
// one, and each names the one after it (InFlight.next).
import {
  EFFECT_REQUEST, INCIDENT_MEMORY, INCIDENT_REQUEST, INCIDENT_TAG, NET_FRAME_BYTES_MAX,
  NET_FRAME_BYTES_MIN, NET_HEADER_BYTES, RANGE_LENGTH, RANGE_STRIDE, REQUEST, REQUEST_FLAGS,
  REQUEST_KIND, REQUEST_KIND_NET_RINGS, REQUEST_KIND_NET_RX, REQUEST_KIND_NET_TX, REQUEST_LENGTH,
  REQUEST_OFFSET, REQUEST_RANGES, REQUEST_RANGE_COUNT, REQUEST_TAG, RESULT_OK,
} from "./abi";
import { guestWrite } from "./guest";
import { emitRanges, inFlight, submit } from "./in-flight";
import { HEADER } from "./layout";
import { incident } from "./registers";
import { negotiated, virtio, virtioBroken } from "./virtio";
import {
  VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MRG_RXBUF,
} from "./virtio-net";
import {
  DESC_BYTES, RING_BYTES, USED_ELEMENT_BYTES, Virtq, chainRead, chainWrite, segment, virtq,
  virtqFill, virtqPublish, virtqPush, virtqWalk, walked, WALK_OK,
} from "./virtq";

const HEADER_BYTES: u32 = NET_HEADER_BYTES;
const FRAME_BYTES_MIN: u32 = NET_FRAME_BYTES_MIN;
const FRAME_BYTES_MAX: u32 = NET_FRAME_BYTES_MAX;
const HEADER_FLAGS: usize = 0;
const HEADER_GSO_TYPE: usize = 1;
const HEADER_HDR_LEN: usize = 2;
const HEADER_GSO_SIZE: usize = 4;
const HEADER_CSUM_START: usize = 6;
const HEADER_CSUM_OFFSET: usize = 8;
const HEADER_NUM_BUFFERS: u32 = 10;

const VIRTIO_NET_HDR_F_NEEDS_CSUM: u32 = 1;
const VIRTIO_NET_HDR_GSO_NONE: u32 = 0;
const VIRTIO_NET_HDR_GSO_TCPV4: u32 = 1;
const VIRTIO_NET_HDR_GSO_UDP: u32 = 3;
const VIRTIO_NET_HDR_GSO_TCPV6: u32 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4: u32 = 5;
const VIRTIO_NET_HDR_GSO_ECN: u32 = 0x80;

const CHECKSUM_BYTES: u32 = 2;
const NUM_BUFFERS_BYTES: u32 = 2;
const CUT: u64 = u64.MAX_VALUE; // num_buffers lies in two descriptors: found again when it counts

// --- Transmission -------------------------------------------------------------------------------

/** Turns the walked chain into a frame to send; a malformed one is dropped and counted. */
export function netTransmit(queueIndex: u32, head: u32): u32 {
  const chain = walked();
  const bytes = chain.readableBytes;
  if (chain.writableCount != 0 || bytes < HEADER_BYTES + FRAME_BYTES_MIN ||
    bytes > HEADER_BYTES + FRAME_BYTES_MAX) {
    return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  }
  if (!chainRead(0, HEADER, HEADER_BYTES)) {
    return incident(INCIDENT_MEMORY) | virtqPush(queueIndex, head, 0);
  }
  const frameBytes = <u32>bytes - HEADER_BYTES;
  if (!settleHeader(frameBytes)) {
    return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  }
  const rangeCount = emitRanges(0, HEADER_BYTES, frameBytes);
  const start = load<u64>(HEADER);
  const end = load<u32>(HEADER, 8);
  submit(queueIndex, head, REQUEST_KIND_NET_TX, start, frameBytes, rangeCount, end, 0, 0);
  return EFFECT_REQUEST;
}

// Leaves in the header only what driver and device agreed on. False: it asks for more than that,
// or points out of the frame.
function settleHeader(frameBytes: u32): bool {
  // Flags that the device does not know are ignored, and no other one is the driver's (§5.1.6.2.2).
  const flags = <u32>load<u8>(HEADER, HEADER_FLAGS) & VIRTIO_NET_HDR_F_NEEDS_CSUM;
  const gsoType: u32 = load<u8>(HEADER, HEADER_GSO_TYPE);
  store<u8>(HEADER, <u8>flags, HEADER_FLAGS);
  store<u16>(HEADER, 0, <usize>HEADER_NUM_BUFFERS);
  // A hint that need not be right (§5.1.6.2.2), but a backend may refuse one that cannot be.
  if (load<u16>(HEADER, HEADER_HDR_LEN) > frameBytes) store<u16>(HEADER, 0, HEADER_HDR_LEN);
  if (flags == 0) {
    store<u32>(HEADER, 0, HEADER_CSUM_START);
    // Whoever leaves segmentation to the device leaves it the checksums too (§5.1.6.2.1).
    if (gsoType != VIRTIO_NET_HDR_GSO_NONE) return false;
    store<u16>(HEADER, 0, HEADER_GSO_SIZE);
    return true;
  }
  const checksum: u32 = <u32>load<u16>(HEADER, HEADER_CSUM_START) +
    load<u16>(HEADER, HEADER_CSUM_OFFSET);
  if (!negotiated(VIRTIO_NET_F_CSUM) || checksum + CHECKSUM_BYTES > frameBytes) return false;
  if (gsoType == VIRTIO_NET_HDR_GSO_NONE) {
    store<u16>(HEADER, 0, HEADER_GSO_SIZE);
    return true;
  }
  if (load<u16>(HEADER, HEADER_GSO_SIZE) == 0) return false;
  return gsoAgreed(gsoType);
}

function gsoAgreed(gsoType: u32): bool {
  const ecn = (gsoType & VIRTIO_NET_HDR_GSO_ECN) != 0;
  if (ecn && !negotiated(VIRTIO_NET_F_HOST_ECN)) return false;
  switch (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4: return negotiated(VIRTIO_NET_F_HOST_TSO4);
    case VIRTIO_NET_HDR_GSO_TCPV6: return negotiated(VIRTIO_NET_F_HOST_TSO6);
    case VIRTIO_NET_HDR_GSO_UDP: return !ecn && negotiated(VIRTIO_NET_F_HOST_UFO);
    case VIRTIO_NET_HDR_GSO_UDP_L4: return !ecn && negotiated(VIRTIO_NET_F_HOST_USO);
    default: return false;
  }
}

// --- Receive ------------------------------------------------------------------------------------

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

/** Whether the order of the buffers held is whole; check.ts counts them. */
export function netHeldValid(queueIndex: u32): bool {
  const queue = virtq(queueIndex);
  let head: u32 = queue.oldest;
  if (queue.held > queue.size || queue.newest >= queue.size) return queue.held == 0;
  for (let left: u32 = queue.held; left != 0; left--) {
    const entry = inFlight(queueIndex, head);
    if (head >= queue.size || entry.kind != REQUEST_KIND_NET_RX) return false;
    // The newest comes last and only there: so none comes twice either.
    if ((head == queue.newest) != (left == 1)) return false;
    head = entry.next;
  }
  return true;
}

// --- The kernel's queues ------------------------------------------------------------------------

/** Tells the host where a queue lies that the kernel serves. */
export function netRings(queueIndex: u32): u32 {
  const queue = virtq(queueIndex);
  const size: u64 = queue.size;
  const table = size * DESC_BYTES;
  const avail = RING_BYTES + 2 * size;
  const used = RING_BYTES + USED_ELEMENT_BYTES * size;
  ring(0, queue.descTable, table);
  ring(1, queue.availRing, avail);
  ring(2, queue.usedRing, used);
  store<u32>(REQUEST + REQUEST_KIND, REQUEST_KIND_NET_RINGS);
  store<u32>(REQUEST + REQUEST_TAG, 0);
  store<u64>(REQUEST + REQUEST_OFFSET, virtio().driverFeatures);
  store<u64>(REQUEST + REQUEST_LENGTH, table + avail + used);
  store<u32>(REQUEST + REQUEST_RANGE_COUNT, 3);
  store<u32>(REQUEST + REQUEST_FLAGS, queue.size);
  return EFFECT_REQUEST;
}

function ring(index: usize, address: u64, lengthBytes: u64): void {
  const range = <usize>(REQUEST + REQUEST_RANGES) + index * RANGE_STRIDE;
  store<u64>(range, lengthBytes, RANGE_LENGTH);
  store<u64>(range, address);
}
