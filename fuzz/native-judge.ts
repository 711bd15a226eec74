// A judge: the same program on the native engine, the C that the cell runs. Answers, accesses and
// memory must be the same, byte for byte. Needs the addon.
import * as abi from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { type GuestMemory, type NativeCage, shim } from '../host/shim.ts';
import { type Judge, nameOf, repeat } from './judge.ts';
import * as shared from './machine/shared.ts';
import type { DeviceTarget, Variant } from './targets.ts';
import {
  BLOCK_BYTES,
  type Trace,
  type TracedCall,
  type TraceVisitor,
  visitTrace,
} from './trace.ts';

const LOG_BYTES = 0x100000;

interface Device {
  cage: Cage;
  memory: GuestMemory;
  parts: [state: Part, ram: Part];
}

interface Part {
  at: number; // where the fuzz machine has it
  bytes: Buffer;
}

function repeatHere(cage: NativeCage, call: TracedCall): number {
  if (call.call === shared.CALL_INPUT) return cage.input(call.a);
  return call.call === shared.CALL_CHECK ? cage.check() : repeat(cage, call);
}

/** Native cages of a target's variants, each over guest memory of its own. */
export class NativeJudge implements Judge, TraceVisitor {
  readonly name = 'native';
  private readonly devices: Device[];
  private present: Device; // whose trace is visited
  private readonly ready = new Set<number>(); // variants that are at their starting point

  constructor(target: DeviceTarget) {
    this.devices = target.variants.map(({ kind, config }: Variant) => {
      const memory = shim().createMemory(shared.RAM_BYTES);
      const cage = new Cage(kind, memory, config);
      cage.native?.logAccesses(LOG_BYTES);
      const parts: Device['parts'] = [
        { at: 0, bytes: Buffer.from((cage.native as NativeCage).memory) },
        { at: shared.RAM, bytes: Buffer.from(memory.memory) },
      ];
      return { cage, memory, parts };
    });
    this.present = this.devices[0];
  }

  judge(trace: Trace, variant: number, machine: Uint8Array, deep: boolean): string | null {
    const snapshot = shared.SNAPSHOTS + variant * shared.SNAPSHOT_STRIDE;
    const start = machine.subarray(snapshot, snapshot + shared.SNAPSHOT_STRIDE);
    const device = this.devices[variant];
    this.present = device;
    const [state, ram] = device.parts;
    if (!this.ready.delete(variant)) {
      state.bytes.set(start.subarray(0, abi.CAGE_MEMORY_BYTES));
      ram.bytes.set(
        start.subarray(abi.CAGE_MEMORY_BYTES, abi.CAGE_MEMORY_BYTES + shared.RAM_BYTES),
      );
    }
    const wrong = visitTrace(trace, this);
    if (wrong !== null) return wrong;
    const blocks = deep ? null : trace.written;
    if (!same(state, machine, blocks) || !same(ram, machine, blocks)) {
      return 'the memory at the end differs';
    }
    // Only what was written is put back: the next program finds the rest as this one did.
    for (const address of trace.written) {
      const { at, bytes } = address < shared.RAM ? state : ram;
      const from = address < shared.RAM ? address : abi.CAGE_MEMORY_BYTES + address - shared.RAM;
      bytes.set(start.subarray(from, from + BLOCK_BYTES), address - at);
    }
    this.ready.add(variant);
    return null;
  }

  // A visitor of the trace, for the present device.

  write(address: number, bytes: Uint8Array): void {
    this.present.parts[1].bytes.set(bytes, address);
  }

  inbox(bytes: Uint8Array): void {
    this.present.parts[0].bytes.set(bytes, abi.INBOX);
  }

  state(offset: number, bytes: Uint8Array): void {
    this.present.parts[0].bytes.set(bytes, abi.STATE + offset);
  }

  restore(): void {
    this.present.parts[0].bytes.fill(0, abi.INBOX, abi.STATE);
  }

  call(call: TracedCall): string | null {
    const { cage, parts } = this.present;
    const native = cage.native as NativeCage;
    const effects = repeatHere(native, call);
    if (effects >>> 0 !== call.effects) {
      return `${nameOf(call)}: effects ${effects}, not ${call.effects}`;
    }
    if (Buffer.compare(native.takeAccesses(), call.accesses) !== 0) {
      return `${nameOf(call)}: other accesses`;
    }
    const value = parts[0].bytes.readUInt32LE(abi.OUTBOX_VALUE);
    return value === call.value ? null : `${nameOf(call)}: another value`;
  }
}

/** Whether a part is as the machine has it: all of it, or the blocks given. */
function same({ at, bytes }: Part, machine: Uint8Array, blocks: number[] | null): boolean {
  if (!blocks) return bytes.equals(machine.subarray(at, at + bytes.length));
  for (const address of blocks) {
    const from = address - at;
    if (from < 0 || from >= bytes.length) continue;
    const ours = bytes.subarray(from, from + BLOCK_BYTES);
    if (!ours.equals(machine.subarray(address, address + BLOCK_BYTES))) return false;
  }
  return true;
}
