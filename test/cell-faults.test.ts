// A host that refuses what a cell needs, and disks that are not what they were: one line and the
// right exit code, or the fall-back that the documentation promises.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cellProgram } from '../host/cell-program.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { awaitUsed, bringUp, offer, queueSegments, testDisk, WINDOW } from './cell-disk.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  type Ended,
  runFolder,
  runSpawned,
  scratch,
  scratchPath,
  startFolder,
  startSpawned,
} from './cell-guest.ts';
import type { Code } from './machine-code.ts';
import { diskDevice } from './machine-image.ts';
import { IDLE_FOR_EVER, tinyKernel } from './tiny-kernel.ts';

const LIMITS = new URL('./cell-limits.py', import.meta.url).pathname;
const ONE_LINE = /^faraday-cell: [\x20-\x7e]+\n$/;
// Below this the program itself does not fit and dies in exec.
const SPACE_KIB_MIN = 4096;
const SPACE_KIB_STEP = 256;
const SPACE_KIB_MAX = 65536;

const under = (...limits: string[]) => ({ wrap: ['/usr/bin/python3', LIMITS, ...limits, '--'] });
const hello = (code: Code) => code.say('hello').powerOff();

function assertHostRefuses(ended: Ended, what: string, call: RegExp): void {
  assert.is(ended.signal, null, what);
  assert.is(ended.status, 3, `${what}: ${ended.errors}`);
  assert.match(ended.errors, ONE_LINE, what);
  assert.match(ended.errors, call, what);
}

cellTest('descriptors run out at any point of the start: one line and 3', async () => {
  const virtio = Array.from({ length: 4 }, (_, i) => {
    const slot = { address: 0xd0000000 + i * 4096, pin: 5 + i };
    return { kind: 'virtio-rng' as const, slot };
  });
  const folder = composeFolder(bareImage(hello, { virtio, cpuCount: 1 }));
  let files = 3;
  for (; files < 64; files++) {
    const ended = await runFolder(folder, under(`files=${files}`));
    if (ended.status === 0) break;
    const code = /image/.test(ended.errors) ? 2 : 3; // the image itself could not be opened
    assert.is(ended.signal, null);
    assert.is(ended.status, code, ended.errors);
    assert.match(ended.errors, ONE_LINE);
    assert.match(ended.errors, 'EMFILE');
  }
  assert.ok(files > 12 && files < 64, `enough with ${files}`);
});

cellTest('address space runs out at any point of the start: one line and 3', async () => {
  const others = Array.from({ length: 31 }, () => 'other');
  const write = (code: Code) => hello(code.startOthers(others)).label('other').idle();
  const folder = composeFolder(bareImage(write, { cpuCount: 32 }));
  const calls = new Set<string>();
  for (let kib = SPACE_KIB_MIN; ; kib += SPACE_KIB_STEP) {
    const ended = await runFolder(folder, under(`space=${kib * 1024}`));
    if (ended.status === 0) break;
    assertHostRefuses(ended, `${kib} KiB`, /ENOMEM|EAGAIN/);
    calls.add(/^faraday-cell: (\w+)/.exec(ended.errors)![1]!);
    assert.ok(kib < SPACE_KIB_MAX);
  }
  assert.ok(calls.has('mmap') && calls.has('pthread_create'), [...calls].join());
});

cellTest('guest memory beyond what may be mapped is one line and 3', async () => {
  const folder = composeFolder(bareImage(hello, { memoryBytes: 2 ** 40 }));
  assertHostRefuses(
    await runFolder(folder, under(`space=${2 ** 32}`)),
    'memory',
    /mmap \(ENOMEM\)/,
  );
});

