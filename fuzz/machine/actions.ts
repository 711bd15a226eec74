// Runs a program: a list of things that a guest's driver and the host do (shared.ts, OP_*).
// Virtio 1.2 §2.7 (rings), §3.1.1 (bring-up), §4.2 (registers), §5.2.6 (block requests).
import {
  EFFECT_REQUEST, INBOX, KIND_VIRTIO_BLK, KIND_VIRTIO_NET, RANGE_LENGTH, REQUEST, REQUEST_KIND,
  REQUEST_KIND_BLK_OUT, REQUEST_KIND_NET_RINGS, REQUEST_KIND_NET_RX, REQUEST_KIND_NET_TX,
  REQUEST_RANGES, REQUEST_RANGE_COUNT, REQUEST_TAG, STATE, STATE_BYTES, STATE_KIND,
  TAG_GENERATION_SHIFT,
} from "../../assembly/abi";
import {
  VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE,
} from "../../assembly/virtq";
import {
  ACTIONS_MAX, ACTION_A, ACTION_B, ACTION_BYTES, ACTION_C, ACTION_D, ENTRY_ACTIONS, ENTRY_COUNT,
  FLIGHTS, PROGRAM,
} from "./places";
import {
  BUFFERS, NOTIFY_BY_REGISTER, NOTIFY_COMPLETE, NOTIFY_ONCE, OP_AVAIL_INDEX, OP_BRING_UP,
  OP_BUFFERS, OP_COMMAND, OP_COMPLETE, OP_DESCRIPTOR, OP_EVENT, OP_FAIL, OP_FRAME, OP_HEADER,
  OP_INPUT, OP_NEXT, OP_NOTIFY, OP_OFFER, OP_POKE, OP_READ, OP_RECEIVE, OP_REQUEST, OP_RESET,
  OP_RESTORE, OP_STATE, OP_TABLE, OP_TIME, OP_WRITE, RULE_STATE, SHAPE_EMPTY_STATUS, SHAPE_INDIRECT,
  SHAPE_NO_STATUS, SHAPE_SPLIT_HEADER, SHAPE_WRONG_WAY, STATUSES, TRACE_RESTORE, TRACE_STATE,
} from "./shared";
import {
  callCheck, callComplete, callFail, callInput, callNext, callNotify, callRead, callReset,
  callWrite, wantsMore,
} from "./core";
import {
  availRing, descriptor, descriptorAt, event, headerAt, offer, queueAt, queueSize, setQueueSize,
  tableAt, usedRing,
} from "./driver";
import { adoptHeads } from "./heads";
import { adoptHeld } from "./held";
import { isRam, ramStore, renewInstance, storeBytes } from "./memory";
import { command, frame, offerBuffers, receive } from "./net-actions";
import { traceBytes } from "./trace";
import { violate, violated } from "./violation";

const KIND_OFFSET: u32 = STATE_KIND - STATE;

// assembly/virtio-mmio.ts
const QUEUE_NOTIFY: u32 = 0x50;
const STATUS: u32 = 0x70;

const IN_FLIGHT_MAX: u32 = 32;
const DRAIN_MAX: u32 = 80; // calls of next() after one doorbell
const HOST_BYTES_MAX: u32 = 16; // what the host is made to write of a request's payload

// Requests that the host has, from FLIGHTS: first range's address u64, tag u32, its length u32.
let flights: u32 = 0;
let changed: bool = false; // the state, from outside
let unchecked: bool = false; // and nobody has looked at it
let refused: bool = false; // a state that does not load: the device must not run

/** Runs the actions of the present program, up to the first broken rule. */
export function perform(size: u32): void {
  setQueueSize(size);
  flights = 0;
  changed = false;
  unchecked = false;
  refused = false;
  const count = min<u32>(load<u32>(PROGRAM, ENTRY_COUNT), ACTIONS_MAX);
  for (let index: u32 = 0; index < count; index++) {
    act(PROGRAM + ENTRY_ACTIONS + <usize>index * ACTION_BYTES);
    if (violated() || refused) return;
  }
}

