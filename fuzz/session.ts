// One search on one target: from a corpus, with a seed. The same seed, corpus and build find the
// same things in the same order. Nothing here needs Node.
import { type Finding, type FuzzModules, Machine } from './engine.ts';
import type { Judge } from './judge.ts';
import * as shared from './machine/shared.ts';
import { actionCount, type Program, without } from './program.ts';
import type { DeviceTarget } from './targets.ts';

const SAMPLE = 64; // one program in as many goes to the judges
const DEEP = 8; // and one in as many of those is looked at with all of its state
const BATCH = 64; // rounds of SAMPLE programs on one variant
const CANDIDATES_MAX = 96; // programs tried for what one program's comparisons showed
const FINDINGS_MAX = 20; // of different kinds; after them the search is over

export interface Crash extends Finding {
  target: string;
  program: Program; // shrunk
}

export interface Progress {
  executions: number;
  judged: number;
  edges: number;
  corpus: number;
}

export interface SessionOptions {
  seed: number;
  corpus: readonly Program[];
  judges: readonly Judge[];
  stopAtFirst?: boolean; // finding, which is then not shrunk
}

export class Session {
  readonly target: DeviceTarget;
  readonly corpus: Program[] = [];
  readonly crashes: Crash[] = [];
  private readonly machine: Machine;
  private readonly compare: Machine | null;
  private readonly judges: readonly Judge[];
  private readonly stopAtFirst: boolean;
  private readonly dictionary: bigint[] = [];
  private known: Uint8Array; // count classes that the corpus reaches
  private executions = 0;
  private judged = 0;
  private turn = 0;
  private replaced = 0; // values of the dictionary that gave way to newer ones
  private fresh: Program[] = []; // found by this search since it was last asked

  constructor(modules: FuzzModules, target: DeviceTarget, options: SessionOptions) {
    this.target = target;
    this.judges = options.judges;
    this.stopAtFirst = options.stopAtFirst === true;
    this.machine = new Machine(modules.fast, modules, target);
    this.compare = modules.compare ? new Machine(modules.compare, modules, target) : null;
    this.machine.seed(options.seed);
    this.known = this.machine.coverage();
    for (const program of options.corpus) this.consider(program);
  }

  get progress(): Progress {
    this.executions += this.machine.takeExecutions();
    const edges = this.known.reduce((count, classes) => count + (classes ? 1 : 0), 0);
    return { executions: this.executions, judged: this.judged, edges, corpus: this.corpus.length };
  }

  /** The count classes of each edge that the corpus reaches. */
  get coverage(): Uint8Array {
    return this.known;
  }

  get over(): boolean {
    return this.crashes.length >= (this.stopAtFirst ? 1 : FINDINGS_MAX);
  }

  /** Runs some thousand programs. */
  step(): void {
    const { machine, target } = this;
    const variant = this.turn++ % target.variants.length;
    machine.use(variant);
    machine.setDictionary(this.dictionary, this.corpus.length);
    for (let round = 0; round < BATCH && !this.over; round++) {
      const answer = machine.search(SAMPLE);
      const program = { variant, bytes: machine.program() };
      if (typeof answer !== 'number') this.found(answer, program);
      else if (answer === shared.RUN_NEW) this.fresh.push(this.keep(program));
      else this.sample(program);
      machine.use(variant);
    }
  }

  /** As step(), but with nothing done about what is found: for measuring. */
  runBare(): void {
    this.machine.use(this.turn++ % this.target.variants.length);
    this.machine.setDictionary(this.dictionary, this.corpus.length);
    for (let round = 0; round < BATCH; round++) this.machine.search(SAMPLE);
  }

  /** What a machine needs to go on with this search elsewhere. */
  image(): { memory: Uint8Array; edgeCount: number; corpusCount: number; dictionaryCount: number } {
    const { machine, known, corpus, dictionary } = this;
    const counts = { corpusCount: corpus.length, dictionaryCount: dictionary.length };
    return { memory: machine.memory, edgeCount: known.length, ...counts };
  }

