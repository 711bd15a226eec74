// How many requests does a guest's disk answer, under Faraday and under QEMU's microvm?
// The same kernel, drivers and image, warm in memory, in turn, inside the nested lab: its transfers
// cost next to nothing, so that what is measured is the monitor's own work for a request.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine } from '../host/boot/cmdline.ts';
import { FaradayError } from '../host/errors.ts';
import { makeRootDisk } from '../tools/rootfs.ts';
import { type GuestReport, parseGuests } from './parts/guests.ts';
import { benchInLab, compile, labFolder } from './parts/lab.ts';
import { keepRaw, median, printComparison, printLine, printRow } from './parts/samples.ts';

const ROUNDS = 7;
const TIME_LIMIT_SECONDS = 420;
const ROOT_MIB = 32;

const GUEST_INIT = `#!/bin/sh
exec < /dev/console > /dev/console 2>&1
/blockload /dev/vdb
poweroff -f
`;

const MONITORS: [id: string, name: string][] = [
  ['faraday sync', 'faraday, io-engine=sync'],
  ['faraday io_uring', 'faraday, io-engine=io_uring'],
  ['microvm', 'QEMU microvm, aio=io_uring'],
];
const LOADS: [id: string, title: string][] = [
  ['read-1', '4 KiB random reads, one at a time'],
  ['write-1', '4 KiB random writes, one at a time'],
  ['read-32', '4 KiB random reads, 32 at once'],
  ['write-32', '4 KiB random writes, 32 at once'],
  ['stream', '1 MiB reads in order'],
];

interface Sample {
  monitor: string;
  round: number; // 0 is the warm-up
  load: string;
  requests: number;
  microseconds: number;
  interrupts: number;
}

interface Measured {
  samples: Sample[];
  reports: GuestReport[];
}

async function prepare(): Promise<void> {
  const folder = await labFolder('block');
  const program = join(folder, 'blockload');
  await compile('blockload', program);
  const files = { blockload: readFileSync(program) };
  await makeRootDisk(join(folder, 'root.ext4'), ROOT_MIB, { init: GUEST_INIT, files });
  copyFileSync(new URL('block.sh', import.meta.url), join(folder, 'block.sh'));
}

function parse(output: string): Measured {
  const { samples, reports } = parseGuests(
    output,
    LOADS.map(([id]) => id),
  );
  return {
    samples: samples.map(({ numbers, ...where }) => {
      const [requests, microseconds, interrupts] = numbers;
      return {
        ...where,
        requests: requests!,
        microseconds: microseconds!,
        interrupts: interrupts!,
      };
    }),
    reports,
  };
}

/** One number per round; NaN where the guest did not get so far. */
function series({ samples }: Measured, monitor: string, load: string): Sample[] {
  const failed = { requests: Number.NaN, microseconds: 1, interrupts: 0 };
  return Array.from({ length: ROUNDS }, (_, index) => {
    const round = index + 1;
    const found = samples.find(
      (each) => each.monitor === monitor && each.load === load && each.round === round,
    );
    return found ?? { monitor, load, round, ...failed };
  });
}

function printLoad(measured: Measured, load: string, title: string): void {
  const contenders = MONITORS.map(([id, name]) => ({
    name,
    values: series(measured, id, load).map((each) => (each.requests / each.microseconds) * 1e6),
  }));
  printComparison(`${title}: requests a second`, contenders, contenders.at(-1)!, 0);
}

function printInterrupts(measured: Measured): void {
  printLine('interrupts of the disks for a request');
  printRow(
    '',
    LOADS.map(([id]) => id),
  );
  for (const [id, name] of MONITORS) {
    const figures = LOADS.map(([load]) => {
      const each = series(measured, id, load).map((one) => one.interrupts / one.requests);
      return median(each).toFixed(3);
    });
    printRow(name, figures);
  }
  printLine();
}

/** How often a guest's vCPU had to leave KVM for the disk's device, over the whole run. */
function printExits({ reports }: Measured): void {
  printLine("exits to the monitor for a request, the driver's start among them");
  for (const [id, name] of MONITORS) {
    const ratios = reports
      .filter(({ monitor }) => monitor === id)
      .map(({ report }) => {
        const disk = report.disks.at(-1)!;
        return (report.exits.byDevice[`disk:${disk.id}`] ?? 0) / disk.requests;
      });
    if (ratios.length > 0) printRow(name, [median(ratios).toFixed(4)]);
  }
}

/** Measures in the lab and prints the tables; raw samples stay in build/bench/block.json. */
export async function run(): Promise<void> {
  await prepare();
  const root = { device: '/dev/vda', readOnly: true, filesystem: 'ext4' };
  const output = await benchInLab({
    name: 'block',
    command: ['bash', 'block.sh', process.execPath, commandLine({ root }), String(ROUNDS)],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
  const measured = parse(output);
  keepRaw('block', measured);
  if (measured.samples.length === 0) throw new FaradayError('internal', `block: ${output}`);
  for (const [load, title] of LOADS) printLoad(measured, load, title);
  printInterrupts(measured);
  printExits(measured);
}