/** True where the device may run: a changed state is checked first. */
function ready(): bool {
  if (!unchecked) return true;
  unchecked = false;
  refused = !callCheck();
  if (refused) return false;
  adoptHeads();
  adoptHeld();
  return true;
}

function act(at: usize): void {
  const op: u32 = load<u8>(at);
  const a: u32 = load<u8>(at, ACTION_A);
  const b: u32 = load<u16>(at, ACTION_B);
  const c = load<u32>(at, ACTION_C);
  const d = load<u64>(at, ACTION_D);
  const queue = a & queueMask();
  switch (op) {
    case OP_DESCRIPTOR: descriptor(descriptorAt(a), d, c, b & 0xff, b >> 8); return;
    case OP_OFFER: offer(queue, b); return;
    case OP_AVAIL_INDEX: ramStore(availRing(queue) + 2, 2, b); return;
    case OP_EVENT: event(queue, b, c); return;
    case OP_HEADER: header(b, c, d); return;
    case OP_REQUEST: request(a & 0x7f, a >> 7, b, c, d); return;
    case OP_POKE: ramStore(b, widthOf(a), d); return;
    case OP_TABLE: descriptor(descriptorAt(a), tableAt(b), c, VIRTQ_DESC_F_INDIRECT, 0); return;
    case OP_FRAME: frame(queue, b, c, d); return;
    case OP_BUFFERS: offerBuffers(queue, b, c, d); return;
    case OP_COMMAND: command(b, c, d); return;
    case OP_STATE: pokeState(widthOf(a), <u32>b | (c & 1) << 16, d); return;
  }
  if (ready()) call(op, a, b, c, d, at);
}

function call(op: u32, a: u32, b: u32, c: u32, d: u64, at: usize): void {
  switch (op) {
    case OP_NOTIFY: notify(a & 0xf, a >> 4); return;
    case OP_NEXT: take(callNext(a), false); return;
    case OP_COMPLETE: complete(a, b, c, <u32>d); return;
    case OP_READ: callRead(<u32>b, a); return;
    case OP_WRITE: write(b, a, c); return;
    case OP_BRING_UP: bringUp(a, b, c); return;
    case OP_INPUT: input(min<u32>(a, 8), at + ACTION_D); return;
    case OP_TIME: input(8, at + ACTION_D); return;
    case OP_RECEIVE: receive(a & 0x1f, a >> 7, b, <u32>d); return;
    case OP_RESET: callReset(); return;
    case OP_RESTORE: restore(); return;
    case OP_FAIL: callFail(); return;
  }
}

function isNet(): bool {
  return load<u32>(STATE_KIND) == KIND_VIRTIO_NET;
}

// Of the queues that the driver has places for.
function queueMask(): u32 {
  return isNet() ? 7 : 1;
}

function widthOf(code: u32): u32 {
  return 1 << (code & 3);
}

// --- The driver's memory -------------------------------------------------------------------------

function header(slot: u32, type: u32, sector: u64): void {
  const at = headerAt(slot);
  ramStore(at, 8, type);
  ramStore(at + 8, 8, sector);
}

