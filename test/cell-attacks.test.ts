// What an attacker who has taken over a cell attempts, for real, on its vCPU thread and on its I/O
// thread: with all layers, with each alone, and with none. The table is test/attack/attacks.ts, its
// page docs/attacks.md.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cellProgram } from '../host/cell-program.ts';
import { attackPage } from './attack/attack-page.ts';
import type { Plan, World } from './attack/attacker.ts';
import {
  ALL_ON,
  ATTACK_PORT,
  attack,
  installFaraday,
  isRoot,
  prepareWorld,
  switches,
  type Thread,
} from './attack/attacker.ts';
import {
  ATTACK_NAMES,
  ATTACKS,
  type Attack,
  COLUMNS,
  type Column,
  expected,
  outcomeOn,
} from './attack/attacks.ts';
import { WRAPPED } from './attack/build-attack.ts';
import { kvmMissing } from './bare-metal.ts';
import { bareImage, cellTest, composeFolder, scratchPath } from './cell-guest.ts';
import { IDLE_FOR_EVER, out, tinyKernel } from './tiny-kernel.ts';

const AT_ONCE = 3;
const OTHERS: readonly Column[] = ['landlock', 'namespaces', 'user', 'limits'];
const THREADS: readonly Thread[] = ['vcpu', 'io'];
const world: World | null = kvmMissing() ? null : await prepareWorld();
test.after(() => world?.end());

const onlyOn = (column: Column) => switches((layer) => column === 'all' || column === layer);
const numberOf = (name: string): number => ATTACK_NAMES.indexOf(name);

// --- What this host has -------------------------------------------------------------------------

interface Host {
  missing: Map<Column, string>; // columns that cannot be shown here, with the reason
  landlockAbi: number;
  ringRefused: string | null; // why it has no io_uring
}

async function lookAtHost(): Promise<Host> {
  const missing = new Map<Column, string>();
  if (!world) return { missing, landlockAbi: 0, ringRefused: null };
  const { confinement } = await attack({ name: 'x32', thread: 'vcpu', on: onlyOn('none') }, world);
  assert.ok(confinement, 'a cell with no layer starts and says so');
  const probe = { name: 'clone3', thread: 'vcpu', on: ALL_ON, ring: 'restricted' } as const;
  const end = await attack(probe, world);
  const { landlock, namespaces } = end.confinement!;
  const log = end.messages.flatMap((message) => (message.type === 'log' ? [message.text] : []));
  const ringRefused = log.find((text) => text.startsWith('io_uring')) ?? null;
  if (landlock.abi === 0) missing.set('landlock', `no Landlock here (${landlock.reason})`);
  if (namespaces.missing.length > 0) {
    missing.set('namespaces', `no namespaces ${namespaces.missing.join()} (${namespaces.reason})`);
  }
  if (isRoot) return { missing, landlockAbi: landlock.abi, ringRefused };
  // Without root's rights an attack may fail of itself.
  const why = 'only root with its capabilities can show that it is real';
  for (const column of COLUMNS.filter((name) => name !== 'all')) missing.set(column, why);
  return { missing, landlockAbi: landlock.abi, ringRefused };
}

const host = await lookAtHost();
const { ringRefused } = host;

for (const [column, why] of host.missing) {
  test.skip(`every attack with '${column}' (skipped: ${why})`, () => {});
}
if (host.landlockAbi > 0 && host.landlockAbi < 6) {
  const old = ATTACKS.filter(({ landlockAbi = 1 }) => landlockAbi > host.landlockAbi);
  const names = old.map(({ name }) => name).join();
  test.skip(`Landlock alone against ${names} (skipped: ABI ${host.landlockAbi})`, () => {});
}

// --- The table ----------------------------------------------------------------------------------

