// npm run soak -- NAME ...: what the tests try a few times, many times.
//
//   kill [COUNT] [SEED]      host or cell killed at random moments: 50 times, seed 50
//   fuzz [SECONDS] [SEED]    every fuzz target, 600 seconds each
//   mutants [SECONDS] [SEED] bugs planted in the core, and how long each lives: 60 seconds at most
//   net                      the networks of boot-net.test.ts: longer floods, larger transfers
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from '../tools/cache.ts';
import { announcedIn, killScenarios, problemsOf } from './kills.ts';
import { outcomesOf } from './lab/scenarios.ts';
import { capture, mutantsPage } from './mutant-hunt.ts';
import { MUTANTS } from './mutants.ts';

const USAGE = 'usage: npm run soak -- kill|fuzz|mutants|net [COUNT or SECONDS] [SEED]\n';
const EXIT_USAGE = 2;

/** Prints a line for each kill; resolves to how many left something wrong behind. */
async function kill(count = 50, seed = 50): Promise<number> {
  const scenarios = killScenarios(count, seed);
  const outcomeOf = outcomesOf('soak-kill', scenarios);
  let bad = 0;
  let files = 0;
  for (const name of Object.keys(scenarios)) {
    const outcome = await outcomeOf(name);
    const problems = problemsOf(outcome);
    if (outcome.status === 0) files += announcedIn(outcome).length;
    if (problems.length > 0) bad++;
    process.stdout.write(`${name}: ${problems.join('; ') || 'ok'}\n`);
  }
  const totals = `${count} kills, ${files} files announced`;
  process.stdout.write(`seed ${seed}: ${totals}; ${bad} with something lost or left behind\n`);
  return bad;
}

/** Fuzzes every target in turn; the exit status says whether anything was found. */
async function fuzz(seconds = 600, seed = 1): Promise<number> {
  const options = ['--time', String(seconds), '--seed', String(seed)];
  const args = ['--import', 'tsx', join(REPOSITORY, 'fuzz/main.ts'), 'all', ...options];
  return spawnSync(process.execPath, args, { stdio: 'inherit' }).status ?? 1;
}

/** Hunts every planted bug and writes docs/mutants.md; resolves to how many nobody noticed. */
async function mutants(seconds = 60, seed = 1): Promise<number> {
  const captures = [];
  for (const mutant of MUTANTS) {
    const { by, seconds: lived } = await capture(mutant, seed, seconds);
    captures.push({ mutant, by, seconds: lived });
    process.stdout.write(`${mutant.id}: ${by || 'NOBODY'}, ${lived.toFixed(2)} s\n`);
  }
  const page = mutantsPage(captures, `npm run soak -- mutants ${seconds} ${seed}`);
  writeFileSync(join(REPOSITORY, 'docs/mutants.md'), page);
  const unseen = captures.filter(({ by }) => by === '').length;
  process.stdout.write(`${captures.length} bugs planted, ${unseen} unseen\n`);
  return unseen;
}

/** Runs the tests of networks at full length; the exit status says whether one failed. */
async function net(): Promise<number> {
  const args = ['--import', 'tsx', join(REPOSITORY, 'test/boot-net.test.ts')];
  const env = { ...process.env, FARADAY_NET_SOAK: '1' };
  return spawnSync(process.execPath, args, { stdio: 'inherit', env }).status ?? 1;
}

const SOAKS: Record<string, (count?: number, seed?: number) => Promise<number>> = {
  kill,
  fuzz,
  mutants,
  net,
};

async function main([name = '', ...words]: string[]): Promise<number> {
  const numbers = words.map(Number);
  const wrong = words.length > 2 || !numbers.every((number) => number > 0 && number < 2 ** 31);
  if (!Object.hasOwn(SOAKS, name) || wrong || !numbers.every(Number.isSafeInteger)) {
    process.stderr.write(USAGE);
    return EXIT_USAGE;
  }
  return (await SOAKS[name](...numbers)) > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
