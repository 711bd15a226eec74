// The set-up before everything else: what it needs, how it gets it, what it says when it cannot.
// The system tools it calls are replaced by scripts on a PATH of the test's own, so that nothing is
// really installed.
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { findCommand, run, SYSTEM_FOLDERS } from '../tools/command.ts';
import { PACKAGES } from '../tools/packages.mjs';

// What a machine needs to run scripts at all; the rest is "not installed" unless a test adds it.
const BASICS = ['sh', 'bash', 'cat', 'env', 'touch', 'chmod', 'flock'];
// Every command of a package; those in the system folders are there whatever PATH says.
const NEEDED = PACKAGES.flatMap((each) => each.commands).filter(
  (name) => !SYSTEM_FOLDERS.some((folder) => existsSync(join(folder, name))),
);

interface Machine {
  folder: string; // all of its PATH
  add(name: string, script: string): void; // a command
  log(): string; // what the scripts wrote
}

/** A machine without any of the packages that lie outside the system folders. */
function bareMachine(): Machine {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-setup-'));
  const add = (name: string, script: string) => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  for (const name of BASICS) {
    add(name, `exec ${findCommand(name)} "$@"`);
  }
  const log = join(folder, 'log');
  return { folder, add, log: () => (existsSync(log) ? readFileSync(log, 'utf8') : '') };
}

/** Runs the set-up there. `sudo` is faked too, so that it does not matter who runs the tests. */
async function setUp(machine: Machine) {
  machine.add('sudo', '[ "$1" = -n ] && shift; exec "$@"');
  try {
    const environment = [`PATH=${machine.folder}`, `FOLDER=${machine.folder}`];
    const args = [...environment, process.execPath, 'tools/setup.mjs'];
    const result = await run('env', args, { cwd: REPOSITORY, acceptStatus: [1, 3] });
    return { ...result, log: machine.log() };
  } finally {
    rmSync(machine.folder, { recursive: true, force: true });
  }
}

const INSTALL = `for name in ${NEEDED.join(' ')}; do
  echo '#!/bin/sh' > "$FOLDER/$name"; chmod 755 "$FOLDER/$name"
done`;

test('a machine that has everything is left alone, without a word', async () => {
  const machine = bareMachine();
  for (const name of NEEDED) {
    machine.add(name, '');
  }
  machine.add('apt-get', 'echo "$@" >> "$FOLDER/log"');
  const { status, stdout, stderr, log } = await setUp(machine);
  assert.is(status, 0);
  assert.is(stdout + stderr, '');
  assert.is(log, '');
});

test('what is missing is installed after one update of the package lists', async () => {
  const machine = bareMachine();
  machine.add('apt-get', `echo "$DEBIAN_FRONTEND $@" >> "$FOLDER/log"\n${INSTALL}`);
  const { status, stderr, log } = await setUp(machine);
  assert.is(status, 0, stderr);
  const [update, install, ...rest] = log.trim().split('\n');
  assert.is(update, 'noninteractive -qq update');
  assert.match(install!, /^noninteractive -qq install -y --no-install-recommends gcc g\+\+ /);
  assert.match(install!, 'busybox-static');
  assert.not.match(install!, 'e2fsprogs'); // in a system folder, so it is there
  assert.equal(rest, []);
});

test('where nothing can be installed, the packages and the command are named', async () => {
  const { status, stderr } = await setUp(bareMachine());
  assert.is(status, 3);
  assert.match(stderr, 'setup: qemu-system-x86 is missing (emulates the lab)');
  const last = stderr.trim().split('\n').at(-1)!;
  assert.match(last, 'as root');
  assert.match(last, /apt-get install -y --no-install-recommends gcc g\+\+ .*lz4\b/);
});

test('a busy package manager is waited for', async () => {
  const machine = bareMachine();
  const busy = "echo 'E: Could not get lock /var/lib/dpkg/lock-frontend'; exit 100";
  machine.add(
    'apt-get',
    `[ -e "$FOLDER/tried" ] || { touch "$FOLDER/tried"; ${busy}; }\n${INSTALL}`,
  );
  const { status, stderr } = await setUp(machine);
  assert.is(status, 0, stderr);
  assert.match(stderr, 'another package manager is running');
});

test("a failing installation is told in apt's own words", async () => {
  const machine = bareMachine();
  machine.add('apt-get', "echo 'E: Failed to fetch http://mirror'; echo more; exit 100");
  const { status, stderr } = await setUp(machine);
  assert.is(status, 3);
  assert.match(stderr.trim().split('\n').at(-1)!, 'E: Failed to fetch http://mirror');
});

test('a package that installs and still brings nothing is an error, not a loop', async () => {
  const machine = bareMachine();
  machine.add('apt-get', '');
  const { status, stderr } = await setUp(machine);
  assert.is(status, 3);
  assert.match(stderr, 'still missing after installation: gcc, ');
});

test.run();
