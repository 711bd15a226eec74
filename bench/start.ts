// How long from the start of a process to the first byte of its guest?
// A guest of a few instructions sends one byte to COM1 and ends: on this machine's KVM, warm, the
// contenders in turn. Beside QEMU's microvm stands an empty Node script: `faraday run` cannot be
// faster than that. Then: where the time of `faraday run` goes.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import type { RunReport } from '../host/report.ts';
import { IDLE, kvmMissing, le } from '../test/bare-metal.ts';
import { POWER_OFF, print, TRIPLE_FAULT, tinyKernel } from '../test/tiny-kernel.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { run as runTool } from '../tools/command.ts';
import { compile } from './parts/lab.ts';
import {
  benchFolder,
  keepRaw,
  median,
  printComparison,
  printLine,
  printRow,
  ratioOf,
} from './parts/samples.ts';

const RUNS = 31;
const WARM_UP_RUNS = 3;
const FOLDER = benchFolder('start');
const FARADAY = join(REPOSITORY, 'bin/faraday.js');
const BIOS_BYTES = 65536;

/** The same work for every monitor: a byte, then the end in the way that the monitor knows. */
const GUEST = [print('!'), POWER_OFF, TRIPLE_FAULT];

// Everything off that the guest has no use for. A CPU model without `arch-capabilities`, which this
// QEMU cannot set where KVM itself runs in a guest.
const QEMU = [
  ...['qemu-system-x86_64', '-accel', 'kvm', '-cpu', 'host,arch-capabilities=off', '-M'],
  'microvm,acpi=off,pic=off,pit=off,rtc=off,x-option-roms=off,auto-kernel-cmdline=off',
  ...['-m', '128M', '-smp', '1', '-nodefaults', '-no-user-config', '-display', 'none'],
  ...['-no-reboot', '-serial', 'stdio'],
];

type Watched = 'byte' | 'end'; // its first byte, or its end
type Contender = [name: string, watched: Watched, ...command: string[]];

const TINY = join(FOLDER, 'tiny');
const COMPOSED = join(FOLDER, 'composed');
const SETTINGS = ['--kernel', TINY, '--cmdline-replace', 'none'];
const RUN = [process.execPath, FARADAY, 'run', ...SETTINGS];
const UNCONFINED = [
  ...['--seccomp', 'off', '--landlock', 'off', '--namespaces', 'off'],
  ...(process.geteuid?.() === 0 ? ['--user', '0:0'] : []),
];
const FIRMWARE = [
  ...['-bios', join(FOLDER, 'bios')],
  ...['-device', 'isa-debug-exit,iobase=0x600,iosize=1'], // its way to end
];
const CONTENDERS: Contender[] = [
  ['QEMU microvm', 'byte', ...QEMU, '-kernel', TINY],
  ['QEMU microvm, guest as its firmware', 'byte', ...QEMU, ...FIRMWARE],
  ['faraday run', 'byte', ...RUN],
  ['faraday-cell on a composed image', 'byte', join(REPOSITORY, 'build/faraday-cell'), COMPOSED],
  ['faraday run, no confinement', 'byte', ...RUN, ...UNCONFINED],
  [
    ...['faraday-cell, no confinement', 'byte', join(REPOSITORY, 'build/faraday-cell')],
    ...[COMPOSED, ...UNCONFINED],
  ] as Contender,
  ['an empty Node script, to its end', 'end', process.execPath, join(FOLDER, 'empty.cjs')],
  ['a Node script, to its first byte', 'byte', process.execPath, join(FOLDER, 'byte.cjs')],
  ['faraday --version, to its first byte', 'byte', process.execPath, FARADAY, '--version'],
];

/** A ROM that does the guest's work in real mode, from the reset vector on. */
function firmware(): Uint8Array {
  const rom = new Uint8Array(BIOS_BYTES);
  const program = BIOS_BYTES - 256;
  const reset = BIOS_BYTES - 16;
  const port = (number: number, value: number) => [0xba, ...le(number, 2), 0xb0, value, 0xee];
  rom.set([...port(0x3f8, 0x21), ...port(0x600, 0x34), ...IDLE], program);
  rom.set([0xe9, ...le(program - reset - 3, 2)], reset);
  return rom;
}

