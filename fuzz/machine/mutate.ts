// Makes programs: from nothing, from one that is known, or from two. No specification; what a
// device's driver is likely to do is what the generators below prefer, since a program that is
// nearly right goes deepest.
import { KIND_VIRTIO_NET, STATE_KIND } from "../../assembly/abi";
import { newNet, newNetState } from "./net-programs";
import {
  ACTIONS_MAX, ACTION_A, ACTION_B, ACTION_BYTES, ACTION_C, ACTION_D, CORPUS, DICTIONARY,
  ENTRY_ACTIONS, ENTRY_BYTES, ENTRY_COUNT, PROGRAM, RAM_BYTES,
} from "./places";
import {
  BUFFERS, HEADERS, OP_AVAIL_INDEX, OP_BRING_UP, OP_COMPLETE, OP_DESCRIPTOR, OP_EVENT, OP_FAIL,
  OP_HEADER, OP_INPUT, OP_NEXT, OP_NOTIFY, OP_OFFER, OP_POKE, OP_READ, OP_REQUEST, OP_RESET,
  OP_RESTORE, OP_STATE, OP_TABLE, OP_TIME, OP_WRITE, QUEUE_AREA, STATUSES, TABLES, TARGET_BLK,
  TARGET_NET, TARGET_RING, TARGET_RNG, TARGET_STATE, TARGET_TRANSPORT,
} from "./shared";
import { bits, oneIn, random } from "./random";

let target: u32 = TARGET_RING;
let corpusCount: u32 = 0;
let dictionaryCount: u32 = 0;

export function setTarget(which: u32): void {
  target = which;
}

/** How many entries the corpus has, and values the dictionary. */
export function setCounts(corpus: u32, dictionary: u32): void {
  corpusCount = corpus;
  dictionaryCount = dictionary;
}

// --- Values --------------------------------------------------------------------------------------

// Numbers at which checks go wrong.
export function edgeCase(): u64 {
  if (dictionaryCount != 0 && oneIn(3)) {
    return load<u64>(DICTIONARY + (<usize>random(dictionaryCount) << 3));
  }
  const power: u64 = 1 << <u64>random(64);
  switch (random(4)) {
    case 0: return power;
    case 1: return power - 1;
    case 2: return 0 - power;
    default: return <u64>bits() << 32 | bits();
  }
}

function address(): u64 {
  switch (random(12)) {
    case 0: return HEADERS + (random(64) << 4);
    case 1: return STATUSES + random(16);
    case 2: return random(QUEUE_AREA * 2) & ~1;
    case 3: return RAM_BYTES - random(32);
    case 4: return TABLES + (random(64) << 4);
    case 5: return oneIn(2) ? 0 - <u64>random(0x1000) : edgeCase();
    default: return BUFFERS + (random(64) << 8);
  }
}

function length(): u32 {
  switch (random(8)) {
    case 0: return 1;
    case 1: return 16;
    case 2: return random(64);
    case 3: return 0;
    case 4: return <u32>edgeCase();
    default: return (1 + random(4)) << 9;
  }
}

function blockType(): u32 {
  switch (random(8)) {
    case 0:
    case 1: return 0;
    case 2: return 1;
    case 3: return 4;
    case 4: return 8;
    case 5: return 11;
    case 6: return 13;
    default: return random(16);
  }
}

function sector(): u32 {
  switch (random(4)) {
    case 0: return 2048 - random(4);
    case 1: return <u32>edgeCase();
    default: return random(2048);
  }
}

// --- Actions -------------------------------------------------------------------------------------

export function put(at: usize, op: u32, a: u32, b: u32, c: u32, d: u64): void {
  store<u8>(at, <u8>op);
  store<u8>(at, <u8>a, ACTION_A);
  store<u16>(at, <u16>b, ACTION_B);
  store<u32>(at, c, ACTION_C);
  store<u64>(at, d, ACTION_D);
}

function newDescriptor(at: usize): void {
  const place = oneIn(4) ? 128 + random(32) : oneIn(6) ? 64 + random(16) : random(16);
  const flags = oneIn(12) ? random(8) : oneIn(3) ? random(4) | 1 : random(4);
  const next = oneIn(16) ? random(256) : random(16);
  put(at, OP_DESCRIPTOR, place, flags | next << 8, length(), address());
}

function newRequest(at: usize): void {
  const how: u64 = oneIn(3) ? random(32) : random(4);
  const segments: u64 = random(3);
  const bytes: u64 = oneIn(8) ? random(0x10000) : (1 + random(3)) << 9;
  const sectors: u64 = oneIn(4) ? random(256) : random(8);
  const flags: u64 = oneIn(6) ? random(4) : random(2);
  const shape = how | segments << 8 | bytes << 16 | <u64>random(64) << 32 | sectors << 40 |
    flags << 48;
  const queue: u32 = oneIn(5) ? 0x80 : 0;
  put(at, OP_REQUEST, blockType() | queue, random(16) | random(16) << 8, sector(), shape);
}