/** Several at once, for a processor of its own waits while another cell ends. */
async function each<T>(items: readonly T[], width: number, body: (item: T) => Promise<void>) {
  const queue = [...items];
  const lane = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await body(item);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

/** Its outcome, or where the table expects that, the table's words. */
async function tried(plan: Plan, words: string): Promise<string> {
  const { outcome, thread, nonsense } = await attack(plan, world!);
  assert.is(nonsense, null);
  if (outcome.startsWith('trap ')) assert.is(thread, plan.thread === 'vcpu' ? 'vcpu 0' : 'io');
  return words.split(' or ').includes(outcome) ? words : outcome;
}

async function tryAll(what: Attack): Promise<void> {
  const columns = COLUMNS.filter((column) => !host.missing.has(column));
  const runs = THREADS.flatMap((thread) => columns.map((column) => ({ thread, column })));
  const wanted: Record<string, string> = {};
  const got: Record<string, string> = {};
  await each(runs, what.alone ? 1 : AT_ONCE, async ({ thread, column }) => {
    const key = `${column} on ${thread}`;
    wanted[key] = outcomeOn(expected(what, column, host.landlockAbi), thread);
    const plan: Plan = { name: what.name, thread, on: onlyOn(column) };
    if (what.ring) plan.ring = column === 'all' ? 'restricted' : 'unrestricted';
    plan.sendDescriptor = what.name === 'take_descriptor';
    got[key] = await tried(plan, wanted[key]);
  });
  assert.equal(got, wanted);
  if (isRoot && host.missing.size === 0) await tryWithoutSeccomp(what);
}

/** What some other layer stops alone, they stop together too. */
async function tryWithoutSeccomp(what: Attack): Promise<void> {
  const stopped = (column: Column, thread: Thread) => {
    const outcome = outcomeOn(expected(what, column, host.landlockAbi), thread);
    return !outcome.split(' or ').includes('OK');
  };
  for (const thread of THREADS) {
    const on = switches((layer) => layer !== 'seccomp');
    const plan: Plan = { name: what.name, thread, on };
    if (what.ring) plan.ring = 'unrestricted';
    plan.sendDescriptor = what.name === 'take_descriptor';
    const { outcome } = await attack(plan, world!);
    if (OTHERS.some((column) => stopped(column, thread))) assert.is.not(outcome, 'OK', thread);
  }
}

/** Why an attack cannot be made here: the host has not what it needs, whoever it is. */
function refusal({ name }: Attack): string | null {
  if (/^io_uring/.test(name)) return ringRefused;
  if (!isRoot) return null; // all layers stop it whatever the host lets others do
  return /^unshare|_namespace$/.test(name) ? (host.missing.get('namespaces') ?? null) : null;
}

for (const what of ATTACKS) {
  const title = `${what.name}: ${what.tries}`;
  const why = refusal(what);
  if (why) {
    test.skip(`${title} (skipped: ${why})`, () => {});
  } else {
    cellTest(title, () => tryAll(what));
  }
}

test('docs/attacks.md has the table as it is (write it: test/attack/attack-page.ts)', () => {
  const { is, should } = attackPage();
  assert.equal(is, should);
});

// --- Layers that need one another, and the ring's own -------------------------------------------

if (isRoot) {
  cellTest('the limit of processes holds who has no privileges: fork, clone, clone3', async () => {
    const on = switches((layer) => layer === 'limits' || layer === 'user');
    for (const name of ['fork', 'clone', 'clone3']) {
      for (const thread of THREADS) {
        assert.is(await tried({ name, thread, on }, 'EAGAIN'), 'EAGAIN', `${name} ${thread}`);
      }
    }
  });
}

if (isRoot && !ringRefused) {
  cellTest("the ring's own restrictions alone stop an operation that is not listed", async () => {
    const plan = { name: 'io_uring_open', on: onlyOn('none'), ring: 'restricted' } as const;
    assert.is(await tried({ ...plan, thread: 'io' }, 'EACCES'), 'EACCES');
    assert.match(await tried({ ...plan, thread: 'vcpu' }, ''), /^EEXIST|EACCES$/);
  });
}

if (isRoot && host.landlockAbi > 0) {
  cellTest(
    'an older Landlock alone stops what it knows of, by the version of each right',
    async () => {
      const versioned = ATTACKS.filter(({ landlockAbi }) => landlockAbi);
      for (let landlockAbi = 1; landlockAbi <= Math.min(6, host.landlockAbi); landlockAbi++) {
        for (const what of versioned) {
          const wanted = outcomeOn(expected(what, 'landlock', landlockAbi), 'vcpu');
          const plan = { thread: 'vcpu', on: onlyOn('landlock'), landlockAbi } as const;
          const got = await tried({ name: what.name, ...plan }, wanted);
          assert.is(got, wanted, `${what.name} with ABI ${landlockAbi}`);
        }
      }
    },
  );
}

cellTest('a descriptor that a cell sends does not arrive in the host', async () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const before = count();
  const on = isRoot ? onlyOn('none') : switches((layer) => layer !== 'seccomp');
  for (const thread of THREADS) {
    const end = await attack({ name: 'send_descriptor', thread, on }, world!);
    assert.is(end.outcome, 'OK', 'the kernel took it');
    assert.ok(
      end.messages.some(({ type }) => type === 'marker'),
      'and its message came',
    );
  }
  assert.is(count(), before);
});

