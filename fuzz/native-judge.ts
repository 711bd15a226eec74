// A judge: the same program on the native engine, the C that the cell runs. Answers, accesses and
// memory must be the same, byte for byte. Needs the addon.
import * as abi from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import * as native from '../host/shim.ts';
import type { Judge } from './judge.ts';
import * as shared from './machine/shared.ts';
import type { DeviceTarget, Variant } from './targets.ts';
import { type Trace, type TracedCall, visitTrace } from './trace.ts';

const LOG_BYTES = 0x100000;
const COMPARED_FROM = abi.OUTBOX;
const COMPARED_TO = 0x11000; // past the last byte of state that any device has

const CALLS: Record<number, (cage: native.NativeCage, call: TracedCall) => number> = {
  [shared.CALL_READ]: (cage, { a, b }) => cage.read(a, b),
  [shared.CALL_WRITE]: (cage, { a, b, c }) => cage.write(a, b, c),
  [shared.CALL_NOTIFY]: (cage, { a }) => cage.notify(a),
  [shared.CALL_NEXT]: (cage, { a }) => cage.next(a),
  [shared.CALL_COMPLETE]: (cage, { a, b, c }) => cage.complete(a, b, c),
  [shared.CALL_INPUT]: (cage, { a }) => cage.input(a),
  [shared.CALL_FAIL]: (cage) => cage.fail(),
  [shared.CALL_RESET]: (cage) => cage.reset(),
  [shared.CALL_CHECK]: (cage) => cage.check(),
};

/** Native cages of a target's variants over one guest memory. */
export class NativeJudge implements Judge {
  readonly name = 'native';
  private readonly memory = native.shim().createMemory(shared.RAM_BYTES);
  private readonly ram = Buffer.from(this.memory.memory);
  private readonly cages: Cage[];
  private readonly spoilt = new Set<number>(); // variants with bytes where no device has state

  constructor(target: DeviceTarget) {
    this.cages = target.variants.map(({ kind, config }: Variant) => {
      const cage = new Cage(kind, this.memory, config);
      cage.native?.logAccesses(LOG_BYTES);
      return cage;
    });
  }

  judge(trace: Trace, variant: number, machine: Uint8Array): string | null {
    const cage = this.cages[variant].native as native.NativeCage;
    const bytes = Buffer.from(cage.memory);
    const snapshot = shared.SNAPSHOTS + variant * shared.SNAPSHOT_STRIDE;
    const start = machine.subarray(snapshot, snapshot + shared.SNAPSHOT_STRIDE);
    const all = this.spoilt.delete(variant);
    bytes.set(start.subarray(0, all ? abi.CAGE_MEMORY_BYTES : COMPARED_TO));
    this.ram.set(start.subarray(abi.CAGE_MEMORY_BYTES, abi.CAGE_MEMORY_BYTES + shared.RAM_BYTES));
    const wrong = visitTrace(trace, {
      write: (address, moved) => this.ram.set(moved, address),
      inbox: (moved) => bytes.set(moved, abi.INBOX),
      state: (offset, moved) => {
        this.spoilt.add(variant);
        bytes.set(moved, abi.STATE + offset);
      },
      call: (call) => this.repeat(cage, bytes, call),
    });
    if (wrong !== null) return wrong;
    const same = (ours: Buffer, from: number, to: number): boolean =>
      ours.equals(machine.subarray(from, to));
    if (!same(bytes.subarray(COMPARED_FROM, COMPARED_TO), COMPARED_FROM, COMPARED_TO)) {
      return 'the state at the end differs';
    }
    if (!same(this.ram, shared.RAM, shared.RAM + shared.RAM_BYTES)) return 'guest memory differs';
    return null;
  }

  close(): void {
    for (const cage of this.cages) cage.close();
    this.memory.close();
  }

  private repeat(cage: native.NativeCage, bytes: Buffer, call: TracedCall): string | null {
    const effects = CALLS[call.call](cage, call);
    const name = `call ${call.call}(${call.a}, ${call.b}, ${call.c})`;
    if (effects >>> 0 !== call.effects) return `${name}: effects ${effects}, not ${call.effects}`;
    const accesses = cage.takeAccesses();
    if (Buffer.compare(accesses, call.accesses) !== 0) return `${name}: other accesses`;
    if (bytes.readUInt32LE(abi.OUTBOX_VALUE) !== call.value) return `${name}: another value`;
    return null;
  }
}
