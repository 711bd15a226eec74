// The policy that `--explain-sandbox` prints (host/confine/explain-sandbox.ts), and the lines of
// `faraday check` about confinement (host/confine/check-layers.ts). No KVM.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { toRunConfig } from '../host/config.ts';
import { CELL_ROLES, DEADLY } from '../host/confine/cell-policy.ts';
import { checkLayers, namespacesLine } from '../host/confine/check-layers.ts';
import { explainSandbox, type Sandbox } from '../host/confine/explain-sandbox.ts';
import { sandboxText } from '../host/confine/explain-text.ts';
import { explainConfinement } from '../host/explain.ts';
import type { RawSettings } from '../host/settings.ts';
import { shim } from '../host/shim.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'faraday-explain-'));
test.after(() => rmSync(folder, { recursive: true }));

function explained(settings: RawSettings = {}): Sandbox {
  return explainSandbox(toRunConfig({ kernel: 'vmlinux', ...settings }), true);
}

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, HOME: join(folder, 'home'), XDG_DATA_HOME: '', XDG_CACHE_HOME: '' };
  const options = { encoding: 'utf8', cwd: folder, env } as const;
  return spawnSync(process.execPath, [FARADAY, ...args], options);
}

test('every row of every table is there, with caller and reason', () => {
  const { threads, deadly } = explained().cell!.seccomp;
  assert.equal(
    threads.map(({ name, calls }) => [name, calls.length]),
    CELL_ROLES.map(({ name, rows }) => [name, rows.length]),
  );
  for (const { calls } of threads) {
    for (const { call, caller, reason } of calls) {
      assert.match(call, /^[a-z0-9_]+(\([A-Za-z0-9_, ]+\))?$/);
      assert.ok(caller.length > 0 && reason.length > 0, call);
    }
  }
  assert.equal(deadly, DEADLY);
  const io = threads.find(({ name }) => name === 'io')!.calls.map(({ call }) => call);
  assert.ok(io.includes('tgkill(this process)'));
  const start = threads.find(({ name }) => name === 'start')!.calls.map(({ call }) => call);
  assert.ok(start.includes('mmap(_, _, no PROT_EXEC)'));
});

test('disks are descriptors of the cell and paths of Faraday', () => {
  const disk = [{ path: 'd.img', ro: true, id: 'data', 'io-engine': 'io_uring' }];
  const { cell, host } = explained({ rootfs: 'root.img', disk });
  const what = cell!.descriptors.map((one) => one.what);
  assert.ok(what.includes('disk rootfs, read and write: root.img'));
  assert.ok(what.includes('disk data, read: d.img'));
  assert.ok(what.some((text) => text.startsWith('io_uring')));
  assert.ok(host.paths.some(({ path, access }) => path === 'd.img' && access === 'rd'));
});

test('a recording is a descriptor of the cell, and what its threads write to', () => {
  const { cell, host } = explained({ record: 'boot.rec' });
  const recording = cell!.descriptors.find(({ what }) => what.includes('boot.rec'));
  assert.equal(recording, { number: 'then', what: 'the recording, write: boot.rec', until: 'end' });
  for (const { name, calls } of cell!.seccomp.threads) {
    const written = calls.filter(({ reason }) => reason === 'the recording');
    assert.is(written.length, name === 'start' ? 0 : 1, name);
  }
  const paths = host.paths.filter(({ reason }) => reason === 'the recording');
  assert.equal(
    paths.map(({ until }) => until),
    ['start'],
  );
  assert.not.match(JSON.stringify(explained()), 'the recording');
});

test('what flags take away stands first', () => {
  assert.equal(explained().off, []);
  const weak = { 'no-seccomp': true, 'no-landlock': true, namespaces: 'off' };
  assert.equal(explained(weak).off, ['--seccomp off', '--landlock off', '--namespaces off']);
  assert.match(sandboxText(explained(weak)), /^WEAKENED BY FLAGS\n {2}--seccomp off\n/);
  const open = explained({ 'landlock-allow-path': [folder] });
  assert.equal(open.off, [`${folder} (r) is open to Faraday itself`]);
});

test('engine v8 has no cell, and says so', () => {
  const sandbox = explained({ engine: 'v8' });
  assert.is(sandbox.cell, null);
  assert.match(sandboxText(sandbox), /THE CELL\n {2}none with engine v8\n$/);
});

