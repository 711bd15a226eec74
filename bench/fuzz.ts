// How many programs a second does the fuzzer run on the ring target, beside the same module as C?
//
// Both run the same instrumented module over the same corpus: driver, mutation, coverage and rules
// included. The third line is the whole search: with judges, corpus and what comparisons teach.
// Processor time, not wall time; medians.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readCorpus } from '../fuzz/corpus.ts';
import { loadModules } from '../fuzz/load.ts';
import { MEMORY_PAGES, RUN_VIOLATION, VIRGIN } from '../fuzz/machine/shared.ts';
import { Session } from '../fuzz/session.ts';
import { deviceTarget } from '../fuzz/targets.ts';
import { judgesOf } from '../fuzz/worker.ts';
import { translateCore } from '../tools/build-shim.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { median } from './parts/samples.ts';

const TARGET = 'ring';
const SAMPLES = 5;
const ROUNDS = 60; // of 64 times 64 programs
const WARM_UP_STEPS = 100; // of a search, so that its corpus is what a long one works on

const target = deviceTarget(TARGET);

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Programs a second of what `run` does with a session. */
function rateOf(session: Session, run: () => void): number {
  const before = session.progress.executions;
  const start = cpuSeconds();
  run();
  const elapsed = cpuSeconds() - start;
  return (session.progress.executions - before) / elapsed;
}

/** Compiles the module as C; returns the program. */
async function buildNative(): Promise<string> {
  const folder = join(REPOSITORY, 'build/fuzz-native');
  mkdirSync(folder, { recursive: true });
  const bytes = MEMORY_PAGES * 65536;
  writeFileSync(join(folder, 'abi.h'), `#define ABI_CAGE_MEMORY_BYTES ${bytes}\n`);
  await translateCore(join(REPOSITORY, 'build/fuzz.wasm'), join(folder, 'core_w2c.c'));
  const program = join(folder, 'fuzz-native');
  const headers = [`-I${folder}`, `-I${join(REPOSITORY, 'shim')}`];
  const source = join(REPOSITORY, 'bench/fuzz-native.c');
  execFileSync('gcc', ['-O2', '-D_GNU_SOURCE', ...headers, '-o', program, source]);
  return program;
}

function nativeRate(program: string, session: Session): number {
  const image = join(REPOSITORY, 'build/fuzz-native/image');
  const { memory, edgeCount, corpusCount, dictionaryCount } = session.image();
  writeFileSync(image, memory);
  const sizes = target.variants.map(({ queues }) => queues?.size ?? 16);
  const numbers = [target.generator, edgeCount, VIRGIN, corpusCount, dictionaryCount];
  const args = [...numbers, sizes.length, ...sizes, ROUNDS].map(String);
  return Number(execFileSync(program, [image, ...args]).toString());
}

export async function run(): Promise<void> {
  const program = await buildNative();
  const options = { seed: 1, corpus: readCorpus(TARGET) };
  const session = new Session(loadModules(), target, { ...options, judges: judgesOf(TARGET) });
  for (let step = 0; step < WARM_UP_STEPS; step++) session.step();
  const samples = Array.from({ length: SAMPLES }, () => ({
    v8: rateOf(session, () => {
      for (let round = 0; round < ROUNDS; round++) session.runBare();
    }),
    native: nativeRate(program, session),
    whole: rateOf(session, () => {
      for (let round = 0; round < ROUNDS; round++) session.step();
    }),
  }));
  if (session.crashes.length > 0) throw new Error('the search found something: nothing to measure');
  const of = (pick: (sample: (typeof samples)[number]) => number) => median(samples.map(pick));
  const [v8, native, whole] = [of((s) => s.v8), of((s) => s.native), of((s) => s.whole)];
  const { edges, corpus } = session.progress;
  console.log(
    `fuzz: ${TARGET}, ${corpus} programs in the corpus, ${edges} edges; programs a second`,
  );
  const row = (name: string, rate: number) => {
    const columns = [
      Math.round(rate).toString().padStart(10),
      (rate / native).toFixed(2).padStart(10),
    ];
    console.log(`${name.padEnd(34)}${columns.join('')}`);
  };
  console.log(`${''.padEnd(34)}${'programs/s'.padStart(10)}${'of C'.padStart(10)}`);
  row('as C, coverage and rules', native);
  row('V8, coverage and rules', v8);
  row('V8, with judges and corpus', whole);
}

if (RUN_VIOLATION !== 2) throw new Error('fuzz-native.c takes an answer past 1 for a violation');
