// A judge: the same program on the reference devices (testing/reference.ts), a second and naive
// implementation. Answers, request records, guest memory and counters must be the same.
import * as abi from '../assembly/abi.ts';
import { ReferenceDevice } from '../testing/reference.ts';
import type { ReferenceAnswer, ReferenceRecord } from '../testing/reference-answer.ts';
import { type Judge, nameOf } from './judge.ts';
import * as shared from './machine/shared.ts';
import { type DeviceTarget, placesOf, type Variant } from './targets.ts';
import {
  BLOCK_BYTES,
  type Trace,
  type TracedCall,
  type TraceVisitor,
  visitTrace,
} from './trace.ts';

function repeat(
  device: ReferenceDevice,
  { call, a, b, c }: TracedCall,
  inbox: Uint8Array,
): ReferenceAnswer {
  switch (call) {
    case shared.CALL_READ:
      return device.read(a, b);
    case shared.CALL_WRITE:
      return device.write(a, b, c);
    case shared.CALL_NOTIFY:
      return device.notify(a);
    case shared.CALL_NEXT:
      return device.next(a);
    case shared.CALL_COMPLETE:
      return device.complete(a, b, c);
    case shared.CALL_INPUT:
      return device.input(inbox.subarray(0, a));
    case shared.CALL_FAIL:
      return device.fail();
    default:
      return device.reset();
  }
}

/** The device as a program finds it: brought up as fuzz/engine.ts does it with the core. */
function prepare({ kind, config, queues }: Variant): ReferenceDevice {
  const device = new ReferenceDevice(kind, config, new Uint8Array(shared.RAM_BYTES));
  if (!queues) return device;
  const set = (register: number, value: number): void => {
    device.write(register, 4, value);
  };
  for (const status of [0, 1, 3]) set(0x70, status);
  set(0x24, 0);
  set(0x20, Number(queues.features & 0xffffffffn));
  set(0x24, 1);
  set(0x20, 1); // VIRTIO_F_VERSION_1
  set(0x70, 0xb);
  for (let queue = 0; queue < queues.count; queue++) {
    const { desc, avail, used } = placesOf(queue);
    set(0x30, queue);
    set(0x38, queues.size);
    for (const [register, address] of [
      [0x80, desc],
      [0x90, avail],
      [0xa0, used],
    ] as const) {
      set(register, address);
      set(register + 4, 0);
    }
    set(0x44, 1);
  }
  if (!queues.asleep) set(0x70, 0xf);
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

  call(call: TracedCall): string | null {
    if (this.loaded) return null;
    const answer = repeat(this.device, call, this.bytes);
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
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(abi.REQUEST_KIND, true) !== wanted.kind) return 'kind differs';
  if (view.getUint32(abi.REQUEST_TAG, true) !== wanted.tag) return 'tag differs';
  if (view.getBigUint64(abi.REQUEST_OFFSET, true) !== wanted.offset) return 'offset differs';
  if (view.getBigUint64(abi.REQUEST_LENGTH, true) !== wanted.length) return 'length differs';
  if (view.getUint32(abi.REQUEST_FLAGS, true) !== wanted.flags) return 'flags differ';
  if (view.getUint32(abi.REQUEST_RANGE_COUNT, true) !== wanted.ranges.length) {
    return 'number of ranges differs';
  }
  const range = wanted.ranges.findIndex(({ address, length }, index) => {
    const at = abi.REQUEST_RANGES + abi.RANGE_STRIDE * index;
    return (
      view.getBigUint64(at + abi.RANGE_ADDRESS, true) !== address ||
      view.getUint32(at + abi.RANGE_LENGTH, true) !== length
    );
  });
  if (range >= 0) return `range ${range} differs`;
  return same(wanted.bytes, bytes.subarray(abi.REQUEST_RANGES + 16 * wanted.ranges.length))
    ? null
    : 'bytes differ';
}
