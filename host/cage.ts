// A device in its cage: one instance of the core with the memory it reaches. Free of Node and of
// where the module comes from, so that browsers run it too; host/core.ts adds both. Policy (what a
// trap or an effect leads to) is the engine's: a trap leaves here as a WebAssembly.RuntimeError.
import * as abi from '../assembly/abi.ts';
import { FaradayError } from './errors.ts';
import type { GuestMemory } from './guest-memory.ts';
import { INCIDENT_NAMES, type IncidentName } from './incident-names.ts';

// --- The cage -----------------------------------------------------------------------------------

/** The exports of one instance of the core (docs/abi.md). Numbers are u32 both ways. */
export interface CoreExports {
  memory: { readonly buffer: ArrayBuffer }; // the cage is its first CAGE_MEMORY_BYTES
  init(kind: number): number;
  read(offset: number, width: number): number;
  write(offset: number, width: number, value: number): number;
  notify(queue: number): number;
  next(queue: number): number;
  complete(tag: number, result: number, bytes: number): number;
  input(length: number): number;
  reset(): number;
  check(): number;
  fail(): number;
}

/**
 * An instance of `module`, which is a build of the core, over guest memory. Throws a
 * WebAssembly.LinkError when the module wants other imports than the accessors.
 */
export function linkCore(
  module: WebAssembly.Module,
  guest: Pick<GuestMemory, 'importsFor'>,
): CoreExports {
  let view: DataView | undefined;
  const imports = { guest: guest.importsFor(() => view as DataView) };
  const instance = new WebAssembly.Instance(module, imports as WebAssembly.Imports);
  const core = instance.exports as unknown as CoreExports;
  // Never grows, so never detaches. An instrumented build has more memory behind the cage's own.
  view = new DataView(core.memory.buffer, 0, abi.CAGE_MEMORY_BYTES);
  return core;
}

/**
 * The size of the request record in a cage's memory. One that claims more than its place holds
 * comes from a broken cage, and is reported as a trap would be.
 */
export function recordBytes(cage: DataView): number {
  const inline =
    cage.getUint32(abi.REQUEST + abi.REQUEST_KIND, true) === abi.REQUEST_KIND_CONSOLE_OUT;
  const tail = inline
    ? cage.getUint32(abi.REQUEST + abi.REQUEST_LENGTH, true) +
      cage.getUint32(abi.REQUEST + abi.REQUEST_LENGTH + 4, true) * 2 ** 32
    : cage.getUint32(abi.REQUEST + abi.REQUEST_RANGE_COUNT, true) * abi.RANGE_STRIDE;
  const size = abi.REQUEST_RANGES + tail;
  if (size <= abi.REQUEST_BYTES_MAX) return size;
  throw new WebAssembly.RuntimeError(
    `request record of ${size} bytes, past ${abi.REQUEST_BYTES_MAX}`,
  );
}

/**
 * One device in one instance of the core. Every call that runs it returns effect bits
 * (abi.EFFECT_*) and throws a WebAssembly.RuntimeError where the core traps: then restart().
 * Offsets of registers are relative to the device's base; widths are in bytes.
 */
export class Cage {
  /** abi.KIND_*. */
  readonly kind: number;
  readonly #config: Uint8Array;
  readonly #core: CoreExports;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #pristine: Uint8Array;

  /**
   * Initialises a device of `kind` (KIND_*) in an instance whose memory is all zero. Throws an
   * internal error that names the answer of init() when the core refuses the configuration: never
   * the guest's doing.
   */
  constructor(kind: number, core: CoreExports, config: Uint8Array = new Uint8Array(0)) {
    this.kind = kind;
    this.#config = config.slice();
    this.#core = core;
    this.#view = new DataView(core.memory.buffer, 0, abi.CAGE_MEMORY_BYTES);
    this.#bytes = new Uint8Array(core.memory.buffer, 0, abi.CAGE_MEMORY_BYTES);
    this.#pristine = this.#bytes.slice();
    this.#init();
  }

