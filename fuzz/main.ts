// npm run fuzz -- TARGET [--time S] [--seed N] [--workers N]: fuzzes a target, or `all` of them in
// turn; `--replay FILE` runs one program again, `--save` puts the minimised corpus into the
// repository. docs/fuzzing.md.
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
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
import { readInputs, replaceInputs } from './host/corpus.ts';
import {
  fuzzHost,
  HOST_TARGETS,
  hostTarget,
  minimiseHostCorpus,
  replayHost,
} from './host/engine.ts';
import { loadModules } from './load.ts';
import { plotEdges } from './plot.ts';
import type { Program } from './program.ts';
import { type Point, search } from './search.ts';
import { type Crash, Session } from './session.ts';
import { DEVICE_TARGETS, deviceTarget } from './targets.ts';
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
const REPLAY_BYTES_MAX = 64 << 20; // more than any corpus or input that a search keeps

function whole(name: string, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value > 0 && value <= most) return value;
    throw new FaradayError('bad-usage', `--${name} '${text}' is no whole number from 1 to ${most}`);
  };
}

const DEVICES = DEVICE_TARGETS.map(({ name }) => name);
const PARSERS = HOST_TARGETS.map(({ name }) => name);

function targetNames(word: string): string[] {
  const names = [...DEVICES, ...PARSERS];
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

/** Writes the curve of a search and the picture of it. */
function reportCurve(name: string, points: readonly Pick<Point, 'ms' | 'edges'>[]): void {
  const folder = reportFolder(name);
  mkdirSync(folder, { recursive: true });
  writeWhole(join(folder, 'progress.json'), `${JSON.stringify(points)}\n`);
  const series = [{ name, points: [...points] }];
  writeFileSync(join(folder, 'edges.svg'), plotEdges(`${name}: edges reached`, series));
}

/** Keeps what a search found, minimised; with `save` also for the repository. */
function keepCorpus(name: string, programs: readonly Program[], save: boolean): void {
  const target = deviceTarget(name);
  const corpus = [...readCorpus(name), ...programs];
  const session = new Session(loadModules(), target, { seed: 1, corpus, judges: [] });
  session.minimise();
  writePrograms(join(reportFolder(name), 'corpus.txt'), session.corpus);
  if (!save) return;
  session.minimise(true);
  mkdirSync(CORPUS_FOLDER, { recursive: true });
  writePrograms(join(CORPUS_FOLDER, `${name}.txt`), session.corpus);
}

const live = process.stderr.isTTY;
const clear = live ? '\r\x1b[K' : '';

function showProgress(name: string, point: Point): void {
  if (live) process.stderr.write(`${clear}${name}: ${describe(point)}`);
}

function showEnd(name: string, point: Point | undefined, seed: number): void {
  process.stderr.write(clear);
  if (point) process.stdout.write(`${name}: ${describe(point)}; seed ${seed}\n`);
}

async function fuzzDevice(name: string, options: Options): Promise<number> {
  const { time, seed, workers, save = false } = options;
  const { points, programs, crashes, failed } = await search({
    ...{ target: name, timeMs: time * 1000, seed, workers, corpus: readCorpus(name) },
    onProgress: (point) => showProgress(name, point),
  });
  showEnd(name, points.at(-1), seed);
  crashes.forEach(announce);
  reportCurve(name, points);
  keepCorpus(name, programs, save);
  if (failed) throw failed;
  return crashes.length;
}

/** A parser of the host is searched in this process: it counts what runs in it. */
async function fuzzParser(name: string, { time, seed, save }: Options): Promise<number> {
  const target = hostTarget(name)!;
  const corpusFolder = join(CORPUS_FOLDER, name);
  const { history, crashes, added } = await fuzzHost(target, {
    ...{ timeMs: time * 1000, seed, corpusFolder, crashFolder: reportFolder(name) },
    now: () => process.uptime() * 1000,
    onCrash: ({ file, message }) => {
      process.stdout.write(`${clear}${name}: ${message}; saved as ${file}\n`);
    },
    onProgress: (point) => showProgress(name, point),
  });
  showEnd(name, history.at(-1), seed);
  reportCurve(name, history);
  if (save) {
    const inputs = [...readInputs(corpusFolder), ...added];
    replaceInputs(corpusFolder, await minimiseHostCorpus(target, inputs));
  }
  return crashes.length;
}

function replayDevice(name: string, path: string): (string | null)[] {
  const options = { seed: 1, corpus: [], judges: judgesOf(name) };
  const session = new Session(loadModules(), deviceTarget(name), options);
  const programs = readPrograms(path);
  if (programs.length === 0) {
    throw new FaradayError('bad-usage', `--replay '${path}' holds no program`);
  }
  return programs.map((program) => {
    try {
      const finding = session.examine(program);
      return finding && `${finding.kind} (${finding.detail})`;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new FaradayError('bad-usage', `--replay '${path}': ${error.message}`);
    }
  });
}

/** Refuses what is no file, or too large for one that a search saved. */
function checkReplayFile(path: string): void {
  const wrong = (what: string) => new FaradayError('bad-usage', `--replay '${path}' ${what}`);
  const status = statSync(path, { throwIfNoEntry: false });
  if (!status) throw wrong('does not exist');
  if (!status.isFile()) throw wrong('is no file');
  if (status.size > REPLAY_BYTES_MAX) throw wrong(`is larger than ${REPLAY_BYTES_MAX} bytes`);
  try {
    readFileSync(path);
  } catch (error) {
    throw wrong(`cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

/** Runs the programs of a file again, or it as an input, and says what is wrong with each. */
async function replay(name: string, path: string): Promise<number> {
  checkReplayFile(path);
  const verdicts = DEVICES.includes(name)
    ? replayDevice(name, path)
    : (await replayHost(hostTarget(name)!, [path])).map(({ crash }) => crash?.message ?? null);
  for (const verdict of verdicts) {
    process.stdout.write(`${name}: ${verdict ?? 'nothing wrong'}\n`);
  }
  return verdicts.filter((verdict) => verdict !== null).length;
}

async function run(word: string, options: Options): Promise<void> {
  const names = targetNames(word);
  let crashes = 0;
  if (options.replay !== undefined) {
    if (word === 'all') throw new FaradayError('bad-usage', '--replay needs one target, not all');
    crashes = await replay(word, options.replay);
  } else {
    for (const name of names) {
      crashes += await (DEVICES.includes(name) ? fuzzDevice : fuzzParser)(name, options);
    }
  }
  if (crashes > 0) process.exitCode = EXIT_CRASHES;
}

function program(): Command {
  const lines = [...DEVICE_TARGETS, ...HOST_TARGETS].map(
    ({ name, describe }) => `  ${name.padEnd(12)} ${describe}`,
  );
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
    .option(
      '--workers <n>',
      'processes, for a device',
      whole('workers', 64),
      availableParallelism(),
    )
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
