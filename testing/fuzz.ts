// The fuzz engine (docs/fuzzing.md) for others' tests: searches for programs, of what a guest's
// driver and a host do, that break a device of the release core. Its modules come from wherever the
// caller has them; testing/node.ts adds the files of Node.
import { type FuzzModules, fuzzModules } from '../fuzz/engine.ts';
import { parseProgram, printProgram } from '../fuzz/program.ts';
import { ReferenceJudge } from '../fuzz/reference-judge.ts';
import { Session } from '../fuzz/session.ts';
import { DEVICE_TARGETS, deviceTarget } from '../fuzz/targets.ts';
import { FaradayError } from '../host/errors.ts';

/** What can be fuzzed, by name, with a line that says what it is. */
export const FUZZ_TARGETS: readonly { name: string; describe: string }[] = DEVICE_TARGETS.map(
  ({ name, describe }) => ({ name, describe }),
);

/** A program that broke a rule of the fuzzer's, or was answered otherwise by the reference. */
export interface FuzzFinding {
  /** The rule, 'trap', or 'reference'. */
  kind: string;
  /** Where: addresses and values of the rule, or the call whose answer differs. */
  detail: string;
  /** The program as text, shrunk: one action a line. */
  program: string;
}

/** The modules of the fuzzer. What loadFuzzer() resolves to. */
export class FuzzerModules {
  /** For the engine itself. */
  readonly modules: FuzzModules;

  constructor(modules: FuzzModules) {
    this.modules = modules;
  }

  /**
   * A search on one of FUZZ_TARGETS. The same seed and corpus find the same in the same order.
   * Throws FaradayError 'bad-usage' for a name that is none, and a SyntaxError, with the line, for
   * an entry of the corpus that is no program.
   */
  start(target: string, options: { seed?: number; corpus?: readonly string[] } = {}): Fuzzer {
    return new Fuzzer(this.modules, target, options);
  }
}

/** A search under way: FuzzerModules.start(). */
export class Fuzzer {
  readonly #session: Session;

  /** Begins as FuzzerModules.start() says. */
  constructor(
    modules: FuzzModules,
    target: string,
    { seed = 1, corpus = [] }: { seed?: number; corpus?: readonly string[] },
  ) {
    const names = FUZZ_TARGETS.map(({ name }) => name);
    if (!names.includes(target)) {
      const what = `no fuzz target '${target}': it is one of ${names.join(', ')}`;
      throw new FaradayError('bad-usage', what);
    }
    const found = deviceTarget(target);
    const judges = [new ReferenceJudge(found)];
    this.#session = new Session(modules, found, { seed, corpus: corpus.map(parseProgram), judges });
  }

  /** Runs at least `programs` more programs, unless too many kinds of findings end the search. */
  run(programs: number): void {
    const end = this.#session.progress.executions + programs;
    while (!this.#session.over && this.#session.progress.executions < end) this.#session.step();
  }

  /** Programs run so far. */
  get executions(): number {
    return this.#session.progress.executions;
  }

  /** Edges of the core's control flow reached so far. */
  get edges(): number {
    return this.#session.progress.edges;
  }

  /** Programs that reach all that was reached, as texts: a corpus for the next search. */
  get corpus(): string[] {
    return this.#session.corpus.map(printProgram);
  }

  /** What was found, one of each kind. */
  get findings(): FuzzFinding[] {
    return this.#session.crashes.map(({ kind, detail, program }) => {
      return { kind, detail, program: printProgram(program) };
    });
  }

  /** Runs one program: what is wrong with it, or null. Throws a SyntaxError where it is none. */
  examine(program: string): Omit<FuzzFinding, 'program'> | null {
    return this.#session.examine(parseProgram(program));
  }
}

/** How the files of the fuzzer are had, by their names. */
export type ReadFile = (name: string) => Promise<BufferSource>;

/** The fuzzer from files that `read` gives: fuzz.wasm, fuzz-compare.wasm and fuzz-edges.json. */
export async function readFuzzer(read: ReadFile): Promise<FuzzerModules> {
  const names = ['fuzz.wasm', 'fuzz-compare.wasm', 'fuzz-edges.json'];
  const [fast, compare, json] = await Promise.all(names.map(read));
  const modules = await Promise.all([fast, compare].map((bytes) => WebAssembly.compile(bytes)));
  const about = JSON.parse(new TextDecoder().decode(json));
  return new FuzzerModules(fuzzModules(modules[0], modules[1], about));
}

/**
 * The fuzzer of this package: its files are read in Node, fetched from beside this module in a
 * browser. Rejects with a FaradayError 'host' where they cannot be had.
 */
export function loadFuzzer(): Promise<FuzzerModules> {
  return readFuzzer(async (name) => {
    const url = new URL(`./${name}`, import.meta.url);
    try {
      const response = await fetch(url);
      if (response.ok) return await response.arrayBuffer();
      throw new Error(`status ${response.status}`);
    } catch (error) {
      throw new FaradayError('host', `the fuzzer: cannot get ${url}: ${(error as Error).message}`);
    }
  });
}
