// A search on a device target with several workers: each a process with a seed of its own; what one
// finds the others get. The answer is what all of them found.
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import type { Program } from './program.ts';
import type { Crash } from './session.ts';
import type { WorkerNews } from './worker.ts';

export interface SearchOptions {
  target: string;
  timeMs: number;
  seed: number;
  workers: number;
  corpus: Program[];
  onProgress: (point: Point) => void;
}

/** How far a search is. */
export interface Point {
  ms: number;
  executions: number;
  edges: number;
  corpus: number; // programs found beyond the corpus that the search began with
  crashes: number;
}

export interface SearchResult {
  points: Point[];
  programs: Program[]; // all that were new to some worker
  crashes: Crash[];
  coverage: Uint8Array;
  failed: FaradayError | null; // a worker that died ended the search, with what it had
}

class Search {
  readonly result: SearchResult;
  private readonly options: SearchOptions;
  private readonly workers: ChildProcess[] = [];
  private readonly executions: number[] = [];
  private readonly started = process.uptime() * 1000;
  private readonly seen = new Set<string>();

  constructor(options: SearchOptions) {
    this.options = options;
    this.result = {
      points: [],
      programs: [],
      crashes: [],
      coverage: new Uint8Array(0),
      failed: null,
    };
  }

  async run(): Promise<void> {
    const { workers } = this.options;
    try {
      await Promise.all(Array.from({ length: workers }, (_, index) => this.start(index)));
    } catch (error) {
      this.stop();
      if (!(error instanceof FaradayError)) throw error;
      this.result.failed = error;
    }
  }

  stop(): void {
    for (const worker of this.workers) worker.kill('SIGKILL');
  }

  private start(index: number): Promise<void> {
    const { target, timeMs, seed, corpus } = this.options;
    const worker = fork(join(import.meta.dirname, 'worker-process.ts'), [], {
      execArgv: ['--import', 'tsx'],
      serialization: 'advanced',
    });
    this.workers.push(worker);
    this.executions.push(0);
    worker.on('message', (news: WorkerNews) => this.hear(index, news));
    worker.send({ order: { target, timeMs, seed: seed + index, corpus } });
    return new Promise((resolve, reject) => {
      const fail = (how: string): void => {
        reject(new FaradayError('internal', `a worker of the search ended with ${how}`));
      };
      worker.on('error', ({ message }) => fail(message));
      worker.once('exit', (status, signal) => {
        const end = () => (status === 0 ? resolve() : fail(signal ?? `status ${status}`));
        // What it told last may still be on its way.
        if (worker.connected) worker.once('disconnect', end);
        else end();
      });
    });
  }

  private hear(index: number, news: WorkerNews): void {
    const { result, options } = this;
    this.executions[index] = news.progress.executions;
    result.coverage = union(result.coverage, news.coverage);
    const fresh = news.programs.filter((program) => this.isNew(program));
    result.programs.push(...fresh);
    for (const crash of news.crashes) {
      if (!result.crashes.some(({ kind }) => kind === crash.kind)) result.crashes.push(crash);
    }
    this.workers.forEach((worker, other) => {
      if (other !== index && fresh.length > 0 && worker.connected) worker.send({ programs: fresh });
    });
    const point: Point = {
      ms: process.uptime() * 1000 - this.started,
      executions: this.executions.reduce((sum, count) => sum + count, 0),
      edges: result.coverage.reduce((count, classes) => count + (classes ? 1 : 0), 0),
      corpus: result.programs.length,
      crashes: result.crashes.length,
    };
    result.points.push(point);
    options.onProgress(point);
  }

  private isNew({ variant, bytes }: Program): boolean {
    const key = `${variant} ${Buffer.from(bytes).toString('base64')}`;
    if (this.seen.has(key)) return false;
    this.seen.add(key);
    return true;
  }
}

function union(one: Uint8Array, other: Uint8Array): Uint8Array {
  return one.length === 0 ? other : one.map((classes, edge) => classes | other[edge]);
}

/** Runs a search to its end; an interrupt ends it with what it has. */
export async function search(options: SearchOptions): Promise<SearchResult> {
  const running = new Search(options);
  let interrupt = (): void => {};
  const interrupted = new Promise<void>((resolve) => {
    interrupt = () => {
      running.stop();
      resolve();
    };
  });
  process.once('SIGINT', interrupt);
  await Promise.race([running.run(), interrupted]);
  process.off('SIGINT', interrupt);
  return running.result;
}
