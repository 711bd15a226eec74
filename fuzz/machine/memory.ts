// Memory as a run sees it: what it wrote, how it is put back, and guest memory for the driver.
// No specification.
import { CAGE_MEMORY_BYTES, INBOX, OUTBOX, STATE } from "../../assembly/abi";
import {
  ALWAYS_DIRTY, DIRTY, DIRTY_SHIFT, RAM, RAM_BYTES, SNAPSHOTS, SNAPSHOT_STRIDE,
} from "./places";
import { RULE_STATE_REGION, TRACE_WRITE } from "./shared";
import { traceBytes } from "./trace";
import { violate } from "./violation";

const BLOCK_BYTES: usize = 1 << DIRTY_SHIFT;
const END: usize = RAM + RAM_BYTES;
const BLOCKS: usize = END >> DIRTY_SHIFT;
const CAGE_BYTES: usize = CAGE_MEMORY_BYTES;
const CORE_STORES_FROM: usize = OUTBOX;
const CORE_LOADS_FROM: usize = INBOX;

export function markDirty(address: usize, length: usize): void {
  if (length == 0) return;
  const last = (address + length - 1) >> DIRTY_SHIFT;
  for (let block = address >> DIRTY_SHIFT; block <= last; block++) store<u8>(DIRTY + block, 1);
}

// --- What the instrumented core calls ------------------------------------------------------------

/** An access of the core's outside of its memory: what it would read or write is not its own. */
export function outside(address: u32): void {
  violate(RULE_STATE_REGION, address, 0);
  unreachable();
}

/** Whether an access to guest memory may fill that range of the cage. */
// @ts-ignore: decorator
@inline export function mayFill(to: u32, length: u32): bool {
  return to >= <u32>CORE_STORES_FROM && <u64>to + length <= CAGE_BYTES;
}

/** Whether one may take its bytes from that range of the cage. */
// @ts-ignore: decorator
@inline export function mayTake(from: u32, length: u32): bool {
  return from >= <u32>CORE_LOADS_FROM && <u64>from + length <= CAGE_BYTES;
}

export function bulkFill(to: u32, value: u32, length: u32): void {
  if (!mayFill(to, length)) outside(to);
  markDirty(to, length);
  memory.fill(to, <u8>value, length);
}

export function bulkCopy(to: u32, from: u32, length: u32): void {
  if (!mayFill(to, length)) outside(to);
  if (!mayTake(from, length)) outside(from);
  markDirty(to, length);
  memory.copy(to, from, length);
}

// --- Snapshots -----------------------------------------------------------------------------------

// A snapshot holds the cage's memory, then guest memory.
function snapshotOf(variant: u32): usize {
  return SNAPSHOTS + <usize>variant * SNAPSHOT_STRIDE;
}

/** Keeps the present device and guest as that variant's starting point. */
export function takeSnapshot(variant: u32): void {
  const to = snapshotOf(variant);
  memory.copy(to, 0, CAGE_BYTES);
  memory.copy(to + CAGE_BYTES, RAM, RAM_BYTES);
}

/** Goes to a variant's starting point from wherever the memory is. */
export function loadSnapshot(variant: u32): void {
  const from = snapshotOf(variant);
  memory.copy(0, from, CAGE_BYTES);
  memory.copy(RAM, from + CAGE_BYTES, RAM_BYTES);
  memory.fill(DIRTY, 0, BLOCKS);
}

/** Goes back to the starting point after a run from it: only what was written is copied. */
export function restoreDirty(variant: u32): void {
  const from = snapshotOf(variant);
  for (let word: usize = 0; word < BLOCKS; word += 8) {
    if ((load<u64>(DIRTY + word) | load<u64>(ALWAYS_DIRTY + word)) == 0) continue;
    store<u64>(DIRTY + word, load<u64>(DIRTY + word) | load<u64>(ALWAYS_DIRTY + word));
    for (let block = word; block < word + 8; block++) {
      if (load<u8>(DIRTY + block) == 0) continue;
      const at = block << DIRTY_SHIFT;
      memory.copy(at, at < RAM ? from + at : from + CAGE_BYTES + (at - RAM), BLOCK_BYTES);
    }
    store<u64>(DIRTY + word, 0);
  }
}

/** What a new instance has where this one's calls left something: nothing but the state stays. */
export function renewInstance(): void {
  const bytes: usize = STATE - INBOX;
  memory.fill(INBOX, 0, bytes);
  markDirty(INBOX, bytes);
}

/** Whether the memory is at the starting point: nothing was written that no mark told of. */
export function atSnapshot(variant: u32): bool {
  const from = snapshotOf(variant);
  for (let at: usize = 0; at < CAGE_BYTES; at += 8) {
    if (load<u64>(at) != load<u64>(from + at)) return false;
  }
  for (let at: usize = 0; at < RAM_BYTES; at += 8) {
    if (load<u64>(RAM + at) != load<u64>(from + CAGE_BYTES + at)) return false;
  }
  return true;
}

// --- Guest memory for the driver -----------------------------------------------------------------

/** Whether the range is RAM. */
// @ts-ignore: decorator
@inline export function isRam(address: u64, length: u64): bool {
  return address <= RAM_BYTES && length <= RAM_BYTES - address;
}

/** Stores the low `width` bytes of `value`, 1, 2, 4 or 8, at a place of the machine's memory. */
export function storeBytes(at: usize, width: u32, value: u64): void {
  switch (width) {
    case 1: store<u8>(at, <u8>value); break;
    case 2: store<u16>(at, <u16>value); break;
    case 4: store<u32>(at, <u32>value); break;
    default: store<u64>(at, value);
  }
  markDirty(at, width);
}

/** The same at a guest-physical address; what lies outside of RAM is left out. */
export function ramStore(address: u64, width: u32, value: u64): void {
  if (!isRam(address, width)) return;
  const at: usize = RAM + <usize>address;
  storeBytes(at, width, value);
  traceBytes(TRACE_WRITE, <u32>address, at, width);
}

export function ramLoad16(address: u32): u32 {
  return address <= RAM_BYTES - 2 ? load<u16>(RAM + address) : 0;
}
