// Block requests: from a walked descriptor chain to a request record, and from result to status.
// Virtio 1.2 §5.2.6. Descriptors may cut the request anywhere (§2.7.4.1). Left out: SECURE_ERASE,
// GET_LIFETIME, zone commands: they get VIRTIO_BLK_S_UNSUPP.
//
// Readable: +0 type u32  +4 reserved u32  +8 sector u64  +16 data. Writable: data, then status u8.
// Data of discard and write zeroes: +0 sector u64  +8 num_sectors u32  +12 flags u32
import {
  BLK_CONFIG_ID, BLK_CONFIG_MAX_DISCARD_SECTORS, BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
  BLK_CONFIG_SEG_MAX, BLK_CONFIG_SIZE_MAX, BLK_FLAG_RO, BLK_ID_BYTES, EFFECT_REQUEST,
  INCIDENT_MEMORY, INCIDENT_REQUEST, RANGE_LENGTH, RANGE_STRIDE, REQUEST, REQUEST_FLAG_SYNC,
  REQUEST_FLAG_UNMAP, REQUEST_KIND_BLK_DISCARD, REQUEST_KIND_BLK_FLUSH, REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT, REQUEST_KIND_BLK_WRITE_ZEROES, REQUEST_RANGES, RESULT_UNSUPPORTED,
} from "./abi";
import { guestWrite } from "./guest";
import { emitRanges, inFlight, submit } from "./in-flight";
import { CONFIG, HEADER } from "./layout";
import { incident } from "./registers";
import { negotiated } from "./virtio";
import {
  VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
  blkCapacitySectors, blkFlag, blkWriteThrough,
} from "./virtio-blk";
import { chainRead, chainWrite, segment, virtqPush, walked } from "./virtq";

const VIRTIO_BLK_T_IN: u32 = 0;
const VIRTIO_BLK_T_OUT: u32 = 1;
const VIRTIO_BLK_T_FLUSH: u32 = 4;
const VIRTIO_BLK_T_GET_ID: u32 = 8;
const VIRTIO_BLK_T_DISCARD: u32 = 11;
const VIRTIO_BLK_T_WRITE_ZEROES: u32 = 13;

const VIRTIO_BLK_S_OK: u32 = 0;
const VIRTIO_BLK_S_IOERR: u32 = 1;
const VIRTIO_BLK_S_UNSUPP: u32 = 2;

const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: u32 = 1;

const HEADER_TYPE: usize = 0;
const HEADER_SECTOR: usize = 8;
const HEADER_BYTES: u32 = 16;
const COMMAND: usize = HEADER + 16; // a discard or write zeroes segment, copied in
const COMMAND_SECTOR: usize = 0;
const COMMAND_NUM_SECTORS: usize = 8;
const COMMAND_FLAGS: usize = 12;
const COMMAND_BYTES: u32 = 16;
const SECTOR_SHIFT: u64 = 9;
const SECTOR_BYTES: u64 = 1 << SECTOR_SHIFT;

/** Turns the walked chain into a request record, or answers it here and now. */
export function blkRequest(queueIndex: u32, head: u32): u32 {
  const chain = walked();
  if (!hasStatus()) return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  const status = statusAddress();
  if (chain.readableBytes < HEADER_BYTES) return malformed(queueIndex, head, status);
  if (!chainRead(0, HEADER, HEADER_BYTES)) {
    return incident(INCIDENT_MEMORY) | finish(queueIndex, head, status, VIRTIO_BLK_S_IOERR, 0);
  }
  const sector = load<u64>(HEADER, HEADER_SECTOR);
  switch (load<u32>(HEADER, HEADER_TYPE)) {
    case VIRTIO_BLK_T_IN: return readSectors(queueIndex, head, status, sector);
    case VIRTIO_BLK_T_OUT: return writeSectors(queueIndex, head, status, sector);
    case VIRTIO_BLK_T_FLUSH: {
      // Data does not belong here, but a driver may have some (§5.2.6.1): it stays unwritten.
      const room = <u32>(chain.writableBytes - 1);
      submit(queueIndex, head, REQUEST_KIND_BLK_FLUSH, 0, 0, 0, 0, status, room);
      return EFFECT_REQUEST;
    }
    case VIRTIO_BLK_T_GET_ID: return getId(queueIndex, head, status);
    case VIRTIO_BLK_T_DISCARD: return discard(queueIndex, head, status);
    case VIRTIO_BLK_T_WRITE_ZEROES: return writeZeroes(queueIndex, head, status);
    default:
      return incident(INCIDENT_REQUEST) |
        finish(queueIndex, head, status, VIRTIO_BLK_S_UNSUPP, 0);
  }
}