// --- Seccomp: how long, and what is said --------------------------------------------------------

cellTest('seccomp stays to the end: a forbidden call after the guest is over', async () => {
  for (const [name, outcome] of [
    ['open', 'trap openat'],
    ['memfd_exec', 'kill'],
  ] as const) {
    const end = await attack({ name, thread: 'io', on: ALL_ON, atEnd: true }, world!);
    assert.is(end.outcome, outcome);
    assert.not.ok(end.messages.some((message) => message.type === 'ended'));
  }
});

cellTest('with --seccomp log a forbidden call is carried out, and the guest runs on', async () => {
  const plan = { name: 'ioctl', thread: 'vcpu', on: ALL_ON, seccomp: 'log' } as const;
  const { outcome, status } = await attack(plan, world!);
  assert.is(outcome, 'OK');
  assert.is(status, 0);
});

cellTest('by hand the cell itself says which call it was on which thread, and ends with 5', () => {
  const write = (name: string) => composeFolder(bareImage((code) => attackFrom(code, name)));
  const run = (name: string) => spawnSync(world!.program, [write(name)], { encoding: 'latin1' });
  const opened = run('open');
  const line = 'faraday-cell: ended by its seccomp filter: system call 257 on thread vcpu 0\n';
  assert.is(opened.stderr, line);
  assert.is(opened.status, 5);
  const executed = run('memfd_exec');
  assert.is(executed.stderr, '');
  assert.is(executed.signal, 'SIGSYS');
  return Promise.resolve();
});

function attackFrom(code: Parameters<Parameters<typeof bareImage>[0]>[0], name: string) {
  return code.out(ATTACK_PORT, numberOf(name)).powerOff();
}

cellTest('faraday run says which call on which thread ended the cell, exit code 5', async () => {
  const faraday = installFaraday(world!);
  const run = (name: string) => {
    const kernel = scratchPath('kernel');
    writeFileSync(kernel, tinyKernel(out(ATTACK_PORT, numberOf(name)), IDLE_FOR_EVER));
    const words = [faraday, 'run', '--kernel', kernel];
    return spawnSync(process.execPath, words, { encoding: 'latin1', stdio: 'pipe', input: '' });
  };
  const opened = run('open');
  const told = /system call openat \(257\) on thread 'vcpu 0', arguments 0x[^\n]+\n$/;
  assert.match(opened.stderr, told);
  assert.is(opened.status, 5);
  const executed = run('memfd_exec');
  assert.match(executed.stderr, /^faraday: the cell was killed by its seccomp filter [^\n]+\n$/);
  assert.is(executed.status, 5);
});

// --- The release --------------------------------------------------------------------------------

test('the release has nothing of the attacker in it', () => {
  const release = readFileSync(cellProgram(), 'latin1');
  for (const text of ['__wrap_', 'attack', ...WRAPPED.map((name) => `__real_${name}`)]) {
    assert.not.ok(release.includes(text), `'${text}' in build/faraday-cell`);
  }
  if (!world) return;
  const ours = readFileSync(world.program, 'latin1');
  for (const text of ['__wrap_vcpu_step', 'attack_open', '--attack:']) {
    assert.ok(ours.includes(text), `'${text}' in the attack build`);
  }
});

test.run();