// A whole request. `first`: low byte descriptor, high byte header slot. Shape: byte 0 SHAPE_*,
// byte 1 data segments, bytes 2 to 3 length of each, byte 4 the buffer (page of 256 bytes), byte 5
// how many sectors a discard names, byte 6 its flags.
function request(type: u32, queue: u32, first: u32, sector: u32, shape: u64): void {
  const how = <u32>shape & 0xff;
  const segments = <u32>(shape >> 8) & 7;
  const length = <u32>(shape >> 16) & 0xffff;
  const buffer: u64 = BUFFERS + ((shape >> 32) & 0x7f) * 256;
  const slot = first >> 8;
  const own = queueAt(queue);
  const table: u64 = how & SHAPE_INDIRECT ? tableAt(slot) : own;
  let at = how & SHAPE_INDIRECT ? 0 : first & (queueSize - 1);
  const head = first & (queueSize - 1);
  const mask = how & SHAPE_INDIRECT ? 15 : queueSize - 1;

  header(slot, type, sector);
  const to = headerAt(slot);
  const status = (how & SHAPE_NO_STATUS) == 0;
  const more = segments != 0 || status;
  if (how & SHAPE_SPLIT_HEADER) {
    descriptor(table + (at << 4), to, 6, VIRTQ_DESC_F_NEXT, (at + 1) & mask);
    at = (at + 1) & mask;
    descriptor(table + (at << 4), to + 6, 10, more ? VIRTQ_DESC_F_NEXT : 0, (at + 1) & mask);
  } else {
    descriptor(table + (at << 4), to, 16, more ? VIRTQ_DESC_F_NEXT : 0, (at + 1) & mask);
  }
  if (type == 11 || type == 13) {
    ramStore(buffer, 8, sector);
    ramStore(buffer + 8, 8, (shape >> 40) & 0xff | ((shape >> 48) & 0xff) << 32);
  }
  const reads = type == 0 || type == 8;
  const writes: u32 = reads != ((how & SHAPE_WRONG_WAY) != 0) ? VIRTQ_DESC_F_WRITE : 0;
  for (let index: u32 = 0; index < segments; index++) {
    at = (at + 1) & mask;
    const flags = writes | (status || index + 1 < segments ? VIRTQ_DESC_F_NEXT : 0);
    descriptor(table + (at << 4), buffer + index * length, length, flags, (at + 1) & mask);
  }
  if (status) {
    at = (at + 1) & mask;
    const bytes = how & SHAPE_EMPTY_STATUS ? 0 : 1;
    descriptor(table + (at << 4), STATUSES + slot, bytes, VIRTQ_DESC_F_WRITE, 0);
  }
  if (how & SHAPE_INDIRECT) {
    descriptor(own + (head << 4), table, (at + 1) << 4, VIRTQ_DESC_F_INDIRECT, 0);
  }
  offer(queue, head);
}

// --- Calls ---------------------------------------------------------------------------------------

function notify(queue: u32, how: u32): void {
  let effects = how & NOTIFY_BY_REGISTER ? callWrite(QUEUE_NOTIFY, 4, queue) : callNotify(queue);
  take(effects, (how & NOTIFY_COMPLETE) != 0);
  if (how & NOTIFY_ONCE) return;
  for (let calls: u32 = 0; calls < DRAIN_MAX && wantsMore(effects) && !violated(); calls++) {
    effects = callNext(queue);
    take(effects, (how & NOTIFY_COMPLETE) != 0);
  }
}

/** Takes the request that a call handed out, if it did; `now`: and carries it out. */
function take(effects: u32, now: bool): void {
  if ((effects & EFFECT_REQUEST) == 0 || load<u32>(STATE_KIND) < <u32>KIND_VIRTIO_BLK) return;
  const kind = load<u32>(REQUEST, REQUEST_KIND);
  // Buffers are kept in their order elsewhere, and rings need no answer.
  if (kind == REQUEST_KIND_NET_RX || kind == REQUEST_KIND_NET_RINGS) return;
  if (flights == IN_FLIGHT_MAX) flights--;
  const flight = FLIGHTS + (<usize>flights << 4);
  const ranges = load<u32>(REQUEST, REQUEST_RANGE_COUNT) != 0;
  const fills = ranges && kind != REQUEST_KIND_BLK_OUT && kind != REQUEST_KIND_NET_TX;
  store<u64>(flight, ranges ? load<u64>(REQUEST, REQUEST_RANGES) : 0);
  store<u32>(flight, load<u32>(REQUEST, REQUEST_TAG), 8);
  store<u32>(flight, fills ? load<u32>(REQUEST, REQUEST_RANGES + RANGE_LENGTH) : 0, 12);
  flights++;
  if (now) complete(flights - 1, 0, 0, 0xffffffff);
}

