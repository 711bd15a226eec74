// What a device is configured with, and the bytes of it that init() takes (docs/abi.md).
import * as abi from '../assembly/abi.ts';

/** A virtio-blk device (virtio 1.2 §5.2.4); the default of an option comes last. */
export interface BlkConfig {
  /** A multiple of 512. */
  capacityBytes: number;
  /** The driver may not write: VIRTIO_BLK_F_RO. */
  readOnly: boolean;
  /** At most 20 bytes of ASCII are shown to the guest. */
  id: string;
  /** Queues, 1 to 8; 1. */
  queueCount?: number;
  /** Descriptors in a queue at most, a power of two from 4 to 256; 256. */
  queueSize?: number;
  /** Data segments in one request; the queue's size less 2. */
  segMax?: number;
  /** Bytes in one segment, at least 512; 0, which is no limit. */
  sizeMax?: number;
  /** Bytes in a logical block, a power of two from 512 to 4096; 512. */
  blockSize?: number;
  /** The logical blocks in a physical one, as a power of two; 0. */
  physicalBlockExp?: number;
  /** Logical blocks before the first aligned one; 0. */
  alignmentOffset?: number;
  /** The least I/O size advised, in logical blocks; 0. */
  minIoSize?: number;
  /** The best I/O size, in logical blocks; 0. */
  optIoSize?: number;
  /** The write cache is on from the start; true. */
  writeback?: boolean;
  /** Offer VIRTIO_BLK_F_DISCARD, unless read-only; true. */
  discard?: boolean;
  /** Offer VIRTIO_BLK_F_WRITE_ZEROES, unless read-only; true. */
  writeZeroes?: boolean;
  /** Sectors in one discard; 0x3ffff8. */
  maxDiscardSectors?: number;
  /** Sectors to which discards had best be aligned; 8. */
  discardAlignment?: number;
  /** Sectors in one write zeroes; 0x20000, which is 64 MiB. */
  maxWriteZeroesSectors?: number;
}

// Two GiB less one page, in sectors: keeps one command's work and its length in signed 32 bits.
const MAX_DISCARD_SECTORS = 0x3ffff8;
// 64 MiB: where the file system cannot zero a range, it is written, and nothing interrupts that.
const MAX_WRITE_ZEROES_SECTORS = 0x20000;

