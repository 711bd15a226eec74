// What does a guest with several processors cost?
// The same two jobs, computing and reading a disk, shared out on 1, 2 and 4 vCPUs, under Faraday
// and under QEMU's microvm, inside the nested lab. That has one processor: what shows is what more
// vCPUs cost, not what they bring.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine } from '../host/boot/cmdline.ts';
import { FaradayError } from '../host/errors.ts';
import { makeRootDisk } from '../tools/rootfs.ts';
import { benchInLab, compile, labFolder } from './parts/lab.ts';
import { keepRaw, median, printLine, printRow, ratioOf } from './parts/samples.ts';

const ROUNDS = 3;
const TIME_LIMIT_SECONDS = 330;
const ROOT_MIB = 32;
const VCPUS = [1, 2, 4];

const GUEST_INIT = `#!/bin/sh
exec < /dev/console > /dev/console 2>&1
/smpload /dev/vdb $(grep -c ^processor /proc/cpuinfo)
poweroff -f
`;

interface Sample {
  round: number;
  monitor: string;
  vcpus: number;
  computeSeconds: number;
  requestsPerSecond: number;
}

async function prepare(): Promise<void> {
  const folder = await labFolder('smp');
  const program = join(folder, 'smpload');
  await compile('smpload', program);
  const files = { smpload: readFileSync(program) };
  await makeRootDisk(join(folder, 'root.ext4'), ROOT_MIB, { init: GUEST_INIT, files });
  copyFileSync(new URL('smp.sh', import.meta.url), join(folder, 'smp.sh'));
}

function parse(output: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of output.replaceAll('\r', '').split('\n')) {
    const [first, ...rest] = line.split(' ');
    const last = samples.at(-1);
    if (first === 'guest') {
      const [round, monitor, vcpus] = rest;
      const jobs = { computeSeconds: Number.NaN, requestsPerSecond: Number.NaN };
      samples.push({ round: Number(round), monitor: monitor!, vcpus: Number(vcpus), ...jobs });
    } else if (first === 'compute') {
      last!.computeSeconds = Number(rest[0]) / 1e6;
    } else if (first === 'block') {
      last!.requestsPerSecond = (Number(rest[0]) / Number(rest[1])) * 1e6;
    }
  }
  return samples;
}

type Job = 'computeSeconds' | 'requestsPerSecond';

function printJob(samples: Sample[], job: Job, title: string, digits: number): void {
  const of = (monitor: string, vcpus: number) =>
    samples
      .filter((sample) => sample.monitor === monitor && sample.vcpus === vcpus)
      .map((sample) => sample[job]);
  printLine(title);
  printRow('', ['Faraday', 'QEMU', 'ratio', 'to 1 vCPU']);
  for (const vcpus of VCPUS) {
    const [ours, theirs] = [of('faraday', vcpus), of('microvm', vcpus)];
    printRow(`${vcpus} vCPU${vcpus > 1 ? 's' : ''}`, [
      median(ours).toFixed(digits),
      median(theirs).toFixed(digits),
      ratioOf(ours, theirs).toFixed(2),
      ratioOf(ours, of('faraday', 1)).toFixed(2),
    ]);
  }
  printLine();
}

/** Measures in the lab and prints the tables; raw samples stay in build/bench/smp.json. */
export async function run(): Promise<void> {
  await prepare();
  const root = { device: '/dev/vda', readOnly: true, filesystem: 'ext4' };
  const output = await benchInLab({
    name: 'smp',
    command: ['bash', 'smp.sh', process.execPath, commandLine({ root }), String(ROUNDS)],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
  const samples = parse(output);
  keepRaw('smp', samples);
  if (samples.length === 0) throw new FaradayError('internal', `smp: ${output}`);
  const lost = samples.filter((sample) => Number.isNaN(sample.requestsPerSecond)).length;
  if (lost > 0) printLine(`${lost} of ${samples.length} guests did not come up`);
  printJob(samples, 'computeSeconds', `seconds for the computation, ${ROUNDS} rounds`, 2);
  printJob(samples, 'requestsPerSecond', '4 KiB random reads a second, one process a vCPU', 0);
}
