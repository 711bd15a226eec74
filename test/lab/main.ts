// npm run lab -- [FLAGS] COMMAND...: see USAGE.
// Runs COMMAND in the nested lab and ends with its exit status (docs/lab.md).
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { FaradayError } from '../../host/errors.ts';
import { type LabOptions, runInLab } from './lab.ts';

const EXIT_TIMEOUT = 124; // as timeout(1) has it
const EXIT_DIED = 125; // no result: no command ends like this by itself

const USAGE =
  'usage: npm run lab -- [--memory MIB] [--cpus N] [--timeout SECONDS] [--work FOLDER] ' +
  '[--input FILE] -- COMMAND...';

/** A positive whole number of the flag `name`, or undefined where the flag is absent. */
function count(name: string, value: string | undefined): number | undefined {
  if (value !== undefined && !/^[1-9]\d{0,6}$/.test(value)) {
    throw new FaradayError('bad-usage', `--${name} '${value}': give a positive whole number`);
  }
  return value === undefined ? undefined : Number(value);
}

function readInput(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new FaradayError('bad-usage', `--input '${path}': ${(error as Error).message}`);
  }
}

/** Where the command begins: after `--`, or with the first word that belongs to no flag. */
function commandIndex(args: string[]): number {
  let index = 0;
  while (args[index]?.startsWith('--') && args[index] !== '--') {
    index += args[index]!.includes('=') ? 1 : 2;
  }
  return index;
}

function parseOptions(args: string[]): LabOptions {
  const flag = { type: 'string' } as const;
  const options = { memory: flag, cpus: flag, timeout: flag, work: flag, input: flag };
  const start = commandIndex(args);
  let parsed: ReturnType<typeof parseArgs<{ options: typeof options }>>;
  try {
    parsed = parseArgs({ args: args.slice(0, start), options });
  } catch (error) {
    throw new FaradayError('bad-usage', `${(error as Error).message}\n${USAGE}`);
  }
  const command = args.slice(args[start] === '--' ? start + 1 : start);
  if (command.length === 0) {
    throw new FaradayError('bad-usage', USAGE);
  }
  const { memory, cpus, timeout, work, input } = parsed.values;
  return {
    command,
    memoryMiB: count('memory', memory),
    cpus: count('cpus', cpus),
    timeoutSeconds: count('timeout', timeout),
    workFolder: work === undefined ? undefined : resolve(work),
    input: input === undefined ? undefined : readInput(input),
  };
}

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

// To exit, rather than to be killed, lets the lab remove its files.
for (const [name, number] of Object.entries(SIGNALS)) {
  process.once(name, () => process.exit(128 + number));
}
try {
  const result = await runInLab({
    ...parseOptions(process.argv.slice(2)),
    onOutput: (bytes) => process.stdout.write(bytes),
    onNote: (text) => process.stderr.write(`lab: ${text}\n`),
  });
  if (result.labDied) {
    process.stderr.write(`lab: died twice, there is no result; its kernel's last words:\n`);
    process.stderr.write(`${result.kernelLog}\n`);
  } else if (result.timedOut) {
    process.stderr.write('lab: the command was stopped at its time limit\n');
  }
  process.exitCode = result.labDied ? EXIT_DIED : result.timedOut ? EXIT_TIMEOUT : result.status;
} catch (error) {
  process.stderr.write(`lab: ${(error as Error).message}\n`);
  process.exitCode = error instanceof FaradayError ? error.exitCode : 5;
}
