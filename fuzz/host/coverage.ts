// Which parts of the parsers ran: V8's own precise block coverage, asked for through the inspector
// of this very process. V8 counts only in functions that it compiled after the counting began, so
// begin() comes before a target's modules are loaded.
//
// V8 reports a function as nested ranges with a count each, and leaves out a range whose count is
// that of the range around it. The same block therefore shows up in one take and not in the next:
// what is compared is not ranges but the characters of source that ran.

import { type Debugger, type Profiler, Session } from 'node:inspector';
import { setFlagsFromString } from 'node:v8';

type Taken = Profiler.TakePreciseCoverageReturnType;
type Source = Debugger.GetScriptSourceReturnType;

const SHOWN_CHARACTERS = 60;
const HELPER = /: (var __defProp|\(target,value\)=>__defProp)/; // of what strips the types

let session: Session | null = null;

function post(method: string, parameters: object = {}): unknown {
  let result: unknown;
  let failure: Error | null = null;
  // The session is this thread's own: it answers before post() returns.
  const done = (error: Error | null, answer: unknown): void => {
    failure = error;
    result = answer;
  };
  (session as { post(...args: unknown[]): void }).post(method, parameters, done);
  if (failure) throw failure;
  return result;
}

/** Starts counting, once for the process; without effect after the first time. */
export function begin(): void {
  if (session) return;
  // A function that the optimising compilers made does not count its calls, and V8 then drops what
  // its blocks counted: a parser that got warm would reach nothing new.
  for (const flag of ['--no-turbofan', '--no-maglev']) setFlagsFromString(flag);
  session = new Session();
  session.connect();
  // For the text of what was never reached. It stays on: off, it takes all counters with it.
  post('Debugger.enable');
  post('Profiler.enable');
  post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
}

/** The characters of one script that ran (1), did not run though their function was seen (0). */
type Marks = Uint8Array;

/** What ran between two takes, by script. */
export type Reached = Map<string, Marks>;

/** Ranges come outermost first, inner functions after those around them: later ones win. */
function marksOf(functions: Profiler.FunctionCoverage[]): Marks {
  let end = 0;
  for (const { ranges } of functions) end = Math.max(end, ranges[0].endOffset);
  const marks = new Uint8Array(end);
  for (const { ranges } of functions) {
    for (const { startOffset, endOffset, count } of ranges) {
      marks.fill(count > 0 ? 1 : 0, startOffset, endOffset);
    }
  }
  return marks;
}

/** Coverage of the sources whose URL `isWanted`, gathered over many takes. */
export class Coverage {
  private readonly isWanted: (url: string) => boolean;
  private readonly seen = new Map<string, Marks>();
  private readonly scripts = new Map<string, string>(); // V8's number of each
  private readonly blocks = new Map<string, Set<number>>(); // starts of all ranges ever reported

  constructor(isWanted: (url: string) => boolean) {
    this.isWanted = isWanted;
  }

  /** What ran since the last take, by anybody; counting starts again at zero. */
  take(): Reached {
    const { result } = post('Profiler.takePreciseCoverage') as Taken;
    const reached: Reached = new Map();
    for (const { url, functions, scriptId } of result) {
      if (functions.length === 0 || !this.isWanted(url)) continue;
      reached.set(url, marksOf(functions));
      this.scripts.set(url, scriptId);
      const starts = this.blocks.get(url) ?? new Set();
      this.blocks.set(url, starts);
      for (const { ranges } of functions) {
        for (const { startOffset } of ranges) starts.add(startOffset);
      }
    }
    return reached;
  }

  /** True where `reached` holds something that no merged take held. */
  hasNews(reached: Reached): boolean {
    for (const [url, marks] of reached) {
      const before = this.seen.get(url);
      if (!before || before.length < marks.length) return true;
      for (let at = 0; at < marks.length; at++) if (marks[at] > before[at]) return true;
    }
    return false;
  }

  merge(reached: Reached): void {
    for (const [url, marks] of reached) {
      const before = this.seen.get(url) ?? new Uint8Array(0);
      const length = Math.max(before.length, marks.length);
      const both = new Uint8Array(length);
      both.set(before);
      for (let at = 0; at < marks.length; at++) both[at] |= marks[at];
      this.seen.set(url, both);
    }
  }

  /** Blocks that ran at least once, of those that V8 ever told apart. */
  blocksReached(): number {
    return this.blocksIn(this.seen).length;
  }

  /** The blocks in `reached`, each as 'URL:offset'. */
  blocksIn(reached: Reached): string[] {
    return [...reached].flatMap(([url, marks]) => {
      const starts = [...(this.blocks.get(url) ?? [])];
      return starts.filter((start) => marks[start] === 1).map((start) => `${url}:${start}`);
    });
  }

  /** The blocks known and never reached: each as its file and the beginning of its code. */
  missing(): string[] {
    const found = [...this.blocks].flatMap(([url, starts]) => {
      const scriptId = this.scripts.get(url);
      const { scriptSource } = post('Debugger.getScriptSource', { scriptId }) as Source;
      const marks = this.seen.get(url) ?? new Uint8Array(0);
      const left = [...starts].filter((start) => marks[start] !== 1).sort((a, b) => a - b);
      const file = url.slice(url.indexOf('/host/') + 1);
      return left.map((at) => `${file}: ${scriptSource.slice(at, at + SHOWN_CHARACTERS)}`);
    });
    return found.map((text) => text.replace(/\s+/g, ' ')).filter((text) => !HELPER.test(text));
  }
}
