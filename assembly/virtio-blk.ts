// Block device.
// Virtio 1.2 §5.2: features, configuration layout, requests. Left out: VIRTIO_BLK_F_GEOMETRY,
// SECURE_ERASE, LIFETIME, zoned devices; one segment per discard or write zeroes command.
//
// Configuration (CONFIG): BLK_CONFIG_* in abi.ts. State: Virtio.writeback.
import {
  BLK_CONFIG_ALIGNMENT_OFFSET, BLK_CONFIG_BLK_SIZE, BLK_CONFIG_CAPACITY,
  BLK_CONFIG_DISCARD_ALIGNMENT, BLK_CONFIG_FLAGS, BLK_CONFIG_MAX_DISCARD_SECTORS,
  BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, BLK_CONFIG_MIN_IO_SIZE, BLK_CONFIG_OPT_IO_SIZE,
  BLK_CONFIG_PHYSICAL_BLOCK_EXP, BLK_CONFIG_QUEUE_COUNT, BLK_CONFIG_QUEUE_SIZE,
  BLK_CONFIG_SEG_MAX, BLK_CONFIG_SIZE_MAX, BLK_FLAG_DISCARD, BLK_FLAG_RO, BLK_FLAG_WRITEBACK,
  BLK_FLAG_WRITE_ZEROES, BLK_QUEUE_COUNT_MAX, QUEUE_SIZE_MAX,
} from "./abi";
import { CONFIG, CONFIG_SPACE, CONFIG_SPACE_BYTES } from "./layout";
import { VIRTIO_COMMON_FEATURES, negotiated, virtio } from "./virtio";

export const VIRTIO_BLK_F_SIZE_MAX: u64 = 1 << 1;
export const VIRTIO_BLK_F_SEG_MAX: u64 = 1 << 2;
export const VIRTIO_BLK_F_RO: u64 = 1 << 5;
export const VIRTIO_BLK_F_BLK_SIZE: u64 = 1 << 6;
export const VIRTIO_BLK_F_FLUSH: u64 = 1 << 9;
export const VIRTIO_BLK_F_TOPOLOGY: u64 = 1 << 10;
export const VIRTIO_BLK_F_CONFIG_WCE: u64 = 1 << 11;
export const VIRTIO_BLK_F_MQ: u64 = 1 << 12;
export const VIRTIO_BLK_F_DISCARD: u64 = 1 << 13;
export const VIRTIO_BLK_F_WRITE_ZEROES: u64 = 1 << 14;

// struct virtio_blk_config (§5.2.4): offsets of the fields this device fills.
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SIZE_MAX: usize = 8;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;
const CONFIG_PHYSICAL_BLOCK_EXP: usize = 24;
const CONFIG_ALIGNMENT_OFFSET: usize = 25;
const CONFIG_MIN_IO_SIZE: usize = 26;
const CONFIG_OPT_IO_SIZE: usize = 28;
export const CONFIG_WRITEBACK: u32 = 32;
const CONFIG_NUM_QUEUES: usize = 34;
const CONFIG_MAX_DISCARD_SECTORS: usize = 36;
const CONFIG_MAX_DISCARD_SEG: usize = 40;
const CONFIG_DISCARD_SECTOR_ALIGNMENT: usize = 44;
const CONFIG_MAX_WRITE_ZEROES_SECTORS: usize = 48;
const CONFIG_MAX_WRITE_ZEROES_SEG: usize = 52;
const CONFIG_WRITE_ZEROES_MAY_UNMAP: usize = 56;
export const BLK_CONFIG_SPACE_BYTES: u32 = 60; // up to write_zeroes_may_unmap and its padding
if (<usize>BLK_CONFIG_SPACE_BYTES > CONFIG_SPACE_BYTES) ERROR("config space leaves its region");

const CAPACITY_MAX_SECTORS: u64 = 0x7fffffffffffffff / 512; // file offsets are signed
const FLAGS_MASK: u32 =
  BLK_FLAG_RO | BLK_FLAG_DISCARD | BLK_FLAG_WRITE_ZEROES | BLK_FLAG_WRITEBACK;

