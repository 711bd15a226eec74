// Hosts that carry requests out, for kick(): a disk in memory, and a source of random bytes.
import {
  ENTROPY_BYTES_MAX,
  REQUEST_KIND_BLK_DISCARD,
  REQUEST_KIND_BLK_FLUSH,
  REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT,
  REQUEST_KIND_BLK_WRITE_ZEROES,
  REQUEST_KIND_ENTROPY,
  RESULT_IOERR,
  RESULT_OK,
  RESULT_UNSUPPORTED,
} from '../assembly/abi.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import type { Executor, RequestRecord, RequestResult } from './requests.ts';

const IO_ERROR: RequestResult = { result: RESULT_IOERR, bytes: 0 };

/**
 * The bytes of guest memory behind a record's ranges, as views into it; null where one leaves RAM,
 * which no honest core asks for.
 */
export function rangesOf(memory: GuestMemory, request: RequestRecord): Uint8Array[] | null {
  const views: Uint8Array[] = [];
  for (const { address, length } of request.ranges) {
    const offset = memory.offsetOf(Number(address), length);
    if (offset < 0) return null;
    views.push(new Uint8Array(memory.view.buffer, offset, length));
  }
  return views;
}

function transfer(disk: Uint8Array, views: Uint8Array[], from: number, toGuest: boolean): void {
  let at = from;
  for (const view of views) {
    const sectors = disk.subarray(at, at + view.length);
    if (toGuest) view.set(sectors);
    else sectors.set(view);
    at += view.length;
  }
}

/**
 * A disk that is `disk`, byte for byte: reads, writes, zeroes (a discard does too); a flush has
 * nothing to do. What leaves the disk or guest RAM is answered RESULT_IOERR, what is no block
 * request RESULT_UNSUPPORTED. Takes guest memory of one buffer.
 */
export function memoryDisk(memory: GuestMemory, disk: Uint8Array): Executor {
  return (request) => {
    const { kind } = request;
    const [from, length] = [Number(request.offset), Number(request.length)];
    if (from + length > disk.length) return IO_ERROR;
    if (kind === REQUEST_KIND_BLK_FLUSH) return { result: RESULT_OK, bytes: 0 };
    if (kind === REQUEST_KIND_BLK_DISCARD || kind === REQUEST_KIND_BLK_WRITE_ZEROES) {
      disk.fill(0, from, from + length);
      return { result: RESULT_OK, bytes: 0 };
    }
    if (kind !== REQUEST_KIND_BLK_IN && kind !== REQUEST_KIND_BLK_OUT) {
      return { result: RESULT_UNSUPPORTED, bytes: 0 };
    }
    const views = rangesOf(memory, request);
    const total = views?.reduce((sum, view) => sum + view.length, 0);
    if (!views || total !== length) return IO_ERROR;
    const toGuest = kind === REQUEST_KIND_BLK_IN;
    transfer(disk, views, from, toGuest);
    return { result: RESULT_OK, bytes: toGuest ? length : 0 };
  };
}

/**
 * A source of entropy: `fill` writes the bytes it is given, at most abi.ENTROPY_BYTES_MAX for a
 * request. Another kind of request is answered RESULT_UNSUPPORTED.
 */
export function entropySource(memory: GuestMemory, fill: (bytes: Uint8Array) => void): Executor {
  return (request) => {
    if (request.kind !== REQUEST_KIND_ENTROPY) return { result: RESULT_UNSUPPORTED, bytes: 0 };
    const views = rangesOf(memory, request);
    if (!views) return IO_ERROR;
    let left = ENTROPY_BYTES_MAX;
    for (const view of views) {
      const part = view.subarray(0, left);
      fill(part);
      left -= part.length;
    }
    return { result: RESULT_OK, bytes: ENTROPY_BYTES_MAX - left };
  };
}
