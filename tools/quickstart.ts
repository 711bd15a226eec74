// npm run quickstart: boots the distribution's own cloud kernel, unmodified, to user space with its
// root on a virtio disk, natively where KVM can, else in the nested lab (docs/lab.md).
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { checkHost } from '../host/host-check.ts';
import { storeFolder } from '../host/kernel/folders.ts';
import { importKernel } from '../host/kernel/import.ts';
import { storedKernel, storedNames } from '../host/kernel/store.ts';
import type { RunReport } from '../host/report.ts';
import { type LabOptions, type LabResult, runInLab } from '../test/lab/lab.ts';
import { cacheFolder, REPOSITORY } from './cache.ts';
import { kernelPackages } from './distribution.ts';
import { step } from './progress.mjs';
import { makeRootDisk } from './rootfs.ts';

const NATIVE_LIMIT_MILLISECONDS = 60_000; // a guest that has not ended by then never will
const GRACE_MILLISECONDS = 5_000;
const LAB_LIMIT_SECONDS = 240;
const DISK_MIB = 16;
const FOLDER = join(REPOSITORY, 'build/quickstart');
const FARADAY = join(REPOSITORY, 'bin/faraday.js');

const GUEST_INIT = `#!/bin/sh
while read -r device folder type options rest; do
  [ "$folder" = / ] && root=$device
done < /proc/mounts
[ "$root" = /dev/root ] && root=/dev/vda
driver=$(readlink "/sys/block/$(basename "$root")/device/driver")
echo "Linux $(uname -r), / is on $root, a $(basename "$driver") disk"
echo 'VM READY'
sync
poweroff -f
`;

function say(text: string): void {
  process.stderr.write(`quickstart: ${text}\n`);
}

/** Where the home folder cannot be written, kernels are stored in the cache's stand-in. */
function chooseStore(): void {
  try {
    mkdirSync(storeFolder(), { recursive: true });
    accessSync(storeFolder(), constants.W_OK);
  } catch {
    process.env.XDG_DATA_HOME = join(cacheFolder(), 'data');
    process.env.XDG_CACHE_HOME = join(cacheFolder(), 'extracted');
  }
}

/** The name of the stored kernel made of the package `file`, imported where it is not yet. */
async function kernelFrom(file: string): Promise<string> {
  const known = storedNames().find((name) => storedKernel(name)?.source === basename(file));
  if (known) {
    return known;
  }
  const { name } = await step('quickstart', 'importing the kernel', () =>
    importKernel({ source: file }),
  );
  return name;
}

/** Why this machine's KVM cannot run Linux, as far as can be seen without trying. */
function whyNotNative(): string | undefined {
  const miss = checkHost().find((line) => line.state === 'miss');
  return miss && `${miss.subject}: ${miss.finding}`;
}

function runArguments(kernel: string, disk: string, report: string): string[] {
  const settings = ['--kernel', kernel, '--rootfs', disk, '--memory', '128M', '--cpus', '1'];
  return ['run', ...settings, '--net-backend', 'none', '--boot-timer', '--report', report];
}

/** Boots on this machine's KVM. Returns Faraday's exit status, undefined after the time limit. */
async function bootNatively(kernel: string): Promise<number | undefined> {
  const args = runArguments(kernel, join(FOLDER, 'root.ext4'), join(FOLDER, 'report.json'));
  const child = spawn(process.execPath, [FARADAY, ...args], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  // Asked to end, it still writes its report, which tells what the guest was doing.
  const ask = setTimeout(() => child.kill('SIGTERM'), NATIVE_LIMIT_MILLISECONDS);
  const force = setTimeout(
    () => child.kill('SIGKILL'),
    NATIVE_LIMIT_MILLISECONDS + GRACE_MILLISECONDS,
  );
  const status = await new Promise<number | undefined>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? undefined));
  });
  clearTimeout(ask);
  clearTimeout(force);
  return status;
}

