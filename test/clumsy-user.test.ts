// What goes wrong around the command: descriptors that are closed, full or of the wrong kind,
// paths that lead nowhere, files which would never end. Never a stack trace, never a wait for
// ever. test/cli.test.ts has the ordinary mistakes.
import { spawnSync } from 'node:child_process';
import {
  linkSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { kvmTest } from './bare-metal.ts';
import { vmlinux } from './fake-kernel.ts';
import { IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const TIME_LIMIT_MS = 20_000;

const folder = mkdtempSync(join(tmpdir(), 'faraday-clumsy-'));
test.after(() => rmSync(folder, { recursive: true }));
const environment = { ...process.env, HOME: folder, XDG_DATA_HOME: '', XDG_CACHE_HOME: '' };

function file(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const hello = file('hello', tinyKernel(print('hello\r\n'), POWER_OFF, IDLE_FOR_EVER));
const idle = file('idle', tinyKernel(print('$ '), IDLE_FOR_EVER));

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

function spawned(command: string, args: string[], extra: NodeJS.ProcessEnv = {}): Outcome {
  const { status, stdout, stderr } = spawnSync(command, args, {
    input: '',
    env: { ...environment, ...extra },
    cwd: folder,
    timeout: TIME_LIMIT_MS,
    killSignal: 'SIGKILL',
    encoding: 'latin1',
  });
  return { status, stdout, stderr };
}

function faraday(args: string[], extra: NodeJS.ProcessEnv = {}): Outcome {
  return spawned(process.execPath, [FARADAY, ...args], extra);
}

/** Runs bash with `faraday` as a function, so that a test can redirect its descriptors. */
function shell(script: string): Outcome {
  return spawned('bash', [
    '-c',
    `faraday() { '${process.execPath}' '${FARADAY}' "$@"; }\n${script}`,
  ]);
}

/** A mistake: exit code `code`, one line of at most a screen, no control characters in it. */
function refusal(args: string[], code = 2): string {
  const { status, stdout, stderr } = faraday(args);
  assert.is(status, code, stderr);
  assert.is(stdout, '');
  assert.match(stderr, /^faraday: [\x20-\x7e\xa0-\xff]{1,1100}\n$/);
  return stderr;
}

// --- The console's descriptors ------------------------------------------------------------------

kvmTest('on a terminal Ctrl-A x leaves a guest that takes no input, whatever was typed', () => {
  const runner = new URL('./on-terminal.py', import.meta.url).pathname;
  const keys = 'abcd\x01x';
  const { stdout } = spawned('python3', [
    runner,
    keys,
    process.execPath,
    FARADAY,
    '--kernel',
    idle,
  ]);
  assert.match(stdout, /status=0 raw=True restored=True\n$/);
});

kvmTest('a background job leaves the terminal to the shell until it is in the foreground', () => {
  const player = new URL('./in-background.py', import.meta.url).pathname;
  const { stderr } = spawned('python3', [player, process.execPath, FARADAY, '--kernel', idle]);
  assert.match(stderr, /^stopped=True raw-behind-the-shell=False raw=True\n/);
  assert.match(stderr, /status=0 restored=True\n$/);
});

kvmTest('a guest runs on where its console cannot be written, and that is said once', () => {
  const lost = /^faraday: standard output cannot be written \((\w+)\); [^\n]+\n$/;
  const full = shell('faraday --kernel hello > /dev/full');
  assert.is(full.status, 0);
  assert.is(lost.exec(full.stderr)?.[1], 'ENOSPC', full.stderr);
  const unwritable = shell('faraday --kernel hello 1< hello');
  assert.is(unwritable.status, 0);
  assert.is(lost.exec(unwritable.stderr)?.[1], 'EBADF', unwritable.stderr);
});

kvmTest('a guest runs on where standard input cannot be read', () => {
  for (const [input, errno] of [
    ['< .', 'EISDIR'],
    ['0> written', 'EBADF'],
  ]) {
    // The guest never ends by itself; that it prints shows that it runs.
    const { stdout, stderr } = shell(`rm -f out err
      '${process.execPath}' '${FARADAY}' --kernel idle ${input} > out 2> err &
      until [ -s out ] && [ -s err ]; do sleep 0.1; done
      kill $!; wait; cat out; cat err >&2`);
    assert.is(stdout, '$ ', stderr);
    assert.match(stderr, new RegExp(`standard input cannot be read \\(${errno}\\)`));
  }
});

kvmTest('closed descriptors are as good as /dev/null', () => {
  const { status, stdout, stderr } = shell('faraday --kernel hello <&- >&-');
  assert.equal([status, stdout, stderr], [0, '', '']);
});

// --- What Faraday itself says -------------------------------------------------------------------

test('an answer that cannot be written is a failure, a reader that left is none', () => {
  for (const words of ['check', '--help', 'kernel list --json']) {
    const full = shell(`faraday ${words} > /dev/full`);
    assert.is(full.status, 3);
    assert.match(full.stderr, /^faraday: standard output cannot be written \(ENOSPC\); [^\n]+\n$/);
    // The pipe's reader is gone before there is anything to read.
    const left = shell(`{ sleep 0.2; faraday ${words}; } | true; echo "\${PIPESTATUS[*]}" >&2`);
    assert.match(left.stderr, /^[03] 0\n$/);
  }
  assert.is(shell('faraday --kernel nothing 2> /dev/full').status, 2);
});

test('what a message quotes neither breaks its line nor reaches the terminal as an order', () => {
  assert.match(refusal(['--kernel', 'a\nb\x1b[2J']), /kernel a\\x0ab\\x1b\[2J: /);
  assert.match(refusal(['--config', file('keys.json', '{"ker\\nnel": "x"}')]), /'ker\\x0anel'/);
  assert.match(refusal(['--kernel', 'x\u202etxt']), /x\\u202etxt/);
  const long = refusal(['--kernel', 'k'.repeat(100_000)]);
  assert.match(long, /^faraday: kernel kkk.* \[\.\.\.\] k+: [^k]+/);
  assert.match(refusal([`--${'x'.repeat(100_000)}`]), /\[\.\.\.\]/);
});

test('a word of one letter has no nearest one', () => {
  assert.match(refusal(['x']), /unknown command 'x'; see 'faraday --help'/);
});

kvmTest('too few descriptors are the fault of the host, with what to do', () => {
  // As many as just do not suffice: with fewer Node itself would not start.
  const { stderr } = shell(`for n in {34..12}; do
    ulimit -n $n; faraday --kernel hello; status=$?
    [ $status = 0 ] || { echo $status >&2; break; }
  done`);
  assert.match(stderr, /^faraday: [^\n]+ \(EMFILE\); [^\n]+ulimit[^\n]+\n3\n$/);
});

// --- Paths that lead nowhere, files that never end ----------------------------------------------

spawned('bash', ['-c', 'mkfifo fifo; ln -s loop loop; mkdir folder; ln -s report link']);
const BAD_PATHS = ['loop', 'fifo', 'folder', 'hello/x', 'x'.repeat(5000), '/dev/zero', ''];

for (const flag of ['--kernel', '--initrd', '--rootfs', '--config']) {
  test(`${flag} refuses every path that leads to no file`, () => {
    for (const path of BAD_PATHS) {
      const args = flag === '--kernel' ? [] : ['--kernel', hello];
      assert.match(refusal([...args, flag, path]), /./);
    }
  });
}

test('a configuration file may come through a pipe', () => {
  const { status, stderr } = shell(`faraday --config <(sleep 0.3; echo '{"kernel": "nowhere"}')`);
  assert.is(status, 2);
  assert.match(stderr, /kernel nowhere: no such file/);
});

test('a configuration file of hostile shape is refused', () => {
  const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;
  assert.match(refusal(['--config', file('deep', `{"kernel": ${deep}}`)]), /not a list/);
  const disk = '{"kernel": "k", "disk": [{"path": {"a": 1}}]}';
  assert.match(refusal(['--config', file('disk', disk)]), /'path' must be a string, not an object/);
  const inherited = '{"kernel": "k", "disk": [{"constructor": "a"}]}';
  assert.match(refusal(['--config', file('inherited', inherited)]), /unknown key 'constructor'/);
  assert.match(refusal(['--config', file('big', ' '.repeat(2 ** 20 + 1))]), /at most 1 MiB/);
  assert.match(refusal(['--config', file('marked', '\ufeff{}')]), /--kernel is missing/);
});

test('--disk knows no option by inheritance', () => {
  for (const word of ['constructor=x', '__proto__=x', 'toString', 'hasOwnProperty']) {
    assert.match(refusal(['--kernel', hello, '--disk', word]), /is unknown; known are path=/);
  }
});

test('memory past any number of bytes is said to be too much', () => {
  for (const size of ['99999999T', `${'9'.repeat(400)}G`]) {
    assert.match(refusal(['--kernel', hello, '--memory', size]), /more than any host has/);
  }
});

// --- Reports ------------------------------------------------------------------------------------

test('a report replaces none of the files the run is made of', () => {
  const files = { kernel: hello, disk: file('d.img', 'x'.repeat(512)), initrd: file('i', 'i') };
  const config = file('c.json', JSON.stringify({ ...files, disk: [files.disk] }));
  for (const [name, path] of Object.entries({ ...files, config })) {
    const before = readFileSync(path);
    linkSync(path, join(folder, `${name}-link`));
    const message = refusal(['--config', config, '--report', `${name}-link`]);
    assert.match(message, /--report '[a-z]+-link' would overwrite '/);
    assert.equal(readFileSync(path), before);
  }
});

kvmTest('a report goes through a link, to standard output, or under a name of any length', () => {
  assert.is(faraday(['--kernel', hello, '--report', file('report', '')]).status, 0);
  writeFileSync(join(folder, 'report'), '');
  assert.is(faraday(['--kernel', hello, '--report', 'link']).status, 0);
  assert.match(readFileSync(join(folder, 'report'), 'latin1'), /power-off/);
  assert.ok(lstatSync(join(folder, 'link')).isSymbolicLink());
  assert.is(shell('faraday --kernel hello --report /dev/stdout > both').status, 0);
  assert.match(readFileSync(join(folder, 'both'), 'latin1'), /^hello\r\n\{\n[\s\S]*power-off/);
  assert.is(faraday(['--kernel', hello, '--report', 'r'.repeat(255)]).status, 0);
});

kvmTest('a report into a pipe nobody reads is refused after the run, without waiting', () => {
  const { status, stderr } = faraday(['--kernel', hello, '--report', 'fifo']);
  assert.is(status, 2);
  assert.match(stderr, /^faraday: --report 'fifo' is a pipe nobody reads\n$/);
  const read = shell('cat fifo & faraday --kernel hello --report fifo; wait');
  assert.match(read.stdout, /power-off/);
});

test('a report to a path that leads nowhere is refused before the run', () => {
  for (const path of ['loop', 'hello/x', 'x'.repeat(256), 'x'.repeat(5000), 'none/report']) {
    assert.match(refusal(['--kernel', hello, '--report', path]), /cannot be written \(E[A-Z]+\)/);
  }
});

// --- The store, the cache and what lies beside a kernel -----------------------------------------

const TRACES = ['virtio-mmio', 'virtio_blk', 'ext4_inode_cache'];
const stock = file('vmlinux', vmlinux(TRACES));

test('a kernel file larger than a buffer can be is imported', () => {
  const path = file('debuggable', vmlinux(TRACES));
  truncateSync(path, 2 ** 31 + 4096);
  const { status, stderr } = faraday(['kernel', 'import', path, '--name', 'debuggable']);
  assert.is(status, 0, stderr);
});

test('a store or cache that cannot be made is the fault of the host, at once', () => {
  for (const place of ['/proc/none', '/dev/null', join(folder, 'loop')]) {
    const imported = faraday(['kernel', 'import', stock], { XDG_DATA_HOME: place });
    assert.is(imported.status, 3, imported.stderr);
    assert.match(imported.stderr, /^faraday: [^\n]+ cannot be written to \(E[A-Z]+\); [^\n]+\n$/);
  }
});

test('a configuration beside a kernel that cannot be read is as good as none', () => {
  shell('mkdir beside; cp vmlinux beside; ln -s config beside/config');
  assert.match(refusal(['--kernel', 'beside/vmlinux']), /has nothing to boot into/);
});

test('a stored kernel whose meta data is a pipe is damaged, not waited for', () => {
  shell('mkdir -p store/faraday/kernels/odd; mkfifo store/faraday/kernels/odd/meta.json');
  const { status, stdout } = faraday(['kernel', 'list'], { XDG_DATA_HOME: join(folder, 'store') });
  assert.is(status, 0);
  assert.match(stdout, /^odd +damaged/);
});

test('a package whose boot folder is a link offers no kernel of this host', () => {
  const { status, stderr } = shell(`
    mkdir -p host-boot package/DEBIAN; cp vmlinux host-boot/vmlinuz-6.1
    ln -s "$PWD/host-boot" package/boot
    printf '%s\\n' 'Package: linux-image-odd' 'Version: 1' 'Architecture: amd64' \\
      'Maintainer: M <m@example.org>' 'Description: odd' > package/DEBIAN/control
    dpkg-deb --root-owner-group -Znone -b package odd.deb > /dev/null || exit
    faraday kernel import odd.deb`);
  assert.is(status, 2);
  assert.match(stderr, /^faraday: package odd\.deb: holds no kernel [^\n]+\n$/);
});

test.run();
