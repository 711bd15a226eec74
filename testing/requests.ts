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

export interface RequestRecord {
  kind: number;
  tag: number;
  offset: bigint;
  length: bigint;
  flags: number;
  ranges: { address: bigint; length: number }[];
  bytes: Uint8Array; // of a CONSOLE_OUT record
}

/** Takes a record apart (abi.ts, 'request record'). */
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

/** What a host does with one request: its result and the bytes it wrote. */
export type Executor = (request: RequestRecord) => { result: number; bytes: number };

export const everythingSucceeds: Executor = (request) => ({
  result: RESULT_OK,
  bytes: request.ranges.reduce((sum, range) => sum + range.length, 0),
});

/** Rings the doorbell and plays the host until the queue is empty. Returns all effects seen. */
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