/** Reports the host's result to the driver. `bytes` were written, in order, from the first on. */
export function blkComplete(
  queueIndex: u32, head: u32, status: u64, result: u32, bytes: u32,
): u32 {
  // RESULT_* and VIRTIO_BLK_S_* are the same numbers; an unknown one is an error.
  const code = result <= <u32>RESULT_UNSUPPORTED ? result : VIRTIO_BLK_S_IOERR;
  return push(queueIndex, head, status, code, bytes, inFlight(queueIndex, head).payloadBytes);
}

// The status byte is the last byte of the last writable descriptor, which must not be empty.
function hasStatus(): bool {
  const chain = walked();
  return chain.writableCount != 0 &&
    segment(chain.readableCount + chain.writableCount - 1).length != 0;
}

function statusAddress(): u64 {
  const chain = walked();
  const last = segment(chain.readableCount + chain.writableCount - 1);
  return last.address + last.length - 1;
}

// Answers the walked chain, of whose writable part the first `bytes` bytes are written.
function finish(queueIndex: u32, head: u32, status: u64, code: u32, bytes: u32): u32 {
  return push(queueIndex, head, status, code, bytes, walked().writableBytes - 1);
}

// The used length counts from the first writable byte on and must not claim what nobody wrote: the
// status byte belongs to it only where all the `room` bytes before it are written (§2.7.8.2).
function push(queueIndex: u32, head: u32, status: u64, code: u32, bytes: u32, room: u64): u32 {
  store<u8>(HEADER, <u8>code);
  if (guestWrite(status, HEADER, 1)) {
    return virtqPush(queueIndex, head, bytes == room ? bytes + 1 : bytes);
  }
  return incident(INCIDENT_MEMORY) | virtqPush(queueIndex, head, 0);
}

function malformed(queueIndex: u32, head: u32, status: u64): u32 {
  return incident(INCIDENT_REQUEST) | finish(queueIndex, head, status, VIRTIO_BLK_S_IOERR, 0);
}

// Whether the sectors lie on the disk; written so that nothing can overflow.
function onDisk(sector: u64, sectorCount: u64): bool {
  const capacity = blkCapacitySectors();
  return sector <= capacity && sectorCount <= capacity - sector;
}

// Whether the data is a number of whole sectors on the disk.
function wholeSectors(sector: u64, lengthBytes: u64): bool {
  return lengthBytes != 0 && lengthBytes % SECTOR_BYTES == 0 &&
    onDisk(sector, lengthBytes >> SECTOR_SHIFT);
}

// A driver that negotiated the limits promised to keep them (§5.2.4).
function withinLimits(rangeCount: u32): bool {
  if (negotiated(VIRTIO_BLK_F_SEG_MAX)) {
    if (rangeCount > load<u32>(CONFIG, BLK_CONFIG_SEG_MAX)) return false;
  }
  if (!negotiated(VIRTIO_BLK_F_SIZE_MAX)) return true;
  const sizeMax = load<u32>(CONFIG, BLK_CONFIG_SIZE_MAX);
  let range: usize = REQUEST + REQUEST_RANGES;
  for (let index: u32 = 0; index < rangeCount; index++, range += RANGE_STRIDE) {
    if (load<u32>(range, RANGE_LENGTH) > sizeMax) return false;
  }
  return true;
}

function readSectors(queueIndex: u32, head: u32, status: u64, sector: u64): u32 {
  const chain = walked();
  const length = chain.writableBytes - 1;
  if (chain.readableBytes != HEADER_BYTES || !wholeSectors(sector, length)) {
    return malformed(queueIndex, head, status);
  }
  const rangeCount = emitRanges(chain.readableCount, 0, length);
  if (!withinLimits(rangeCount)) return malformed(queueIndex, head, status);
  const offset = sector << SECTOR_SHIFT;
  const payload = <u32>length;
  submit(queueIndex, head, REQUEST_KIND_BLK_IN, offset, length, rangeCount, 0, status, payload);
  return EFFECT_REQUEST;
}

