// Which heads the guest is owed: taken from the available ring, and not given back (virtio 1.2
// §2.7.8).
import {
  ALL_QUEUES, BLK_CONFIG_QUEUE_COUNT, KIND_VIRTIO_BLK, KIND_VIRTIO_NET, NET_CONFIG_QUEUE_PAIRS,
  QUEUE_COUNT_MAX, QUEUE_SIZE_MAX, STATE_KIND,
} from "../../assembly/abi";
import { inFlight } from "../../assembly/in-flight";
import { CONFIG } from "../../assembly/layout";
import { HEADS } from "./places";
import { RULE_CANCEL } from "./shared";
import { violate } from "./violation";

/** Stamps what belongs to the present run, so that nothing must be cleared between two. */
let run: u32 = 0;

export function beginRun(): void {
  run++;
}

/** What stamps it. */
export function presentRun(): u32 {
  return run;
}

/** How many queues the device has at most. */
function queueCount(): u32 {
  switch (load<u32>(STATE_KIND)) {
    case KIND_VIRTIO_BLK: return load<u16>(CONFIG, BLK_CONFIG_QUEUE_COUNT);
    case KIND_VIRTIO_NET: return 2 * <u32>load<u16>(CONFIG, NET_CONFIG_QUEUE_PAIRS) + 1;
    default: return 1;
  }
}

// Per head: run u32, state u32 (1: taken, not given back).
function headAt(index: u32, which: u32): usize {
  return HEADS + ((<usize>index << 8) + which << 4);
}

export function outstanding(index: u32, which: u32): bool {
  const at = headAt(index, which);
  if (load<u32>(at) == run) return load<u32>(at, 4) != 0;
  // Not touched in this run: in flight from before it, if the core's own table says so.
  return inFlight(index, which).kind != 0;
}

export function setOutstanding(index: u32, which: u32, is: u32): void {
  const at = headAt(index, which);
  store<u32>(at, run);
  store<u32>(at, is, 4);
}

/** A state was loaded: what it says is in flight, a host takes over. */
export function adoptHeads(): void {
  const count = min<u32>(queueCount(), QUEUE_COUNT_MAX);
  for (let each: u32 = 0; each < count; each++) {
    for (let which: u32 = 0; which < <u32>QUEUE_SIZE_MAX; which++) {
      setOutstanding(each, which, inFlight(each, which).kind != 0 ? 1 : 0);
    }
  }
}

/** The driver reset the device, or stopped that queue (all: 0xffff): it is owed nothing more. */
export function forgetHeads(index: u32): void {
  const count = min<u32>(queueCount(), QUEUE_COUNT_MAX);
  for (let each: u32 = 0; each < count; each++) {
    if (index != <u32>ALL_QUEUES && index != each) continue;
    for (let which: u32 = 0; which < <u32>QUEUE_SIZE_MAX; which++) {
      if (inFlight(each, which).kind != 0) violate(RULE_CANCEL, each, which);
      setOutstanding(each, which, 0);
    }
  }
}