  #init(): void {
    this.#bytes.set(this.#config, abi.INBOX);
    const answer = this.#core.init(this.kind);
    if (answer !== abi.VALID) {
      const what = `the core refuses a device of kind ${this.kind}: answer ${answer}`;
      throw new FaradayError('internal', what);
    }
  }

  /** Puts the instance back to its initial memory and initialises it again, as after a trap. */
  restart(): void {
    this.#bytes.set(this.#pristine);
    this.#init();
  }

  /** Reads a register of `width` bytes; then see value(). */
  read(offset: number, width: number): number {
    return this.#core.read(offset, width);
  }

  /** Writes a register of `width` bytes; more than 32 bits of value do not reach the core. */
  write(offset: number, width: number, value: number): number {
    return this.#core.write(offset, width, value);
  }

  /** Rings a queue's doorbell. */
  notify(queue: number): number {
    return this.#core.notify(queue);
  }

  /** Asks for the queue's next request (UART: next(0) fetches its output). */
  next(queue: number): number {
    return this.#core.next(queue);
  }

  /** Reports a request as done: RESULT_*, and the payload bytes written to guest memory. */
  complete(tag: number, result: number, bytes: number): number {
    return this.#core.complete(tag, result, bytes);
  }

  /** Hands input to the device; value() is the number of bytes it took. At most INBOX_BYTES. */
  input(bytes: Uint8Array): number {
    const offered = bytes.byteLength > abi.INBOX_BYTES ? bytes.subarray(0, abi.INBOX_BYTES) : bytes;
    this.#bytes.set(offered, abi.INBOX);
    return this.#core.input(offered.byteLength);
  }

  /** Tells an RTC the time, in Unix seconds. */
  inputTime(unixSeconds: number): number {
    this.#view.setUint32(abi.INBOX, unixSeconds % 2 ** 32, true);
    this.#view.setUint32(abi.INBOX + 4, Math.floor(unixSeconds / 2 ** 32), true);
    return this.#core.input(8);
  }

  /** Hardware reset; configuration and counters stay. */
  reset(): number {
    return this.#core.reset();
  }

  /** Re-validates the state: VALID or INVALID_*. */
  check(): number {
    return this.#core.check();
  }

  /** Marks a virtio device as in need of a reset by its driver. */
  fail(): number {
    return this.#core.fail();
  }

  /** The low 32 bits of what the last call left at OUTBOX_VALUE. */
  value(): number {
    return this.#view.getUint32(abi.OUTBOX_VALUE, true);
  }

  /** All 64 bits of it, for 8-byte reads. */
  value64(): bigint {
    return this.#view.getBigUint64(abi.OUTBOX_VALUE, true);
  }

  /** Shows the request record in the cage's own memory, without a copy: for recorders. */
  showRecord(take: (memory: Uint8Array, start: number, length: number) => void): void {
    take(this.#bytes, abi.REQUEST, recordBytes(this.#view));
  }

  /** A copy of the request record, cut to its size. */
  record(): Uint8Array {
    return this.#bytes.slice(abi.REQUEST, abi.REQUEST + recordBytes(this.#view));
  }

  /**
   * Appends the bytes of a CONSOLE_OUT record to `target` at `offset`; returns their number. A
   * record of another kind, or one that does not fit, is reported as a trap would be.
   */
  outputBytes(target: Uint8Array, offset: number): number {
    const length = recordBytes(this.#view) - abi.REQUEST_RANGES;
    const kind = this.#view.getUint32(abi.REQUEST + abi.REQUEST_KIND, true);
    if (kind !== abi.REQUEST_KIND_CONSOLE_OUT || offset + length > target.length) {
      throw new WebAssembly.RuntimeError(`record of kind ${kind} as console output`);
    }
    const from = abi.REQUEST + abi.REQUEST_RANGES;
    for (let i = 0; i < length; i++) target[offset + i] = this.#bytes[from + i];
    return length;
  }

  /** How often each incident happened. */
  counters(): Record<IncidentName, number> {
    const counts = {} as Record<IncidentName, number>;
    for (const [index, name] of INCIDENT_NAMES.entries()) {
      counts[name] = this.#view.getUint32(abi.COUNTERS + index * 4, true);
    }
    return counts;
  }

  /** A copy of the state region: everything there is to the device. */
  stateBytes(): Uint8Array {
    return this.#bytes.slice(abi.STATE, abi.STATE + abi.STATE_BYTES);
  }

  /**
   * Replaces the state region and has the core check it. Returns VALID or INVALID_*; after the
   * latter the device must not run before restart() or another restore().
   */
  restore(state: Uint8Array): number {
    if (state.byteLength !== abi.STATE_BYTES) {
      const what = `device state of ${state.byteLength} bytes instead of ${abi.STATE_BYTES}`;
      throw new FaradayError('internal', what);
    }
    this.#bytes.set(state, abi.STATE);
    // The core cannot know which device this cage is meant to be.
    if (this.#view.getUint32(abi.STATE_KIND, true) !== this.kind) return abi.INVALID_KIND;
    return this.#core.check();
  }
}
