// How long does a guest take to its first byte, beside a Node that does nothing?
// Each in turn, so that a busy host slows all of them alike: what counts is the ratio.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from '../test/tiny-kernel.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { run as runTool } from '../tools/command.ts';

const ROUNDS = 40;
const WARM_UP = 3;
const FARADAY = join(REPOSITORY, 'bin/faraday.js');
const CELL = join(REPOSITORY, 'build/faraday-cell');

/** Milliseconds until the first byte on standard output, or the end where there is none. */
function firstByte(command: string, args: string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let elapsed = 0;
    const stop = (): void => {
      elapsed ||= performance.now() - start;
    };
    child.stdout.once('data', stop);
    child.once('error', reject);
    child.once('close', (status) => {
      stop();
      if (status === 0) resolve(elapsed);
      else reject(new Error(`${command} ended with status ${status}`));
    });
  });
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

/** Measures all in turn and prints a row for each. */
async function compare(programs: [string, string, string[]][], env: NodeJS.ProcessEnv) {
  const times = programs.map((): number[] => []);
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    for (const [index, [, command, args]] of programs.entries()) {
      const elapsed = await firstByte(command, args, env);
      if (round >= 0) times[index]!.push(elapsed);
    }
  }
  const base = median(times[0]!);
  const lines = programs.map(([name], index) => {
    const middle = median(times[index]!);
    const columns = [middle, Math.min(...times[index]!)].map((ms) => ms.toFixed(1).padStart(8));
    return `${name.padEnd(36)}${columns.join('')}${(middle / base).toFixed(2).padStart(8)}\n`;
  });
  const head = `${'milliseconds to the first byte'.padEnd(36)}  median     min   ratio\n`;
  process.stdout.write(`${head}${lines.join('')}`);
}

export async function run(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-start-'));
  try {
    const kernel = join(folder, 'kernel');
    const empty = join(folder, 'empty.js');
    const composed = join(folder, 'composed');
    writeFileSync(kernel, tinyKernel(print('x'), POWER_OFF, IDLE_FOR_EVER));
    writeFileSync(empty, '');
    const env = { ...process.env, XDG_CACHE_HOME: folder, XDG_DATA_HOME: folder };
    const node = process.execPath;
    const compose = [FARADAY, 'image', 'compose', '--kernel', kernel, '--out', composed];
    await runTool(node, compose, { env });
    const programs: [string, string, string[]][] = [
      ['node, an empty script', node, [empty]],
      ['faraday run', node, [FARADAY, '--kernel', kernel]],
      ['faraday run --engine v8', node, [FARADAY, '--engine', 'v8', '--kernel', kernel]],
      ['faraday-cell, a composed image', CELL, [composed]],
    ];
    await compare(programs, env);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
