// The typed seam to the core: the only importer of core.wasm. In V8 a cage's imports reach
// guest-memory.ts; a native one is the same core as C, over the shim's guest memory.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cage as AnyCage, type CoreExports, linkCore } from './cage.ts';
import type { GuestMemory } from './guest-memory.ts';
import { CAGE_TRAPPED, type NativeCage, type GuestMemory as NativeMemory } from './shim.ts';

let bytes: Uint8Array<ArrayBuffer> | undefined;
let compiled: WebAssembly.Module | undefined;

/** The bytes of the core: of build/core.wasm, read at the first use. */
export function coreBytes(): Uint8Array<ArrayBuffer> {
  bytes ??= readFileSync(join(import.meta.dirname, '../build/core.wasm'));
  return bytes;
}

/** The compiled core. */
export function coreModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(coreBytes());
  return compiled;
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

/** A cage of either engine, over the core that this package built. */
export class Cage extends AnyCage {
  /** The shim's object behind a native cage, whose accesses can be logged; null in V8. */
  readonly native: NativeCage | null;

  /** Instantiates and initialises a device of `kind` (KIND_*). Throws as the class above. */
  constructor(kind: number, guest: CageMemory, config?: Uint8Array) {
    const native = 'createCage' in guest ? guest.createCage() : null;
    const core = native ? linkNative(native) : linkCore(coreModule(), guest as GuestMemory);
    super(kind, core, config);
    this.native = native;
  }

  /** Gives a native cage back at once; in V8 the collector does. No call may follow. */
  close(): void {
    this.native?.close();
  }
}
