// The watch on guest memory: while the core serves a queue, each access must be the one next step
// that the split ring and the block request allow (virtio 1.2 §2.7, §5.2.6). It knows where a step
// may go, not what the answer must be: a descriptor is read once, and only where the chain leads; a
// header byte is read once, and from the chain's readable part; a write goes to the chain's
// writable part, and the used ring says how many there were. Whether an answer is right is for the
// reference model to say.
// Where the core keeps its queues and heads it says itself; what they mean is judged here anew.
import {
  BLK_ID_BYTES, KIND_VIRTIO_BLK, QUEUE_COUNT_MAX, STATE_KIND, TAG_GENERATION_SHIFT, TAG_HEAD_MASK,
  TAG_QUEUE_MASK, TAG_QUEUE_SHIFT,
} from "../../assembly/abi";
import { inFlight } from "../../assembly/in-flight";
import {
  VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_RING_F_EVENT_IDX, virtio,
} from "../../assembly/virtio";
import { virtq } from "../../assembly/virtq";
import { RAM } from "./places";
import {
  RULE_FENCE, RULE_LOAD, RULE_LOST, RULE_NO_ACCESS, RULE_READ, RULE_RECORD, RULE_STORE,
  RULE_USED_HEAD, RULE_USED_LENGTH, RULE_WRITE,
} from "./shared";
import { addressOf, checkRecord, comesNext, lengthOf, startAt } from "./chain";
import { outstanding, setOutstanding } from "./heads";
import { ABSENT, heldPlace, letGo } from "./held";
import { isRam, markDirty, mayFill, mayTake, outside } from "./memory";
import {
  CONTROL, KERNELS, NO_NET, RECEIVE, beginHeader, checkNetRecord, checkRings, mayRead, roleOf,
} from "./net";
import { beginReceive, receiveRead, receiveWrite, received } from "./receive";
import { traceAccess } from "./trace";
import { violate } from "./violation";
import {
  accepted, beginWalk, count, readableBytes, readableCount, stepWalk, writableBytes,
} from "./walk";

const STAGE: u32 =
  VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
const GET_ID: u32 = 8; // VIRTIO_BLK_T_GET_ID
const ID_BYTES: u32 = BLK_ID_BYTES;
const READ_MAX: u64 = 32; // header and one segment of a discard
const NET_HEADER_BYTES: u32 = 12;

// How far the request at hand is.
const NO_QUEUE: u32 = 0; // this call has no business with guest memory
const BETWEEN: u32 = 1; // no head taken
const WALKING: u32 = 2; // descriptors to come
const WALKED: u32 = 3; // header, data, status
const STATUS_DONE: u32 = 4;
const ELEMENT_DONE: u32 = 5;
const INDEX_DONE: u32 = 6; // fence, then the driver's wish
const OVER: u32 = 7; // a ring that is broken: nothing more
const RECEIVING: u32 = 8; // a frame came: buffers to give back, and their number to write
const LENT: u32 = 9; // the kernel serves the queue: nothing of it may be touched

let stage: u32 = NO_QUEUE;
let queue: u32 = 0;
let size: u32 = 0;
let descTable: u64 = 0;
let availRing: u64 = 0;
let usedRing: u64 = 0;
let availNext: u32 = 0;
let usedNext: u32 = 0;
let eventIdx: bool = false;
let isBlk: bool = false;
let role: u32 = NO_NET;
let mayAsk: bool = false; // for a kick, where the ring is empty
let fenced: bool = false;
let asked: bool = false; // for a kick, and has not looked again since

let head: u32 = 0;
let completing: bool = false; // the request comes from the table of heads, not from a walk
let statusAddress: u64 = 0;
let written: u32 = 0; // data bytes from the chain's first writable one on, the host's included
let room: u64 = 0; // as many come before the status byte
let statusRefused: bool = false;
let writeRefused: bool = false;

let readBytes: u64 = 0; // of the header
let headerType: u32 = 0;

// --- Around a call -------------------------------------------------------------------------------

/** A call that touches no guest memory is about to be made. */
export function expectNothing(): void {
  stage = NO_QUEUE;
  size = 0;
}