test('text fits a terminal and has everything that JSON has', () => {
  const sandbox = explained({ rootfs: 'root.img' });
  const text = sandboxText(sandbox);
  for (const line of text.split('\n')) assert.ok(line.length <= 100 && !/ $/.test(line), line);
  const words = text.replace(/\s+/g, ' ');
  for (const { path } of sandbox.host.paths) assert.ok(words.includes(path), path);
  for (const { what, calls } of sandbox.cell!.seccomp.threads) {
    assert.ok(words.includes(what), what);
    for (const { call } of calls) assert.ok(words.includes(call), call);
  }
});

test('the command starts nothing and needs nothing that is not there', () => {
  const { status, stdout, stderr } = run('run', '--explain-sandbox');
  assert.is(stderr, '');
  assert.is(status, 0);
  assert.match(stdout, /^FARADAY ITSELF/);
  assert.not.match(stdout, /KERNEL/);
  const json = run('--explain-sandbox', '--json', '--kernel', 'nowhere', '--rootfs', 'no.img');
  assert.is(json.status, 0);
  assert.is(JSON.parse(json.stdout).cell.seccomp.mode, 'enforce');
  assert.not.ok(existsSync(join(folder, 'home')), 'nothing was made');
});

test('it reads a configuration file, and refuses what a run would', () => {
  writeFileSync(join(folder, 'vm.json'), '{"kernel": "k", "seccomp": "log"}');
  const { stdout } = run('run', '--explain-sandbox', '--config', 'vm.json');
  assert.match(stdout, /^WEAKENED BY FLAGS\n {2}--seccomp log\n/);
  const bad = run('run', '--explain-sandbox', '--kernel', 'k', '--cpus', '99');
  assert.is(bad.status, 2);
  assert.match(bad.stderr, /^faraday: --cpus '99' [^\n]+\n$/);
});

// --- faraday check ------------------------------------------------------------------------------

const NONE = (): null => null;

test('check has a line for each layer, and none of them keeps a guest from running', () => {
  const lines = checkLayers();
  const subjects = lines.map(({ subject }) => subject);
  assert.equal(subjects, ['Landlock', 'seccomp', 'namespaces', 'io_uring']);
  for (const { state, fix } of lines) {
    assert.match(state, /^(ok|note)$/);
    assert.is(fix === undefined, state === 'ok');
  }
});

test('namespaces are tried one by one, in a process that is gone after', () => {
  const tried = shim().probeNamespaces();
  assert.equal(Object.keys(tried), ['user', 'pid', 'mount', 'net', 'ipc', 'uts', 'cgroup']);
  for (const errno of Object.values(tried)) assert.match(errno, /^(E[A-Z]+)?$/);
  // Here nothing has changed: it was another process.
  assert.equal(shim().probeNamespaces(), tried);
});

test('what forbids namespaces is named, with what to do', () => {
  const all = { user: '', pid: '', mount: '' };
  assert.equal(namespacesLine(all, NONE), {
    subject: 'namespaces',
    state: 'ok',
    finding: 'user pid mount',
  });
  const some = { ...all, mount: 'EPERM' };
  assert.is(namespacesLine(some, NONE).finding, 'user pid; not mount (EPERM)');
  const none = { user: 'ENOSPC', pid: 'ENOSPC' };
  assert.is(namespacesLine(none, NONE).finding, 'none: user (ENOSPC) pid (ENOSPC)');
  const fixes: [string, number, RegExp][] = [
    ['user.max_user_namespaces', 0, /^'sysctl user.max_user_namespaces=\d+'/],
    ['kernel.unprivileged_userns_clone', 0, /^'sysctl kernel.unprivileged_userns_clone=1'/],
    ['kernel.apparmor_restrict_unprivileged_userns', 1, /AppArmor profile with 'userns,'/],
  ];
  for (const [name, value, expected] of fixes) {
    const setting = (asked: string) => (asked === name ? value : null);
    assert.match(namespacesLine(some, setting).fix!, expected);
  }
  assert.match(namespacesLine(some, NONE).fix!, /such as the container/);
});

test('a layer that a cell could not have is explained; other calls are not', () => {
  assert.is(explainConfinement('KVM_CREATE_VM', 'EPERM', ''), null);
  const { message, exitCode } = explainConfinement('landlock', 'ENOTSUP', 'ABI 4, and 6')!;
  assert.is(exitCode, 3);
  assert.match(message, /^--landlock required: partial \(ABI 4\): not ioctl .*; use Linux 6\.12 /);
});

test.run();
