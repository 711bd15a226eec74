// What the shim does to the host: file locks, the terminal, probes. No KVM.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { shim } from '../host/shim.ts';
import { failureOf, kvmTest } from './bare-metal.ts';

const addon = new URL('../build/faraday.node', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'faraday-host-'));
test.after(() => rmSync(folder, { recursive: true }));

// --- Locks --------------------------------------------------------------------------------------

/** Whether a process of its own gets the lock. */
function otherProcessLocks(path: string, exclusive: boolean): boolean {
  const script = `
    const fd = require('node:fs').openSync(${JSON.stringify(path)}, 'r+');
    process.stdout.write(String(require(${JSON.stringify(addon)}).lockFile(fd, ${exclusive})));
  `;
  const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
  assert.is(child.status, 0, child.stderr);
  return child.stdout === 'true';
}

test('an exclusive lock keeps every other open file out until it is closed', () => {
  const path = join(folder, 'exclusive');
  writeFileSync(path, 'x');
  const mine = openSync(path, 'r+');
  const again = openSync(path, 'r+');
  assert.is(shim().lockFile(mine, true), true);
  assert.is(shim().lockFile(again, true), false, 'the same process, opened again');
  assert.is(shim().lockFile(again, false), false);
  assert.is(otherProcessLocks(path, true), false);
  assert.is(otherProcessLocks(path, false), false);
  closeSync(mine);
  assert.is(otherProcessLocks(path, true), true);
  closeSync(again);
});

test('readers share a lock and keep a writer out', () => {
  const path = join(folder, 'shared');
  writeFileSync(path, 'x');
  const reader = openSync(path, 'r');
  assert.is(shim().lockFile(reader, false), true);
  assert.is(otherProcessLocks(path, false), true);
  assert.is(otherProcessLocks(path, true), false);
  assert.is(
    failureOf(() => shim().lockFile(reader, true)),
    'F_OFD_SETLK EBADF',
    'not writable',
  );
  closeSync(reader);
  assert.is(
    failureOf(() => shim().lockFile(1 << 20, true)),
    'F_OFD_SETLK EBADF',
  );
});

// --- The terminal -------------------------------------------------------------------------------

/**
 * Runs JavaScript with `shim` and `fd`, a terminal, then `stty -a` on that terminal; both outputs.
 * Node's own descriptors are elsewhere, since it restores the terminals it finds on those.
 */
function onTerminal(script: string): SpawnSyncReturns<string> {
  const file = join(folder, 'terminal.cjs');
  writeFileSync(
    file,
    `const { execSync } = require('node:child_process');
     const fd = require('node:fs').openSync('/dev/tty', 'r+');
     const shim = require(${JSON.stringify(addon)});
     const stty = (words) => execSync('stty ' + words + ' < /dev/tty').toString();
     const say = (text) => require('node:fs').appendFileSync('said', text + '\\n');
     const icanon = () => (/ -icanon/.test(stty('-a')) ? 'raw' : 'cooked');
     ${script}`,
  );
  rmSync(join(folder, 'said'), { force: true });
  const node = `'${process.execPath}' '${file}' < /dev/null > log 2>&1`;
  const command = `ulimit -c 0; stty -a > before; ${node}; stty -a > after`;
  return spawnSync('script', ['-qec', command, '/dev/null'], { cwd: folder, encoding: 'utf8' });
}

function said(): string {
  return readFileSync(join(folder, 'said'), 'utf8').trim();
}

function assertRestored(): void {
  const before = readFileSync(join(folder, 'before'), 'utf8');
  assert.match(before, / icanon/);
  assert.is(readFileSync(join(folder, 'after'), 'utf8'), before);
}

test('raw mode passes keys through, and comes off again', () => {
  onTerminal(`
    shim.terminalRaw(fd);
    shim.terminalRaw(fd);
    const words = stty('-a').split(/[ ;\\n]+/);
    say(['-icanon', '-echo', '-isig', '-ixon', '-icrnl', 'opost'].filter((word) => {
      return !words.includes(word);
    }).join() || icanon());
    shim.terminalRestore();
    say(icanon());
    shim.terminalRestore();
  `);
  assert.is(said(), 'raw\ncooked');
  assertRestored();
});

for (const [how, end] of Object.entries({
  'at a normal exit': '',
  'at process.exit': 'process.exit(3)',
  'after an uncaught error': 'throw new Error("deliberate")',
  'on abort': 'process.abort()',
  'on SIGABRT from elsewhere': "process.kill(process.pid, 'SIGABRT')",
})) {
  test(`the terminal is restored ${how}`, () => {
    onTerminal(`shim.terminalRaw(fd); say(icanon()); ${end}`);
    assert.is(said(), 'raw');
    assertRestored();
  });
}

test('raw mode comes back when a stopped process continues', () => {
  onTerminal(`
    shim.terminalRaw(fd);
    stty('sane'); // as a shell does to the terminal of a stopped job
    say(icanon());
    process.kill(process.pid, 'SIGCONT');
    say(icanon());
  `);
  assert.is(said(), 'cooked\nraw');
  assertRestored();
});

test('what is no terminal cannot become raw', () => {
  const fd = openSync('/dev/null', 'r');
  assert.is(
    failureOf(() => shim().terminalRaw(fd)),
    'TCGETS ENOTTY',
  );
  assert.is(
    failureOf(() => shim().terminalRaw(-1)),
    'terminalRaw EINVAL',
  );
  shim().terminalRestore();
  closeSync(fd);
});

// --- Probes -------------------------------------------------------------------------------------

test('the confinement probe agrees with what the kernel lists', () => {
  const { landlockAbi, seccomp, noNewPrivs } = shim().probeConfinement();
  assert.is(noNewPrivs, true); // every kernel since 3.5
  const status = readFileSync('/proc/self/status', 'utf8');
  assert.is(seccomp, /^Seccomp:/m.test(status));
  assert.ok(Number.isInteger(landlockAbi) && landlockAbi >= 0);
});

kvmTest('the KVM probe tells version and extensions', () => {
  const { kvmApiVersion, extensions } = shim().probeKvm();
  assert.is(kvmApiVersion, 12);
  assert.is(extensions.KVM_CAP_IRQCHIP, 1);
  assert.ok(extensions.KVM_CAP_MAX_VCPUS! > 0);
  assert.ok(Object.keys(extensions).every((name) => name.startsWith('KVM_CAP_')));
});

test.run();
