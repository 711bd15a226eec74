// What a network device may read of a frame or a command, and say of them in a request record
// (virtio 1.2 §5.1.2, §5.1.6; docs/abi.md). Receiving is in receive.ts.
import {
  KIND_VIRTIO_NET, NET_CONFIG_FLAGS, NET_CONFIG_QUEUE_PAIRS, NET_FLAG_VHOST, NET_FRAME_BYTES_MAX,
  NET_FRAME_BYTES_MIN, NET_HEADER_BYTES, RANGE_LENGTH, RANGE_STRIDE, REQUEST, REQUEST_FLAGS,
  REQUEST_KIND, REQUEST_KIND_NET_RINGS, REQUEST_KIND_NET_RX, REQUEST_KIND_NET_TX, REQUEST_LENGTH,
  REQUEST_OFFSET, REQUEST_RANGES, REQUEST_RANGE_COUNT, REQUEST_TAG, STATE_KIND,
} from "../../assembly/abi";
import { CONFIG } from "../../assembly/layout";
import { virtio } from "../../assembly/virtio";
import { NET_HEADER } from "./places";
import { RULE_RECORD } from "./shared";
import { checkRanges, checkTag, comesLater, comesNext } from "./chain";
import { hold } from "./held";
import { numberPlace } from "./receive";
import { violate } from "./violation";
import { accepted, count, readableBytes, readableCount, writableBytes } from "./walk";

// What a queue is for.
export const NO_NET: u32 = 0; // another device's
export const RECEIVE: u32 = 1;
export const TRANSMIT: u32 = 2;
export const CONTROL: u32 = 3;
export const KERNELS: u32 = 4;

const CSUM: u64 = 1 << 0;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const HOST_UFO: u64 = 1 << 14;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;
const HOST_USO: u64 = 1 << 56;

const HEADER_BYTES: u64 = NET_HEADER_BYTES;
const FRAME_MIN: u64 = NET_FRAME_BYTES_MIN;
const FRAME_MAX: u64 = NET_FRAME_BYTES_MAX;
const COMMAND_BYTES_MAX: u32 = 10; // class, command, and what is looked at of the data

/** The index of the control queue, if the driver agreed to one. */
export function controlQueue(): u32 {
  if (accepted(MQ)) return 2 * <u32>load<u16>(CONFIG, NET_CONFIG_QUEUE_PAIRS);
  return accepted(CTRL_VQ) ? 2 : 0xffffffff;
}

export function roleOf(queue: u32): u32 {
  if (load<u32>(STATE_KIND) != KIND_VIRTIO_NET) return NO_NET;
  if (queue == controlQueue()) return CONTROL;
  if (load<u32>(CONFIG, NET_CONFIG_FLAGS) & NET_FLAG_VHOST) return KERNELS;
  return queue & 1 ? TRANSMIT : RECEIVE;
}

// --- Reads ---------------------------------------------------------------------------------------

let headerBytes: u32 = 0; // read so far

export function beginHeader(): void {
  headerBytes = 0;
}

/** Whether those bytes may be read now: of a frame its header, of a command no byte twice. */
export function mayRead(role: u32, address: u64, length: u32, at: usize, allowed: bool): bool {
  if (role == CONTROL) {
    headerBytes += length;
    return headerBytes <= COMMAND_BYTES_MAX && comesLater(address, length, readableCount);
  }
  const fits = role == TRANSMIT && headerBytes + length <= <u32>NET_HEADER_BYTES;
  if (!fits || !comesNext(address, length, readableCount)) return false;
  if (allowed) memory.copy(NET_HEADER + headerBytes, at, length);
  headerBytes += length;
  return true;
}

// --- Records -------------------------------------------------------------------------------------