cellTest('threads that cannot start are one failure and 3', async () => {
  // By descriptors that the test opened, since the limit does not concern a privileged user.
  chmodSync(scratch, 0o755);
  const image = bareImage((code) => code.startOthers(['other', 'other']).label('other').idle(), {
    cpuCount: 3,
  });
  const plans = [1, 2, 3].flatMap((tasks) => [[], ['--detached']].map((args) => ({ tasks, args })));
  for (const { tasks, args } of plans) {
    const cell = startSpawned(image, { ...under(`tasks=${tasks}`), args });
    const ended = await cell.ended();
    const told = cell.messages.map((message) => message.type);
    assert.equal(told, ['failed'], `${tasks} tasks: it has not started before`);
    assert.is(ended.signal, null);
    assert.is(ended.status, 3, `${tasks} tasks`);
    assert.is(ended.failure?.call, 'pthread_create');
    assert.is(ended.failure?.errno, 'EAGAIN');
    assert.is(ended.failure?.exitCode, 3);
  }
});

cellTest('--detach says that it failed where threads cannot start, and is 3', async () => {
  chmodSync(scratch, 0o755);
  // Faraday as it is installed, but for the limits around its cell.
  const root = new URL('..', import.meta.url).pathname;
  const installed = scratchPath('installed');
  mkdirSync(join(installed, 'build'), { recursive: true });
  for (const name of ['bin', 'package.json']) {
    cpSync(join(root, name), join(installed, name), { recursive: true });
  }
  for (const name of readdirSync(join(root, 'build'))) {
    symlinkSync(join(root, 'build', name), join(installed, 'build', name));
  }
  const cell = join(installed, 'build/faraday-cell');
  const kernel = scratchPath('kernel');
  writeFileSync(kernel, tinyKernel(IDLE_FOR_EVER));
  const words = [join(installed, 'bin/faraday.js'), 'run', '--kernel', kernel, '--detach'];
  const faraday = () =>
    spawnSync(process.execPath, [...words, '--cpus', '2'], {
      encoding: 'latin1',
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  for (const tasks of [1, 2, 3]) {
    rmSync(cell, { force: true });
    const command = `exec /usr/bin/python3 '${LIMITS}' tasks=${tasks} -- '${cellProgram()}' "$@"`;
    writeFileSync(cell, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
    const { status, stderr } = faraday();
    assert.is(status, 3, `${tasks} tasks: ${stderr}`);
    assert.match(stderr, /^faraday: [^\n]*pthread_create[^\n]*\n$/);
  }
});

cellTest('/dev/kvm that may not be opened is one line and 3', async () => {
  const mode = readFileSync('/proc/self/status', 'utf8');
  const isRoot = /^Uid:\s+0\s/m.test(mode);
  const folder = composeFolder(bareImage(hello));
  chmodSync(scratch, 0o755);
  if (!isRoot) return; // only root can become somebody without rights
  const ended = await runFolder(folder, under('tasks=1000'));
  if (ended.status === 0) return; // this host lets everybody use it
  assertHostRefuses(ended, 'kvm', /open \((EACCES|EPERM)\): .*\/dev\/kvm/);
});

// --- io_uring -----------------------------------------------------------------------------------

cellTest('without io_uring disks work by sync, with one warning', async () => {
  const disk = testDisk({ ioUring: true });
  const image = bareImage(
    (code) =>
      awaitUsed(offer(bringUp(code), 3), 3, 'used')
        .say('read')
        .powerOff(),
    { virtio: [disk.device], segments: queueSegments() },
  );
  const warning = /^io_uring cannot be used \(io_uring_setup: EPERM\); disks use sync$/;
  const cell = startSpawned(image, under('no-io-uring'));
  const spawned = await cell.ended();
  const lines = cell.messages.flatMap((message) => (message.type === 'log' ? [message] : []));
  assert.is(lines.length, 1);
  assert.is(lines[0]!.level, 'warn');
  assert.match(lines[0]!.text, warning);
  assert.is(spawned.status, 0);
  assert.is(spawned.output.toString(), 'read');
  const { report } = spawned;
  const last = report!.getUint32(protocol.REPORT_DEVICE_COUNT, true) - 1;
  const at = protocol.REPORT_DEVICES + last * protocol.REPORT_DEVICE_STRIDE;
  assert.is(report!.getUint32(at + protocol.DEVICE_ENGINE, true), protocol.ENGINE_SYNC);
  assert.is(Number(report!.getBigUint64(at + protocol.DEVICE_REQUESTS, true)), 3);
  disk.close();
  const alone = await runFolder(composeFolder(image), under('no-io-uring'));
  assert.is(alone.status, 0);
  assert.match(alone.errors, ONE_LINE);
});

// --- A limit on the size of files --------------------------------------------------------------

for (const ioUring of [true, false]) {
  const engine = ioUring ? 'io_uring' : 'sync';
  cellTest(
    `a write past the limit of file sizes fails, and the guest runs on: ${engine}`,
    async () => {
      const disk = testDisk({ ioUring });
      const image = bareImage(
        (code) =>
          awaitUsed(offer(bringUp(code), 1), 1, 'used')
            .say('done')
            .powerOff(),
        { virtio: [disk.device], segments: queueSegments({ headerType: 1 }) },
      );
      // Outside of a process namespace, where a signal would end the cell.
      const wrap = ['/bin/bash', '-c', 'ulimit -f 0; exec "$0" "$@"'];
      const { status, signal, output } = await startSpawned(image, { wrap }).ended();
      disk.close();
      assert.is(signal, null);
      assert.is(status, 0);
      assert.is(output.toString(), 'done');
    },
  );
}

// --- Disks --------------------------------------------------------------------------------------

function assertDiskRefused(ended: Ended, call: string, about: RegExp): void {
  assert.is(ended.status, 2, ended.errors);
  if (ended.failure) {
    assert.is(ended.failure.exitCode, 2);
    assert.is(ended.failure.call, call);
    assert.match(ended.failure.about, about);
    assert.is(ended.errors, '');
  } else {
    assert.match(ended.errors, ONE_LINE);
    assert.match(ended.errors, about);
  }
}

cellTest("a descriptor with other rights than the disk's is refused", async () => {
  const disk = testDisk();
  for (const [mode, readOnly] of [
    ['r', false],
    ['r+', true],
    ['a+', false], // it would write at the end, whatever the offset
  ] as const) {
    const fd = openSync(disk.path, mode);
    const image = bareImage(hello, { virtio: [{ ...disk.device, fd, readOnly }] });
    assertDiskRefused(await runSpawned(image), 'disk', /rootfs: its descriptor has other rights/);
    closeSync(fd);
  }
  disk.close();
});

cellTest('a disk that became shorter, or no disk at all, is refused', async () => {
  const disk = testDisk();
  const image = bareImage(hello, { virtio: [disk.device] });
  const folder = composeFolder(image);
  truncateSync(disk.path, disk.bytes.length - 512);
  const about = /is smaller than when the image was composed/;
  assertDiskRefused(await runSpawned(image), 'disk', about);
  disk.close();
  assertDiskRefused(await runFolder(folder), 'disk', about);
  truncateSync(disk.path, disk.bytes.length + 4096); // a longer one will do
  assert.is((await runFolder(folder)).status, 0);
  const none = openSync('/dev/null', 'r+');
  const wrong = bareImage(hello, { virtio: [diskDevice(none)] });
  assertDiskRefused(await runSpawned(wrong), 'disk', /neither a file nor a block device/);
  closeSync(none);
  const missing = { args: ['--disk', `rootfs=${scratch}/no-such-disk`] };
  assertDiskRefused(await runFolder(folder, missing), 'disk', /ENOENT.*rootfs: .*no-such-disk/);
  const unknown = { args: ['--disk', `other=${disk.path}`] };
  assertDiskRefused(await runFolder(folder, unknown), 'disk', /other=.*no such ID/);
});

cellTest('by hand a disk may be another file, or a descriptor that is open already', async () => {
  const disk = testDisk();
  disk.close();
  const folder = composeFolder(bareImage(hello, { virtio: [disk.device] }));
  const other = join(scratch, 'other-disk');
  renameSync(disk.path, other);
  assert.is((await runFolder(folder, { args: ['--disk', `rootfs=${other}`] })).status, 0);
  const script = 'exec "$0" "$1" --disk rootfs=fd:9 9<>"$2"';
  const words = ['-c', script, cellProgram(), folder, other];
  assert.is(spawnSync('bash', words, { encoding: 'latin1' }).status, 0);
  const wrong = { args: ['--disk', 'rootfs=fd:77'] };
  assertDiskRefused(await runFolder(folder, wrong), 'disk', /EBADF.*fd:77/);
});

cellTest('descriptors that cannot be disks are one line and 2', async () => {
  const disk = testDisk();
  disk.close();
  const second = { ...disk.device, id: 'data', slot: { address: WINDOW + 0x1000, pin: 6 } };
  const folder = composeFolder(bareImage(hello, { virtio: [disk.device, second] }));
  const other = join(scratch, 'second-disk');
  copyFileSync(disk.path, other);
  const files = [openSync(disk.path, 'r+'), openSync(disk.path, 'r+'), openSync(other, 'r+')];
  files.push(openSync(other, 'a+')); // 3 and 4: the same file; 5: another; 6: it appends
  const start = (root: string, data: string) =>
    spawnSync(cellProgram(), [folder, '--disk', `rootfs=${root}`, '--disk', `data=${data}`], {
      encoding: 'latin1',
      stdio: ['ignore', 'pipe', 'pipe', ...files],
    });
  const good = start('fd:3', 'fd:5');
  assert.equal([good.status, good.stdout, good.stderr], [0, 'hello', '']);
  const number = /disk \(EBADF\): .* names no descriptor past 2 that is open$/m;
  const wrong: [root: string, data: string, about: RegExp][] = [
    ['fd:3', 'fd:3', /data: is given twice$/m],
    ['fd:3', 'fd:4', /data: is given twice$/m],
    ['fd:3', disk.path, /data: is given twice$/m],
    ['fd:3', 'fd:6', /data: its descriptor has other rights/],
    ['fd:7', 'fd:5', number], // what the cell itself would open next
  ];
  for (const text of [
    '7x',
    '3x',
    '2',
    '0',
    '77',
    '',
    '-3',
    '+3',
    ' 3',
    '4294967299',
    '9'.repeat(30),
  ])
    wrong.push([`fd:${text}`, 'fd:5', number]);
  for (const [root, data, about] of wrong) {
    const { status, stdout, stderr } = start(root, data);
    assert.equal([status, stdout], [2, ''], `${root} ${data}: ${stderr}`);
    assert.match(stderr, ONE_LINE);
    assert.match(stderr, about);
  }
  for (const fd of files) closeSync(fd);
});

cellTest('a disk in use is refused, two readers share one, a dead cell keeps no lock', async () => {
  const disk = testDisk();
  disk.close();
  const folder = composeFolder(
    bareImage((code) => code.say('up').idle(), { virtio: [disk.device] }),
  );
  const reader = composeFolder(
    bareImage((code) => code.say('up').idle(), { virtio: [{ ...disk.device, readOnly: true }] }),
  );
  const first = startFolder(folder);
  await first.untilSaid('up');
  for (const other of [folder, reader]) {
    assertDiskRefused(await runFolder(other), 'lock', /lock \(EBUSY\): rootfs/);
  }
  first.child.kill('SIGKILL');
  await first.ended();
  const readers = [startFolder(reader), startFolder(reader)];
  for (const cell of readers) await cell.untilSaid('up');
  assertDiskRefused(await runFolder(folder), 'lock', /lock \(EBUSY\): rootfs/);
  for (const cell of readers) cell.child.kill('SIGTERM');
  for (const cell of readers) assert.is((await cell.ended()).status, 143);
  const last = startFolder(folder);
  await last.untilSaid('up');
  last.child.kill('SIGTERM');
  assert.is((await last.ended()).status, 143);
});

test.run();
