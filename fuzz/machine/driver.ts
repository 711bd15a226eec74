// What the machine's driver writes to guest memory, and where (virtio 1.2 §2.7).
import { AVAIL_RING, HEADERS, PAIR_AREA, QUEUE_AREA, TABLES, USED_RING } from "./shared";
import { ramLoad16, ramStore } from "./memory";

/** What the driver made its rings for. */
export let queueSize: u32 = 16;

export function setQueueSize(size: u32): void {
  queueSize = size;
}

/** Where a queue's parts begin, with its table. */
export function queueAt(queue: u32): u64 {
  return (queue & 1) * QUEUE_AREA + (queue >> 1) * PAIR_AREA;
}

export function availRing(queue: u32): u64 {
  return queueAt(queue) + AVAIL_RING;
}

export function usedRing(queue: u32): u64 {
  return queueAt(queue) + USED_RING;
}

// 0 to 63: queue 0's table; 64 to 127: queue 1's; from 128: the first indirect tables.
export function descriptorAt(index: u32): u64 {
  if (index < 128) return (index >> 6) * QUEUE_AREA + ((index & 63) << 4);
  return TABLES + ((index - 128) << 4);
}

export function tableAt(slot: u32): u64 {
  return TABLES + ((slot & 31) << 8);
}

export function descriptor(at: u64, address: u64, length: u32, flags: u32, next: u32): void {
  ramStore(at, 8, address);
  ramStore(at + 8, 8, <u64>length | (<u64>flags << 32) | (<u64>next << 48));
}

export function offer(queue: u32, head: u32): void {
  const ring = availRing(queue);
  const index = ramLoad16(<u32>ring + 2);
  ramStore(ring + 4 + ((index & (queueSize - 1)) << 1), 2, head);
  ramStore(ring + 2, 2, index + 1);
}

export function headerAt(slot: u32): u64 {
  return HEADERS + ((slot & 0xff) << 4);
}

export function event(queue: u32, usedEvent: u32, flags: u32): void {
  const ring = availRing(queue);
  ramStore(ring + 4 + (queueSize << 1), 2, usedEvent);
  ramStore(ring, 2, flags);
}