/** How many heads the queue has that the present call serves: 0 where it serves none. */
export function servedSize(): u32 {
  return size;
}

// Whether the present call has no business with guest memory.
function isIdle(): bool {
  return stage == NO_QUEUE || stage == LENT;
}

function lookAtQueue(index: u32): bool {
  const slot = virtq(index);
  if (index >= <u32>QUEUE_COUNT_MAX || slot.ready == 0) return false;
  if ((virtio().status & STAGE) != VIRTIO_CONFIG_S_DRIVER_OK) return false;
  queue = index;
  descTable = slot.descTable;
  availRing = slot.availRing;
  usedRing = slot.usedRing;
  size = slot.size;
  availNext = slot.availNext;
  usedNext = slot.usedNext;
  eventIdx = accepted(VIRTIO_RING_F_EVENT_IDX);
  isBlk = load<u32>(STATE_KIND) == KIND_VIRTIO_BLK;
  role = roleOf(index);
  mayAsk = true;
  fenced = false;
  asked = false;
  return true;
}

/** The core is about to serve a queue; `rung`: because of its doorbell. */
export function expectQueue(index: u32, rung: bool): void {
  completing = false;
  if (!lookAtQueue(index)) expectNothing();
  else stage = role == KERNELS ? LENT : BETWEEN;
  // The host of a network device asks for the doorbell of frames by ringing itself.
  mayAsk = rung || role == NO_NET || role == CONTROL;
}

/** The core is about to hear that the host has carried a request out. */
export function expectCompletion(tag: u32, result: u32, bytes: u32): void {
  const index = (tag >> TAG_QUEUE_SHIFT) & TAG_QUEUE_MASK;
  const which = tag & TAG_HEAD_MASK;
  const live = lookAtQueue(index);
  if (index < <u32>QUEUE_COUNT_MAX && roleOf(index) == RECEIVE) {
    expectReceived(index, tag, live, result, bytes);
    return;
  }
  if (!live || which >= size) {
    expectNothing();
    return;
  }
  const entry = inFlight(index, which);
  if (entry.kind == 0 || entry.generation != tag >> TAG_GENERATION_SHIFT) {
    expectNothing();
    return;
  }
  room = entry.payloadBytes;
  beginCompletion(which, min<u32>(bytes, <u32>room));
  statusAddress = entry.statusAddress;
  if (role != NO_NET || (!isBlk && result != 0)) written = 0;
  if (isBlk) stage = WALKED;
}

function beginCompletion(which: u32, bytes: u32): void {
  completing = true;
  head = which;
  written = bytes;
  statusRefused = false;
  writeRefused = false;
  stage = STATUS_DONE;
}

// A buffer that the host could not use goes back by itself; a frame begins in the oldest.
function expectReceived(index: u32, tag: u32, live: bool, result: u32, bytes: u32): void {
  const place = heldPlace(index, tag);
  const frame = result == 0;
  if (!live || place == ABSENT || (frame && (place != 0 || bytes < NET_HEADER_BYTES))) {
    if (!live && place != ABSENT) letGo(index, place);
    expectNothing();
    return;
  }
  beginCompletion(tag & TAG_HEAD_MASK, 0);
  if (frame) {
    beginReceive(index, descTable, usedRing, size, usedNext, bytes);
    stage = RECEIVING;
  } else letGo(index, place);
}

/** The call is over; `request`: it handed one out. */
export function endCall(request: bool): void {
  if (stage == LENT) {
    // next() names the rings, and a doorbell is the kernel's to hear.
    if (request == mayAsk) violate(RULE_RECORD, stage, 2);
    else if (request) checkRings(descTable, availRing, usedRing, size);
    return;
  }
  if (stage == NO_QUEUE || stage == OVER) {
    if (request) violate(RULE_RECORD, stage, 0);
    return;
  }
  if (request) {
    if (stage != WALKED || completing) violate(RULE_RECORD, stage, 1);
    else if (role != NO_NET) checkNetRecord(role, queue, head);
    else checkRecord(queue, head, readableCount, count, readableBytes, writableBytes);
    return;
  }
  if (stage == BETWEEN) {
    if (asked) violate(RULE_FENCE, 0, 1);
    return;
  }
  if (!(virtio().status & VIRTIO_CONFIG_S_NEEDS_RESET)) violate(RULE_LOST, head, stage);
}

