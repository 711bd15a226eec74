// What Faraday's own process keeps of its rights: which paths a run needs (host/confine/), and that
// Landlock then refuses everything else, on the threads where it should.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { toRunConfig } from '../host/config.ts';
import { hostFacts } from '../host/confine/host-facts.ts';
import { accessText, type HostFacts, hostPaths } from '../host/confine/host-paths.ts';
import type { RunReport } from '../host/report.ts';
import type { RawSettings } from '../host/settings.ts';
import {
  PATH_CHANGE,
  PATH_DEVICE,
  PATH_EXECUTE,
  PATH_READ,
  PATH_WRITE,
  shim,
} from '../host/shim.ts';
import { temporaryFolder } from '../host/temporary-folder.ts';
import { kvmTest } from './bare-metal.ts';
import { bzImage, pack } from './fake-kernel.ts';
import { IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const ADDON = new URL('../build/faraday.node', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'faraday-paths-'));
test.after(() => rmSync(folder, { recursive: true }));

const abi = shim().probeConfinement().landlockAbi;
const isRoot = process.geteuid!() === 0;

/** A test that needs Landlock, from the ABI on that it names. */
function landlockTest(name: string, body: () => void | Promise<void>, since = 1): void {
  if (abi >= since) test(name, body);
  else test.skip(`${name} (skipped: Landlock's ABI here is ${abi})`, body);
}

