// The two ways to run a recorded device again. What the guest's memory held comes from the
// recording; what the cage does with it is compared.
import { AccessLog } from '../access-log.ts';
import { Cage } from '../core.ts';
import type { AccessKind } from '../guest-memory.ts';
import * as native from '../shim.ts';
import type { Access } from './accesses.ts';
import type { RecordedDevice, RecordedEvent } from './parse.ts';

export type ReplayEngine = 'v8' | 'cell';

export interface ReplayMachine {
  create(device: RecordedDevice): Cage;
  /** Makes a call with the memory that `event` found; returns the accesses that it made. */
  run(cage: Cage, event: RecordedEvent, call: () => void): Uint8Array;
  close(): void;
}

/** Leaves a call in V8 whose accesses are not those of the recording any more. */
class Strayed extends Error {}

const REFUSED = 1;

/** Serves the accesses of one call from the recording, and notes those that are made. */
class RecordedMemory {
  readonly log = new AccessLog();
  private expected: readonly Access[] = [];
  private next = 0;
  private readonly half = new DataView(new ArrayBuffer(2));

  begin(expected: readonly Access[]): void {
    this.expected = expected;
    this.next = 0;
    this.log.clear();
  }

  importsFor(cage: () => DataView): Record<string, (...args: never[]) => unknown> {
    return {
      read: (address: bigint, to: number, length: number) =>
        this.read(address, cage(), to >>> 0, length >>> 0),
      write: (address: bigint, from: number, length: number) =>
        this.write(address, cage(), from >>> 0, length >>> 0),
      load16: (address: bigint) => this.load16(address),
      store16: (address: bigint, value: number) => this.store16(address, value),
      fence: () => {
        this.log.add('fence', 0n, 0, this.half, 0);
        this.take('fence', 0n, 0);
      },
    };
  }

  private read(address: bigint, cage: DataView, to: number, length: number): number {
    const { allowed, data } = this.take('read', address, length);
    const fits = allowed && to + length <= cage.byteLength;
    if (fits) new Uint8Array(cage.buffer, to, length).set(data);
    this.log.add('read', address, length, fits ? cage : null, to);
    return fits ? 0 : REFUSED;
  }

  private write(address: bigint, cage: DataView, from: number, length: number): number {
    const fits = from + length <= cage.byteLength;
    const { allowed } = this.take('write', address, length);
    this.log.add('write', address, length, allowed && fits ? cage : null, from);
    return allowed && fits ? 0 : REFUSED;
  }

  private load16(address: bigint): number {
    const { allowed, data } = this.take('load16', address, 2);
    if (allowed) this.half.setUint16(0, data[0] | (data[1] << 8), true);
    this.log.add('load16', address, 2, allowed ? this.half : null, 0);
    return allowed ? this.half.getUint16(0, true) : -1;
  }

  private store16(address: bigint, value: number): number {
    const { allowed } = this.take('store16', address, 2);
    this.half.setUint16(0, value, true);
    this.log.add('store16', address, 2, allowed ? this.half : null, 0);
    return allowed ? 0 : REFUSED;
  }

  /** The recorded access, if this is the one that the cage makes; else the call is over. */
  private take(kind: AccessKind, address: bigint, length: number): Access {
    const expected = this.expected[this.next++];
    const same =
      expected?.kind === kind &&
      expected.address === BigInt.asUintN(64, address) &&
      expected.length === length;
    if (same) return expected;
    if (kind !== 'fence') this.log.add(kind, address, length, null, 0);
    throw new Strayed();
  }
}

export function v8Machine(): ReplayMachine {
  const memory = new RecordedMemory();
  return {
    create({ kind, config }) {
      return new Cage(kind, memory, config);
    },
    run(_cage, { parsed }, call) {
      memory.begin(parsed);
      try {
        call();
      } catch (error) {
        if (!(error instanceof Strayed)) throw error;
      }
      return memory.log.entries();
    },
    close() {},
  };
}

const LOG_SLACK_BYTES = 0x10000; // for accesses that the recording does not have

/**
 * Native cages over memory of the recorded size, with their own checks of every access. What a read
 * found when it was recorded is put there just before it is made again: in a cell other CPUs run
 * on during a call, so that one place may have held two things in the course of it.
 */
export function nativeMachine(memoryBytes: number): ReplayMachine {
  const memory = native.shim().createMemory(memoryBytes);
  const capacities = new WeakMap<Cage, number>();
  const reserve = (cage: Cage, bytes: number): void => {
    if ((capacities.get(cage) ?? 0) >= bytes) return;
    cage.native?.logAccesses(2 * bytes);
    capacities.set(cage, 2 * bytes);
  };
  return {
    create({ kind, config }) {
      return new Cage(kind, memory, config);
    },
    run(cage, { accesses }, call) {
      reserve(cage, accesses.length + LOG_SLACK_BYTES);
      const traced = cage.native as native.NativeCage;
      traced.serveAccesses(accesses);
      call();
      return traced.takeAccesses();
    },
    close() {
      memory.close();
    },
  };
}
