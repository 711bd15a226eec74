// How long does a stock kernel take to user space, under Faraday and under QEMU's microvm?
// Both boot the same kernel and initramfs with the same command line, in turn, inside the nested
// lab: what counts is the ratio. Then: where Faraday's time goes.
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { commandLine } from '../host/boot/cmdline.ts';
import { FaradayError } from '../host/errors.ts';
import { extractKernel } from '../host/kernel/extract.ts';
import { runInLab } from '../test/lab/lab.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { run as runTool } from '../tools/command.ts';
import { kernelFiles } from '../tools/distribution.ts';
import { copyProgram } from '../tools/program.ts';
import { makeInitramfs } from '../tools/rootfs.ts';

const LOUD_RUNS = 3; // with all kernel messages on the console
const QUIET_RUNS = 5;
const TIME_LIMIT_SECONDS = 400;
const FOLDER = join(REPOSITORY, 'build/bench/boot');

const GUEST_INIT = `#!/bin/sh
echo 'USER SPACE'
exec poweroff -f
`;

interface Sample {
  kind: string; // warmup, loud, quiet
  monitor: string; // faraday, microvm
  firstLine: number; // of the kernel; NaN where it is quiet; all in milliseconds from the start
  init: number; // 'Run /init'
  userSpace: number; // the guest's first line of its own
  end: number;
}

interface Measured {
  samples: Sample[];
  firstInstructions: number[]; // one for each of Faraday's runs, the warm-up first
  node: number[]; // an empty script
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

async function prepare(): Promise<void> {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  copyProgram(join(FOLDER, 'program'));
  const { kernel } = await extractKernel((await kernelFiles('cloud')).image);
  writeFileSync(join(FOLDER, 'vmlinux'), kernel);
  await makeInitramfs(join(FOLDER, 'initramfs'), { init: GUEST_INIT });
  const source = fileURLToPath(new URL('stopwatch.c', import.meta.url));
  await runTool('gcc', ['-O2', '-static', '-o', join(FOLDER, 'stopwatch'), source]);
  copyFileSync(new URL('boot.sh', import.meta.url), join(FOLDER, 'boot.sh'));
}

function parse(output: string): Measured {
  const measured: Measured = { samples: [], firstInstructions: [], node: [] };
  for (const line of output.trim().split('\n')) {
    const [kind, ...rest] = line.split(' ');
    if (kind === 'first') {
      measured.firstInstructions.push(Number(rest[0]));
    } else if (kind === 'node') {
      measured.node.push(Number(rest[0]));
    } else {
      const [firstLine, init, userSpace, end, status] = rest.slice(1).map(Number);
      if (status !== 0 || Number.isNaN(userSpace)) {
        throw new FaradayError('internal', `boot: '${line}': a guest did not come up`);
      }
      const times = { firstLine: firstLine!, init: init!, userSpace: userSpace!, end: end! };
      measured.samples.push({ kind: kind!, monitor: rest[0]!, ...times });
    }
  }
  return measured;
}

/** Prints one kind's comparison. */
function compare({ samples }: Measured, kind: string, title: string): void {
  const of = (monitor: string) =>
    samples
      .filter((sample) => sample.kind === kind && sample.monitor === monitor)
      .map((sample) => sample.userSpace);
  const row = (name: string, times: number[]) => {
    const figures = [median(times), Math.min(...times), Math.max(...times)];
    const text = figures.map((ms) => (ms / 1000).toFixed(2).padStart(8)).join('');
    process.stdout.write(`  ${name.padEnd(14)}${text}\n`);
  };
  process.stdout.write(`${title}, seconds: median, least, most of ${of('faraday').length}\n`);
  row('Faraday', of('faraday'));
  row('QEMU microvm', of('microvm'));
  const ratio = median(of('faraday')) / median(of('microvm'));
  process.stdout.write(`  ratio ${ratio.toFixed(2)}\n\n`);
}

/** Prints where Faraday's time goes, from the runs whose kernel tells of itself. */
function breakDown({ samples, firstInstructions, node }: Measured): void {
  const faraday = samples.filter((sample) => sample.monitor === 'faraday');
  const loud = faraday
    .map((sample, index) => ({ ...sample, first: firstInstructions[index]! }))
    .filter((sample) => sample.kind === 'loud');
  const nodeStart = median(node);
  const rows: [string, number][] = [
    ['Node, an empty script', nodeStart],
    ['loading', median(loud.map((sample) => sample.first)) - nodeStart],
    ["guest before its kernel's first line", median(loud.map((s) => s.firstLine - s.first))],
    ['kernel', median(loud.map((sample) => sample.init - sample.firstLine))],
    ['user space, to its first line', median(loud.map((s) => s.userSpace - s.init))],
  ];
  process.stdout.write("where Faraday's time goes, with kernel messages, milliseconds\n");
  for (const [name, milliseconds] of rows) {
    process.stdout.write(`  ${name.padEnd(38)}${milliseconds.toFixed(0).padStart(7)}\n`);
  }
}

/** Measures in the lab and prints the tables; raw samples stay in build/bench/boot.json. */
export async function run(): Promise<void> {
  await prepare();
  const counts = [String(LOUD_RUNS), String(QUIET_RUNS)];
  const result = await runInLab({
    command: ['bash', 'boot.sh', process.execPath, commandLine({}), ...counts],
    workFolder: FOLDER,
    timeoutSeconds: TIME_LIMIT_SECONDS,
    onNote: (text) => process.stderr.write(`${text}\n`),
    onOutput: () => process.stderr.write('.'),
  });
  process.stderr.write('\n');
  if (result.labDied || result.timedOut || result.status !== 0) {
    throw new FaradayError('host', `boot: the lab has no result: ${result.output}`);
  }
  const measured = parse(result.output);
  writeFileSync(join(REPOSITORY, 'build/bench/boot.json'), JSON.stringify(measured, null, 2));
  compare(measured, 'quiet', "process start to the guest's first line, quiet kernel");
  compare(measured, 'loud', "process start to the guest's first line, kernel messages on COM1");
  breakDown(measured);
}