/** A request of a queue of frames. */
export function checkNetRecord(role: u32, queue: u32, head: u32): void {
  checkTag(queue, head);
  const kind = load<u32>(REQUEST, REQUEST_KIND);
  if (role == TRANSMIT) {
    if (kind != REQUEST_KIND_NET_TX || writableBytes != 0) violate(RULE_RECORD, kind, 4);
    checkRanges(0, readableCount, HEADER_BYTES, readableBytes - HEADER_BYTES);
    const bytes = load<u64>(REQUEST, REQUEST_LENGTH);
    if (bytes < FRAME_MIN || bytes > FRAME_MAX) violate(RULE_RECORD, bytes, 5);
    checkHeader(<u32>bytes);
  } else if (role == RECEIVE) {
    if (kind != REQUEST_KIND_NET_RX || readableCount != 0) violate(RULE_RECORD, kind, 6);
    const bytes = min<u64>(writableBytes, HEADER_BYTES + FRAME_MAX);
    checkRanges(0, count, 0, bytes);
    const beside = load<u64>(REQUEST, REQUEST_OFFSET) | load<u32>(REQUEST, REQUEST_FLAGS);
    if (bytes < HEADER_BYTES || beside != 0) violate(RULE_RECORD, bytes, 7);
    hold(queue, load<u32>(REQUEST, REQUEST_TAG), <u32>bytes, numberPlace());
  } else {
    violate(RULE_RECORD, kind, 8); // of the control queue: it has none
  }
}

// Each field is 0 or what was read, and none asks for what was not agreed on.
function checkHeader(frameBytes: u32): void {
  const start = load<u64>(REQUEST, REQUEST_OFFSET);
  const end = load<u32>(REQUEST, REQUEST_FLAGS);
  const flags = <u32>start & 0xff;
  const gso = <u32>(start >> 8) & 0xff;
  const hdrLen = <u32>(start >> 16) & 0xffff;
  const gsoSize = <u32>(start >> 32) & 0xffff;
  const checksum = <u32>(start >> 48) + (end & 0xffff);
  const read = gso == load<u8>(NET_HEADER, 1) && kept(start, 16, 2) && kept(start, 32, 4) &&
    kept(start, 48, 6) && kept(end, 0, 8) && flags <= (load<u8>(NET_HEADER) & 1);
  const placed = flags == 1 ? accepted(CSUM) && checksum + 2 <= frameBytes
    : flags == 0 && checksum == 0 && gso == 0;
  const cut = gso == 0 ? gsoSize == 0 : gsoSize != 0 && gsoAccepted(gso);
  const whole = read && placed && cut && hdrLen <= frameBytes && end >> 16 == 0;
  if (headerBytes != <u32>NET_HEADER_BYTES || !whole) violate(RULE_RECORD, start, end);
}

function kept(value: u64, shift: u64, offset: usize): bool {
  const field = <u32>(value >> shift) & 0xffff;
  return field == 0 || field == load<u16>(NET_HEADER + offset);
}

function gsoAccepted(gso: u32): bool {
  const ecn = gso & 0x80;
  if (ecn && !accepted(HOST_ECN)) return false;
  switch (gso & 0x7f) {
    case 1: return accepted(HOST_TSO4);
    case 4: return accepted(HOST_TSO6);
    case 3: return !ecn && accepted(HOST_UFO);
    case 5: return !ecn && accepted(HOST_USO);
    default: return false;
  }
}

/** Where a queue lies that the kernel serves. */
export function checkRings(desc: u64, avail: u64, used: u64, size: u32): void {
  const kind = load<u32>(REQUEST, REQUEST_KIND);
  const beside = load<u32>(REQUEST, REQUEST_TAG) == 0 &&
    load<u64>(REQUEST, REQUEST_OFFSET) == virtio().driverFeatures &&
    load<u32>(REQUEST, REQUEST_FLAGS) == size && load<u32>(REQUEST, REQUEST_RANGE_COUNT) == 3;
  if (kind != REQUEST_KIND_NET_RINGS || !beside) violate(RULE_RECORD, kind, 9);
  const bytes = ring(0, desc, 16 * size) + ring(1, avail, 6 + 2 * size) +
    ring(2, used, 6 + 8 * size);
  if (load<u64>(REQUEST, REQUEST_LENGTH) != bytes) violate(RULE_RECORD, bytes, 10);
}

function ring(index: usize, address: u64, bytes: u32): u32 {
  const range: usize = <usize>(REQUEST + REQUEST_RANGES) + index * RANGE_STRIDE;
  const same = load<u64>(range) == address && load<u64>(range, RANGE_LENGTH) == bytes;
  if (!same) violate(RULE_RECORD, address, bytes);
  return bytes;
}
