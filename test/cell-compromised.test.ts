// What is left to an attacker whose code runs in a cell, with every layer on: its descriptors, its
// disks, its guest's memory, processor time, and what it says. docs/compromised-cell.md; what it
// cannot do is in test/cell-attacks.test.ts.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CellProcess } from '../host/engine/cell-process.ts';
import { COMMAND_BYTES, COMMAND_STOP } from '../host/engine/cell-protocol.ts';
import {
  ALL_ON,
  ATTACK_PORT,
  attack,
  installFaraday,
  isRoot,
  prepareWorld,
  startAttacked,
  type Thread,
  type World,
} from './attack/attacker.ts';
import { ATTACK_NAMES, LEFT, outcomeOn } from './attack/attacks.ts';
import { kvmMissing } from './bare-metal.ts';
import { testDisk, WINDOW } from './cell-disk.ts';
import { cellTest, isAlive, scratchPath, sleep, within } from './cell-guest.ts';
import { IDLE_FOR_EVER, out, tinyKernel } from './tiny-kernel.ts';

const THREADS: readonly Thread[] = ['vcpu', 'io'];
const STUBBORN_MS = 300; // in which whoever obeys is gone
const ASK_AGAIN_MS = 1000; // of host/engine/cell.ts
const POLL_MS = 10;
const BUSY = 'attack burn: OK';

const world: World | null = kvmMissing() ? null : await prepareWorld();
test.after(() => world?.end());

// --- Its disks ----------------------------------------------------------------------------------

/** A disk to write and one to read, of this run alone. */
function twoDisks() {
  const slot = { address: WINDOW + 0x1000, pin: 6 };
  return [testDisk(), testDisk({ readOnly: true, id: 'readonly', slot })] as const;
}

for (const { name, outcome } of LEFT.filter(({ name }) => /_disk$/.test(name))) {
  cellTest(`${name}: with every layer on`, async () => {
    for (const thread of THREADS) {
      const disks = twoDisks();
      const end = await attack({ name, thread, on: ALL_ON, disks: [...disks] }, world!);
      const wanted = outcomeOn(outcome, thread);
      assert.is(end.outcome, wanted, thread);
      const [own, readOnly] = disks.map(({ path }) => readFileSync(path));
      assert.equal(readOnly, disks[1].bytes);
      const done = wanted === 'OK' ? name : '';
      assert.is(own!.subarray(0, 11).toString() === 'overwritten', done === 'write_own_disk');
      assert.is(own!.length > disks[0].bytes.length, done === 'grow_own_disk');
      for (const disk of disks) disk.close();
    }
  });
}

// --- What it says -------------------------------------------------------------------------------

cellTest('nonsense on the control socket is the last thing it says', async () => {
  for (const thread of THREADS) {
    const { nonsense } = await attack({ name: 'lie', thread, on: ALL_ON }, world!);
    assert.match(nonsense!, /^the cell sent a message of the unknown type 77/);
  }
});

// --- Processor time, and its end ----------------------------------------------------------------

async function untilSaid(path: string, text: string): Promise<void> {
  const wait = async () => {
    while (!readFileSync(path, 'latin1').includes(text)) await sleep(POLL_MS);
  };
  await within(wait(), `'${text}' in ${readFileSync(path, 'latin1')}`);
}

async function untilGone(pid: number): Promise<void> {
  const wait = async () => {
    while (isAlive(pid)) await sleep(POLL_MS);
  };
  await within(wait(), `the end of ${pid}`);
}

/** A cell one thread of which is deaf to signals and busy for ever. */
async function startBusy() {
  const folder = scratchPath('busy');
  mkdirSync(folder);
  const errors = openSync(join(folder, 'errors'), 'wx+');
  const plan = { name: 'burn', thread: 'vcpu', on: ALL_ON } as const;
  const child = new CellProcess(startAttacked(plan, world!, folder, errors));
  closeSync(errors);
  const ended = new Promise<NodeJS.Signals | null>((resolve) => {
    child.listen({ data: () => {}, hungUp: () => {}, ended: ({ signal }) => resolve(signal) });
  });
  await untilSaid(join(folder, 'errors'), BUSY);
  return { child, ended };
}

cellTest('it need not end when it is told to, but SIGKILL is stronger', async () => {
  const { child, ended } = await startBusy();
  const command = Buffer.alloc(COMMAND_BYTES);
  command.writeUInt32LE(COMMAND_STOP, 0);
  child.send(command);
  child.kill('SIGTERM');
  await sleep(STUBBORN_MS);
  assert.ok(isAlive(child.pid), 'nobody can make it obey');
  child.kill('SIGKILL');
  assert.is(await within(ended, 'its end'), 'SIGKILL');
});

