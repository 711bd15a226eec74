// The typed seam to the core: the only importer of core.wasm. A Cage is one instance and holds one
// device. In V8 its imports reach guest-memory.ts; a native one is the same core as C, over the
// shim's guest memory. Policy (what a trap or an effect leads to) is the engine's: a trap of either
// leaves here as a WebAssembly.RuntimeError.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as abi from '../assembly/abi.ts';
import { FaradayError } from './errors.ts';
import type { GuestMemory } from './guest-memory.ts';
import { INCIDENT_NAMES, type IncidentName } from './incident-names.ts';
import { CAGE_TRAPPED, type NativeCage, type GuestMemory as NativeMemory } from './shim.ts';

export { INCIDENT_NAMES, type IncidentName };

// --- Device configurations ----------------------------------------------------------------------

export interface BlkConfig {
  capacityBytes: number; // a multiple of 512
  readOnly: boolean;
  id: string; // at most 20 bytes of ASCII are shown to the guest
  queueCount?: number; // 1
  queueSize?: number; // 256
  segMax?: number; // data segments in one request: queue size - 2
  sizeMax?: number; // bytes in one segment; 0: no limit
  blockSize?: number; // 512
  physicalBlockExp?: number; // log2 of logical blocks in a physical one
  alignmentOffset?: number; // logical blocks
  minIoSize?: number; // blocks
  optIoSize?: number; // blocks
  writeback?: boolean; // true
  discard?: boolean; // true; never offered by a read-only device
  writeZeroes?: boolean; // true; likewise
  maxDiscardSectors?: number;
  discardAlignment?: number; // sectors
  maxWriteZeroesSectors?: number;
}

// Two GiB less one page, in sectors: keeps one command's work and its length in signed 32 bits.
const MAX_DISCARD_SECTORS = 0x3ffff8;
// 64 MiB: where the file system cannot zero a range, it is written, and nothing interrupts that.
const MAX_WRITE_ZEROES_SECTORS = 0x20000;

