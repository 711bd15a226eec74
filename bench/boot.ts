// How long does a stock kernel take to user space, under Faraday and under QEMU's microvm?
// Each boots the same kernel and initramfs with the same command line, in turn, each guest in a
// nested lab of its own: what counts is the ratio. A second guest in the same lab would pay for the
// first, because the emulator keeps what it made of the first one's code and has to throw it away
// whenever the memory that held it is written. Then: where Faraday's time goes.
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine } from '../host/boot/cmdline.ts';
import type { Phases, RunReport } from '../host/report.ts';
import { findCommand } from '../tools/command.ts';
import { kernelFiles } from '../tools/distribution.ts';
import { makeInitramfs } from '../tools/rootfs.ts';
import { benchInLab, compile, labFolder } from './parts/lab.ts';
import { keepRaw, median, printComparison, printLine, printRow } from './parts/samples.ts';

const LOUD_RUNS = 3; // with all kernel messages on the console
const QUIET_RUNS = 5;
const TIME_LIMIT_SECONDS = 100;

const GUEST_INIT = `#!/bin/sh
echo 'USER SPACE'
exec poweroff -f
`;

const MONITORS: [id: string, name: string][] = [
  ['faraday', 'faraday run'],
  ['cell', 'faraday-cell on a composed image'],
  ['microvm', 'QEMU microvm'],
  ['kvmtool', 'kvmtool, with the bzImage'],
];

interface Sample {
  kind: string; // loud, quiet
  monitor: string;
  firstLine: number; // of the kernel; NaN where it is quiet; all in milliseconds from the start
  init: number; // 'Run /init'
  userSpace: number; // the guest's first line of its own
  end: number;
}

/** Phases of a guest that came up. */
type Reached = { [phase in keyof Phases]: number };

interface Measured {
  samples: Sample[];
  reports: { kind: string; report: RunReport }[]; // of Faraday's runs, in order
  node: number[]; // an empty script
}

async function prepare(): Promise<void> {
  const folder = await labFolder('boot');
  copyFileSync((await kernelFiles('cloud')).image, join(folder, 'bzimage'));
  await makeInitramfs(join(folder, 'initramfs'), { init: GUEST_INIT });
  await compile('stopwatch', join(folder, 'stopwatch'));
  copyFileSync(new URL('boot.sh', import.meta.url), join(folder, 'boot.sh'));
}

function parseSample(line: string): Sample {
  const [kind, monitor, ...times] = line.split(' ');
  const [firstLine, init, userSpace, end] = times.map(Number);
  const numbers = { firstLine: firstLine!, init: init!, userSpace: userSpace!, end: end! };
  return { kind: kind!, monitor: monitor!, ...numbers };
}

function parse(output: string): Measured {
  const measured: Measured = { samples: [], reports: [], node: [] };
  for (const line of output.replaceAll('\r', '').trim().split('\n')) {
    const [kind, second] = line.split(' ', 2);
    if (kind === 'node') {
      measured.node.push(Number(line.split(' ')[2]));
    } else if (kind === 'report') {
      const report = JSON.parse(line.slice(line.indexOf('{'))) as RunReport;
      measured.reports.push({ kind: second!, report });
    } else {
      measured.samples.push(parseSample(line));
    }
  }
  return measured;
}

/** Prints one kind's comparison. */
function compare({ samples }: Measured, kind: string, title: string): void {
  const contenders = MONITORS.map(([id, name]) => {
    const runs = samples.filter((sample) => sample.kind === kind && sample.monitor === id);
    return { id, name, values: runs.map((sample) => sample.userSpace / 1000) };
  }).filter(({ values }) => values.length > 0);
  const reference = contenders.find(({ id }) => id === 'microvm')!;
  const heading = `${title}, seconds, ${reference.values.length} runs of each in turn`;
  printComparison(heading, contenders, reference, 2);
}

/** Prints where the time of `faraday run` goes until the guest runs, then in a loud guest. */
function breakDown({ samples, reports, node }: Measured): void {
  const of = (kind: string) => {
    const runs = samples.filter((sample) => sample.kind === kind && sample.monitor === 'faraday');
    return runs.map((sample, index) => {
      const { report } = reports.filter((each) => each.kind === kind)[index]!;
      return { ...sample, ...(report.phases as Reached) };
    });
  };
  type Pick = (run: Sample & Reached) => number;
  const middle = (kind: string, pick: Pick) => median(of(kind).map(pick)).toFixed(0);
  const emptyNode = median(node);
  printLine("where the time of 'faraday run' goes, milliseconds: quiet, loud");
  const row = (name: string, pick: Pick, kinds = ['quiet', 'loud']) =>
    printRow(
      name,
      kinds.length === 2 ? kinds.map((kind) => middle(kind, pick)) : ['', middle('loud', pick)],
    );
  row('Node, the program, composing', (run) => run.composed);
  row('  an empty Node script, beside it', () => emptyNode);
  row('starting the cell', (run) => run.cellStarted - run.composed);
  row('loading guest memory', (run) => run.loaded - run.cellStarted);
  row('making the machine', (run) => run.created - run.loaded);
  row('the console, the threads', (run) => run.running - run.created);
  row('the guest, to its first line', (run) => run.userSpace - run.running);
  row("  of it before its kernel's first line", (run) => run.firstLine - run.running, ['loud']);
  row('  the kernel', (run) => run.init - run.firstLine, ['loud']);
  row('  user space', (run) => run.userSpace - run.init, ['loud']);
}

/** What one guest of one monitor prints, in a lab of its own. */
function boot(monitor: string, kind: string): Promise<string> {
  return benchInLab({
    name: 'boot',
    command: ['bash', 'boot.sh', process.execPath, commandLine({}), monitor, kind],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
}

/** Measures in the lab and prints the tables; raw samples stay in build/bench/boot.json. */
export async function run(): Promise<void> {
  await prepare();
  const monitors = MONITORS.map(([id]) => id).filter((id) => id !== 'kvmtool');
  if (findCommand('lkvm')) monitors.push('kvmtool');
  const output: string[] = [];
  for (const [kind, rounds] of Object.entries({ quiet: QUIET_RUNS, loud: LOUD_RUNS })) {
    for (let round = 0; round < rounds; round++) {
      for (const monitor of monitors) output.push(await boot(monitor, kind));
    }
  }
  const measured = parse(output.join(''));
  keepRaw('boot', measured);
  compare(measured, 'quiet', "process start to the guest's first line, quiet kernel");
  compare(measured, 'loud', "process start to the guest's first line, kernel messages on COM1");
  breakDown(measured);
}
