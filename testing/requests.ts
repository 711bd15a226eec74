// The host's side of a device: what it asks for (abi.ts, 'request record'), carried out or refused.
import {
  EFFECT_MORE,
  EFFECT_REQUEST,
  RANGE_ADDRESS,
  RANGE_LENGTH,
  RANGE_STRIDE,
  REQUEST_FLAGS,
  REQUEST_KIND,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_RANGE_COUNT,
  REQUEST_RANGES,
  REQUEST_TAG,
  RESULT_OK,
} from '../assembly/abi.ts';
import type { Cage } from '../host/cage.ts';

/** What a device asks its host to do (docs/abi.md, 'Requests'). */
export interface RequestRecord {
  /** abi.REQUEST_KIND_*; see requestKindName(). */
  kind: number;
  /** To be given back to Cage.complete(). */
  tag: number;
  /** Bytes from the disk's start. */
  offset: bigint;
  /** Bytes in all: of the ranges, or of the disk where there are none. */
  length: bigint;
  /** abi.REQUEST_FLAG_*. */
  flags: number;
  /** The guest memory to be read or written, in order: guest-physical address, bytes. */
  ranges: { address: bigint; length: number }[];
  /** The console's output in a CONSOLE_OUT record; no meaning in another. */
  bytes: Uint8Array;
}

/** Takes apart what Cage.record() returns; its `bytes` stay a view of that. */
export function parseRecord(record: Uint8Array): RequestRecord {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const rangeCount = view.getUint32(REQUEST_RANGE_COUNT, true);
  const ranges = [];
  for (let index = 0; index < rangeCount; index += 1) {
    const at = REQUEST_RANGES + index * RANGE_STRIDE;
    ranges.push({
      address: view.getBigUint64(at + RANGE_ADDRESS, true),
      length: view.getUint32(at + RANGE_LENGTH, true),
    });
  }
  return {
    kind: view.getUint32(REQUEST_KIND, true),
    tag: view.getUint32(REQUEST_TAG, true),
    offset: view.getBigUint64(REQUEST_OFFSET, true),
    length: view.getBigUint64(REQUEST_LENGTH, true),
    flags: view.getUint32(REQUEST_FLAGS, true),
    ranges,
    bytes: record.subarray(REQUEST_RANGES),
  };
}

/** How a request went. */
export interface RequestResult {
  /** abi.RESULT_*. */
  result: number;
  /** Bytes written to guest memory, in order from the first range on. */
  bytes: number;
}

/** What a host does with one request. */
export type Executor = (request: RequestRecord) => RequestResult;

/** Moves nothing, and claims that every range was written in full. */
export const everythingSucceeds: Executor = (request) => ({
  result: RESULT_OK,
  bytes: request.ranges.reduce((sum, range) => sum + range.length, 0),
});

/**
 * Rings the doorbell of a queue and plays the host until its device wants no more: fetches each
 * request, has it executed, completes it at once. Returns all effects seen (abi.EFFECT_*), and the
 * requests in their order.
 */
export function kick(
  cage: Cage,
  queue: number,
  execute: Executor = everythingSucceeds,
): { effects: number; requests: RequestRecord[] } {
  const requests: RequestRecord[] = [];
  let effects = cage.notify(queue);
  let seen = effects;
  while (effects & (EFFECT_REQUEST | EFFECT_MORE)) {
    if (effects & EFFECT_REQUEST) {
      const request = parseRecord(cage.record());
      requests.push(request);
      const { result, bytes } = execute(request);
      seen |= cage.complete(request.tag, result, bytes);
    }
    effects = effects & EFFECT_MORE ? cage.next(queue) : 0;
    seen |= effects;
  }
  return { effects: seen, requests };
}