// --- The core's accesses -------------------------------------------------------------------------

export function guestLoad16(address: u64): i32 {
  const allowed = (address & 1) == 0 && isRam(address, 2);
  const at: usize = RAM + (allowed ? <usize>address : 0);
  traceAccess(3, address, at, 2, allowed);
  const value: i32 = allowed ? load<u16>(at) : -1;
  if (stage == BETWEEN) {
    if (address == availRing + 2) {
      if (asked && !fenced) violate(RULE_FENCE, address, 0);
      asked = false;
      return value;
    }
    if (address == availRing + 4 + (<u64>(availNext & (size - 1)) << 1)) {
      takeHead(value);
      return value;
    }
  } else if (stage == INDEX_DONE) {
    const wish = eventIdx ? availRing + 4 + (<u64>size << 1) : availRing;
    if (address == wish) {
      if (!fenced) violate(RULE_FENCE, address, 0);
      stage = completing || value < 0 ? OVER : BETWEEN;
      return value;
    }
  }
  violate(isIdle() ? RULE_NO_ACCESS : RULE_LOAD, address, stage);
  return value;
}

function takeHead(value: i32): void {
  availNext = (availNext + 1) & 0xffff;
  head = <u32>value;
  if (value < 0 || head >= size || outstanding(queue, head)) {
    stage = OVER;
    return;
  }
  setOutstanding(queue, head, 1);
  beginWalk(head, descTable, size);
  startAt(0);
  beginHeader();
  written = 0;
  statusRefused = false;
  writeRefused = false;
  readBytes = 0;
  headerType = 0xffffffff;
  stage = WALKING;
}

export function guestStore16(address: u64, value: u32): u32 {
  const allowed = (address & 1) == 0 && isRam(address, 2);
  const at: usize = RAM + (allowed ? <usize>address : 0);
  if (allowed) {
    store<u16>(at, <u16>value);
    markDirty(at, 2);
  }
  traceAccess(4, address, at, 2, allowed);
  if (stage == BETWEEN && eventIdx && mayAsk && address == usedRing + 4 + (<u64>size << 3)) {
    if ((value & 0xffff) != availNext) violate(RULE_STORE, address, value);
    fenced = false;
    asked = allowed;
  } else if (address == usedRing + 2 && toPublish() != 0) {
    usedNext = (usedNext + toPublish()) & 0xffff;
    if ((value & 0xffff) != usedNext) violate(RULE_STORE, address, value);
    fenced = false;
    stage = allowed ? INDEX_DONE : OVER;
  } else {
    violate(isIdle() ? RULE_NO_ACCESS : RULE_STORE, address, stage);
  }
  return allowed ? 0 : 1;
}

// How many elements of the used ring may be shown now.
function toPublish(): u32 {
  if (stage == RECEIVING) return received();
  return stage == ELEMENT_DONE ? 1 : 0;
}

export function guestFence(): void {
  traceAccess(5, 0, RAM, 0, true);
  fenced = true;
}

export function guestRead(address: u64, to: u32, length: u32): u32 {
  if (!mayFill(to, length)) outside(to);
  const allowed = isRam(address, length);
  const at: usize = RAM + (allowed ? <usize>address : 0);
  if (allowed) {
    memory.copy(to, at, length);
    markDirty(to, length);
  }
  traceAccess(1, address, at, length, allowed);
  if (!isStep(address, length, at, allowed)) {
    violate(isIdle() ? RULE_NO_ACCESS : RULE_READ, address, stage);
  }
  return allowed ? 0 : 1;
}