function complete(which: u32, result: u32, tag: u32, bytes: u32): void {
  if (which == 0xff || flights == 0) {
    callComplete(tag, result, bytes);
    return;
  }
  const index = which % flights;
  const flight = FLIGHTS + (<usize>index << 4);
  const address = load<u64>(flight);
  const known = load<u32>(flight, 8);
  if (which >= 0x80) {
    // A tag of an earlier or a later request of the same head: this one stays in flight.
    callComplete(known ^ (1 << TAG_GENERATION_SHIFT), result, bytes);
    return;
  }
  const length = min<u32>(min<u32>(load<u32>(flight, 12), bytes), HOST_BYTES_MAX);
  flights--;
  const last = FLIGHTS + (<usize>flights << 4);
  store<u64>(flight, load<u64>(last));
  store<u64>(flight, load<u64>(last, 8), 8);
  // The payload goes to guest memory before the core hears of it.
  for (let at: u32 = 0; at + 8 <= length; at += 8) {
    if (isRam(address + at, 8)) ramStore(address + at, 8, 0x5a5a5a5a5a5a5a5a);
  }
  callComplete(known, result, bytes);
}

function write(offset: u32, width: u32, value: u32): void {
  const effects = callWrite(offset, width, value);
  if (offset == QUEUE_NOTIFY) take(effects, false);
}

function input(length: u32, from: usize): void {
  memory.copy(INBOX, from, length);
  callInput(length);
}

function pokeState(width: u32, offset: u32, value: u64): void {
  // Which device it is is not the state's to say: a host refuses that before the core is asked.
  if (offset + width > <u32>STATE_BYTES) return;
  if (offset + width > KIND_OFFSET && offset < KIND_OFFSET + 4) return;
  const at: usize = <usize>STATE + offset;
  storeBytes(at, width, value);
  traceBytes(TRACE_STATE, offset, at, width);
  changed = true;
  unchecked = true;
}

// Another instance goes on, and neither driver nor host may see a difference.
function restore(): void {
  renewInstance();
  traceBytes(TRACE_RESTORE, 0, INBOX, 0);
  if (callCheck()) return;
  // A state that was changed from outside may be refused later, and rightly.
  if (changed) refused = true;
  else violate(RULE_STATE, 0, 1);
}

// --- Bring-up (§3.1.1) ---------------------------------------------------------------------------

function set(register: u32, value: u32): void {
  callWrite(register, 4, value);
}

/**
 * From reset to DRIVER_OK, as a driver does it. `features`: bits 0 and 1 are 28 and 29; of a
 * network device those that they are, and bits 54 to 56 from bit 5 of `sizeLog` on.
 */
function bringUp(sizeLog: u32, queueCount: u32, features: u32): void {
  const net = isNet();
  setQueueSize(1 << (net ? min<u32>(sizeLog & 7, 4) : sizeLog & 7));
  set(STATUS, 0);
  set(STATUS, 1);
  set(STATUS, 3);
  set(0x24, 0); // DriverFeaturesSel
  set(0x20, net ? features : features << 28 | (features >> 2 & 0x3fff)); // DriverFeatures
  set(0x24, 1);
  set(0x20, net ? 1 | (sizeLog >> 5) << 22 : 1); // VIRTIO_F_VERSION_1
  set(STATUS, 0xb);
  const count = min<u32>(max<u32>(queueCount, 1), net ? 7 : 2);
  for (let queue: u32 = 0; queue < count; queue++) setUpQueue(queue);
  set(STATUS, 0xf);
}

function setUpQueue(queue: u32): void {
  set(0x30, queue); // QueueSel
  set(0x38, queueSize); // QueueNum
  set(0x80, <u32>queueAt(queue)); // QueueDescLow, High
  set(0x84, 0);
  set(0x90, <u32>availRing(queue)); // QueueDriverLow, High
  set(0x94, 0);
  set(0xa0, <u32>usedRing(queue)); // QueueDeviceLow, High
  set(0xa4, 0);
  ramStore(availRing(queue), 4, 0);
  ramStore(usedRing(queue), 4, 0);
  set(0x44, 1); // QueueReady
}