/** The configuration bytes of a virtio-blk device, as init() takes them. */
export function encodeBlkConfig(config: BlkConfig): Uint8Array {
  const bytes = new Uint8Array(abi.BLK_CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  const queueSize = config.queueSize ?? abi.QUEUE_SIZE_MAX;
  let flags = config.readOnly ? abi.BLK_FLAG_RO : 0;
  if (config.writeback ?? true) flags |= abi.BLK_FLAG_WRITEBACK;
  if (!config.readOnly && (config.discard ?? true)) flags |= abi.BLK_FLAG_DISCARD;
  if (!config.readOnly && (config.writeZeroes ?? true)) flags |= abi.BLK_FLAG_WRITE_ZEROES;
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  const u16 = (offset: number, value: number): void => view.setUint16(offset, value, true);
  view.setBigUint64(abi.BLK_CONFIG_CAPACITY, BigInt(Math.floor(config.capacityBytes / 512)), true);
  u32(abi.BLK_CONFIG_FLAGS, flags);
  u32(abi.BLK_CONFIG_BLK_SIZE, config.blockSize ?? 512);
  u32(abi.BLK_CONFIG_SIZE_MAX, config.sizeMax ?? 0);
  u32(abi.BLK_CONFIG_SEG_MAX, config.segMax ?? queueSize - 2);
  view.setUint8(abi.BLK_CONFIG_PHYSICAL_BLOCK_EXP, config.physicalBlockExp ?? 0);
  view.setUint8(abi.BLK_CONFIG_ALIGNMENT_OFFSET, config.alignmentOffset ?? 0);
  u16(abi.BLK_CONFIG_MIN_IO_SIZE, config.minIoSize ?? 0);
  u32(abi.BLK_CONFIG_OPT_IO_SIZE, config.optIoSize ?? 0);
  u16(abi.BLK_CONFIG_QUEUE_COUNT, config.queueCount ?? 1);
  u16(abi.BLK_CONFIG_QUEUE_SIZE, queueSize);
  u32(abi.BLK_CONFIG_MAX_DISCARD_SECTORS, config.maxDiscardSectors ?? MAX_DISCARD_SECTORS);
  u32(abi.BLK_CONFIG_DISCARD_ALIGNMENT, config.discardAlignment ?? 8);
  u32(
    abi.BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
    config.maxWriteZeroesSectors ?? MAX_WRITE_ZEROES_SECTORS,
  );
  bytes.set(new TextEncoder().encode(config.id).subarray(0, abi.BLK_ID_BYTES), abi.BLK_CONFIG_ID);
  return bytes;
}

/** The configuration bytes of a virtio-rng device. */
export function encodeRngConfig(config: { queueSize?: number } = {}): Uint8Array {
  const bytes = new Uint8Array(abi.RNG_CONFIG_BYTES);
  new DataView(bytes.buffer).setUint16(abi.RNG_CONFIG_QUEUE_SIZE, config.queueSize ?? 64, true);
  return bytes;
}

/** A virtio-net device (virtio 1.2 §5.1.4); the default of an option comes last. */
export interface NetConfig {
  /** 'aa:bb:cc:dd:ee:ff', not a multicast address. */
  mac: string;
  /** Bytes, 68 to 65535; 0, which is none told. */
  mtu?: number;
  /** Receive and transmit queues, 1 to 8 of each; 1. */
  queuePairs?: number;
  /** Descriptors in a queue at most, a power of two from 4 to 256; 256. */
  queueSize?: number;
  /** VIRTIO_NET_F_* offloads of the backend; NET_OFFLOADS_ALL. */
  offloads?: bigint;
  /** The kernel serves the queues: the core hands out rings, not chains; false. */
  vhost?: boolean;
  /** The driver may not change its address; false. */
  fixedMac?: boolean;
}

/** The features of virtio 1.2 §5.1.3 that are about work left to the other side of the link. */
export const NET_OFFLOADS = {
  CSUM: 1n << 0n,
  GUEST_CSUM: 1n << 1n,
  GUEST_TSO4: 1n << 7n,
  GUEST_TSO6: 1n << 8n,
  GUEST_ECN: 1n << 9n,
  GUEST_UFO: 1n << 10n,
  HOST_TSO4: 1n << 11n,
  HOST_TSO6: 1n << 12n,
  HOST_ECN: 1n << 13n,
  HOST_UFO: 1n << 14n,
  GUEST_USO4: 1n << 54n,
  GUEST_USO6: 1n << 55n,
  HOST_USO: 1n << 56n,
} as const;

/** All of them together. */
export const NET_OFFLOADS_ALL: bigint = Object.values(NET_OFFLOADS).reduce((a, b) => a | b);

/** The bytes of an address in its usual form. */
export function macBytes(mac: string): Uint8Array {
  return Uint8Array.from(mac.split(':'), (part) => Number.parseInt(part, 16));
}

/** And back, in lower case. */
export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** The configuration bytes of a virtio-net device. */
export function encodeNetConfig(config: NetConfig): Uint8Array {
  const bytes = new Uint8Array(abi.NET_CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  let flags = config.vhost ? abi.NET_FLAG_VHOST : 0;
  if (config.fixedMac) flags |= abi.NET_FLAG_FIXED_MAC;
  bytes.set(macBytes(config.mac), abi.NET_CONFIG_MAC);
  view.setUint16(abi.NET_CONFIG_MTU, config.mtu ?? 0, true);
  view.setUint16(abi.NET_CONFIG_QUEUE_PAIRS, config.queuePairs ?? 1, true);
  view.setUint16(abi.NET_CONFIG_QUEUE_SIZE, config.queueSize ?? abi.QUEUE_SIZE_MAX, true);
  view.setUint32(abi.NET_CONFIG_FLAGS, flags, true);
  view.setBigUint64(abi.NET_CONFIG_OFFLOADS, config.offloads ?? NET_OFFLOADS_ALL, true);
  return bytes;
}
