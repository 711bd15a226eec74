// `faraday net up` and `net down`: carrying out their commands, one process each, and taking back
// what was done when one fails.
import { spawnSync } from 'node:child_process';
import { FaradayError } from '../errors.ts';
import { readSmallFile } from '../small-file.ts';
import { PLAIN_ENVIRONMENT, readHostNetwork } from './links.ts';
import { type Plan, planDown, planUp, type Step, type UpRequest } from './net-plan.ts';
import { findProgram, type Program } from './program.ts';

type Command = Pick<Step, 'program' | 'words'>;

const LIMIT_MS = 20_000;
const CAP_NET_ADMIN = 12n; // linux/capability.h
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

// --- Commands -----------------------------------------------------------------------------------

const PLAIN_WORD = /^[\w./:=,@%+-]+$/;

/** A command as a shell takes it. */
export function commandLine({ program, words }: Command): string {
  const quoted = words.map((word) =>
    PLAIN_WORD.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`,
  );
  return [program, ...quoted].join(' ');
}

/** Runs a command: '' or what it says is wrong, in one line. */
function run({ program, words }: Command): string {
  const { status, stderr, error } = spawnSync(findProgram(program, "'faraday net'"), words, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: PLAIN_ENVIRONMENT,
    timeout: LIMIT_MS,
    encoding: 'utf8',
  });
  if (status === 0) return '';
  const lines = (stderr ?? '').split('\n').filter((line) => /[A-Za-z]/.test(line));
  return lines[0] ?? error?.message ?? 'it was stopped';
}

const failed = (command: Command, reason: string, after: string): FaradayError =>
  new FaradayError('host', `'${commandLine(command)}' failed: ${reason}; ${after}`);

/** Takes back what was done, the last first; returns the commands that failed. */
function undo(done: readonly Step[]): string[] {
  return [...done].reverse().flatMap(({ undo: back }) => {
    return back !== undefined && run(back) !== '' ? [commandLine(back)] : [];
  });
}

function runSteps(steps: readonly Step[]): void {
  const done: Step[] = [];
  for (const step of steps) {
    const reason = run(step);
    if (reason === '') done.push(step);
    else if (!step.mayFail || !/No such file/.test(reason)) {
      const left = undo(done);
      const after = left.length === 0 ? 'what was done before is undone' : `run ${left.join('; ')}`;
      throw failed(step, reason, after);
    }
  }
}

/** A signal ends the command that runs, which is then taken back like any that fails. */
function heldSignals<T>(body: () => T): T {
  const hold = () => {};
  for (const name of SIGNALS) process.on(name, hold);
  try {
    return body();
  } finally {
    for (const name of SIGNALS) process.off(name, hold);
  }
}

// --- What must be there -------------------------------------------------------------------------

function mayAdminister(): boolean {
  const status = readSmallFile('/proc/self/status') ?? '';
  const effective = /^CapEff:\s*([\da-f]+)$/m.exec(status)?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}

function checkAble(verb: string, steps: readonly Step[]): void {
  if (!mayAdminister()) {
    const what = `'faraday net ${verb}' changes this host's network, which takes root's rights`;
    throw new FaradayError(
      'host',
      `${what}; run it with sudo, or add --dry-run to see what it does`,
    );
  }
  const programs = new Set<Program>(steps.map(({ program }) => program));
  for (const program of programs) findProgram(program, `'faraday net ${verb}'`);
}

function isForwarding(): boolean {
  return (readSmallFile('/proc/sys/net/ipv4/ip_forward') ?? '').trim() === '1';
}

// --- The verbs ----------------------------------------------------------------------------------

/** Makes a tap, all of it or nothing. `dryRun`: only plans. Throws FaradayError. */
export function netUp(request: UpRequest, dryRun: boolean): Plan {
  const plan = planUp(request, readHostNetwork(), isForwarding());
  if (dryRun || plan.already) return plan;
  checkAble('up', plan.steps);
  heldSignals(() => runSteps(plan.steps));
  return plan;
}

/** Removes a tap, its rules, and its bridge where that is ours and empty. Throws FaradayError. */
export function netDown(name: string, dryRun: boolean): ReturnType<typeof planDown> {
  const plan = planDown(name, readHostNetwork());
  if (dryRun) return plan;
  checkAble('down', plan.steps);
  heldSignals(() => runSteps(plan.steps));
  return plan;
}