export function blkFlag(flag: u32): bool {
  return (load<u32>(CONFIG, BLK_CONFIG_FLAGS) & flag) != 0;
}

export function blkCapacitySectors(): u64 {
  return load<u64>(CONFIG, BLK_CONFIG_CAPACITY);
}

export function blkQueueCount(): u32 {
  return load<u16>(CONFIG, BLK_CONFIG_QUEUE_COUNT);
}

export function blkQueueSize(): u32 {
  return load<u16>(CONFIG, BLK_CONFIG_QUEUE_SIZE);
}

/** Checks the host's configuration, at init() and again on restore. */
export function blkConfigValid(): bool {
  const flags = load<u32>(CONFIG, BLK_CONFIG_FLAGS);
  const blockSize = load<u32>(CONFIG, BLK_CONFIG_BLK_SIZE);
  const sizeMax = load<u32>(CONFIG, BLK_CONFIG_SIZE_MAX);
  const segMax = load<u32>(CONFIG, BLK_CONFIG_SEG_MAX);
  const queueCount = blkQueueCount();
  const queueSize = blkQueueSize();
  if (blkCapacitySectors() > CAPACITY_MAX_SECTORS || (flags & ~FLAGS_MASK) != 0) return false;
  if (blockSize < 512 || blockSize > 4096 || popcnt(blockSize) != 1) return false;
  if (sizeMax != 0 && sizeMax < 512) return false;
  if (queueCount == 0 || queueCount > <u32>BLK_QUEUE_COUNT_MAX) return false;
  if (queueSize < 4 || queueSize > <u32>QUEUE_SIZE_MAX || popcnt(queueSize) != 1) return false;
  // A request of seg_max segments needs two more descriptors, and no chain outgrows its queue.
  if (segMax == 0 || segMax > queueSize - 2) return false;
  if (load<u8>(CONFIG, BLK_CONFIG_PHYSICAL_BLOCK_EXP) > 15) return false;
  if (flags & BLK_FLAG_RO && flags & (BLK_FLAG_DISCARD | BLK_FLAG_WRITE_ZEROES)) return false;
  if (flags & BLK_FLAG_DISCARD) {
    if (load<u32>(CONFIG, BLK_CONFIG_MAX_DISCARD_SECTORS) == 0) return false;
    if (load<u32>(CONFIG, BLK_CONFIG_DISCARD_ALIGNMENT) == 0) return false;
  }
  return !(flags & BLK_FLAG_WRITE_ZEROES) ||
    load<u32>(CONFIG, BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS) != 0;
}

export function blkFeatures(): u64 {
  // FLUSH must be offered with CONFIG_WCE (§5.2.5.2); both always are.
  let features = VIRTIO_COMMON_FEATURES | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE |
    VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_CONFIG_WCE;
  if (load<u32>(CONFIG, BLK_CONFIG_SIZE_MAX) != 0) features |= VIRTIO_BLK_F_SIZE_MAX;
  if (blkFlag(BLK_FLAG_RO)) features |= VIRTIO_BLK_F_RO;
  if (blkFlag(BLK_FLAG_DISCARD)) features |= VIRTIO_BLK_F_DISCARD;
  if (blkFlag(BLK_FLAG_WRITE_ZEROES)) features |= VIRTIO_BLK_F_WRITE_ZEROES;
  if (blkQueueCount() > 1) features |= VIRTIO_BLK_F_MQ;
  return features;
}

/** Sets the write cache mode to the one the host chose. */
export function blkReset(): void {
  virtio().writeback = blkFlag(BLK_FLAG_WRITEBACK) ? 1 : 0;
}

/** A driver that can set the cache mode but not flush starts without a cache (§5.2.5.2). */
export function blkFeaturesOk(): void {
  if (!negotiated(VIRTIO_BLK_F_CONFIG_WCE) || negotiated(VIRTIO_BLK_F_FLUSH)) return;
  setWriteback(0);
}