function newHeader(at: usize): void {
  put(at, OP_HEADER, 0, random(16), blockType(), oneIn(2) ? edgeCase() : sector());
}

export function newRegister(at: usize): void {
  const config = oneIn(6);
  const offset = oneIn(24) ? random(0x10000)
    : config ? 0x100 + random(0x50) : random(0x42) << 2;
  const width = oneIn(12) ? random(9) : config ? 1 << random(3) : 4;
  let value = oneIn(4) ? <u32>edgeCase() : random(16);
  if (oneIn(3)) value = random(0x10) << 9;
  put(at, oneIn(3) ? OP_READ : OP_WRITE, width, offset, value, 0);
}

export function newStatus(at: usize): void {
  const stages: u32 = 0x0f0b0301;
  const value = oneIn(4) ? random(256) : stages >> (random(4) << 3) & 0xff;
  put(at, OP_WRITE, 4, 0x70, oneIn(8) ? 0 : value, 0);
}

function newNotify(at: usize): void {
  const queue = oneIn(16) ? random(16) : oneIn(4) ? 1 : 0;
  put(at, OP_NOTIFY, queue | random(8) << 4, 0, 0, 0);
}

function newComplete(at: usize): void {
  const which = oneIn(12) ? 0xff : random(8) | (oneIn(6) ? 0x80 : 0);
  const bytes: u64 = oneIn(3) ? edgeCase() : 512;
  put(at, OP_COMPLETE, which, oneIn(3) ? random(5) : 0, bits(), bytes);
}

export function newState(at: usize): void {
  let offset: u32;
  switch (random(5)) {
    case 0: offset = 0x100 + random(0x28); break;
    case 1: offset = 0x400 + random(0x60); break;
    case 2: offset = 0x1000 + random(0x80); break;
    case 3: offset = random(0x300); break;
    default: offset = random(0x18000);
  }
  const value: u64 = oneIn(2) ? random(256) : edgeCase();
  put(at, OP_STATE, oneIn(3) ? random(4) : 0, offset, offset >> 16, value);
}

// What the guest's memory can hold, and what any virtio driver or its host does.
export function newVirtio(at: usize): void {
  switch (random(16)) {
    case 0:
    case 1:
    case 2: newDescriptor(at); return;
    case 3:
    case 4: put(at, OP_OFFER, oneIn(8) ? 1 : 0, oneIn(16) ? bits() : random(16), 0, 0); return;
    case 5:
    case 6:
    case 7: newNotify(at); return;
    case 8: put(at, OP_NEXT, oneIn(4) ? random(16) : 0, 0, 0, 0); return;
    case 9:
    case 10: newComplete(at); return;
    case 11: put(at, OP_POKE, random(4), <u32>address(), 0, edgeCase()); return;
    case 12: put(at, OP_EVENT, 0, oneIn(3) ? bits() : random(8), random(2), 0); return;
    case 13: {
      const index = oneIn(3) ? bits() : random(20);
      put(at, oneIn(4) ? OP_AVAIL_INDEX : OP_NOTIFY, 0, index, 0, 0);
      return;
    }
    case 14: {
      const bytes = oneIn(8) ? bits() : oneIn(3) ? random(132) : random(8) << 4;
      put(at, OP_TABLE, random(16), random(16), bytes, 0);
      return;
    }
    default: newRegister(at);
  }
}

export function newTransport(at: usize): void {
  switch (random(8)) {
    case 0:
    case 1: newStatus(at); return;
    case 2: newVirtio(at); return;
    case 3: put(at, OP_BRING_UP, 1 + random(6), 1 + random(2), bits(), 0); return;
    case 4: put(at, oneIn(4) ? OP_FAIL : OP_RESET, 0, 0, 0, 0); return;
    case 5: oneIn(2) ? newRequest(at) : newNotify(at); return;
    default: newRegister(at);
  }
}

function newPort(at: usize): void {
  const offset = oneIn(16) ? random(0x10000) : random(8);
  const width = oneIn(12) ? random(9) : 1;
  switch (random(12)) {
    case 0: put(at, OP_INPUT, random(9), 0, 0, edgeCase()); return;
    case 1: put(at, OP_NEXT, 0, 0, 0, 0); return;
    case 2: put(at, OP_TIME, 0, 0, 0, oneIn(3) ? edgeCase() : <u64>bits() << random(8)); return;
    case 3: put(at, oneIn(4) ? OP_FAIL : OP_RESET, 0, 0, 0, 0); return;
    case 4:
    case 5:
    case 6: put(at, OP_READ, width, offset, 0, 0); return;
    default: put(at, OP_WRITE, width, offset, oneIn(8) ? bits() : random(256), 0);
  }
}

// Around a state that is saved or changed, of the device at hand.
function newSaved(at: usize): void {
  const net = load<u32>(STATE_KIND) == KIND_VIRTIO_NET;
  if (oneIn(8)) put(at, OP_RESTORE, 0, 0, 0, 0);
  else if (oneIn(net ? 4 : 2)) net ? newNetState(at) : newState(at);
  else if (net) newNet(at);
  else oneIn(3) ? newTransport(at) : newVirtio(at);
}

