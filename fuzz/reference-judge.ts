// A judge: the same program on the reference devices (testing/reference.ts), a second and naive
// implementation. Answers, request records, guest memory and counters must be the same.
import * as abi from '../assembly/abi.ts';
import { ReferenceDevice } from '../testing/reference.ts';
import type { ReferenceRecord } from '../testing/reference-answer.ts';
import { parseRecord } from '../testing/requests.ts';
import { type Judge, nameOf, repeat } from './judge.ts';
import * as shared from './machine/shared.ts';
import { bringUp, type DeviceTarget, type Variant } from './targets.ts';
import {
  BLOCK_BYTES,
  type Trace,
  type TracedCall,
  type TraceVisitor,
  visitTrace,
} from './trace.ts';

/** The device as a program finds it. */
function prepare({ kind, config, queues }: Variant): ReferenceDevice {
  const device = new ReferenceDevice(kind, config, new Uint8Array(shared.RAM_BYTES));
  if (queues) bringUp(queues, (register, value) => device.write(register, 4, value));
  return device;
}

const same = (one: Uint8Array, other: Uint8Array): boolean => {
  if (one.length !== other.length) return false;
  return one.every((byte, at) => byte === other[at]);
};

export class ReferenceJudge implements Judge, TraceVisitor {
  readonly name = 'reference';
  private readonly starts: ReferenceDevice[];
  private readonly devices: ReferenceDevice[];
  private bytes = new Uint8Array(0); // in the inbox
  private device: ReferenceDevice; // whose trace is visited
  private loaded = false;

  constructor(target: DeviceTarget) {
    this.starts = target.variants.map(prepare);
    this.devices = this.starts.map((device) => device.clone());
    this.device = this.devices[0];
  }

  judge(trace: Trace, variant: number, machine: Uint8Array, deep: boolean): string | null {
    const device = this.devices[variant];
    device.restoreFrom(this.starts[variant]);
    this.device = device;
    this.loaded = false;
    const wrong = visitTrace(trace, this);
    if (this.loaded) return null;
    if (wrong !== null) return wrong;
    const [from, to] = [shared.RAM, shared.RAM + shared.RAM_BYTES];
    const agrees = deep
      ? sameWords(device.ram, machine.subarray(from, to))
      : sameBlocks(device.ram, machine, trace.written);
    if (!agrees) return 'guest memory differs';
    const view = new DataView(machine.buffer, abi.COUNTERS, 4 * abi.COUNTER_COUNT);
    const counted = device.counters.findIndex(
      (count, at) => count !== view.getUint32(4 * at, true),
    );
    return counted < 0 ? null : `incident counter ${counted} differs`;
  }

  // A visitor of the trace, for the present device.

  write(address: number, bytes: Uint8Array): void {
    this.device.ram.set(bytes, address);
  }

  inbox(bytes: Uint8Array): void {
    this.bytes = bytes.slice();
  }

  /** A state that comes from outside: the reference has no such door, and looks no further. */
  state(): void {
    this.loaded = true;
  }

  /** Of the core's only: whoever drives the device sees nothing of it. */
  restore(): void {}

  call(call: TracedCall): string | null {
    // A check is the host's own, and answered by the machine's rules.
    if (this.loaded || call.call === shared.CALL_CHECK) return null;
    const answer =
      call.call === shared.CALL_INPUT
        ? this.device.input(this.bytes.subarray(0, call.a))
        : repeat(this.device, call);
    if (answer.effects !== call.effects) {
      return `${nameOf(call)}: effects ${call.effects}, the reference has ${answer.effects}`;
    }
    if (answer.value !== undefined && low32(answer.value) !== call.value) {
      return `${nameOf(call)}: value ${call.value}, the reference has ${low32(answer.value)}`;
    }
    const wrong = answer.record ? differs(answer.record, call.record) : null;
    return wrong && `${nameOf(call)}: the record's ${wrong}`;
  }
}

/** Compares in words, which both are a whole number of. */
function sameWords(one: Uint8Array, other: Uint8Array): boolean {
  const ours = new Int32Array(one.buffer, one.byteOffset, one.length / 4);
  const theirs = new Int32Array(other.buffer, other.byteOffset, other.length / 4);
  for (let at = 0; at < ours.length; at++) if (ours[at] !== theirs[at]) return false;
  return true;
}

function sameBlocks(ram: Uint8Array, machine: Uint8Array, addresses: number[]): boolean {
  for (const address of addresses) {
    if (address < shared.RAM) continue;
    const at = address - shared.RAM;
    const theirs = machine.subarray(address, address + BLOCK_BYTES);
    if (!sameWords(ram.subarray(at, at + BLOCK_BYTES), theirs)) return false;
  }
  return true;
}

/** The low 32 bits; the only values past 2^53 are all ones in seven or eight bytes. */
const low32 = (value: number): number => (value >= 2 ** 53 ? 0xffffffff : value % 2 ** 32);

/** Which field of a record is not as the reference has it; null: none. */
function differs(wanted: ReferenceRecord, bytes: Uint8Array): string | null {
  const got = parseRecord(bytes);
  for (const field of ['kind', 'tag', 'offset', 'length', 'flags'] as const) {
    if (got[field] !== wanted[field]) return `${field} differs`;
  }
  if (got.ranges.length !== wanted.ranges.length) return 'number of ranges differs';
  const range = wanted.ranges.findIndex(({ address, length }, index) => {
    return got.ranges[index].address !== address || got.ranges[index].length !== length;
  });
  if (range >= 0) return `range ${range} differs`;
  const rest = got.bytes.subarray(abi.RANGE_STRIDE * wanted.ranges.length);
  return same(wanted.bytes, rest) ? null : 'bytes differ';
}
