// What a cell says, taken apart: messages of cell-protocol.ts out of a stream of bytes. A cell is
// not trusted: whatever comes, this yields messages of the right form or throws one FaradayError.
import { getSystemErrorName } from 'node:util';
import { FaradayError } from '../errors.ts';
import * as protocol from './cell-protocol.ts';

export interface Failure {
  exitCode: number; // as the cell gave it
  errno: string; // a name, '' for none
  call: string;
  about: string;
}

export type Message =
  | { type: 'started' | 'marker' | 'paused' | 'resumed' }
  | { type: 'failed'; failure: Failure }
  | { type: 'log'; level: 'error' | 'warn' | 'info'; text: string }
  | { type: 'confined' | 'violation'; record: DataView }
  | { type: 'recorded'; errno: string } // '' for a recording that is whole
  | { type: 'network'; record: DataView }
  | { type: 'ended'; report: DataView };

/** The error for a cell that does not keep to the protocol. */
export function brokenCell(finding: string): FaradayError {
  return new FaradayError('internal', `the cell ${finding}; please report it`);
}

/** Text up to its first NUL, with a '?' for each byte that is no printable ASCII. */
export function textAt(view: DataView, offset: number, lengthBytes: number): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + offset, lengthBytes);
  const end = bytes.indexOf(0);
  const text = bytes.subarray(0, end < 0 ? lengthBytes : end);
  return String.fromCharCode(...text.map((byte) => (byte >= 0x20 && byte < 0x7f ? byte : 0x3f)));
}

const ERRNO_MAX = 4095; // the last one that Linux may use

/** The name of an errno, '' for 0 and for what is none. */
export function errnoName(errno: number): string {
  return errno > 0 && errno <= ERRNO_MAX ? getSystemErrorName(-errno) : '';
}

function failed(view: DataView): Message {
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const failure: Failure = {
    exitCode: u32(protocol.FAILED_EXIT_CODE),
    errno: errnoName(u32(protocol.FAILED_ERRNO)),
    call: textAt(view, protocol.FAILED_CALL, protocol.FAILED_CALL_BYTES),
    about: textAt(view, protocol.FAILED_ABOUT, protocol.FAILED_ABOUT_BYTES),
  };
  return { type: 'failed', failure };
}

const LEVELS = ['error', 'warn', 'info'] as const; // by LOG_LEVEL_*

function log(view: DataView): Message {
  const level = LEVELS[view.getUint32(protocol.LOG_LEVEL, true)];
  if (level === undefined) throw brokenCell('sent a log line of an unknown level');
  return { type: 'log', level, text: textAt(view, protocol.LOG_TEXT, protocol.LOG_TEXT_BYTES) };
}

function recorded(view: DataView): Message {
  return { type: 'recorded', errno: errnoName(view.getUint32(protocol.RECORDED_ERRNO, true)) };
}

/** How long each message's payload is, and what it means. */
const KINDS = new Map<number, [lengthBytes: number, read: (payload: DataView) => Message]>([
  [protocol.STARTED, [0, () => ({ type: 'started' })]],
  [protocol.MARKER, [0, () => ({ type: 'marker' })]],
  [protocol.FAILED, [protocol.FAILED_BYTES, failed]],
  [protocol.LOG, [protocol.LOG_BYTES, log]],
  [protocol.ENDED, [protocol.REPORT_BYTES, (report) => ({ type: 'ended', report })]],
  [protocol.CONFINED, [protocol.CONFINED_BYTES, (record) => ({ type: 'confined', record })]],
  [protocol.VIOLATION, [protocol.VIOLATION_BYTES, (record) => ({ type: 'violation', record })]],
  [protocol.RECORDED, [protocol.RECORDED_BYTES, recorded]],
  [protocol.NET, [protocol.NET_BYTES, (record) => ({ type: 'network', record })]],
  [protocol.PAUSED, [0, () => ({ type: 'paused' })]],
  [protocol.RESUMED, [0, () => ({ type: 'resumed' })]],
]);

function kindOf(header: DataView): [number, (payload: DataView) => Message] {
  const type = header.getUint32(protocol.MESSAGE_TYPE, true);
  const lengthBytes = header.getUint32(protocol.MESSAGE_LENGTH, true);
  const kind = KINDS.get(type);
  if (!kind) throw brokenCell(`sent a message of the unknown type ${type}`);
  if (kind[0] !== lengthBytes) {
    throw brokenCell(`sent ${lengthBytes} bytes in a message of type ${type}, not ${kind[0]}`);
  }
  return kind;
}

/** Collects bytes into messages; holds one message at most. */
export class MessageReader {
  private readonly bytes = new Uint8Array(
    protocol.MESSAGE_HEADER_BYTES + protocol.MESSAGE_BYTES_MAX,
  );
  private readonly view = new DataView(this.bytes.buffer);
  private length = 0;

  /** True in the middle of a message. */
  get partial(): boolean {
    return this.length > 0;
  }

  /** The messages that `chunk` completes. Throws FaradayError('internal'). */
  *push(chunk: Uint8Array): Generator<Message> {
    for (let done = 0; done < chunk.length; ) {
      const wanted = this.wantedBytes() - this.length;
      const part = chunk.subarray(done, done + wanted);
      this.bytes.set(part, this.length);
      this.length += part.length;
      done += part.length;
      if (this.length < protocol.MESSAGE_HEADER_BYTES) return;
      const [lengthBytes, read] = kindOf(this.view);
      if (this.length < protocol.MESSAGE_HEADER_BYTES + lengthBytes) continue;
      this.length = 0;
      // A copy: the report outlives this buffer's next message.
      const end = protocol.MESSAGE_HEADER_BYTES + lengthBytes;
      yield read(new DataView(this.bytes.slice(protocol.MESSAGE_HEADER_BYTES, end).buffer));
    }
  }

  private wantedBytes(): number {
    if (this.length < protocol.MESSAGE_HEADER_BYTES) return protocol.MESSAGE_HEADER_BYTES;
    return protocol.MESSAGE_HEADER_BYTES + kindOf(this.view)[0];
  }
}
