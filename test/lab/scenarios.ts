// Boot scenarios: several guests, one after the other, in one run of the lab, since its own start
// takes as long as a guest's. Each has two halves: a bash script which the emulated host runs
// (scenario.sh has its vocabulary), and a shell script which the guest runs.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RunReport } from '../../host/report.ts';
import { buildOnce, REPOSITORY } from '../../tools/cache.ts';
import { run } from '../../tools/command.ts';
import { kernelFiles, kernelPackages } from '../../tools/distribution.ts';
import { copyProgram } from '../../tools/program.ts';
import { makeInitramfs, makeRootDisk } from '../../tools/rootfs.ts';
import { STEPS } from '../../tools/stamps.mjs';
import { runInLab } from './lab.ts';

export interface Scenario {
  host: string; // bash, in the lab; its status is the scenario's
  guest?: string; // sh, in the guest, which powers off after it; nothing: it powers off at once
  limitSeconds?: number; // 120
}

/** What a scenario left behind. */
export interface Outcome {
  status: number; // 124: stopped at its time limit
  output: string; // of the host script, the guests' consoles among it
  report: RunReport | undefined; // of the last guest
  file(name: string): string; // what the host script put into keep/
}

/** Recordings of guests, in the results of a scenario. */
const RECORDING = /\.rec$/;

// Cells that record are other programs than those that are tested: only a file that failed is run
// again with them, by test/run.ts.
const RECORDS_CELLS = process.env.FARADAY_RECORD_CELLS === '1';

const LIMIT_SECONDS = 120; // what hangs; a slow machine takes a third of it
const OVERHEAD_SECONDS = 30; // of the runner, for copying
const ROOT_MIB = 64;
const BOOTS = join(REPOSITORY, 'build/boots');
const FARADAY = join(REPOSITORY, 'bin/faraday.js');
/** Where the lab shows this machine's whole file system. */
export const OUTSIDE = '/run/lab/outside';

const GUEST_INIT = `#!/bin/sh
mount -t proc proc /proc 2> /dev/null
mount -t sysfs sys /sys 2> /dev/null
mount -t devtmpfs dev /dev 2> /dev/null
for word in $(cat /proc/cmdline); do
  case $word in job=*) job=\${word#job=} ;; esac
done
. /jobs/$job
sync
poweroff -f
`;

/**
 * A store with the distribution's two kernels, imported by this build of Faraday. The folder is
 * named after all that goes into it.
 */
async function kernelStore(): Promise<string> {
  const [cloud] = await kernelPackages('cloud');
  const [generic] = await kernelPackages('generic');
  const hash = createHash('sha256').update(`${cloud}\n${generic}`);
  for (const file of [STEPS.bundle.output, STEPS.guest.output]) {
    hash.update(readFileSync(join(REPOSITORY, file)));
  }
  const folder = join(BOOTS, `store-${hash.digest('hex').slice(0, 16)}`);
  mkdirSync(BOOTS, { recursive: true });
  await buildOnce(folder, async (part) => {
    const env = { XDG_DATA_HOME: part, XDG_CACHE_HOME: join(part, 'cache') };
    for (const [name, file] of Object.entries({ cloud: cloud!, generic: generic! })) {
      await run(process.execPath, [FARADAY, 'kernel', 'import', file, '--name', name], { env });
    }
  });
  return folder;
}

/** The files of a program and of the libraries it is linked to, for a guest. */
export async function programFiles(path: string): Promise<Record<string, Uint8Array>> {
  const { stdout } = await run('ldd', [path]);
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!);
  return Object.fromEntries([path, ...libraries].map((file) => [file, readFileSync(file)]));
}

async function prepare(
  folder: string,
  scenarios: Record<string, Scenario>,
  files: Record<string, Uint8Array>,
): Promise<number> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, 'scenarios'), { recursive: true });
  mkdirSync(join(folder, 'results'));
  copyProgram(join(folder, 'program'));
  const jobs: Record<string, string> = {};
  let seconds = OVERHEAD_SECONDS;
  for (const [name, scenario] of Object.entries(scenarios)) {
    const limit = scenario.limitSeconds ?? LIMIT_SECONDS;
    seconds += limit;
    jobs[`jobs/${name}`] = scenario.guest ?? '';
    const head = `# limit ${limit}\n${RECORDS_CELLS ? "RECORDING='v8 cell'\n" : ''}`;
    writeFileSync(join(folder, 'scenarios', `${name}.sh`), head + scenario.host);
  }
  await makeInitramfs(join(folder, 'initramfs'), { init: GUEST_INIT, files: jobs });
  const tree = { init: GUEST_INIT, files: { ...jobs, ...files } };
  await makeRootDisk(join(folder, 'root.ext4'), ROOT_MIB, tree);
  return seconds;
}

function readOutcome(folder: string): Outcome {
  const file = (name: string) => readFileSync(join(folder, name), 'utf8');
  const hasReport = existsSync(join(folder, 'report.json'));
  return {
    status: Number(file('status')),
    output: file('output').replaceAll('\r', ''),
    report: hasReport ? (JSON.parse(file('report.json')) as RunReport) : undefined,
    file,
  };
}

/** Recordings are for who looks into a failure: where every test passed they go. */
export function dropRecordings(folder: string, status: number): void {
  if (status !== 0) return;
  const files = readdirSync(join(folder, 'results'), { recursive: true, encoding: 'utf8' });
  for (const file of files) if (RECORDING.test(file)) rmSync(join(folder, 'results', file));
}

async function runScenarios(
  group: string,
  scenarios: Record<string, Scenario>,
  files: Record<string, Uint8Array>,
): Promise<Map<string, Outcome>> {
  const store = await kernelStore();
  const folder = join(BOOTS, RECORDS_CELLS ? `${group}-recorded` : group);
  const timeoutSeconds = await prepare(folder, scenarios, files);
  const runner = fileURLToPath(new URL('scenario-runner.sh', import.meta.url));
  const library = fileURLToPath(new URL('.', import.meta.url));
  const { folder: cloudFiles } = await kernelFiles('cloud');
  const paths = [store, library, cloudFiles].map((path) => `${OUTSIDE}${path}`);
  const result = await runInLab({
    command: ['bash', `${OUTSIDE}${runner}`, process.execPath, ...paths],
    workFolder: folder,
    timeoutSeconds,
    onOutput: (bytes) => process.stdout.write(bytes),
    onNote: (text) => process.stdout.write(`${text}\n`),
  });
  if (result.labDied || result.timedOut || result.status !== 0) {
    const what = result.labDied ? 'died twice' : `has no result (status ${result.status})`;
    throw new Error(`the lab ${what}: ${result.output}\n${result.kernelLog}`);
  }
  const names = readdirSync(join(folder, 'results'));
  process.once('exit', (status) => dropRecordings(folder, status));
  return new Map(names.map((name) => [name, readOutcome(join(folder, 'results', name))]));
}

/**
 * Returns a function that gives a scenario's outcome. Its first call runs all scenarios of the
 * group in one run of the lab; it throws when the lab has no result. `files` go into the guests'
 * root disk.
 */
export function outcomesOf(
  group: string,
  scenarios: Record<string, Scenario>,
  files: Record<string, Uint8Array> = {},
): (name: string) => Promise<Outcome> {
  let outcomes: Promise<Map<string, Outcome>> | undefined;
  return async (name) => {
    outcomes ??= runScenarios(group, scenarios, files);
    return (await outcomes).get(name)!;
  };
}
