// Frames that a network device sends: from a walked chain to a request record.
// Virtio 1.2 §5.1.6.2, with struct virtio_net_hdr. Descriptors may cut header and frame anywhere
// (§2.7.4.1). virtio-net-receive.ts has the other direction.
//
// struct virtio_net_hdr: +0 flags u8  +1 gso_type u8  +2 hdr_len u16  +4 gso_size u16
//   +6 csum_start u16  +8 csum_offset u16  +10 num_buffers u16
import {
  EFFECT_REQUEST, INCIDENT_MEMORY, INCIDENT_REQUEST, NET_FRAME_BYTES_MAX, NET_FRAME_BYTES_MIN,
  NET_HEADER_BYTES, RANGE_LENGTH, RANGE_STRIDE, REQUEST, REQUEST_FLAGS, REQUEST_KIND,
  REQUEST_KIND_NET_RINGS, REQUEST_KIND_NET_TX, REQUEST_LENGTH, REQUEST_OFFSET, REQUEST_RANGES,
  REQUEST_RANGE_COUNT, REQUEST_TAG,
} from "./abi";
import { emitRanges, submit } from "./in-flight";
import { HEADER } from "./layout";
import { incident } from "./registers";
import { negotiated, virtio } from "./virtio";
import {
  VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
} from "./virtio-net";
import {
  DESC_BYTES, RING_BYTES, USED_ELEMENT_BYTES, chainRead, virtq, virtqPush, walked,
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
const HEADER_NUM_BUFFERS: usize = 10;

const VIRTIO_NET_HDR_F_NEEDS_CSUM: u32 = 1;
const VIRTIO_NET_HDR_GSO_NONE: u32 = 0;
const VIRTIO_NET_HDR_GSO_TCPV4: u32 = 1;
const VIRTIO_NET_HDR_GSO_UDP: u32 = 3;
const VIRTIO_NET_HDR_GSO_TCPV6: u32 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4: u32 = 5;
const VIRTIO_NET_HDR_GSO_ECN: u32 = 0x80;

const CHECKSUM_BYTES: u32 = 2;

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
  store<u16>(HEADER, 0, HEADER_NUM_BUFFERS);
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