function file(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const hello = file('hello', tinyKernel(print('hello\r\n'), POWER_OFF, IDLE_FOR_EVER));
const idle = file('idle', tinyKernel(print('up'), IDLE_FOR_EVER));

// --- Which paths --------------------------------------------------------------------------------

const FACTS: HostFacts = {
  programFolder: '/faraday/build',
  storedKernel: null,
  kernelConfigs: [],
  cacheFolder: '/cache',
  moduleFolders: [],
  toolFolders: [],
  toolFiles: [],
  temporaryFolder: '/tmp',
  blockSizes: [],
  reportPlace: null,
  recordPlace: null,
};

const config = (settings: RawSettings) => toRunConfig({ kernel: 'vmlinux', ...settings });

/** 'rw /path' for each; with `until`, only those that are kept so long. */
function listed(settings: RawSettings, facts: Partial<HostFacts> = {}, until?: string): string[] {
  return hostPaths(config(settings), { ...FACTS, ...facts })
    .filter((one) => until === undefined || one.until === until)
    .map(({ path, rights }) => `${accessText(rights)} ${path}`);
}

const ALWAYS = ['rwd /dev/kvm', 'r /faraday/build', 'rw /dev/shm', 'rwc /tmp', 'rw /dev/null'];

test('a kernel given by path is read, and the cache written', () => {
  assert.equal(listed({}), ['r vmlinux', 'rwc /cache', ...ALWAYS]);
  assert.equal(listed({}, { toolFolders: ['/usr'], toolFiles: ['/etc/ld.so.cache'] }).slice(0, 4), [
    'r vmlinux',
    'rwc /cache',
    'rx /usr',
    'r /etc/ld.so.cache',
  ]);
});

test('a stored kernel is its folder, without the cache', () => {
  assert.equal(listed({}, { storedKernel: '/store/debian' }), ['r /store/debian', ...ALWAYS]);
});

test('disks and initrd by their rights', () => {
  const disks = { rootfs: 'root.img', disk: [{ path: 'data.img', ro: true, id: 'data' }] };
  const all = listed({ ...disks, initrd: 'initrd' }, { storedKernel: '/k' });
  assert.equal(all, ['r /k', 'r initrd', 'rwd root.img', 'rd data.img', ...ALWAYS]);
});

test('once the cell is started only what is yet to be written stays, and what a flag named', () => {
  assert.equal(listed({ rootfs: 'root.img' }, {}, 'end'), []);
  const places = { reportPlace: { path: '/out', isFolder: true } };
  assert.equal(listed({ report: '/out/report' }, places, 'end'), ['wc /out']);
  const pipe = { reportPlace: { path: '/out/pipe', isFolder: false } };
  assert.equal(listed({ report: '/out/pipe' }, pipe, 'end'), ['w /out/pipe']);
  const rules = [`path=${folder},access=rw`, `path=${folder},access=w`];
  const flags = { 'landlock-rules': rules, 'landlock-allow-path': [folder] };
  assert.equal(listed(flags, {}, 'end'), [`rwcd ${folder}`, `wc ${folder}`, `r ${folder}`]);
});

test('engine v8 has no image file to make', () => {
  const paths = listed({ engine: 'v8' });
  assert.not.ok(paths.some((path) => path.endsWith('/dev/shm') || path.endsWith(' /tmp')));
});

test('temporary files go where Node would have them go', () => {
  const before = { ...process.env };
  for (const folder of [undefined, '/var/tmp', '/var/tmp/', '/', '']) {
    if (folder === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = folder;
    assert.is(temporaryFolder(), tmpdir());
  }
  if (before.TMPDIR === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before.TMPDIR;
});

test('every path has a reason', () => {
  for (const { reason } of hostPaths(config({ rootfs: 'a', initrd: 'b' }), FACTS)) {
    assert.match(reason, /^[\x20-\x7e]{4,60}$/);
  }
});

// --- What they depend on ------------------------------------------------------------------------

test('only a kernel that must be unpacked, or needs modules, brings programs along', () => {
  assert.equal(hostFacts(config({ kernel: hello })).toolFolders, []);
  const packed = file('packed', bzImage(pack(Buffer.from(tinyKernel(print('x'))), 'gzip')));
  assert.ok(hostFacts(config({ kernel: packed })).toolFolders.includes('/usr'));
  assert.ok(hostFacts(config({ kernel: hello, rootfs: 'x' })).toolFolders.includes('/usr'));
  assert.equal(hostFacts(config({ kernel: hello, rootfs: 'x', initrd: 'y' })).toolFolders, []);
});

test("a report's place is its folder, that of the file behind a link, or a pipe itself", () => {
  const place = (report: string) => hostFacts(config({ report })).reportPlace;
  assert.equal(place(join(folder, 'new')), { path: folder, isFolder: true });
  mkdirSync(join(folder, 'sub'));
  file('sub/there', '');
  symlinkSync('sub/there', join(folder, 'link'));
  assert.equal(place(join(folder, 'link')), { path: join(folder, 'sub'), isFolder: true });
  assert.equal(place('/dev/null'), { path: '/dev/null', isFolder: false });
  const record = (path: string) => hostFacts(config({ record: path, engine: 'v8' })).recordPlace;
  assert.equal(record(join(folder, 'sub/there'))!.isFolder, false);
  assert.equal(record(join(folder, 'sub/new')), { path: join(folder, 'sub'), isFolder: true });
});

test('modules may lie beside a kernel, above it, or behind a link', () => {
  const root = join(folder, 'os');
  mkdirSync(join(root, 'boot'), { recursive: true });
  mkdirSync(join(root, 'lib/modules'), { recursive: true });
  mkdirSync(join(root, 'elsewhere'));
  symlinkSync('../../elsewhere', join(root, 'lib/modules/6.1'));
  writeFileSync(join(root, 'boot/vmlinuz'), 'x');
  const settings = { kernel: join(root, 'boot/vmlinuz'), rootfs: 'x' };
  const { moduleFolders } = hostFacts(config(settings));
  assert.ok(moduleFolders.includes(join(root, 'lib/modules')));
  assert.ok(moduleFolders.includes(join(root, 'elsewhere')));
});

// --- Landlock -----------------------------------------------------------------------------------

/** Runs JavaScript with `shim`, `fs` and `says` in a process of its own; what it said. */
function restricted(script: string): Record<string, string> {
  const path = file(
    'restricted.cjs',
    `const shim = require(${JSON.stringify(ADDON)});
     const fs = require('node:fs');
     const { join } = require('node:path');
     const folder = ${JSON.stringify(folder)};
     const said = {};
     const says = (name, act) => {
       try { said[name] = String(act() ?? 'done').slice(0, 20); } catch (e) { said[name] = e.code; }
     };
     const [READ, WRITE, CHANGE, EXECUTE, DEVICE] = ${JSON.stringify([
       PATH_READ,
       PATH_WRITE,
       PATH_CHANGE,
       PATH_EXECUTE,
       PATH_DEVICE,
     ])};
     const enter = (rules, outside = false) => {
       shim.setNoNewPrivs();
       return shim.enterLandlock(Object.keys(rules), Object.values(rules), outside);
     };
     (async () => { ${script} })().then(() => fs.writeSync(1, JSON.stringify(said)));`,
  );
  const args = [path];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.is(stderr, '');
  return JSON.parse(stdout);
}

landlockTest('what is not named is refused, what is named has its rights', () => {
  mkdirSync(join(folder, 'tree'));
  for (const name of ['tree/read', 'tree/write', 'other']) file(name, 'text');
  const said = restricted(`
    said.abi = String(enter({
      [join(folder, 'tree')]: READ,
      [join(folder, 'tree/write')]: WRITE,
      [join(folder, 'nowhere')]: READ,
    }).abi);
    says('read', () => fs.readFileSync(join(folder, 'tree/read')));
    says('list', () => fs.readdirSync(join(folder, 'tree')).length);
    says('look', () => fs.statSync(join(folder, 'other')).size);
    says('other', () => fs.readFileSync(join(folder, 'other')));
    says('passwd', () => fs.readFileSync('/etc/passwd'));
    says('above', () => fs.readdirSync(folder));
    says('append', () => fs.appendFileSync(join(folder, 'tree/write'), 'more'));
    says('write', () => fs.appendFileSync(join(folder, 'tree/read'), 'more'));
    says('make', () => fs.writeFileSync(join(folder, 'tree/new'), ''));
    says('remove', () => fs.unlinkSync(join(folder, 'tree/read')));
    says('folder', () => fs.mkdirSync(join(folder, 'tree/sub')));
  `);
  assert.is(said.abi, String(abi));
  assert.equal(said, {
    ...{ abi: String(abi), read: 'text', list: '2', look: '4', append: 'done' },
    ...{ other: 'EACCES', passwd: 'EACCES', above: 'EACCES', write: 'EACCES' },
    ...{ make: 'EACCES', remove: 'EACCES', folder: 'EACCES' },
  });
});

landlockTest('threads and processes that start later are bound too', () => {
  const said = restricted(`
    const { execFileSync } = require('node:child_process');
    enter({ '/usr': READ | EXECUTE, '/bin': READ | EXECUTE, '/lib': READ | EXECUTE,
      '/lib64': READ | EXECUTE, '/etc/ld.so.cache': READ });
    const text = (path) => fs.promises.readFile(path).then(() => 'read', (e) => e.code);
    said.pool = await text('/etc/passwd');
    says('child', () => execFileSync('/bin/cat', ['/etc/passwd'], { stdio: 'pipe' }));
    says('works', () => execFileSync('/bin/echo', ['fine'], { stdio: 'pipe' }).toString().trim());
  `);
  assert.is(said.pool, 'EACCES');
  assert.not.match(said.child ?? '', /root/);
  assert.is(said.works, 'fine');
});

landlockTest('a program is only executed where that is allowed', () => {
  const program = file('program', `#!/bin/sh\nexit 0\n`);
  chmodSync(program, 0o755);
  const said = restricted(`
    const { spawnSync } = require('node:child_process');
    enter({ '/usr': READ | EXECUTE, '/bin': READ | EXECUTE, '/lib': READ | EXECUTE,
      '/lib64': READ | EXECUTE, '/etc/ld.so.cache': READ, [folder]: READ | WRITE | CHANGE });
    said.program = spawnSync(join(folder, 'program')).error?.code ?? 'ran';
  `);
  assert.is(said.program, 'EACCES');
});

landlockTest(
  'a cell is started outside of the rules for files, and can be ended all the same',
  () => {
    const said = restricted(`
    const start = (script) => {
      const words = ['/bin/sh', '-c', script];
      const child = shim.startChild(words, [0, 1, 2, -2], false, false);
      fs.closeSync(child.control);
      return child;
    };
    const over = async ({ pid }) => {
      for (;;) {
        const status = shim.reapChild(pid);
        if (status !== null) return String(status);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    };
    enter({}, true);
    said.outside = await over(start('read line < /etc/passwd 2> /dev/null'));
    const sleeper = start('exec sleep 100');
    said.narrowed = shim.narrowLandlock([], []);
    shim.dropCapabilities(1 << 5);
    says('inside', () => start('exit 0').pid);
    process.kill(sleeper.pid, 'SIGKILL');
    said.ended = await over(sleeper);
    says('others', () => process.kill(process.ppid, 0));
  `);
    assert.is(said.outside, '0');
    assert.is(said.narrowed, '');
    assert.is(said.inside, 'EACCES');
    assert.is(said.ended, '9');
    assert.is(said.others, abi >= 6 ? 'EPERM' : 'true');
  },
);

landlockTest(
  'no TCP',
  () => {
    const said = restricted(`
      const net = require('node:net');
      enter({});
      const socket = net.connect(9, '127.0.0.1');
      said.tcp = await new Promise((resolve) => socket.on('error', (e) => resolve(e.code)));
    `);
    assert.is(said.tcp, 'EACCES');
  },
  4,
);

// --- Runs ---------------------------------------------------------------------------------------

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

const environment = { ...process.env, HOME: folder, XDG_DATA_HOME: '', XDG_CACHE_HOME: '' };

function faraday(...args: string[]): Outcome {
  const options = { env: environment, cwd: folder, input: '', encoding: 'latin1' } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, [FARADAY, ...args], options);
  return { status, stdout, stderr };
}

function reportOf(path: string): RunReport {
  return JSON.parse(readFileSync(path, 'utf8'));
}

for (const engine of ['cell', 'v8']) {
  kvmTest(`a restricted run with engine ${engine} finds all that it needs`, () => {
    const disk = file('disk.img', new Uint8Array(4096));
    const report = join(folder, `report-${engine}`);
    const packed = file('packed.xz', bzImage(pack(readFileSync(hello), 'xz')));
    const flags = ['--engine', engine, '--report', report, '--log-level', 'info'];
    for (const kernel of [hello, packed, packed]) {
      const { status, stdout, stderr } = faraday(
        ...['--kernel', kernel, '--disk', `path=${disk}`, ...flags],
      );
      assert.is(status, 0, stderr);
      assert.is(stdout, 'hello\r\n');
      assert.match(stderr, /faraday: Faraday itself: Landlock .*; no_new_privs/);
    }
    const { host } = reportOf(report).confinement;
    assert.is(host.landlock.abi, abi);
    assert.is(host.noNewPrivs, true);
    assert.ok(host.paths.some(({ path, access }) => path === disk && access === 'rwd'));
    assert.is(host.capabilities === null, !isRoot);
  });
}

kvmTest('a recording is written where there is a file, and where there is none', () => {
  for (const name of ['recording', 'recording']) {
    const { status, stderr } = faraday(
      ...['--kernel', hello, '--engine', 'v8', '--record', join(folder, name)],
    );
    assert.is(status, 0, stderr);
  }
});

kvmTest('with Landlock off nothing is restricted but privileges', () => {
  const report = join(folder, 'off.json');
  assert.is(faraday('--kernel', hello, '--no-landlock', '--report', report).status, 0);
  const { host } = reportOf(report).confinement;
  assert.is(host.landlock.state, 'off');
  assert.is(host.noNewPrivs, true);
});

kvmTest('required is as good as auto where all is there, else one line and exit code 3', () => {
  const { status, stdout, stderr } = faraday('--kernel', hello, '--landlock', 'required');
  if (abi >= 6) return assert.equal([status, stdout], [0, 'hello\r\n']);
  assert.is(status, 3);
  assert.match(stderr, /^faraday: --landlock required: [^\n]+ or newer, or --landlock auto\n$/);
});

/** The fields of /proc/PID/task/N/status that say what a thread may do. */
function threadsOf(pid: number): { name: string; noNewPrivs: string; effective: bigint }[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)![1]!;
    return {
      name: field('Name'),
      noNewPrivs: field('NoNewPrivs'),
      effective: BigInt(`0x${field('CapEff')}`),
    };
  });
}

