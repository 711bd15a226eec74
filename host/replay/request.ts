// A request record (docs/abi.md) taken apart. What it says is a cage's claim: nothing is trusted.
import * as abi from '../../assembly/abi.ts';
import { bitNames, parseTag, printable, REQUEST_FLAG_NAMES, requestName } from './names.ts';

export interface Range {
  address: bigint; // guest-physical
  length: number; // bytes
}

export interface TracedRequest {
  kind: string;
  tag: number;
  queue: number;
  head: number;
  offset: number; // bytes, on the disk; no meaning for a request of another device
  length: number; // bytes in all
  flags: string[];
  ranges: Range[];
  text: string; // of CONSOLE_OUT, with a dot for what is not printable
}

const NETWORK = [abi.REQUEST_KIND_NET_TX, abi.REQUEST_KIND_NET_RX, abi.REQUEST_KIND_NET_RINGS];

/** Null where there is no record: its own numbers would have been a trap. */
export function parseRequest(record: Uint8Array): TracedRequest | null {
  if (record.length < abi.REQUEST_RANGES) return null;
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const kind = view.getUint32(abi.REQUEST_KIND, true);
  const tag = view.getUint32(abi.REQUEST_TAG, true);
  const network = NETWORK.includes(kind);
  const inline = kind === abi.REQUEST_KIND_CONSOLE_OUT;
  const ranges: Range[] = [];
  const end = record.length - abi.RANGE_STRIDE;
  for (let at = abi.REQUEST_RANGES; !inline && at <= end; at += abi.RANGE_STRIDE) {
    const address = view.getBigUint64(at + abi.RANGE_ADDRESS, true);
    ranges.push({ address, length: view.getUint32(at + abi.RANGE_LENGTH, true) });
  }
  const { queue, head } = parseTag(tag);
  return {
    kind: requestName(kind),
    tag,
    queue,
    head,
    offset: Number(view.getBigUint64(abi.REQUEST_OFFSET, true)),
    length: Number(view.getBigUint64(abi.REQUEST_LENGTH, true)),
    // A network device has other things there.
    flags: network ? [] : bitNames(view.getUint32(abi.REQUEST_FLAGS, true), REQUEST_FLAG_NAMES),
    ranges,
    text: inline ? printable(record.subarray(abi.REQUEST_RANGES)) : '',
  };
}