  /** Runs a program that came from elsewhere; keeps it where it reaches something new. */
  consider(program: Program): void {
    if (program.variant >= this.target.variants.length) return;
    const answer = this.machine.run(program);
    if (typeof answer !== 'number') this.found(answer, program);
    else if (answer === shared.RUN_NEW) this.keep(program);
    else this.sample(program);
  }

  /** The programs that this search found since the last time it was asked, as they were kept. */
  takeFresh(): Program[] {
    return this.fresh.splice(0);
  }

  /**
   * What is wrong with a program, or null; for the search nothing counts as reached by it.
   * Throws a SyntaxError where the target has no such variant.
   */
  examine(program: Program): Finding | null {
    const { name, variants } = this.target;
    if (program.variant >= variants.length) {
      throw new SyntaxError(
        `no variant ${program.variant}: ${name} has 0 to ${variants.length - 1}`,
      );
    }
    const answer = this.machine.run(program);
    const finding = typeof answer === 'number' ? this.judge(program, true) : answer;
    this.machine.setCoverage(this.known);
    return finding;
  }

  // --- What is new ------------------------------------------------------------------------------

  private keep(program: Program): Program {
    const trimmed = this.enter(program);
    this.machine.setDictionary(this.dictionary, this.corpus.length);
    const finding = this.judge(trimmed, true);
    if (finding) this.found(finding, trimmed);
    this.learn(trimmed);
    return trimmed;
  }

  /** Takes what is needed of a program that is new into the corpus; returns that. */
  private enter(program: Program): Program {
    const trimmed = this.trim(program);
    this.corpus.push(trimmed);
    if (this.corpus.length >= shared.CORPUS_MAX) this.minimise();
    // All of them needed: the machine goes on with the shorter half.
    if (this.corpus.length >= shared.CORPUS_MAX) this.corpus.length = shared.CORPUS_MAX / 2;
    this.machine.setCorpus(this.corpus, this.corpus.length - 1);
    return trimmed;
  }

  /** The program without what it does not need for what is new in it. */
  private trim(program: Program): Program {
    const { machine, known } = this;
    const reached = machine.coverage();
    const fresh = reached.map((classes, edge) => classes & ~known[edge]);
    let best = program;
    let bestCoverage = reached;
    for (let size = 8; size >= 1; size >>= 1) {
      for (let at = actionCount(best) - size; at >= 0; at--) {
        const candidate = without(best, at, size);
        machine.setCoverage(known);
        const answer = machine.run(candidate);
        if (typeof answer !== 'number') {
          this.found(answer, candidate);
          continue;
        }
        const coverage = machine.coverage();
        if (fresh.some((classes, edge) => (coverage[edge] & classes) !== classes)) continue;
        best = candidate;
        bestCoverage = coverage;
        at = Math.min(at, actionCount(best) - size + 1);
      }
    }
    this.known = bestCoverage;
    machine.setCoverage(bestCoverage);
    return best;
  }

  /** Tries what the program's comparisons looked for in place of what they found. */
  private learn(program: Program): void {
    const { compare } = this;
    if (!compare) return;
    compare.takeComparisons(); // of a bring-up, or of a run that trapped
    if (typeof compare.run(program) !== 'number') return;
    const pairs = compare.takeComparisons();
    let tried = 0;
    for (const [left, right] of pairs) {
      for (const [from, to] of [
        [left, right],
        [right, left],
      ]) {
        this.remember(to);
        if (tried >= CANDIDATES_MAX) continue;
        for (const candidate of replacements(program, from, to)) {
          tried++;
          const answer = this.machine.run(candidate);
          if (typeof answer !== 'number') this.found(answer, candidate);
          else if (answer === shared.RUN_NEW) this.fresh.push(this.enter(candidate));
        }
      }
    }
  }

  private remember(value: bigint): void {
    if (value < 16n || this.dictionary.includes(value)) return;
    const at = this.dictionary.length;
    if (at < shared.DICTIONARY_MAX) this.dictionary.push(value);
    else this.dictionary[this.replaced++ % at] = value;
  }

  // --- Judges -----------------------------------------------------------------------------------

  private sample(program: Program): void {
    const finding = this.judge(program, this.judged % DEEP === 0);
    if (finding) this.found(finding, program);
  }

