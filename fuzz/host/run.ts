// Fuzzes a parser of the host: node --import tsx fuzz/host/run.ts TARGET [--time S] [--seed N]
// [--keep]: puts what it found, minimised, into fuzz/corpus/TARGET. Crashes go to build/fuzz.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { REPOSITORY } from '../../tools/cache.ts';
import { readInputs, replaceInputs } from './corpus.ts';
import {
  type FuzzOutcome,
  fuzzHost,
  HOST_TARGETS,
  hostTarget,
  minimiseHostCorpus,
  type Progress,
} from './engine.ts';

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

function tell({ ms, executions, edges, corpus, crashes }: Progress): void {
  const perSecond = Math.round((executions * 1000) / Math.max(1, ms));
  const counts = `${executions} executions, ${perSecond}/s, ${edges} blocks, corpus ${corpus}`;
  say(`${(ms / 1000).toFixed(0).padStart(5)} s  ${counts}, crashes ${crashes}`);
}

function tellOutcome({ history, missing }: FuzzOutcome): void {
  say(
    `blocks over time: ${history.map(({ ms, edges }) => `${Math.round(ms)}:${edges}`).join(' ')}`,
  );
  for (const block of missing) say(`not reached: ${block}`);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    time: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
  },
});
const target = hostTarget(positionals[0] ?? '');
if (!target) {
  say(`targets: ${HOST_TARGETS.map(({ name }) => name).join(', ')}`);
  process.exitCode = 2;
} else {
  const corpusFolder = join(REPOSITORY, 'fuzz/corpus', target.name);
  let told = -Infinity;
  const outcome = await fuzzHost(target, {
    timeMs: Number(values.time) * 1000,
    seed: Number(values.seed),
    corpusFolder,
    crashFolder: join(REPOSITORY, 'build/fuzz'),
    now: () => performance.now(),
    onCrash: ({ file, message }) => say(`CRASH ${file}: ${message}`),
    onProgress: (line) => {
      if (line.ms - told < 10_000) return;
      told = line.ms;
      tell(line);
    },
  });
  tell(outcome.history.at(-1)!);
  const { user, system } = process.cpuUsage();
  const cpuSeconds = (user + system) / 1e6;
  say(`${Math.round(outcome.executions / cpuSeconds)} executions per second of processor time`);
  tellOutcome(outcome);
  if (values.keep) {
    const inputs = [...readInputs(corpusFolder), ...outcome.added];
    const kept = await minimiseHostCorpus(target, inputs);
    replaceInputs(corpusFolder, kept);
    say(`kept ${kept.length} of ${inputs.length} inputs`);
  }
  process.exitCode = outcome.crashes.length > 0 ? 1 : 0;
}
