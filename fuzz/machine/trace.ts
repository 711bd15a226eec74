// What a program did, for other engines to do again: off but for the few programs they look at.
// No specification. The form is in shared.ts, TRACE_*.
import { ACCESSES, ACCESSES_BYTES, TRACE, TRACE_BYTES } from "./places";

let tracing: bool = false;
let traceAt: usize = TRACE;
let accessesAt: usize = ACCESSES;
let overflowed: bool = false;

export function startTrace(): void {
  tracing = true;
  traceAt = TRACE;
  accessesAt = ACCESSES;
  overflowed = false;
}

/** Ends the trace: its length in bytes, or 0 where there was not room for all. */
export function endTrace(): u32 {
  tracing = false;
  return overflowed ? 0 : <u32>(traceAt - TRACE);
}

// @ts-ignore: decorator
@inline export function isTracing(): bool {
  return tracing;
}

/** How many bytes of accesses were noted since the trace began. */
export function accessBytes(): u32 {
  return <u32>(accessesAt - ACCESSES);
}

function put(value: u32): void {
  store<u32>(traceAt, value);
  traceAt += 4;
}

function room(bytes: usize): bool {
  if (traceAt + bytes <= TRACE + TRACE_BYTES) return true;
  overflowed = true;
  return false;
}

export function traceWords(kind: u32, a: u32, b: u32, c: u32, d: u32): void {
  if (!tracing || !room(20)) return;
  put(kind);
  put(a);
  put(b);
  put(c);
  put(d);
}

/** Notes bytes at `from`, padded to whole words. */
export function traceBytes(kind: u32, address: u32, from: usize, length: u32): void {
  if (!tracing || !room(16 + length)) return;
  put(kind);
  put(address);
  put(length);
  memory.copy(traceAt, from, length);
  traceAt += (length + 3) & ~3;
}

/** Notes an access as the logs of both engines do (host/shim.ts, ACCESS_ENTRY_*). */
export function traceAccess(kind: u32, address: u64, from: usize, length: u32, moved: bool): void {
  if (!tracing) return;
  const bytes = moved ? length : 0;
  if (accessesAt + 16 + bytes > ACCESSES + ACCESSES_BYTES) {
    overflowed = true;
    return;
  }
  store<u32>(accessesAt, moved ? kind : kind | 0x100);
  store<u32>(accessesAt + 4, length);
  store<u64>(accessesAt + 8, address);
  memory.copy(accessesAt + 16, from, bytes);
  accessesAt += 16 + bytes;
}
