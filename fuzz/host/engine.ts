// Fuzzing of the host's parsers of untrusted files, guided by coverage, in this process.
// target.ts says what a target is, search.ts how it is searched, coverage.ts how the guide works.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { REPOSITORY } from '../../tools/cache.ts';
import { readInputs, saveInput } from './corpus.ts';
import { begin, Coverage } from './coverage.ts';
import { leastInputs } from './minimise.ts';
import { Search } from './search.ts';
import type { HostTarget, Parser } from './target.ts';
import { HOST_TARGETS } from './targets.ts';
import { type Crash, runAlone } from './verdict.ts';
import { wordsOf } from './words.ts';

export type { Crash, HostTarget };
export { HOST_TARGETS };

export interface Progress {
  ms: number; // since the start
  executions: number;
  edges: number; // blocks reached, see coverage.ts
  corpus: number; // inputs in it
  crashes: number;
}

export interface FuzzOptions {
  timeMs: number;
  executionsMax?: number; // ends the search as well
  seed: number;
  corpusFolder: string; // read, not written
  crashFolder: string; // made where a crash is found
  now: () => number; // milliseconds
  onProgress?: (line: Progress) => void; // about once a second
  onCrash?: (crash: SavedCrash) => void; // at once, when its file is there
}

export interface SavedCrash {
  file: string; // TARGET-HASH.bin
  message: string; // one line
}

export interface FuzzOutcome {
  executions: number;
  history: Progress[]; // a line for each time something new was reached, and the last
  crashes: SavedCrash[];
  added: Uint8Array[]; // inputs that reached something new: for minimiseHostCorpus()
  missing: string[]; // blocks never reached: file and the beginning of the code
}

const PROGRESS_MS = 1000;

export function hostTarget(name: string): HostTarget | undefined {
  return HOST_TARGETS.find((target) => target.name === name);
}

function coverageOf(target: HostTarget): Coverage {
  const urls = new Set(target.sources.map((path) => pathToFileURL(join(REPOSITORY, path)).href));
  return new Coverage((url) => urls.has(url.split('?', 1)[0]));
}

async function loaded<T>(target: HostTarget, use: (parser: Parser) => T): Promise<T> {
  begin();
  const parser = await target.load();
  try {
    return use(parser);
  } finally {
    parser.close?.();
  }
}

function searchFor(search: Search, options: FuzzOptions, line: () => Progress): Progress[] {
  const { timeMs, executionsMax = Infinity, now, onProgress } = options;
  const started = now();
  const history = [line()];
  for (let told = started; now() - started < timeMs && search.executions < executionsMax; ) {
    if (search.step()) history.push(line());
    if (now() - told < PROGRESS_MS) continue;
    told = now();
    onProgress?.(line());
  }
  return [...history, line()];
}

/** Searches a target until the time is over; each crash is saved shrunk, one of each kind. */
export async function fuzzHost(target: HostTarget, options: FuzzOptions): Promise<FuzzOutcome> {
  const { seed, corpusFolder, crashFolder, now, onCrash } = options;
  return loaded(target, (parser) => {
    const started = now();
    const coverage = coverageOf(target);
    const crashes: SavedCrash[] = [];
    const search = new Search({
      target,
      parser,
      coverage,
      seed,
      words: [...wordsOf(target.sources), ...(parser.dictionary ?? [])],
      onCrash({ message }, input) {
        const saved = { file: saveInput(crashFolder, input, `${target.name}-`), message };
        crashes.push(saved);
        onCrash?.(saved);
      },
    });
    search.begin([...parser.seeds(), ...readInputs(corpusFolder)]);
    const history = searchFor(search, options, () => {
      const { executions, corpusSize: corpus } = search;
      const edges = coverage.blocksReached();
      return { ms: now() - started, executions, edges, corpus, crashes: crashes.length };
    });
    const { executions, added } = search;
    return { executions, history, crashes, added, missing: coverage.missing() };
  });
}

/** Runs each file once more; the crash of each, or null where it is fine. */
export async function replayHost(
  target: HostTarget,
  files: readonly string[],
): Promise<{ file: string; crash: Crash | null }[]> {
  return loaded(target, (parser) => {
    return files.map((file) => {
      const crash = runAlone(target, parser, new Uint8Array(readFileSync(file)));
      return { file, crash };
    });
  });
}

/** The fewest and smallest of `inputs` that reach what all of them do beside the seeds. */
export async function minimiseHostCorpus(
  target: HostTarget,
  inputs: readonly Uint8Array[],
): Promise<Uint8Array[]> {
  return loaded(target, (parser) => leastInputs(target, parser, coverageOf(target), inputs));
}