/** The cell that a host has started. */
function cellOf(host: number): number {
  const found = readdirSync('/proc').find((name) => {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1').replace(/^.*\) /, '');
      return Number(stat.split(' ')[1]) === host;
    } catch {
      return false;
    }
  });
  assert.ok(found, 'the host has a child');
  return Number(found);
}

/** A host whose cell does not listen, and has its errors in `path`. */
async function startBusyHost(path: string) {
  const kernel = scratchPath('kernel');
  const number = ATTACK_NAMES.indexOf('burn');
  writeFileSync(kernel, tinyKernel(out(ATTACK_PORT, number), IDLE_FOR_EVER));
  const errors = openSync(path, 'wx');
  const words = [installFaraday(world!), 'run', '--kernel', kernel];
  const host = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', errors] });
  closeSync(errors);
  await untilSaid(path, BUSY);
  return { host, cell: cellOf(host.pid!) };
}

cellTest('it does not outlive a host that is killed', async () => {
  const { host, cell } = await startBusyHost(scratchPath('errors'));
  host.kill('SIGKILL');
  await once(host, 'exit');
  await untilGone(cell);
});

cellTest('a host that is asked twice kills it', async () => {
  const path = scratchPath('errors');
  const { host, cell } = await startBusyHost(path);
  const exit = once(host, 'exit');
  host.kill('SIGTERM');
  host.kill('SIGTERM'); // at once: that is one wish
  await sleep(STUBBORN_MS);
  assert.ok(isAlive(cell), 'it was asked, and took no notice');
  await sleep(ASK_AGAIN_MS);
  host.kill('SIGTERM');
  const [status] = await within(exit, 'the end of its host');
  assert.is(status, 143);
  assert.match(readFileSync(path, 'utf8'), /did not stop when asked to, and was killed/);
  await untilGone(cell);
});

// --- The cgroup of the recipe -------------------------------------------------------------------

let cgroups = 0;

/** A new cgroup in the first hierarchy of which `has` says yes, or why there is none. */
function newCgroup(has: (folder: string, options: string) => boolean): string {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  for (const line of mounts) {
    const [, folder, type, options] = line.split(' ');
    if (!type?.startsWith('cgroup') || !has(folder!, options!)) continue;
    const path = join(folder!, `faraday-test-${process.pid}-${cgroups++}`);
    mkdirSync(path);
    process.on('exit', () => existsSync(path) && rmdirSync(path));
    return path;
  }
  throw new Error('this host has no such cgroup');
}

function cgroupTest(
  name: string,
  has: (folder: string, options: string) => boolean,
  body: (cgroup: string) => Promise<void>,
): void {
  let cgroup = '';
  try {
    if (!world) throw new Error('no /dev/kvm');
    if (!isRoot) throw new Error('only root may make one');
    cgroup = newCgroup(has);
  } catch (error) {
    test.skip(`${name} (skipped: ${(error as Error).message})`, () => {});
    return;
  }
  cellTest(name, () => body(cgroup).finally(() => rmdirSync(cgroup)));
}

const isUnified = (folder: string) => existsSync(join(folder, 'cgroup.controllers'));

cgroupTest('cgroup.kill ends it with everything else in it', isUnified, async (cgroup) => {
  const { child, ended } = await startBusy();
  writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
  writeFileSync(join(cgroup, 'cgroup.kill'), '1');
  assert.is(await within(ended, 'its end'), 'SIGKILL');
});

/** Processor time by quota: of the unified hierarchy, or of the older one. */
const hasQuota = (folder: string, options: string) =>
  isUnified(folder)
    ? readFileSync(join(folder, 'cgroup.subtree_control'), 'utf8').split(/\s/).includes('cpu')
    : options.split(',').includes('cpu');

cgroupTest('a quota of processor time holds it back', hasQuota, async (cgroup) => {
  const { child, ended } = await startBusy();
  if (isUnified(cgroup)) {
    writeFileSync(join(cgroup, 'cpu.max'), '10000 100000');
  } else {
    writeFileSync(join(cgroup, 'cpu.cfs_quota_us'), '10000');
  }
  writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
  const throttled = () => {
    const text = readFileSync(join(cgroup, 'cpu.stat'), 'utf8');
    return Number(/^nr_throttled (\d+)$/m.exec(text)![1]);
  };
  const wait = async () => {
    while (throttled() === 0) await sleep(POLL_MS);
  };
  await within(wait(), 'the quota');
  child.kill('SIGKILL');
  await within(ended, 'its end');
});

test.run();
