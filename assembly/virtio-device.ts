// What a virtio device supplies to the transport: id, features, configuration, queues, requests.
// Virtio 1.2 §5. The only place that tells one virtio device from another: a new one is added here.
import {
  KIND_VIRTIO_BLK, KIND_VIRTIO_NET, REQUEST_KIND_BLK_IN, REQUEST_KIND_BLK_WRITE_ZEROES,
  REQUEST_KIND_ENTROPY,
} from "./abi";
import { DEVICE_KIND } from "./layout";
import { VIRTIO_COMMON_FEATURES, VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_RNG } from "./virtio";
import {
  BLK_CONFIG_SPACE_BYTES, blkConfigValid, blkFeatures, blkFeaturesOk, blkFillConfigSpace,
  blkQueueCount, blkQueueSize, blkReset, blkWriteConfig,
} from "./virtio-blk";
import { blkComplete, blkRequest } from "./virtio-blk-request";
import {
  NET_CONFIG_SPACE_BYTES, VIRTIO_NET_BYTES, netConfigValid, netFeatures, netFeaturesOk,
  netFeaturesValid, netFillConfigSpace, netInterrupts, netIsControl, netIsKernels, netIsReceive,
  netQueueCount, netQueueCountMax, netQueueSize, netRequestKind, netReset, netStateValid,
} from "./virtio-net";
import { netControl } from "./virtio-net-control";
import { netTransmit } from "./virtio-net-frames";
import { netHeldValid, netReceiveBuffer } from "./virtio-net-receive";
import { rngComplete, rngConfigValid, rngQueueSize, rngRequest } from "./virtio-rng";
import { virtq, virtqPush } from "./virtq";

// @ts-ignore: decorator
@inline function isBlk(): bool {
  return load<u32>(DEVICE_KIND) == KIND_VIRTIO_BLK;
}

// @ts-ignore: decorator
@inline function isNet(): bool {
  return load<u32>(DEVICE_KIND) == KIND_VIRTIO_NET;
}

export function deviceId(): u32 {
  if (isBlk()) return VIRTIO_ID_BLOCK;
  return isNet() ? VIRTIO_ID_NET : VIRTIO_ID_RNG;
}

export function deviceFeatures(): u64 {
  if (isBlk()) return blkFeatures();
  return isNet() ? netFeatures() : VIRTIO_COMMON_FEATURES;
}

/** Whether each feature accepted has those that it requires. */
export function deviceFeaturesValid(accepted: u64): bool {
  return !isNet() || netFeaturesValid(accepted);
}

export function deviceConfigValid(): bool {
  if (isBlk()) return blkConfigValid();
  return isNet() ? netConfigValid() : rngConfigValid();
}

/** How many queues driver and device agreed on. */
export function deviceQueueCount(): u32 {
  if (isBlk()) return blkQueueCount();
  return isNet() ? netQueueCount() : 1;
}

/** How many queues any driver can agree on. */
export function deviceQueueCountMax(): u32 {
  if (isBlk()) return blkQueueCount();
  return isNet() ? netQueueCountMax() : 1;
}

export function deviceQueueSizeMax(): u32 {
  if (isBlk()) return blkQueueSize();
  return isNet() ? netQueueSize() : rngQueueSize();
}

/** Puts what the device keeps beside the transport into its state after a reset. */
export function deviceReset(): void {
  if (isBlk()) blkReset();
  if (isNet()) netReset();
}

/** Tells the device that FEATURES_OK was granted. */
export function deviceFeaturesOk(): void {
  if (isBlk()) blkFeaturesOk();
  if (isNet()) netFeaturesOk();
}

/** Bits of the interrupt status that are set whenever the driver looks. */
export function deviceInterrupts(): u32 {
  return isNet() ? netInterrupts() : 0;
}

/** Lays the configuration space out at CONFIG_SPACE and returns its length in bytes. */
export function deviceConfigSpace(): u32 {
  if (isNet()) {
    netFillConfigSpace();
    return NET_CONFIG_SPACE_BYTES;
  }
  if (!isBlk()) return 0;
  blkFillConfigSpace();
  return BLK_CONFIG_SPACE_BYTES;
}

/** False: the field cannot be written, or not with this value. */
export function deviceWriteConfig(offset: u32, width: u32, value: u32): bool {
  return isBlk() && blkWriteConfig(offset, width, value);
}

/** Whether the queue's rings are the kernel's, so that its chains are not for the device. */
export function deviceQueueIsKernels(queueIndex: u32): bool {
  return isNet() && netIsKernels(queueIndex);
}

/** Whether the queue's chains are buffers to be filled in their order. */
export function deviceQueueIsReceive(queueIndex: u32): bool {
  return isNet() && netIsReceive(queueIndex);
}

/** Whether the host asks for the queue's doorbell itself, by requestsNotify(), before it sleeps. */
export function deviceQueueIsOfFrames(queueIndex: u32): bool {
  return isNet() && !netIsControl(queueIndex);
}

/** Handles the walked chain: EFFECT_REQUEST, or it is answered already. */
export function deviceRequest(queueIndex: u32, head: u32): u32 {
  if (isBlk()) return blkRequest(queueIndex, head);
  if (!isNet()) return rngRequest(queueIndex, head);
  if (netIsControl(queueIndex)) return netControl(queueIndex, head);
  return netIsReceive(queueIndex)
    ? netReceiveBuffer(queueIndex, head)
    : netTransmit(queueIndex, head);
}

/** Completes a request; those of receive queues are completed by netReceived(). */
export function deviceComplete(
  queueIndex: u32, head: u32, statusAddress: u64, result: u32, bytes: u32,
): u32 {
  if (isBlk()) return blkComplete(queueIndex, head, statusAddress, result, bytes);
  // A frame that could not be sent is lost, and nobody is told (§5.1.6.2).
  return isNet() ? virtqPush(queueIndex, head, 0) : rngComplete(queueIndex, head, result, bytes);
}

// --- Restore ------------------------------------------------------------------------------------

/** Bytes of state that the device keeps at NET. */
export function deviceStateBytes(): usize {
  return isNet() ? VIRTIO_NET_BYTES : 0;
}

/** Whether that state is one that the device can come to. */
export function deviceStateValid(): bool {
  return !isNet() || netStateValid();
}

/** Whether this device can have a request of that kind, which is not 0, in flight on the queue. */
export function deviceRequestKind(queueIndex: u32, kind: u32): bool {
  if (isBlk()) {
    return kind >= <u32>REQUEST_KIND_BLK_IN && kind <= <u32>REQUEST_KIND_BLK_WRITE_ZEROES;
  }
  if (!isNet()) return kind == REQUEST_KIND_ENTROPY;
  return kind == netRequestKind(queueIndex);
}

/** Whether the queue holds its buffers in an order, where it is one that does. */
export function deviceHeldValid(queueIndex: u32, count: u32): bool {
  const held: u32 = virtq(queueIndex).held;
  if (!deviceQueueIsReceive(queueIndex)) return held == 0;
  return held == count && netHeldValid(queueIndex);
}