function newAction(at: usize): void {
  switch (target) {
    case TARGET_TRANSPORT: newTransport(at); return;
    case TARGET_RING: oneIn(6) ? newRequest(at) : newVirtio(at); return;
    case TARGET_BLK:
      if (oneIn(8)) newHeader(at);
      else oneIn(2) ? newRequest(at) : newVirtio(at);
      return;
    case TARGET_RNG: newVirtio(at); return;
    case TARGET_NET: newNet(at); return;
    case TARGET_STATE: newSaved(at); return;
    default: oneIn(12) ? newState(at) : newPort(at);
  }
}

// --- Programs ------------------------------------------------------------------------------------

function actionAt(index: u32): usize {
  return PROGRAM + ENTRY_ACTIONS + <usize>index * ACTION_BYTES;
}

function entryAt(index: u32): usize {
  return CORPUS + <usize>index * ENTRY_BYTES;
}

function pick(): usize {
  // What came last is where the search is; all else keeps its chance.
  const recent = min<u32>(corpusCount, 32);
  return entryAt(oneIn(3) ? corpusCount - 1 - random(recent) : random(corpusCount));
}

/** Puts a new program into PROGRAM. */
export function makeProgram(): void {
  if (corpusCount == 0 || oneIn(64)) {
    const count: u32 = 4 + random(12);
    for (let index: u32 = 0; index < count; index++) newAction(actionAt(index));
    store<u32>(PROGRAM, count, ENTRY_COUNT);
    return;
  }
  const base = pick();
  const bytes = ENTRY_ACTIONS + <usize>load<u32>(base, ENTRY_COUNT) * ACTION_BYTES;
  memory.copy(PROGRAM, base, bytes);
  for (let left: u32 = 1 << random(4); left > 0; left--) mutate();
}

function mutate(): void {
  const count = load<u32>(PROGRAM, ENTRY_COUNT);
  if (count == 0) {
    insert(0, 0);
    return;
  }
  const index = random(count);
  switch (random(12)) {
    case 0:
    case 1: insert(random(count + 1), count); return;
    case 2:
    case 3: remove(index, count); return;
    case 4: newAction(actionAt(index)); return;
    case 5: cross(index); return;
    case 6: memory.copy(actionAt(index), actionAt(random(count)), ACTION_BYTES); return;
    default: tweak(actionAt(index));
  }
}

function insert(index: u32, count: u32): void {
  if (count == ACTIONS_MAX) return;
  const at = actionAt(index);
  memory.copy(at + ACTION_BYTES, at, <usize>(count - index) * ACTION_BYTES);
  newAction(at);
  store<u32>(PROGRAM, count + 1, ENTRY_COUNT);
}

function remove(index: u32, count: u32): void {
  const at = actionAt(index);
  memory.copy(at, at + ACTION_BYTES, <usize>(count - index - 1) * ACTION_BYTES);
  store<u32>(PROGRAM, count - 1, ENTRY_COUNT);
}

/** From `index` on the program goes on as another does. */
function cross(index: u32): void {
  const other = pick();
  const otherCount = load<u32>(other, ENTRY_COUNT);
  if (otherCount == 0) return;
  const from = random(otherCount);
  const taken = min<u32>(otherCount - from, ACTIONS_MAX - index);
  const source = other + ENTRY_ACTIONS + <usize>from * ACTION_BYTES;
  memory.copy(actionAt(index), source, <usize>taken * ACTION_BYTES);
  store<u32>(PROGRAM, index + taken, ENTRY_COUNT);
}

/** Changes one field of an action. */
function tweak(at: usize): void {
  const small = random(8) + 1;
  switch (random(12)) {
    case 0: store<u8>(at, load<u8>(at, ACTION_A) ^ <u8>(<u32>1 << random(8)), ACTION_A); return;
    case 1: store<u8>(at, <u8>random(16), ACTION_A); return;
    case 2: store<u16>(at, load<u16>(at, ACTION_B) ^ <u16>(<u32>1 << random(16)), ACTION_B); return;
    case 3: store<u16>(at, load<u16>(at, ACTION_B) + <u16>small - 4, ACTION_B); return;
    case 4: store<u16>(at, <u16>random(64), ACTION_B); return;
    case 5: store<u32>(at, load<u32>(at, ACTION_C) ^ (1 << random(32)), ACTION_C); return;
    case 6: store<u32>(at, load<u32>(at, ACTION_C) + small - 4, ACTION_C); return;
    case 7: store<u32>(at, <u32>edgeCase(), ACTION_C); return;
    case 8: store<u64>(at, load<u64>(at, ACTION_D) ^ (<u64>1 << random(64)), ACTION_D); return;
    case 9: store<u64>(at, load<u64>(at, ACTION_D) + small - 4, ACTION_D); return;
    case 10: store<u64>(at, address(), ACTION_D); return;
    default: store<u64>(at, edgeCase(), ACTION_D);
  }
}
