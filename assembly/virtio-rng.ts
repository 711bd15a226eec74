// Entropy device.
// Virtio 1.2 §5.4. Left out: nothing. The host draws the random bytes; the core has none.
//
// Configuration (CONFIG): +0 queue size u16. No device state, no configuration space.
import {
  ENTROPY_BYTES_MAX, INCIDENT_REQUEST, QUEUE_SIZE_MAX, REQUEST_KIND_ENTROPY, RESULT_OK,
  RNG_CONFIG_QUEUE_SIZE, EFFECT_REQUEST,
} from "./abi";
import { emitRanges, submit } from "./in-flight";
import { CONFIG } from "./layout";
import { incident } from "./registers";
import { virtqPush, walked } from "./virtq";

export function rngQueueSize(): u32 {
  return load<u16>(CONFIG, RNG_CONFIG_QUEUE_SIZE);
}

export function rngConfigValid(): bool {
  const size = rngQueueSize();
  return size <= <u32>QUEUE_SIZE_MAX && popcnt(size) == 1;
}

/** Turns the walked chain into a request for random bytes. */
export function rngRequest(queueIndex: u32, head: u32): u32 {
  const chain = walked();
  // Only buffers for the device to fill belong here (§5.4.6.1).
  if (chain.readableCount != 0 || chain.writableBytes == 0) {
    return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  }
  // The device may return less than the whole buffer (§5.4.6.2): bounds the host's work.
  const length = min<u64>(chain.writableBytes, ENTROPY_BYTES_MAX);
  const rangeCount = emitRanges(0, 0, length);
  submit(queueIndex, head, REQUEST_KIND_ENTROPY, 0, length, rangeCount, 0, 0, <u32>length);
  return EFFECT_REQUEST;
}

export function rngComplete(queueIndex: u32, head: u32, result: u32, bytes: u32): u32 {
  return virtqPush(queueIndex, head, result == RESULT_OK ? bytes : 0);
}
