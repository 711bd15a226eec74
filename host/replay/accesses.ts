// A recorded call's accesses to guest memory: the entries of host/access-format.ts.
import * as format from '../access-format.ts';
import type { AccessKind } from '../guest-memory.ts';
import { Malformed } from './format.ts';

export interface Access {
  kind: AccessKind;
  allowed: boolean;
  address: bigint;
  length: number;
  data: Uint8Array; // what was moved; empty where it was refused
}

const KINDS: Record<number, AccessKind> = {
  [format.ACCESS_READ]: 'read',
  [format.ACCESS_WRITE]: 'write',
  [format.ACCESS_LOAD16]: 'load16',
  [format.ACCESS_STORE16]: 'store16',
  [format.ACCESS_FENCE]: 'fence',
};

/** Takes entries apart. Throws Malformed: they may come from a file. */
export function parseAccesses(bytes: Uint8Array): Access[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const accesses: Access[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at < format.ACCESS_ENTRY_BYTES) throw new Malformed('half an access');
    const number = view.getUint32(at + format.ACCESS_ENTRY_KIND, true);
    const length = view.getUint32(at + format.ACCESS_ENTRY_LENGTH, true);
    const address = view.getBigUint64(at + format.ACCESS_ENTRY_ADDRESS, true);
    const kind = KINDS[number & ~format.ACCESS_REFUSED];
    if (!kind) throw new Malformed('an access of no known kind');
    if ((kind === 'load16' || kind === 'store16') && length !== 2) {
      throw new Malformed('a 16-bit access of another width');
    }
    const allowed = (number & format.ACCESS_REFUSED) === 0;
    at += format.ACCESS_ENTRY_BYTES;
    const end = at + (allowed ? length : 0);
    if (end > bytes.length) throw new Malformed('an access without its data');
    accesses.push({ kind, allowed, address, length, data: bytes.subarray(at, end) });
    at = end;
  }
  return accesses;
}

const SHOWN_BYTES = 16;

/** Bytes as hexadecimal digits. */
export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function describe(access: Access | undefined): string {
  if (!access) return 'none';
  const { kind, address, length, data, allowed } = access;
  if (kind === 'fence') return kind;
  const hex = hexOf(data.subarray(0, SHOWN_BYTES));
  const content = allowed ? `: ${hex}${data.length > SHOWN_BYTES ? '...' : ''}` : ', refused';
  return `${kind} of ${length} bytes at 0x${address.toString(16)}${content}`;
}

/** The first access in which two logs differ, in words. */
export function firstDifference(expected: Uint8Array, got: Uint8Array): [string, string] {
  const [one, other] = [parseAccesses(expected), parseAccesses(got)];
  let at = 0;
  while (at < one.length && at < other.length && describeAll(one[at]) === describeAll(other[at])) {
    at++;
  }
  return [describe(one[at]), describe(other[at])];
}

function describeAll({ data, ...rest }: Access): string {
  return `${describe({ ...rest, data })} ${hexOf(data)}`;
}
