// What a traced program did, event by event (fuzz/machine/shared.ts, TRACE_*): for judges, which do
// it again on another engine, and for people.
import * as shared from './machine/shared.ts';

/** A call into the core and what came of it. */
export interface TracedCall {
  call: number; // CALL_*
  a: number;
  b: number;
  c: number;
  effects: number;
  value: number; // OUTBOX_VALUE
  accesses: Uint8Array; // entries of the access log; good until the next run
  record: Uint8Array; // the request record, where there was one
}

export interface TraceVisitor {
  /** The driver, or the host carrying a request out, writes guest memory. */
  write(address: number, bytes: Uint8Array): void;
  inbox(bytes: Uint8Array): void;
  /** The state region is changed behind the core's back. */
  state(offset: number, bytes: Uint8Array): void;
  /** Another instance goes on with the state region of the one before it. */
  restore(): void;
  /** Returns what is wrong with the call, or null. */
  call(call: TracedCall): string | null;
}

export interface Trace {
  events: DataView;
  accesses: Uint8Array;
  /** The blocks of the machine's memory that the program wrote to: their addresses. */
  written: number[];
}

/** Bytes of one of those blocks. */
export const BLOCK_BYTES = 1 << shared.DIRTY_SHIFT;

const padded = (length: number): number => (length + 3) & ~3;

/** Walks a trace up to the first thing that a visitor finds wrong; returns that, or null. */
export function visitTrace({ events, accesses }: Trace, visitor: TraceVisitor): string | null {
  const bytes = new Uint8Array(events.buffer, events.byteOffset, events.byteLength);
  let accessesFrom = 0;
  for (let at = 0; at < events.byteLength; ) {
    const kind = events.getUint32(at, true);
    if (kind !== shared.TRACE_CALL) {
      const address = events.getUint32(at + 4, true);
      const length = events.getUint32(at + 8, true);
      const moved = bytes.subarray(at + 12, at + 12 + length);
      if (kind === shared.TRACE_WRITE) visitor.write(address, moved);
      else if (kind === shared.TRACE_INBOX) visitor.inbox(moved);
      else if (kind === shared.TRACE_STATE) visitor.state(address, moved);
      else visitor.restore();
      at += 12 + padded(length);
      continue;
    }
    // Five words of the call; five of its return; three before the record, which may be empty.
    const accessBytes = events.getUint32(at + 32, true);
    const recordBytes = events.getUint32(at + 36, true);
    const recordAt = at + 52;
    const wrong = visitor.call({
      call: events.getUint32(at + 4, true),
      a: events.getUint32(at + 8, true),
      b: events.getUint32(at + 12, true),
      c: events.getUint32(at + 16, true),
      effects: events.getUint32(at + 24, true),
      value: events.getUint32(at + 28, true),
      accesses: accesses.subarray(accessesFrom, accessesFrom + accessBytes),
      record: bytes.subarray(recordAt, recordAt + recordBytes),
    });
    if (wrong !== null) return wrong;
    accessesFrom += accessBytes;
    at = recordAt + padded(recordBytes);
  }
  return null;
}
