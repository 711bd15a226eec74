// How fast is a guest's network, under Faraday and under QEMU's microvm?
// The same kernel, driver and load against a tap of the host, in turn, inside the nested lab: each
// monitor's own way through user space beside the other's, and the kernel's (vhost-net) likewise.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine } from '../host/boot/cmdline.ts';
import { FaradayError } from '../host/errors.ts';
import { openModuleFolder, readModule } from '../host/kernel/module-folder.ts';
import { kernelFiles } from '../tools/distribution.ts';
import { makeRootDisk } from '../tools/rootfs.ts';
import { type GuestReport, parseGuests } from './parts/guests.ts';
import { benchInLab, compile, labFolder } from './parts/lab.ts';
import { keepRaw, median, printComparison, printLine, printRow } from './parts/samples.ts';

const ROUNDS = 5;
const ENOUGH_SECONDS = 350; // no round begins later: a busy machine gets fewer
const TIME_LIMIT_SECONDS = 500;
const ROOT_MIB = 32;
const HOST_ADDRESS = '10.0.0.1';
const GUEST_ADDRESS = '10.0.0.2';
const PREFIX_BITS = 24;

// The kernel's own initramfs loads no network driver for QEMU's guest: both get theirs here.
const MODULES = ['failover', 'net_failover', 'virtio_net'];

const GUEST_INIT = `#!/bin/sh
exec < /dev/console > /dev/console 2>&1
for module in ${MODULES.join(' ')}; do
  [ -e /sys/module/$module ] || insmod /modules/$module.ko
done
ip link set eth0 up
ip address add ${GUEST_ADDRESS}/${PREFIX_BITS} dev eth0 2> /dev/null
/netload load ${HOST_ADDRESS}
poweroff -f
`;

/** Who is measured, and against whom. */
const PAIRS: [id: string, name: string][][] = [
  [
    ['faraday tap', 'faraday, tap'],
    ['microvm off', 'QEMU microvm, tap, vhost=off'],
  ],
  [
    ['faraday vhost-net', 'faraday, vhost-net'],
    ['microvm on', 'QEMU microvm, tap, vhost=on'],
  ],
];

interface Load {
  id: string; // in the output of netload
  title: string;
  digits: number;
  unit: (count: number) => number; // of what netload counts
  one: string; // of those
}

const mebibytes = (bytes: number) => bytes / 2 ** 20;
const each = (count: number) => count;

const stream = { digits: 1, unit: mebibytes, one: 'a MiB' };
const datagrams = { digits: 0, unit: each, one: 'a datagram' };
const LOADS: Load[] = [
  { id: 'stream-out', title: 'TCP, guest to host: MiB/s', ...stream },
  { id: 'stream-in', title: 'TCP, host to guest: MiB/s', ...stream },
  { id: 'datagrams-out', title: 'UDP, 64 bytes, guest to host: /s', ...datagrams },
  { id: 'datagrams-in', title: 'UDP, 64 bytes, host to guest: /s', ...datagrams },
  { id: 'window-in', title: 'the same, as many as arrive: /s', ...datagrams },
  { id: 'round-trips', title: 'TCP, 1 byte and back: /s', ...datagrams, one: 'a round trip' },
];

interface Sample {
  monitor: string;
  round: number; // 0 is the warm-up
  load: string;
  count: number; // as netload has it
  microseconds: number;
  total: number; // with what came before and after that time
  processor: number[]; // microseconds for all of that: the guest, its monitor, the other end
}

interface Measured {
  samples: Sample[];
  reports: GuestReport[];
}

async function prepare(): Promise<void> {
  const folder = await labFolder('net');
  const program = join(folder, 'netload');
  await compile('netload', program);
  const files: Record<string, Uint8Array> = { netload: readFileSync(program) };
  const kernel = await kernelFiles('cloud');
  const modules = openModuleFolder(join(kernel.folder, 'lib/modules', kernel.release));
  for (const name of MODULES) {
    files[`modules/${name}.ko`] = (await readModule(modules, name)).bytes;
  }
  await makeRootDisk(join(folder, 'root.ext4'), ROOT_MIB, { init: GUEST_INIT, files });
  copyFileSync(new URL('net.sh', import.meta.url), join(folder, 'net.sh'));
}

function parse(output: string): Measured {
  const { samples, reports } = parseGuests(
    output,
    LOADS.map(({ id }) => id),
  );
  return {
    samples: samples.map(({ numbers, ...where }) => {
      const [count, microseconds, total, ...processor] = numbers;
      return { ...where, count: count!, microseconds: microseconds!, total: total!, processor };
    }),
    reports,
  };
}

/** One number per round; NaN where the guest did not get so far. */
function series(
  samples: Sample[],
  monitor: string,
  load: Load,
  pick: (sample: Sample) => number,
): number[] {
  const rounds = Math.max(...samples.map(({ round }) => round));
  return Array.from({ length: rounds }, (_, index) => {
    const found = samples.find((sample) => {
      return sample.monitor === monitor && sample.load === load.id && sample.round === index + 1;
    });
    return found ? pick(found) : Number.NaN;
  });
}

/** Who had the lab's processor, for each of what was moved. */
function printProcessor(samples: Sample[], load: Load, pair: readonly [string, string][]): void {
  printRow(`processor: microseconds ${load.one}`, ['guest', 'monitor', 'host']);
  for (const [id, name] of pair) {
    const figures = [0, 1, 2].map((party) => {
      const of = ({ processor, total }: Sample) => processor[party]! / load.unit(total);
      return median(series(samples, id, load, of)).toFixed(1);
    });
    printRow(name, figures);
  }
  printLine();
}

/** Measures in the lab and prints the tables; raw samples stay in build/bench/net.json. */
export async function run(): Promise<void> {
  await prepare();
  const root = { device: '/dev/vda', readOnly: true, filesystem: 'ext4' };
  const settings = [
    commandLine({ root }),
    ROUNDS,
    HOST_ADDRESS,
    GUEST_ADDRESS,
    PREFIX_BITS,
    ENOUGH_SECONDS,
  ];
  const output = await benchInLab({
    name: 'net',
    command: [
      ...['bash', 'net.sh', process.execPath, ...settings.map(String)],
      ...PAIRS.flatMap((pair) => pair.map(([id]) => id)),
    ],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
  const measured = parse(output);
  keepRaw('net', measured);
  if (measured.samples.length === 0) throw new FaradayError('internal', `net: ${output}`);
  printLine(`medians of up to ${ROUNDS} rounds; ratios are to the line below`);
  for (const load of LOADS) {
    for (const pair of PAIRS) {
      const contenders = pair.map(([id, name]) => {
        const rate = (sample: Sample) => (load.unit(sample.count) / sample.microseconds) * 1e6;
        return { name, values: series(measured.samples, id, load, rate) };
      });
      printComparison(load.title, contenders, contenders.at(-1)!, load.digits);
      printProcessor(measured.samples, load, pair);
    }
  }
}
