// Actions of a network device's driver: frames, buffers, commands, and what is around them.
import { edgeCase, newRegister, newState, newStatus, newTransport, newVirtio, put } from "./mutate";
import { bits, oneIn, random } from "./random";
import {
  FRAME_BUFFER, FRAME_CSUM_OFFSET, FRAME_CSUM_START, FRAME_HDR_LEN, FRAME_LENGTH, FRAME_SEGMENTS,
  OP_BRING_UP, OP_BUFFERS, OP_COMMAND, OP_EVENT, OP_FRAME, OP_INPUT, OP_NEXT, OP_NOTIFY,
  OP_RECEIVE, OP_STATE,
} from "./shared";

function newFrame(at: usize): void {
  const how: u64 = oneIn(6) ? random(8) : random(4);
  const csumStart: u64 = random(64);
  const csumOffset: u64 = random(32);
  let bytes: u64 = oneIn(6) ? random(0x10000) : 14 + random(1500);
  let segments: u64 = oneIn(8) ? random(8) : 1 + random(2);
  if (oneIn(8)) {
    // The frame ends about where its checksum does.
    segments = 1;
    bytes = csumStart + csumOffset + random(4);
  }
  const shape = how | segments << FRAME_SEGMENTS | bytes << FRAME_LENGTH |
    <u64>random(64) << FRAME_BUFFER | csumStart << FRAME_CSUM_START |
    csumOffset << FRAME_CSUM_OFFSET | <u64>random(256) << FRAME_HDR_LEN;
  const flags = oneIn(8) ? random(256) : random(2);
  const gso = oneIn(8) ? random(256) : flags & 1 ? random(6) | (oneIn(4) ? 0x80 : 0) : 0;
  const size = oneIn(3) ? 0 : oneIn(8) ? random(0x10000) : 1448;
  const queue = 1 | random(2) << 1;
  put(at, OP_FRAME, queue, random(16) | random(64) << 8, flags | gso << 8 | size << 16, shape);
}

function newBuffers(at: usize): void {
  const how = oneIn(6) ? random(8) : random(2);
  const first = oneIn(3) ? random(16) : oneIn(4) ? random(0x10000) : 1526;
  const rest = oneIn(3) ? random(16) : 512;
  const shape = <u64>(oneIn(2) ? random(4) : 0) | <u64>random(64) << 8;
  const many = oneIn(2) ? random(4) : random(16);
  const place = random(16) | many << 8 | how << 12;
  put(at, OP_BUFFERS, random(3) & 2, place, first | rest << 16, shape);
}

// The length that each class of command takes, and data that it may like.
function newCommand(at: usize): void {
  const kind = random(6);
  let number = oneIn(8) ? random(256) : 0;
  let bytes: u32 = 0;
  let data: u64 = random(4);
  switch (kind) {
    case 0: number = random(7); bytes = 1; break;
    case 1: {
      number = random(2);
      data = number ? <u64>bits() << 16 | bits() << 1 : <u64>random(4) | <u64>random(4) << 8;
      bytes = number ? 6 : 8 + 6 * (<u32>data & 0xff) + 6 * (<u32>(data >> 8) & 0xff);
      break;
    }
    case 2: number = random(3); bytes = 2; data = random(4100); break;
    case 4: bytes = 2; break;
    case 5: bytes = 8; data = bits() & 0x787 | <u64>random(4) << 54; break;
  }
  if (oneIn(8)) bytes = random(64);
  if (oneIn(8)) data = edgeCase();
  const how = oneIn(4) ? random(32) : random(4);
  const group = oneIn(16) ? random(256) : kind;
  const place = random(16) | random(64) << 8;
  put(at, OP_COMMAND, 0, place, group | number << 8 | (bytes & 0xff) << 16 | how << 24, data);
}

function newReceive(at: usize): void {
  const bytes: u64 = oneIn(8) ? edgeCase() : oneIn(3) ? random(64) : random(4096);
  const result = oneIn(5) ? 1 : 0;
  const which = oneIn(4) ? random(8) : 0;
  put(at, OP_RECEIVE, random(3) & 2 | (oneIn(12) ? 0x80 : 0), which | result << 8, 0, bytes);
}

function newNetBringUp(at: usize): void {
  // INDIRECT and EVENT_IDX, offloads of both sides, and what needs the control queue.
  let features: u32 = 0x30fefffb & ~(1 << 4) & ~(1 << 6);
  if (oneIn(2)) features &= bits();
  if (oneIn(2)) features |= 1 << 17;
  put(at, OP_BRING_UP, 1 + random(4) | random(8) << 5, 1 + random(7), features, 0);
}

/** Changes a byte of what a network device saves: its own, of a queue, or of a head. */
export function newNetState(at: usize): void {
  let offset: u32;
  switch (random(4)) {
    case 0: offset = 0x180 + random(0x18); break;
    case 1: offset = 0x400 + (random(6) << 6) + 24 + random(16); break;
    case 2: offset = 0x1000 + (random(6) << 12) + random(0x80); break;
    default: newState(at); return;
  }
  put(at, OP_STATE, 0, offset, 0, oneIn(2) ? random(16) : edgeCase());
}

/** An action of a network device's driver, or of what is around it. */
export function newNet(at: usize): void {
  const queue = oneIn(8) ? random(16) : random(5);
  switch (random(16)) {
    case 0:
    case 1:
    case 2: newFrame(at); return;
    case 3:
    case 4: newBuffers(at); return;
    case 5:
    case 6: newCommand(at); return;
    case 7:
    case 8: newReceive(at); return;
    case 9:
    case 10: put(at, OP_NOTIFY, queue | random(8) << 4, 0, 0, 0); return;
    case 11: put(at, OP_NEXT, queue, 0, 0, 0); return;
    case 12: put(at, OP_INPUT, oneIn(8) ? random(9) : 2, 0, 0, random(2) | random(2) << 8); return;
    case 13:
      if (oneIn(2)) put(at, OP_EVENT, queue & 7, oneIn(3) ? bits() : random(8), random(2), 0);
      else oneIn(4) ? newNetBringUp(at) : newStatus(at);
      return;
    case 14: oneIn(4) ? newTransport(at) : newRegister(at); return;
    default: newVirtio(at);
  }
}
