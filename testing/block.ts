// Block requests as a driver lays them out in guest memory. Virtio 1.2 §5.2.6.
import type { GuestMemory } from '../host/guest-memory.ts';
import type { GuestBuffer } from './queue.ts';

/** Request types (§5.2.6): VIRTIO_BLK_T_*. */
export const BLK_T_IN = 0;
export const BLK_T_OUT = 1;
export const BLK_T_FLUSH = 4;
export const BLK_T_GET_ID = 8;
export const BLK_T_DISCARD = 11;
export const BLK_T_WRITE_ZEROES = 13;

/** Feature bits of a block device (§5.2.3): VIRTIO_BLK_F_*. */
export const BLK_F_SIZE_MAX = 1n << 1n;
export const BLK_F_SEG_MAX = 1n << 2n;
export const BLK_F_RO = 1n << 5n;
export const BLK_F_BLK_SIZE = 1n << 6n;
export const BLK_F_FLUSH = 1n << 9n;
export const BLK_F_TOPOLOGY = 1n << 10n;
export const BLK_F_CONFIG_WCE = 1n << 11n;
export const BLK_F_MQ = 1n << 12n;
export const BLK_F_DISCARD = 1n << 13n;
export const BLK_F_WRITE_ZEROES = 1n << 14n;

/** What the device answers in the status byte: VIRTIO_BLK_S_*. */
export const BLK_S_OK = 0;
export const BLK_S_IOERR = 1;
export const BLK_S_UNSUPP = 2;
/** What blkStatus() puts there: no device answers it. */
export const STATUS_UNTOUCHED = 0xa5;

/** Writes a request's header at `address`, 16 bytes: its type, and its sector of 512 bytes. */
export function blkHeader(
  memory: GuestMemory,
  address: number,
  type: number,
  sector = 0n,
): GuestBuffer {
  memory.view.setUint32(address, type, true);
  memory.view.setUint32(address + 4, 0, true);
  memory.view.setBigUint64(address + 8, sector, true);
  return { address, length: 16 };
}

/** A status byte at `address`, not yet written by the device. */
export function blkStatus(memory: GuestMemory, address: number): GuestBuffer {
  memory.view.setUint8(address, STATUS_UNTOUCHED);
  return { address, length: 1, write: true };
}

/**
 * Writes the one segment, 16 bytes, of a discard or write zeroes command at `address`: where it
 * begins, how many sectors of 512 bytes, and the flags (1: unmap).
 */
export function blkSegment(
  memory: GuestMemory,
  address: number,
  sector: bigint,
  sectorCount: number,
  flags = 0,
): GuestBuffer {
  memory.view.setBigUint64(address, sector, true);
  memory.view.setUint32(address + 8, sectorCount, true);
  memory.view.setUint32(address + 12, flags, true);
  return { address, length: 16 };
}
