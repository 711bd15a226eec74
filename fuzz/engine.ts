// The fuzz machine (fuzz/machine/, one WebAssembly module with the instrumented core) from outside:
// programs go in, and what each one reached, broke or did comes out. fuzz/session.ts searches with
// it. Nothing here needs Node.
import * as abi from '../assembly/abi.ts';
import * as shared from './machine/shared.ts';
import type { Program } from './program.ts';
import { bringUp, type DeviceTarget, type Variant } from './targets.ts';
import type { Trace } from './trace.ts';

interface MachineExports {
  memory: WebAssembly.Memory;
  useVariant(which: number, size: number): void;
  takeSnapshot(which: number): void;
  loadSnapshot(which: number): void;
  atSnapshot(which: number): number;
  resetCoverage(edges: number): void;
  seed(value: number): void;
  setTarget(which: number): void;
  setCounts(corpus: number, dictionary: number): void;
  run(count: number): number;
  runProgram(): number;
  checkState(): number;
  traceProgram(): number;
  rewind(): void;
  takeExecutions(): number;
  takeComparisons(): number;
  violation(): number;
  violationAt(): bigint;
  violationDetail(): bigint;
  init(kind: number): number;
  write(offset: number, width: number, value: number): number;
}

/** The modules that tools/build-fuzz.ts makes of a core, and what it says of them. */
export interface FuzzModules {
  fast: WebAssembly.Module;
  compare: WebAssembly.Module | null; // looks at comparisons; none: the search does without
  edgeCount: number;
  fixedBlocks: readonly number[];
}

/** The modules with what build/fuzz-edges.json says of them. */
export function fuzzModules(
  fast: WebAssembly.Module,
  compare: WebAssembly.Module | null,
  { edges, fixedBlocks }: { edges: readonly unknown[]; fixedBlocks: readonly number[] },
): FuzzModules {
  return { fast, compare, edgeCount: edges.length, fixedBlocks };
}

/** What is wrong with a program: a broken rule, a trap, or another opinion of a judge. */
export interface Finding {
  kind: string; // 'trap', 'read', 'reference', ...: what stays the same while it is shrunk
  detail: string;
}

const RULES = [
  'none',
  'state-region',
  'no-access',
  'read',
  'write',
  'load',
  'store',
  'used-length',
  'used-head',
  'lost-head',
  'record',
  'steps',
  'effects',
  'fence',
  'state',
  'cancel',
] as const;

const hex = (value: bigint): string => `0x${BigInt.asUintN(64, value).toString(16)}`;

/** One instance of a fuzz module, set up for a target. */
export class Machine {
  readonly memory: Uint8Array;
  readonly view: DataView;
  private readonly exports: MachineExports;
  private readonly target: DeviceTarget;
  private readonly edgeCount: number;
  private variant = -1;

  constructor(module: WebAssembly.Module, modules: FuzzModules, target: DeviceTarget) {
    const instance = new WebAssembly.Instance(module, {});
    this.exports = instance.exports as unknown as MachineExports;
    this.target = target;
    this.edgeCount = modules.edgeCount;
    this.memory = new Uint8Array(this.exports.memory.buffer);
    this.view = new DataView(this.exports.memory.buffer);
    for (const block of modules.fixedBlocks) this.memory[shared.ALWAYS_DIRTY + block] = 1;
    this.exports.setTarget(target.generator);
    target.variants.forEach((variant, index) => {
      this.prepare(variant, index);
    });
    this.forgetCoverage();
  }

  /** Brings a device up and keeps it, with its guest's memory, as a starting point. */
  private prepare({ kind, config, queues }: Variant, index: number): void {
    const { memory, exports } = this;
    memory.fill(0, 0, abi.CAGE_MEMORY_BYTES);
    memory.fill(0, shared.RAM, shared.RAM + shared.RAM_BYTES);
    memory.set(config, abi.INBOX);
    const answer = exports.init(kind);
    if (answer !== abi.VALID) throw new Error(`${this.target.name}: init answers ${answer}`);
    if (queues) bringUp(queues, (register, value) => exports.write(register, 4, value));
    exports.takeSnapshot(index);
  }

  seed(value: number): void {
    this.exports.seed(value);
  }

  forgetCoverage(): void {
    this.exports.resetCoverage(this.edgeCount);
  }