function writeSectors(queueIndex: u32, head: u32, status: u64, sector: u64): u32 {
  const chain = walked();
  const length = chain.readableBytes - HEADER_BYTES;
  if (chain.writableBytes != 1 || !wholeSectors(sector, length)) {
    return malformed(queueIndex, head, status);
  }
  // A read-only device fails every write (§5.2.6.2).
  if (blkFlag(BLK_FLAG_RO)) return malformed(queueIndex, head, status);
  const rangeCount = emitRanges(0, HEADER_BYTES, length);
  if (!withinLimits(rangeCount)) return malformed(queueIndex, head, status);
  const offset = sector << SECTOR_SHIFT;
  const flags = blkWriteThrough() ? REQUEST_FLAG_SYNC : 0;
  submit(queueIndex, head, REQUEST_KIND_BLK_OUT, offset, length, rangeCount, flags, status, 0);
  return EFFECT_REQUEST;
}

function getId(queueIndex: u32, head: u32, status: u64): u32 {
  const chain = walked();
  // The driver's buffer must hold the whole identity (§5.2.6.1).
  if (chain.writableBytes - 1 < <u64>BLK_ID_BYTES) return malformed(queueIndex, head, status);
  if (!chainWrite(0, CONFIG + BLK_CONFIG_ID, BLK_ID_BYTES)) {
    return incident(INCIDENT_MEMORY) | finish(queueIndex, head, status, VIRTIO_BLK_S_IOERR, 0);
  }
  return finish(queueIndex, head, status, VIRTIO_BLK_S_OK, BLK_ID_BYTES);
}

// Discard: any flag, unmap among them, is unsupported (§5.2.6.2).
function discard(queueIndex: u32, head: u32, status: u64): u32 {
  const offered = negotiated(VIRTIO_BLK_F_DISCARD);
  const max = load<u32>(CONFIG, BLK_CONFIG_MAX_DISCARD_SECTORS);
  return rangeCommand(queueIndex, head, status, REQUEST_KIND_BLK_DISCARD, offered, max, 0);
}

function writeZeroes(queueIndex: u32, head: u32, status: u64): u32 {
  const offered = negotiated(VIRTIO_BLK_F_WRITE_ZEROES);
  const max = load<u32>(CONFIG, BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS);
  return rangeCommand(
    queueIndex, head, status, REQUEST_KIND_BLK_WRITE_ZEROES, offered, max,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
  );
}

function rangeCommand(
  queueIndex: u32, head: u32, status: u64, kind: u32, offered: bool, sectorsMax: u32,
  flagsKnown: u32,
): u32 {
  const chain = walked();
  // A read-only disk offers neither command, and what is not offered is unsupported (§5.2.6.2).
  if (!offered) {
    return incident(INCIDENT_REQUEST) | finish(queueIndex, head, status, VIRTIO_BLK_S_UNSUPP, 0);
  }
  // Exactly one segment: max_discard_seg and max_write_zeroes_seg are 1.
  if (chain.writableBytes != 1 || chain.readableBytes != HEADER_BYTES + COMMAND_BYTES) {
    return malformed(queueIndex, head, status);
  }
  if (!chainRead(HEADER_BYTES, COMMAND, COMMAND_BYTES)) {
    return incident(INCIDENT_MEMORY) | finish(queueIndex, head, status, VIRTIO_BLK_S_IOERR, 0);
  }
  const sector = load<u64>(COMMAND, COMMAND_SECTOR);
  const sectorCount = load<u32>(COMMAND, COMMAND_NUM_SECTORS);
  const commandFlags = load<u32>(COMMAND, COMMAND_FLAGS);
  if (commandFlags & ~flagsKnown) {
    return incident(INCIDENT_REQUEST) | finish(queueIndex, head, status, VIRTIO_BLK_S_UNSUPP, 0);
  }
  if (sectorCount == 0 || sectorCount > sectorsMax || !onDisk(sector, sectorCount)) {
    return malformed(queueIndex, head, status);
  }
  let flags: u32 = commandFlags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? REQUEST_FLAG_UNMAP : 0;
  // Zeroes are data, which a discard is not.
  if (kind == REQUEST_KIND_BLK_WRITE_ZEROES && blkWriteThrough()) flags |= REQUEST_FLAG_SYNC;
  const length = <u64>sectorCount << SECTOR_SHIFT;
  submit(queueIndex, head, kind, sector << SECTOR_SHIFT, length, 0, flags, status, 0);
  return EFFECT_REQUEST;
}
