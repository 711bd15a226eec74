// From a doorbell to requests, and from completions to the used ring, for every virtio device.
// Virtio 1.2 §2.7.13 and §2.7.14, device side. Left out: nothing.
//
// No state of its own: queues in Virtq, requests the host has in InFlight.
import {
  EFFECT_MORE, EFFECT_REQUEST, INCIDENT_MEMORY, INCIDENT_NOTIFY, INCIDENT_TAG,
  TAG_GENERATION_SHIFT, TAG_HEAD_MASK, TAG_QUEUE_MASK, TAG_QUEUE_SHIFT,
} from "./abi";
import { inFlight } from "./in-flight";
import { incident } from "./registers";
import { virtioBroken, virtioRunning } from "./virtio";
import {
  deviceComplete, deviceQueueCount, deviceQueueIsKernels, deviceQueueIsOfFrames,
  deviceQueueIsReceive, deviceRequest,
} from "./virtio-device";
import { netRings } from "./virtio-net-frames";
import { dropHeld, netReceived } from "./virtio-net-receive";
import {
  POP_BROKEN, POP_EMPTY, WALK_BROKEN, WALK_OK, virtq, virtqPop, virtqPush, virtqWalk,
} from "./virtq";

// @ts-ignore: decorator
@inline function live(queueIndex: u32): bool {
  return virtioRunning() && virtq(queueIndex).ready != 0;
}

/** A queue's doorbell. The device does not look at a queue that is not live (§2.1.2). */
export function requestsNotify(queueIndex: u32): u32 {
  if (queueIndex >= deviceQueueCount() || !live(queueIndex)) return incident(INCIDENT_NOTIFY);
  return deviceQueueIsKernels(queueIndex) ? 0 : drain(queueIndex, true);
}

/** The next request of a queue; nothing if the driver stopped it in the meantime. */
export function requestsNext(queueIndex: u32): u32 {
  if (queueIndex >= deviceQueueCount() || !live(queueIndex)) return 0;
  if (deviceQueueIsKernels(queueIndex)) return netRings(queueIndex);
  return drain(queueIndex, !deviceQueueIsOfFrames(queueIndex));
}

// Handles chains until one is for the host to execute, or the ring is empty, or as many as the
// queue holds are answered: then the host gets its turn before the guest's next ones. `ask`: where
// the ring is empty the driver is asked to ring; until then it may keep quiet.
function drain(queueIndex: u32, ask: bool): u32 {
  let effects: u32 = 0;
  for (let budget: u32 = virtq(queueIndex).size; budget != 0; budget--) {
    const head = virtqPop(queueIndex, ask);
    if (head == POP_EMPTY) return effects;
    if (head <= POP_BROKEN) return effects | virtioBroken(POP_BROKEN - head);
    const fault = virtqWalk(queueIndex, head);
    if (fault == WALK_BROKEN) return effects | virtioBroken(INCIDENT_MEMORY);
    if (fault == WALK_OK) {
      effects |= deviceRequest(queueIndex, head);
      if (effects & EFFECT_REQUEST) return effects | EFFECT_MORE;
    } else {
      effects |= incident(fault) | virtqPush(queueIndex, head, 0);
    }
    if (!virtioRunning()) return effects; // the used ring could not be written
  }
  return effects | EFFECT_MORE;
}

/** The host is done with a request. A tag that is not in flight (any more) is only counted. */
export function requestsComplete(tag: u32, result: u32, bytes: u32): u32 {
  const queueIndex = (tag >> TAG_QUEUE_SHIFT) & TAG_QUEUE_MASK;
  const head = tag & TAG_HEAD_MASK;
  if (queueIndex >= deviceQueueCount() || head >= virtq(queueIndex).size) {
    return incident(INCIDENT_TAG);
  }
  const entry = inFlight(queueIndex, head);
  if (entry.kind == 0 || entry.generation != tag >> TAG_GENERATION_SHIFT) {
    return incident(INCIDENT_TAG);
  }
  if (deviceQueueIsReceive(queueIndex)) {
    if (live(queueIndex)) return netReceived(queueIndex, head, result, bytes);
    dropHeld(queueIndex, head);
    return 0;
  }
  entry.kind = 0;
  if (!live(queueIndex)) return 0; // the device needs a reset: its rings are not touched
  const written = min<u32>(bytes, entry.payloadBytes);
  return deviceComplete(queueIndex, head, entry.statusAddress, result, written);
}