async function prepare(): Promise<void> {
  const missing = kvmMissing();
  if (missing) throw new FaradayError('host', `start: this machine runs no guest: ${missing}`);
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(TINY, tinyKernel(...GUEST));
  writeFileSync(join(FOLDER, 'bios'), firmware());
  writeFileSync(join(FOLDER, 'empty.cjs'), '');
  writeFileSync(join(FOLDER, 'byte.cjs'), "process.stdout.write('!');\n");
  const clock = "require('node:fs').writeSync(1, String(performance.now()));\n";
  writeFileSync(join(FOLDER, 'clock.cjs'), clock);
  await runTool(process.execPath, [FARADAY, 'image', 'compose', '--out', COMPOSED, ...SETTINGS]);
  await compile('stopwatch', join(FOLDER, 'stopwatch'));
}

/** Milliseconds from a command's start to what is watched. */
function measure(watched: Watched, command: string[]): number {
  const stopwatch = join(FOLDER, 'stopwatch');
  const { stdout, stderr } = spawnSync(stopwatch, ['-l', '10', '', '--', ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
  });
  const [byte, end, status] = stdout.split(' ').map(Number);
  const time = watched === 'byte' ? byte : end;
  if (time > 0 && status !== 255) return time;
  throw new FaradayError(
    'host',
    `start: '${command.join(' ')}': ${stdout.trim()} ${stderr.trim()}`,
  );
}

/** The same run with a report: the milliseconds between its phases. */
function measurePhases(): Record<string, number> {
  const path = join(FOLDER, 'report.json');
  const byte = measure('byte', [...RUN, '--report', path]);
  const { phases } = JSON.parse(readFileSync(path, 'utf8')) as RunReport;
  const clock = spawnSync(process.execPath, [join(FOLDER, 'clock.cjs')], { encoding: 'utf8' });
  const { composed, cellStarted, loaded, created, running } = phases;
  return {
    node: Number(clock.stdout),
    program: composed - Number(clock.stdout),
    spawn: cellStarted! - composed,
    load: loaded! - cellStarted!,
    create: created! - loaded!,
    console: running! - created!,
    rest: byte - running!,
  };
}

function printPhases(samples: Record<string, number>[], evaluation: number): void {
  const middle = (phase: string) => median(samples.map((sample) => sample[phase]!));
  printLine("where the time of 'faraday run' goes, milliseconds, by Node's clock");
  const row = (name: string, ms: number) => printRow(name, [ms.toFixed(2)]);
  row('Node, until its script runs', middle('node'));
  row('evaluating the program', evaluation);
  row('settings, own confinement, kernel, composing', middle('program') - evaluation);
  row("opening, spawning, to the cell's main()", middle('spawn'));
  row("the cell's confinement, loading guest memory", middle('load'));
  row('making the machine', middle('create'));
  row('the console, the threads', middle('console'));
  row("before Node's clock; the guest", middle('rest'));
}

/** Measures and prints the tables; raw samples stay in build/bench/start.json. */
export async function run(): Promise<void> {
  await prepare();
  const samples = CONTENDERS.map(([name]) => ({ name, values: [] as number[] }));
  const phases: Record<string, number>[] = [];
  for (let round = -WARM_UP_RUNS; round < RUNS; round++) {
    for (const [index, [, watched, ...command]] of CONTENDERS.entries()) {
      const time = measure(watched, command);
      if (round >= 0) samples[index]!.values.push(time);
    }
    const sample = measurePhases();
    if (round >= 0) phases.push(sample);
  }
  keepRaw('start', { samples, phases });
  const title = `milliseconds from process start to the guest's first byte, ${RUNS} runs in turn`;
  printComparison(title, samples, samples[0]!, 2);
  const valuesOf = (start: string) => samples.find(({ name }) => name.startsWith(start))!.values;
  const of = (start: string) => median(valuesOf(start));
  const cost = (on: string, off: string) => (of(on) - of(off)).toFixed(2);
  printLine(`confinement costs faraday run ${cost('faraday run', 'faraday run, no')} ms`);
  printLine(`and faraday-cell ${cost('faraday-cell on', 'faraday-cell, no')} ms\n`);
  const toNode = ratioOf(valuesOf('faraday run'), valuesOf('an empty Node script'));
  printLine(`faraday run against an empty Node script: ${toNode.toFixed(2)}\n`);
  printPhases(phases, of('faraday --version') - of('a Node script'));
}