kvmTest('while a guest runs, the threads that do anything have no rights to spare', async () => {
  const child = spawn(process.execPath, [FARADAY, '--kernel', idle], {
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  const threads = threadsOf(child.pid!);
  const bound = threads.filter(({ noNewPrivs }) => noNewPrivs === '1');
  child.kill();
  await once(child, 'exit');
  // The one that does all the work, the one outside, and Node's pool, which was started later.
  const outside = abi > 0 ? 1 : 0;
  assert.ok(bound.length >= 2 + outside, `${bound.length} of ${threads.length} threads`);
  assert.is(bound.filter(({ name }) => name === 'faraday-outside').length, outside);
  const kill = isRoot ? 1n << 5n : 0n;
  for (const { name, effective } of bound) assert.is(effective & ~kill, 0n, name);
  // Those that are not bound are V8's, from before the first line of JavaScript.
  assert.ok(threads.length - bound.length <= 6, `${threads.length - bound.length} threads`);
});

kvmTest('a mistake leaves no cache behind', () => {
  const home = join(folder, 'fresh');
  const options = { env: { ...environment, HOME: home }, encoding: 'latin1' } as const;
  spawnSync(process.execPath, [FARADAY, '--kernel', 'nothing'], options);
  assert.not.ok(existsSync(home));
});

test.run();
