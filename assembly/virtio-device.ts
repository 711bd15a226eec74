// What a virtio device supplies to the transport: id, features, configuration, queues, requests.
// Virtio 1.2 §5. The only place that tells one virtio device from another: a new one is added here.
import {
  KIND_VIRTIO_BLK, REQUEST_KIND_BLK_IN, REQUEST_KIND_BLK_WRITE_ZEROES, REQUEST_KIND_ENTROPY,
} from "./abi";
import { DEVICE_KIND } from "./layout";
import { VIRTIO_COMMON_FEATURES, VIRTIO_ID_BLOCK, VIRTIO_ID_RNG } from "./virtio";
import {
  BLK_CONFIG_SPACE_BYTES, blkConfigValid, blkFeatures, blkFeaturesOk, blkFillConfigSpace,
  blkQueueCount, blkQueueSize, blkReset, blkWriteConfig,
} from "./virtio-blk";
import { blkComplete, blkRequest } from "./virtio-blk-request";
import { rngComplete, rngConfigValid, rngQueueSize, rngRequest } from "./virtio-rng";

// @ts-ignore: decorator
@inline function isBlk(): bool {
  return load<u32>(DEVICE_KIND) == KIND_VIRTIO_BLK;
}

export function deviceId(): u32 {
  return isBlk() ? VIRTIO_ID_BLOCK : VIRTIO_ID_RNG;
}

export function deviceFeatures(): u64 {
  return isBlk() ? blkFeatures() : VIRTIO_COMMON_FEATURES;
}

export function deviceConfigValid(): bool {
  return isBlk() ? blkConfigValid() : rngConfigValid();
}

export function deviceQueueCount(): u32 {
  return isBlk() ? blkQueueCount() : 1;
}

export function deviceQueueSizeMax(): u32 {
  return isBlk() ? blkQueueSize() : rngQueueSize();
}

/** Puts what the device keeps beside the transport into its state after a reset. */
export function deviceReset(): void {
  if (isBlk()) blkReset();
}

/** Tells the device that FEATURES_OK was granted. */
export function deviceFeaturesOk(): void {
  if (isBlk()) blkFeaturesOk();
}

/** Lays the configuration space out at CONFIG_SPACE and returns its length in bytes. */
export function deviceConfigSpace(): u32 {
  if (!isBlk()) return 0;
  blkFillConfigSpace();
  return BLK_CONFIG_SPACE_BYTES;
}

/** False: the field cannot be written, or not with this value. */
export function deviceWriteConfig(offset: u32, width: u32, value: u32): bool {
  return isBlk() && blkWriteConfig(offset, width, value);
}

/** Handles the walked chain: EFFECT_REQUEST, or it is answered already. */
export function deviceRequest(queueIndex: u32, head: u32): u32 {
  return isBlk() ? blkRequest(queueIndex, head) : rngRequest(queueIndex, head);
}

export function deviceComplete(
  queueIndex: u32, head: u32, statusAddress: u64, result: u32, bytes: u32,
): u32 {
  return isBlk()
    ? blkComplete(queueIndex, head, statusAddress, result, bytes)
    : rngComplete(queueIndex, head, result, bytes);
}

/** Whether this device can have a request of that kind in flight. */
export function deviceRequestKind(kind: u32): bool {
  return isBlk()
    ? kind >= <u32>REQUEST_KIND_BLK_IN && kind <= <u32>REQUEST_KIND_BLK_WRITE_ZEROES
    : kind == REQUEST_KIND_ENTROPY;
}