/** The configuration bytes of a virtio-blk device, as init() takes them. */
export function encodeBlkConfig(config: BlkConfig): Uint8Array {
  const bytes = new Uint8Array(abi.BLK_CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  const queueSize = config.queueSize ?? abi.QUEUE_SIZE_MAX;
  let flags = config.readOnly ? abi.BLK_FLAG_RO : 0;
  if (config.writeback ?? true) flags |= abi.BLK_FLAG_WRITEBACK;
  if (!config.readOnly && (config.discard ?? true)) flags |= abi.BLK_FLAG_DISCARD;
  if (!config.readOnly && (config.writeZeroes ?? true)) flags |= abi.BLK_FLAG_WRITE_ZEROES;
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  const u16 = (offset: number, value: number): void => view.setUint16(offset, value, true);
  view.setBigUint64(abi.BLK_CONFIG_CAPACITY, BigInt(Math.floor(config.capacityBytes / 512)), true);
  u32(abi.BLK_CONFIG_FLAGS, flags);
  u32(abi.BLK_CONFIG_BLK_SIZE, config.blockSize ?? 512);
  u32(abi.BLK_CONFIG_SIZE_MAX, config.sizeMax ?? 0);
  u32(abi.BLK_CONFIG_SEG_MAX, config.segMax ?? queueSize - 2);
  view.setUint8(abi.BLK_CONFIG_PHYSICAL_BLOCK_EXP, config.physicalBlockExp ?? 0);
  view.setUint8(abi.BLK_CONFIG_ALIGNMENT_OFFSET, config.alignmentOffset ?? 0);
  u16(abi.BLK_CONFIG_MIN_IO_SIZE, config.minIoSize ?? 0);
  u32(abi.BLK_CONFIG_OPT_IO_SIZE, config.optIoSize ?? 0);
  u16(abi.BLK_CONFIG_QUEUE_COUNT, config.queueCount ?? 1);
  u16(abi.BLK_CONFIG_QUEUE_SIZE, queueSize);
  u32(abi.BLK_CONFIG_MAX_DISCARD_SECTORS, config.maxDiscardSectors ?? MAX_DISCARD_SECTORS);
  u32(abi.BLK_CONFIG_DISCARD_ALIGNMENT, config.discardAlignment ?? 8);
  u32(
    abi.BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
    config.maxWriteZeroesSectors ?? MAX_WRITE_ZEROES_SECTORS,
  );
  bytes.set(new TextEncoder().encode(config.id).subarray(0, abi.BLK_ID_BYTES), abi.BLK_CONFIG_ID);
  return bytes;
}

/** The configuration bytes of a virtio-rng device. */
export function encodeRngConfig(config: { queueSize?: number } = {}): Uint8Array {
  const bytes = new Uint8Array(abi.RNG_CONFIG_BYTES);
  new DataView(bytes.buffer).setUint16(abi.RNG_CONFIG_QUEUE_SIZE, config.queueSize ?? 64, true);
  return bytes;
}

// --- The cage -----------------------------------------------------------------------------------

interface CoreExports {
  memory: { readonly buffer: ArrayBuffer };
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

let compiled: WebAssembly.Module | undefined;

/** The bytes of build/core.wasm. */
export const coreBytes = () => readFileSync(join(import.meta.dirname, '../build/core.wasm'));

/** The compiled core, read from build/core.wasm at the first use. */
export function coreModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(coreBytes());
  return compiled;
}

function linkV8(guest: Pick<GuestMemory, 'importsFor'>): CoreExports {
  let view: DataView | undefined;
  const imports = { guest: guest.importsFor(() => view as DataView) };
  const instance = new WebAssembly.Instance(coreModule(), imports as WebAssembly.Imports);
  const core = instance.exports as unknown as CoreExports;
  view = new DataView(core.memory.buffer); // never grows, so never detaches
  return core;
}

/** The exports of a native cage, which take and trap as those of an instance in V8 do. */
function linkNative(cage: NativeCage): CoreExports {
  const checked = (answer: number): number => {
    if (answer === CAGE_TRAPPED) throw new WebAssembly.RuntimeError('the native cage trapped');
    return answer;
  };
  return {
    memory: { buffer: cage.memory },
    init: (kind) => checked(cage.init(kind >>> 0)),
    read: (offset, width) => checked(cage.read(offset >>> 0, width >>> 0)),
    write: (offset, width, value) => checked(cage.write(offset >>> 0, width >>> 0, value >>> 0)),
    notify: (queue) => checked(cage.notify(queue >>> 0)),
    next: (queue) => checked(cage.next(queue >>> 0)),
    complete: (tag, result, bytes) => checked(cage.complete(tag >>> 0, result >>> 0, bytes >>> 0)),
    input: (length) => checked(cage.input(length >>> 0)),
    reset: () => checked(cage.reset()),
    check: () => checked(cage.check()),
    fail: () => checked(cage.fail()),
  };
}

/** What a cage reaches, and by that its engine: the accessors in V8, or the shim's memory. */
export type CageMemory = Pick<GuestMemory, 'importsFor'> | NativeMemory;

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

/** One device in one instance of the core. Every call that runs it returns effect bits. */
export class Cage {
  readonly kind: number;
  readonly #config: Uint8Array;
  readonly #core: CoreExports;
  readonly #native: NativeCage | null;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #pristine: Uint8Array;

  /**
   * Instantiates and initialises a device of `kind` (KIND_*). Throws an internal error that
   * names the answer of init() when the core refuses the configuration: never the guest's doing.
   */
  constructor(kind: number, guest: CageMemory, config: Uint8Array = new Uint8Array(0)) {
    this.kind = kind;
    this.#config = config.slice();
    this.#native = 'createCage' in guest ? guest.createCage() : null;
    this.#core = this.#native ? linkNative(this.#native) : linkV8(guest as GuestMemory);
    this.#view = new DataView(this.#core.memory.buffer);
    this.#bytes = new Uint8Array(this.#core.memory.buffer);
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

  /** The shim's object behind a native cage, whose accesses can be logged. */
  get native(): NativeCage | null {
    return this.#native;
  }

  /** Gives a native cage back at once; in V8 the collector does. No call may follow. */
  close(): void {
    this.#native?.close();
  }

  /** Reads a register of `width` bytes; then see value(). */
  read(offset: number, width: number): number {
    return this.#core.read(offset, width);
  }

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
