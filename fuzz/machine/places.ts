// The places of shared.ts with their type, which is the core's and the machine's address: there
// they carry none, so that tsc can read them too. No specification.
import * as shared from "./shared";

export const EDGES: usize = shared.EDGES;
export const VIRGIN: usize = shared.VIRGIN;
export const DIRTY: usize = shared.DIRTY;
export const ALWAYS_DIRTY: usize = shared.ALWAYS_DIRTY;
export const DICTIONARY: usize = shared.DICTIONARY;
export const COMPARISONS: usize = shared.COMPARISONS;
export const PROGRAM: usize = shared.PROGRAM;
export const ACCESSES: usize = shared.ACCESSES;
export const WALK: usize = shared.WALK;
export const HEADS: usize = shared.HEADS;
export const FLIGHTS: usize = shared.FLIGHTS;
export const NET_HEADER: usize = shared.NET_HEADER;
export const HELD: usize = shared.HELD;
export const HELD_COUNTS: usize = shared.HELD_COUNTS;
export const RAM: usize = shared.RAM;
export const SNAPSHOTS: usize = shared.SNAPSHOTS;
export const TRACE: usize = shared.TRACE;
export const CORPUS: usize = shared.CORPUS;
export const SNAPSHOT_STRIDE: usize = shared.SNAPSHOT_STRIDE;
export const DIRTY_SHIFT: usize = shared.DIRTY_SHIFT;
export const ENTRY_COUNT: usize = shared.ENTRY_COUNT;
export const ENTRY_VARIANT: usize = shared.ENTRY_VARIANT;
export const ENTRY_ACTIONS: usize = shared.ENTRY_ACTIONS;
export const ENTRY_BYTES: usize = shared.ENTRY_BYTES;
export const ACTION_BYTES: usize = shared.ACTION_BYTES;
export const ACTION_A: usize = shared.ACTION_A;
export const ACTION_B: usize = shared.ACTION_B;
export const ACTION_C: usize = shared.ACTION_C;
export const ACTION_D: usize = shared.ACTION_D;

export const RAM_BYTES: u32 = shared.RAM_BYTES;
export const TRACE_BYTES: u32 = shared.TRACE_BYTES;
export const ACCESSES_BYTES: u32 = shared.ACCESSES_BYTES;
export const WALK_MAX: u32 = shared.WALK_MAX;
export const ACTIONS_MAX: u32 = shared.ACTIONS_MAX;
export const COMPARISONS_MAX: u32 = shared.COMPARISONS_MAX;