  /** `deep`: looks at all of the state too, which costs as much as all the judges. */
  private judge(program: Program, deep: boolean): Finding | null {
    this.judged++;
    const trace = this.machine.trace(program);
    if (!trace) return null;
    for (const judge of this.judges) {
      const detail = judge.judge(trace, program.variant, this.machine.memory, deep);
      if (detail !== null) return { kind: judge.name, detail };
    }
    if (!deep) return null;
    // A state that was changed from outside may be refused, and rightly.
    const state = changesState(program) ? shared.RUN_DONE : this.machine.checkState();
    if (typeof state !== 'number') return state;
    return this.machine.checkRewind();
  }

  // --- Crashes ----------------------------------------------------------------------------------

  private found(finding: Finding, program: Program): void {
    if (this.crashes.some(({ kind }) => kind === finding.kind)) return;
    if (this.stopAtFirst) {
      this.crashes.push({ ...finding, target: this.target.name, program });
      return;
    }
    const shrunk = this.shrink(program, finding.kind);
    const again = this.examine(shrunk);
    this.crashes.push({ ...(again ?? finding), target: this.target.name, program: shrunk });
  }

  /** The smallest program found that is wrong in the same way. */
  private shrink(program: Program, kind: string): Program {
    let best = program;
    const better = (candidate: Program): boolean => {
      if (this.examine(candidate)?.kind !== kind) return false;
      best = candidate;
      return true;
    };
    for (let size = 16; size >= 1; size >>= 1) {
      for (let at = actionCount(best) - size; at >= 0; at--) {
        if (better(without(best, at, size))) at = Math.min(at, actionCount(best) - size + 1);
      }
    }
    for (let at = shared.ENTRY_ACTIONS; at < best.bytes.length; at++) {
      if (best.bytes[at] === 0 || at % shared.ACTION_BYTES === 0) continue;
      const bytes = best.bytes.slice();
      bytes[at] = 0;
      better({ ...best, bytes });
    }
    return best;
  }

  // --- Minimising -------------------------------------------------------------------------------

  /**
   * Keeps the programs that are needed for what the corpus reaches, short ones first; with
   * `edgesOnly`, for the edges that it reaches, however often.
   */
  minimise(edgesOnly = false): void {
    const { machine } = this;
    const shortFirst = [...this.corpus].sort((a, b) => a.bytes.length - b.bytes.length);
    machine.forgetCoverage();
    this.corpus.length = 0;
    let reached = machine.coverage();
    for (const program of shortFirst) {
      if (machine.run(program) !== shared.RUN_NEW) continue;
      const coverage = machine.coverage();
      const fresh = !edgesOnly || coverage.some((classes, edge) => classes && !reached[edge]);
      if (fresh) this.corpus.push(program);
      reached = coverage;
    }
    this.known = reached;
    machine.setCorpus(this.corpus, 0);
  }
}

function changesState(program: Program): boolean {
  const { bytes } = program;
  for (let at = shared.ENTRY_ACTIONS; at < bytes.length; at += shared.ACTION_BYTES) {
    if (bytes[at] === shared.OP_STATE) return true;
  }
  return false;
}

/** The programs that have `to` in one field that holds `from`. */
function* replacements(program: Program, from: bigint, to: bigint): Generator<Program> {
  const view = new DataView(program.bytes.buffer, program.bytes.byteOffset);
  const fields = [
    [shared.ACTION_B, 2],
    [shared.ACTION_C, 4],
    [shared.ACTION_D, 8],
  ] as const;
  for (let at = shared.ENTRY_ACTIONS; at < program.bytes.length; at += shared.ACTION_BYTES) {
    for (const [field, width] of fields) {
      const held =
        width === 8
          ? view.getBigUint64(at + field, true)
          : BigInt(
              width === 4 ? view.getUint32(at + field, true) : view.getUint16(at + field, true),
            );
      if (held !== from || (from === 0n && width !== 4)) continue;
      const bytes = program.bytes.slice();
      for (let byte = 0; byte < width; byte++)
        bytes[at + field + byte] = Number((to >> BigInt(8 * byte)) & 0xffn);
      yield { ...program, bytes };
    }
  }
}