// The only content that changes: with each change a new generation (§4.2.2.1), which after a reset
// starts again from 0 with the host's mode. So one generation never stands for two contents.
function setWriteback(mode: u32): void {
  const self = virtio();
  if (self.writeback != mode) self.configGeneration++;
  self.writeback = mode;
}

/** Whether a write must be stable when it completes (§5.2.6.2). */
export function blkWriteThrough(): bool {
  return virtio().writeback == 0 || !negotiated(VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH);
}

/** Lays the configuration space out at CONFIG_SPACE; fields of features not offered stay 0. */
export function blkFillConfigSpace(): void {
  memory.fill(CONFIG_SPACE, 0, BLK_CONFIG_SPACE_BYTES);
  store<u64>(CONFIG_SPACE, blkCapacitySectors(), CONFIG_CAPACITY);
  store<u32>(CONFIG_SPACE, load<u32>(CONFIG, BLK_CONFIG_SIZE_MAX), CONFIG_SIZE_MAX);
  store<u32>(CONFIG_SPACE, load<u32>(CONFIG, BLK_CONFIG_SEG_MAX), CONFIG_SEG_MAX);
  store<u32>(CONFIG_SPACE, load<u32>(CONFIG, BLK_CONFIG_BLK_SIZE), CONFIG_BLK_SIZE);
  store<u8>(
    CONFIG_SPACE, load<u8>(CONFIG, BLK_CONFIG_PHYSICAL_BLOCK_EXP), CONFIG_PHYSICAL_BLOCK_EXP,
  );
  store<u8>(
    CONFIG_SPACE, load<u8>(CONFIG, BLK_CONFIG_ALIGNMENT_OFFSET), CONFIG_ALIGNMENT_OFFSET,
  );
  store<u16>(CONFIG_SPACE, load<u16>(CONFIG, BLK_CONFIG_MIN_IO_SIZE), CONFIG_MIN_IO_SIZE);
  store<u32>(CONFIG_SPACE, load<u32>(CONFIG, BLK_CONFIG_OPT_IO_SIZE), CONFIG_OPT_IO_SIZE);
  store<u8>(CONFIG_SPACE, <u8>virtio().writeback, <usize>CONFIG_WRITEBACK);
  if (blkQueueCount() > 1) store<u16>(CONFIG_SPACE, <u16>blkQueueCount(), CONFIG_NUM_QUEUES);
  if (blkFlag(BLK_FLAG_DISCARD)) {
    const sectors = load<u32>(CONFIG, BLK_CONFIG_MAX_DISCARD_SECTORS);
    store<u32>(CONFIG_SPACE, sectors, CONFIG_MAX_DISCARD_SECTORS);
    store<u32>(CONFIG_SPACE, 1, CONFIG_MAX_DISCARD_SEG);
    const alignment = load<u32>(CONFIG, BLK_CONFIG_DISCARD_ALIGNMENT);
    store<u32>(CONFIG_SPACE, alignment, CONFIG_DISCARD_SECTOR_ALIGNMENT);
  }
  if (blkFlag(BLK_FLAG_WRITE_ZEROES)) {
    const sectors = load<u32>(CONFIG, BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS);
    store<u32>(CONFIG_SPACE, sectors, CONFIG_MAX_WRITE_ZEROES_SECTORS);
    store<u32>(CONFIG_SPACE, 1, CONFIG_MAX_WRITE_ZEROES_SEG);
    store<u8>(CONFIG_SPACE, 1, CONFIG_WRITE_ZEROES_MAY_UNMAP);
  }
}

/** The only writable field is `writeback`, once CONFIG_WCE is negotiated (§5.2.5). */
export function blkWriteConfig(offset: u32, width: u32, value: u32): bool {
  if (offset != CONFIG_WRITEBACK || width != 1 || (value & 0xff) > 1) return false;
  if (!negotiated(VIRTIO_BLK_F_CONFIG_WCE)) return false;
  setWriteback(value & 0xff);
  return true;
}