function isStep(address: u64, length: u32, at: usize, allowed: bool): bool {
  switch (stage) {
    case WALKING:
      if (stepWalk(address, length, at, allowed)) stage = WALKED;
      return true;
    case WALKED:
      if (completing) return false;
      return isBlk ? isHeader(address, length, at, allowed)
        : mayRead(role, address, length, at, allowed);
    case RECEIVING: return receiveRead(address, length, at, allowed);
    default: return false;
  }
}

// The readable part is read from its start, each byte once, and no more than a request is long.
function isHeader(address: u64, length: u32, at: usize, allowed: bool): bool {
  if (readBytes + length > READ_MAX || !comesNext(address, length, readableCount)) return false;
  // The type, where one read got all of it.
  if (allowed && readBytes == 0 && length >= 4) headerType = load<u32>(at);
  else if (readBytes < 4) headerType = GET_ID; // it came in pieces: let an identity pass
  readBytes += length;
  return true;
}

export function guestWrite(address: u64, from: u32, length: u32): u32 {
  if (!mayTake(from, length)) outside(from);
  const allowed = isRam(address, length);
  const at: usize = RAM + (allowed ? <usize>address : 0);
  if (allowed) {
    memory.copy(at, from, length);
    markDirty(at, length);
  }
  traceAccess(2, address, at, length, allowed);
  if (isIdle()) violate(RULE_NO_ACCESS, address, length);
  else if (stage == RECEIVING) {
    if (!receiveWrite(address, from, length, allowed)) stage = OVER;
  } else if (!isData(address, length, allowed)) writeElement(address, from, length, allowed);
  return allowed ? 0 : 1;
}

function isData(address: u64, length: u32, allowed: bool): bool {
  return isIdentity(address, length, allowed) || isStatus(address, length, allowed) ||
    isAnswer(address, length, allowed);
}

// The answer of GET_ID, from the start of the writable part on, before the status.
function isIdentity(address: u64, length: u32, allowed: bool): bool {
  if (stage != WALKED || !isBlk || completing || headerType != GET_ID) return false;
  if (written + length > ID_BYTES || writeRefused) return false;
  if (written == 0) startAt(readableCount);
  if (!comesNext(address, length, count)) return false;
  written += length;
  writeRefused = !allowed;
  return true;
}

// The answer to a command of a network device, in the first writable byte.
function isAnswer(address: u64, length: u32, allowed: bool): bool {
  if (stage != WALKED || role != CONTROL || length != 1) return false;
  startAt(readableCount);
  if (!comesNext(address, 1, count)) return false;
  written = allowed ? 1 : 0;
  stage = STATUS_DONE;
  return true;
}

function isStatus(address: u64, length: u32, allowed: bool): bool {
  if (stage != WALKED || !isBlk || length != 1) return false;
  if (!completing) {
    if (writableBytes == 0 || lengthOf(count - 1) == 0) return false;
    statusAddress = addressOf(count - 1) + lengthOf(count - 1) - 1;
  }
  if (address != statusAddress) return false;
  if (!completing) room = writableBytes - 1;
  statusRefused = !allowed;
  stage = STATUS_DONE;
  return true;
}

function writeElement(address: u64, from: u32, length: u32, allowed: bool): void {
  const slot = usedRing + 4 + (<u64>(usedNext & (size - 1)) << 3);
  const now = stage == STATUS_DONE || (!completing && (stage == WALKED || stage == WALKING));
  if (!now || length != 8 || address != slot) {
    violate(RULE_WRITE, address, length);
    return;
  }
  const id = load<u32>(from);
  const claimed = load<u32>(from, 4);
  if (id != head || !outstanding(queue, head)) violate(RULE_USED_HEAD, id, head);
  // The status belongs to the length only where all data before it was written (§2.7.8.2). A write
  // that was refused may be left out of the account, and what came before it with it.
  const whole = stage == STATUS_DONE && isBlk && written == room;
  const expected = whole ? written + 1 : written;
  const partly = writeRefused || statusRefused;
  if (claimed != expected && !(partly && claimed < expected)) {
    violate(RULE_USED_LENGTH, claimed, expected);
  }
  setOutstanding(queue, head, 0);
  stage = allowed ? ELEMENT_DONE : OVER;
}
