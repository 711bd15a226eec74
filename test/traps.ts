// How tests bring a cage to trap. No sequence of calls does that; a queue's state is spoilt behind
// the core's back, with a size that check() would refuse.
import { STATE } from '../assembly/abi.ts';
import { DESC_F_NEXT, DESC_F_WRITE, QUEUE_BASE } from '../testing/queue.ts';

const QUEUE_SIZE_FIELD = STATE + 0x400 + 24; // of queue 0: assembly/layout.ts, assembly/virtq.ts
const HUGE = 0xffff;
const AVAIL_RING = QUEUE_BASE + 0x1000; // as testing/queue.ts places them
const SHORT = 20; // descriptors

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A chain from descriptor 0 that goes on to `count` descriptors, or round and round. */
function chain(ram: DataView, count: number, loops: boolean): void {
  for (let index = 0; index < count; index++) {
    const last = index === count - 1;
    const at = QUEUE_BASE + 16 * index;
    ram.setBigUint64(at, 0n, true);
    ram.setUint32(at + 8, 1, true);
    // Readable after writable: the chain is refused once it was walked to its end.
    ram.setUint16(at + 12, last && !loops ? 0 : DESC_F_NEXT | DESC_F_WRITE, true);
    ram.setUint16(at + 14, last ? 0 : index + 1, true);
  }
}

/** 65535 chains at once are more than one call may walk: the step budget ends. */
export function spin(cage: Uint8Array, ram: Uint8Array): void {
  view(cage).setUint16(QUEUE_SIZE_FIELD, HUGE, true);
  chain(view(ram), SHORT, false);
  ram.fill(0, AVAIL_RING, AVAIL_RING + 4 + 2 * HUGE);
  view(ram).setUint16(AVAIL_RING + 2, HUGE - 1, true);
}

/** A chain longer than the core has room for: its segments run past the end of the memory. */
export function overrun(cage: Uint8Array, ram: Uint8Array): void {
  view(cage).setUint16(QUEUE_SIZE_FIELD, HUGE, true);
  chain(view(ram), SHORT, true);
  ram.fill(0, AVAIL_RING, AVAIL_RING + 8);
  view(ram).setUint16(AVAIL_RING + 2, 1, true);
}