// $1 Node, $2 Faraday, $3 the stored kernel's folder; the rest are arguments of `faraday`.
// Files of the work folder cost many times those in /tmp.
const LAB_SCRIPT = `
node=$1 faraday=$2 stored=$3
shift 3
export XDG_DATA_HOME=/tmp/data
mkdir -p /tmp/data/faraday/kernels
cp -r "$stored" /tmp/data/faraday/kernels/
cp root.ext4 /tmp/
"$node" "$faraday" "$@"
status=$?
cp /tmp/report.json .
exit $status
`;

/** Runs the lab: progress until its first output, which is then shown live. */
async function showLab(options: LabOptions): Promise<LabResult> {
  let show = (_bytes: Uint8Array) => {};
  const early: Uint8Array[] = [];
  const begun = new Promise<void>((resolve) => {
    show = (bytes) => {
      early.push(bytes);
      resolve();
    };
  });
  const running = runInLab({ ...options, onOutput: (bytes) => show(bytes) });
  await step('quickstart', 'starting the nested lab', () => Promise.race([begun, running]));
  show = (bytes) => {
    process.stdout.write(bytes);
  };
  early.forEach(show);
  return running;
}

/** Boots in the nested lab. Returns Faraday's exit status. */
async function bootInLab(kernel: string): Promise<number> {
  const outside = '/run/lab/outside';
  const stored = `${outside}${join(storeFolder(), kernel)}`;
  const program = [process.execPath, `${outside}${FARADAY}`, stored];
  const settings = runArguments(kernel, '/tmp/root.ext4', '/tmp/report.json');
  // The emulated processor misreports its XSAVE sizes to nested guests (docs/lab.md): without this
  // their kernels fill the console with a warning.
  const args = [...settings, '--cmdline', 'noxsave'];
  const result = await showLab({
    command: ['bash', '-c', LAB_SCRIPT, 'quickstart', ...program, ...args],
    workFolder: FOLDER,
    timeoutSeconds: LAB_LIMIT_SECONDS,
    onNote: say,
  });
  if (result.labDied) {
    throw new FaradayError('host', `the nested lab died twice; ${result.kernelLog}`);
  }
  if (result.timedOut) {
    throw new FaradayError('host', `no end after ${LAB_LIMIT_SECONDS} s in the nested lab`);
  }
  return result.status;
}

/** Says how long the guest took, from its report. */
function conclude(): void {
  const report = JSON.parse(readFileSync(join(FOLDER, 'report.json'), 'utf8')) as RunReport;
  const { toMarker } = report.milliseconds;
  if (report.exit.cause !== 'power-off' || toMarker === null) {
    throw new FaradayError('internal', `the guest ended by '${report.exit.cause}'`);
  }
  const seconds = (toMarker / 1000).toFixed(2);
  process.stdout.write(`quickstart: the guest took ${seconds} s to reach user space\n`);
}

async function quickstart(): Promise<void> {
  chooseStore();
  mkdirSync(FOLDER, { recursive: true });
  rmSync(join(FOLDER, 'report.json'), { force: true });
  const packages = await step('quickstart', "getting the distribution's cloud kernel", () =>
    kernelPackages('cloud'),
  );
  const kernel = await kernelFrom(packages[0]!);
  await step('quickstart', 'making a root file system', () =>
    makeRootDisk(join(FOLDER, 'root.ext4'), DISK_MIB, { init: GUEST_INIT }),
  );
  let obstacle = whyNotNative();
  if (!obstacle) {
    say(`booting ${kernel}; what follows is the guest's console`);
    const status = await bootNatively(kernel);
    obstacle = status === 0 ? undefined : `its guest ended with status ${status ?? 'unknown'}`;
  }
  if (obstacle) {
    say(`this machine's KVM cannot run Linux (${obstacle}): booting in the nested lab`);
    const status = await bootInLab(kernel);
    if (status !== 0) {
      throw new FaradayError('internal', `faraday ended with status ${status}`);
    }
  }
  conclude();
}

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

// To exit, rather than to be killed, lets the lab remove its files.
for (const [name, number] of Object.entries(SIGNALS)) {
  process.once(name, () => process.exit(128 + number));
}
try {
  await quickstart();
} catch (error) {
  say((error as Error).message);
  process.exitCode = error instanceof FaradayError ? error.exitCode : 5;
}
