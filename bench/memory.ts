// How much memory does a guest cost beside its own?
// What each process has for itself alone, with an idle guest of 128 MiB: a stock Linux inside the
// nested lab, and where this machine has KVM one of three instructions. Of three guests at once the
// first is left out: it pays for what the others share.
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine } from '../host/boot/cmdline.ts';
import { FaradayError } from '../host/errors.ts';
import { kvmMissing } from '../test/bare-metal.ts';
import { IDLE_FOR_EVER, print, tinyKernel } from '../test/tiny-kernel.ts';
import { makeInitramfs } from '../tools/rootfs.ts';
import { benchInLab, labFolder } from './parts/lab.ts';
import { keepRaw, median, printLine, printRow } from './parts/samples.ts';
import { privateBytes, privateBytesBesideGuest } from './parts/smaps.ts';

const GUEST_BYTES = 128 * 2 ** 20;
const TIME_LIMIT_SECONDS = 240;
const NUMBERS = [2, 3];
const MIB = 2 ** 20;

const GUEST_INIT = `#!/bin/sh
echo IDLE
while :; do sleep 1000; done
`;

const PROCESSES: [kind: string, program: string, name: string, hasGuest: boolean][] = [
  ['microvm', 'microvm', 'QEMU microvm', true],
  ['faraday', 'cell', 'faraday run: its cell', true],
  ['faraday', 'node', 'faraday run: Node', false],
  ['detach', 'cell', 'faraday run --detach: all of it', true],
  ['cell', 'cell', 'faraday-cell on a composed image', true],
];

type Sizes = Record<string, number[]>; // bytes, by name, one for each guest

function read(folder: string): Sizes {
  const sizes: Sizes = {};
  for (const [kind, program, name, hasGuest] of PROCESSES) {
    sizes[name] = NUMBERS.map((number) => {
      const path = join(folder, `${kind}-${number}-${program}.smaps`);
      const smaps = readFileSync(path, 'utf8');
      const bytes = hasGuest ? privateBytesBesideGuest(smaps, GUEST_BYTES) : privateBytes(smaps);
      if (bytes) return bytes;
      throw new FaradayError('internal', `memory: ${path}: no guest's memory is found`);
    });
  }
  return sizes;
}

function printSizes(title: string, sizes: Sizes): void {
  const reference = median(sizes['QEMU microvm']!);
  printLine(`${title}, MiB: the median, the ratio to QEMU`);
  for (const [name, values] of Object.entries(sizes)) {
    const bytes = median(values);
    printRow(name, [(bytes / MIB).toFixed(2), (bytes / reference).toFixed(3)]);
  }
  printLine();
}

async function prepare(): Promise<string> {
  const folder = await labFolder('memory');
  await makeInitramfs(join(folder, 'initramfs'), { init: GUEST_INIT });
  copyFileSync(new URL('memory.sh', import.meta.url), join(folder, 'memory.sh'));
  writeFileSync(join(folder, 'tiny'), tinyKernel(print('IDLE\n'), IDLE_FOR_EVER));
  return folder;
}

async function inLab(folder: string): Promise<Sizes> {
  const script = `cp -r program data initramfs memory.sh /tmp/ && cd /tmp &&
export XDG_DATA_HOME=/tmp/data
bash memory.sh "$1" stock data/faraday/kernels/stock/vmlinux initramfs "$2" /tmp/out
cp -r out ${folder}/`;
  await benchInLab({
    name: 'memory',
    command: ['bash', '-c', script, 'memory', process.execPath, `${commandLine({})} quiet`],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
  return read(join(folder, 'out'));
}

function natively(folder: string): Sizes | undefined {
  if (kvmMissing()) return undefined;
  const out = join(folder, 'native');
  const args = ['memory.sh', process.execPath, './tiny', './tiny', '', 'none', out];
  const { status, stderr } = spawnSync('bash', args, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new FaradayError('host', `memory: ${stderr}`);
  return read(out);
}

/** Measures and prints the tables; raw samples stay in build/bench/memory.json. */
export async function run(): Promise<void> {
  const folder = await prepare();
  const native = natively(folder);
  const lab = await inLab(folder);
  keepRaw('memory', { lab, native });
  printSizes('private memory beside an idle Linux of 128 MiB, in the lab', lab);
  if (native) printSizes('the same beside a guest that only halts, on this machine', native);
}
