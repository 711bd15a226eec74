// npm run fuzz -- TARGET [--time S] [--seed N] [--workers N]: fuzzes a target, or `all` of them in
// turn; `--replay FILE` runs one program again, `--save` puts the minimised corpus into the
// repository. docs/fuzzing.md.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { EXIT_USAGE, FaradayError } from '../host/errors.ts';
import {
  CORPUS_FOLDER,
  readCorpus,
  readPrograms,
  reportFolder,
  saveCrash,
  writePrograms,
  writeWhole,
} from './corpus.ts';
import { loadModules } from './load.ts';
import { plotEdges } from './plot.ts';
import { type Point, type SearchResult, search } from './search.ts';
import { type Crash, Session } from './session.ts';
import { DEVICE_TARGETS } from './targets.ts';
import { judgesOf } from './worker.ts';

interface Options {
  time: number; // seconds, for each target
  seed: number;
  workers: number;
  save?: boolean;
  replay?: string;
}

const SECONDS = 60;
const EXIT_CRASHES = 1;

function whole(name: string, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value > 0 && value <= most) return value;
    throw new FaradayError('bad-usage', `--${name} '${text}' is no whole number from 1 to ${most}`);
  };
}

function targetNames(word: string): string[] {
  const names = DEVICE_TARGETS.map(({ name }) => name);
  if (word === 'all') return names;
  if (names.includes(word)) return [word];
  throw new FaradayError('bad-usage', `no target '${word}'; there are all, ${names.join(', ')}`);
}

function describe({ ms, executions, edges, corpus, crashes }: Point): string {
  const rate = Math.round(executions / (ms / 1000));
  const found = `${edges} edges, ${corpus} programs found, ${crashes} crashes`;
  return `${(ms / 1000).toFixed(0)} s, ${executions} executions (${rate} a second), ${found}`;
}

function announce(crash: Crash): void {
  const path = saveCrash(crash);
  process.stdout.write(`${crash.target}: ${crash.kind} (${crash.detail}); saved as ${path}\n`);
}

/** Writes the report of a search: its corpus, its curve and the picture of it. */
function report(name: string, { points, programs }: SearchResult, save: boolean): void {
  const folder = reportFolder(name);
  mkdirSync(folder, { recursive: true });
  const target = DEVICE_TARGETS.find((each) => each.name === name)!;
  const corpus = [...readCorpus(name), ...programs];
  const session = new Session(loadModules(), target, { seed: 1, corpus, judges: [] });
  session.minimise();
  writePrograms(join(folder, 'corpus.txt'), session.corpus);
  writeWhole(join(folder, 'progress.json'), `${JSON.stringify(points)}\n`);
  writeFileSync(join(folder, 'edges.svg'), plotEdges(`${name}: edges reached`, [{ name, points }]));
  if (!save) return;
  session.minimise(true);
  mkdirSync(CORPUS_FOLDER, { recursive: true });
  writePrograms(join(CORPUS_FOLDER, `${name}.txt`), session.corpus);
}

async function fuzz(name: string, options: Options): Promise<number> {
  const live = process.stderr.isTTY;
  const result = await search({
    target: name,
    timeMs: options.time * 1000,
    seed: options.seed,
    workers: options.workers,
    corpus: readCorpus(name),
    onProgress: (point) => {
      if (live) process.stderr.write(`\r\x1b[K${name}: ${describe(point)}`);
    },
  });
  if (live) process.stderr.write('\r\x1b[K');
  result.crashes.forEach(announce);
  const last = result.points.at(-1);
  if (last) process.stdout.write(`${name}: ${describe(last)}; seed ${options.seed}\n`);
  report(name, result, options.save === true);
  return result.crashes.length;
}

/** Runs the programs of a file again and says what is wrong with each. */
function replay(name: string, path: string): number {
  if (!existsSync(path)) throw new FaradayError('bad-usage', `--replay '${path}' does not exist`);
  const target = DEVICE_TARGETS.find((each) => each.name === name)!;
  const session = new Session(loadModules(), target, {
    seed: 1,
    corpus: [],
    judges: judgesOf(name),
  });
  let crashes = 0;
  for (const program of readPrograms(path)) {
    const finding = session.examine(program);
    if (finding) crashes++;
    const verdict = finding ? `${finding.kind} (${finding.detail})` : 'nothing wrong';
    process.stdout.write(`${name}: ${verdict}\n`);
  }
  return crashes;
}

async function run(word: string, options: Options): Promise<void> {
  const names = targetNames(word);
  let crashes = 0;
  if (options.replay !== undefined) {
    if (word === 'all') throw new FaradayError('bad-usage', '--replay needs one target, not all');
    crashes = replay(word, options.replay);
  } else for (const name of names) crashes += await fuzz(name, options);
  if (crashes > 0) process.exitCode = EXIT_CRASHES;
}

function program(): Command {
  const lines = DEVICE_TARGETS.map(({ name, describe }) => `  ${name.padEnd(12)} ${describe}`);
  const positive = 2 ** 31 - 1;
  return new Command('fuzz')
    .description('Search for inputs that break a device model or a parser.')
    .argument('<target>', 'what to fuzz, or all')
    .option('--time <seconds>', 'how long, for each target', whole('time', 10 ** 6), SECONDS)
    .option(
      '--seed <n>',
      'where the search starts; worker i takes n + i',
      whole('seed', positive),
      1,
    )
    .option('--workers <n>', 'processes', whole('workers', 64), availableParallelism())
    .option('--replay <file>', 'run the programs of a file again instead')
    .option('--save', 'write the minimised corpus to fuzz/corpus')
    .addHelpText('after', `\nTargets:\n${lines.join('\n')}`)
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .action(run);
}

try {
  await program().parseAsync(process.argv);
} catch (error) {
  const usage = error instanceof CommanderError;
  if (!usage || error.exitCode !== 0) {
    const known = usage || error instanceof FaradayError;
    const message = known
      ? (error as Error).message.replace(/^error: /, '')
      : (error as Error).stack;
    process.stderr.write(`fuzz: ${message}\n`);
    process.exitCode = error instanceof FaradayError ? error.exitCode : EXIT_USAGE;
  }
}
