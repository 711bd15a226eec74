// npm run soak -- NAME [COUNT] [SEED]: what the tests try a few times, many times.
//
//   kill    host or cell killed at random moments: 50 times, seed 50
import { announcedIn, killScenarios, problemsOf } from './kills.ts';
import { outcomesOf } from './lab/scenarios.ts';

const USAGE = 'usage: npm run soak -- kill [COUNT] [SEED]\n';
const COUNT = 50;
const SEED = 50;
const EXIT_USAGE = 2;

/** Prints a line for each kill; resolves to how many left something wrong behind. */
async function kill(count: number, seed: number): Promise<number> {
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

async function main(words: string[]): Promise<number> {
  const [name, count = COUNT, seed = SEED] = words;
  const numbers = [Number(count), Number(seed)] as const;
  if (name !== 'kill' || words.length > 3 || !numbers.every(Number.isSafeInteger)) {
    process.stderr.write(USAGE);
    return EXIT_USAGE;
  }
  return (await kill(...numbers)) > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