  /** Which count classes of each edge were reached so far. */
  coverage(): Uint8Array {
    return this.memory.slice(shared.VIRGIN, shared.VIRGIN + this.edgeCount);
  }

  setCoverage(classes: Uint8Array): void {
    this.memory.set(classes, shared.VIRGIN);
  }

  use(variant: number): void {
    if (variant === this.variant) return;
    this.variant = variant;
    this.exports.useVariant(variant, this.target.variants[variant].queues?.size ?? 16);
  }

  /** Puts the corpus where programs are made from; only what is new since `from`. */
  setCorpus(corpus: readonly Program[], from: number): void {
    for (let index = from; index < corpus.length; index++) {
      this.memory.set(corpus[index].bytes, shared.CORPUS + index * shared.ENTRY_BYTES);
    }
  }

  setDictionary(values: readonly bigint[], corpusCount: number): void {
    values.forEach((value, index) => {
      this.view.setBigUint64(shared.DICTIONARY + 8 * index, value, true);
    });
    this.exports.setCounts(corpusCount, values.length);
  }

  /** The program that stands in the machine. */
  program(): Uint8Array {
    const count = this.view.getUint32(shared.PROGRAM + shared.ENTRY_COUNT, true);
    const end = shared.PROGRAM + shared.ENTRY_ACTIONS + count * shared.ACTION_BYTES;
    return this.memory.slice(shared.PROGRAM, end);
  }

  /** Makes and runs programs, up to `count` or the first that is new: RUN_*, or what is wrong. */
  search(count: number): number | Finding {
    return this.guarded(() => this.exports.run(count));
  }

  /** Runs one program: RUN_*, or what is wrong. */
  run(program: Program): number | Finding {
    this.load(program);
    return this.guarded(() => this.exports.runProgram());
  }

  /** After a run: whether the state that it ended in would be loaded again. */
  checkState(): number | Finding {
    return this.guarded(() => this.exports.checkState());
  }

  /** Whether the next run starts from the same memory as the first did. */
  checkRewind(): Finding | null {
    this.exports.rewind();
    if (this.exports.atSnapshot(this.variant)) return null;
    return { kind: 'reset', detail: 'a run left something behind that no store accounts for' };
  }

  /** Runs one program with a trace; null where it was too long for one, or ended in a finding. */
  trace(program: Program): Trace | null {
    this.load(program);
    let length = 0;
    const result = this.guarded(() => {
      length = this.exports.traceProgram();
      return shared.RUN_DONE;
    });
    if (length === 0 || typeof result !== 'number') return null;
    const events = new DataView(this.memory.buffer, shared.TRACE, length);
    return { events, accesses: this.memory.subarray(shared.ACCESSES), written: this.written() };
  }

  private written(): number[] {
    const addresses: number[] = [];
    const blocks = (shared.RAM + shared.RAM_BYTES) >> shared.DIRTY_SHIFT;
    for (let block = 0; block < blocks; block++) {
      const dirty = this.memory[shared.DIRTY + block] | this.memory[shared.ALWAYS_DIRTY + block];
      if (dirty) addresses.push(block << shared.DIRTY_SHIFT);
    }
    return addresses;
  }

  takeExecutions(): number {
    return this.exports.takeExecutions();
  }

  /** Operands of the last runs' comparisons that were not equal. */
  takeComparisons(): [bigint, bigint][] {
    const pairs: [bigint, bigint][] = [];
    const count = this.exports.takeComparisons();
    for (let index = 0; index < count; index++) {
      const at = shared.COMPARISONS + 16 * index;
      pairs.push([this.view.getBigUint64(at, true), this.view.getBigUint64(at + 8, true)]);
    }
    return pairs;
  }

  private load(program: Program): void {
    this.use(program.variant);
    this.memory.set(program.bytes, shared.PROGRAM);
  }

  private guarded(run: () => number): number | Finding {
    try {
      const answer = run();
      return answer === shared.RUN_VIOLATION ? this.violation() : answer;
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      const { variant } = this;
      this.variant = -1; // whatever the memory holds now: the next run starts from a whole copy
      const rule = this.exports.violation();
      const finding = rule ? this.violation() : { kind: 'trap', detail: error.message };
      this.use(variant);
      return finding;
    }
  }

  private violation(): Finding {
    const { exports } = this;
    const at = `${hex(exports.violationAt())}, ${hex(exports.violationDetail())}`;
    return { kind: RULES[exports.violation()] ?? 'unknown', detail: at };
  }
}
