// Block requests as a driver lays them out in guest memory. Virtio 1.2 §5.2.6.
import type { GuestMemory } from '../host/guest-memory.ts';
import type { Buffer } from './queue.ts';

export const BLK_T_IN = 0;
export const BLK_T_OUT = 1;
export const BLK_T_FLUSH = 4;
export const BLK_T_GET_ID = 8;
export const BLK_T_DISCARD = 11;
export const BLK_T_WRITE_ZEROES = 13;

export const BLK_S_OK = 0;
export const BLK_S_IOERR = 1;
export const BLK_S_UNSUPP = 2;
export const STATUS_UNTOUCHED = 0xa5; // what tests put there before the device answers

/** Writes a request header at `address`. */
export function blkHeader(memory: GuestMemory, address: number, type: number, sector = 0n): Buffer {
  memory.view.setUint32(address, type, true);
  memory.view.setUint32(address + 4, 0, true);
  memory.view.setBigUint64(address + 8, sector, true);
  return { address, length: 16 };
}

/** A status byte at `address`, not yet written by the device. */
export function blkStatus(memory: GuestMemory, address: number): Buffer {
  memory.view.setUint8(address, STATUS_UNTOUCHED);
  return { address, length: 1, write: true };
}

/** Writes the one segment of a discard or write zeroes command at `address`. */
export function blkSegment(
  memory: GuestMemory,
  address: number,
  sector: bigint,
  sectorCount: number,
  flags = 0,
): Buffer {
  memory.view.setBigUint64(address, sector, true);
  memory.view.setUint32(address + 8, sectorCount, true);
  memory.view.setUint32(address + 12, flags, true);
  return { address, length: 16 };
}
