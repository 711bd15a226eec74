// A running cell from outside, by /proc: exactly the descriptors it needs with no more rights than
// it needs, and on every thread no rights, two filters, its own namespaces and its limits.
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
} from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineImage } from '../host/boot/image.ts';
import { imageBeside } from '../host/boot/image-bytes.ts';
import { cellProgram } from '../host/cell-program.ts';
import { type CellConfinement, readConfined } from '../host/confine/confined.ts';
import { MessageReader } from '../host/engine/cell-messages.ts';
import { CellProcess } from '../host/engine/cell-process.ts';
import { CHILD_CONTROL, CHILD_NULL, shim } from '../host/shim.ts';
import { writeImage } from '../host/write-image.ts';
import { isRoot } from './attack/attacker.ts';
import { type TestDisk, testDisk, WINDOW } from './cell-disk.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  scratchPath,
  startFolder,
  within,
} from './cell-guest.ts';

const OWN_BYTES = 32 * 2 ** 20; // what a cell maps beside its guest's memory
const VCPUS = 2;
const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'];

interface Seen {
  pid: number;
  confinement: CellConfinement | null; // as it says itself; null by hand
  ringRefused: boolean;
  image: MachineImage;
}

// --- Cells --------------------------------------------------------------------------------------

function twoDisks(ioUring: boolean): TestDisk[] {
  const slot = { address: WINDOW + 0x1000, pin: 6 };
  return [testDisk({ ioUring }), testDisk({ readOnly: true, id: 'readonly', slot })];
}

const imageOf = (disks: TestDisk[]): MachineImage =>
  bareImage((code) => code.startOthers(['other']).label('other').say('up').idle(), {
    virtio: disks.map(({ device }) => device),
    cpuCount: VCPUS,
  });

/** Starts the release as a host does, and shows it while its guest runs. */
async function whileHosted(ioUring: boolean, look: (seen: Seen) => void): Promise<void> {
  const disks = twoDisks(ioUring);
  const image = imageOf(disks);
  const bytes = imageBeside(image);
  const path = scratchPath('hosted');
  const opened = [openSync(path, 'wx+'), openSync('/dev/kvm', 'r+')];
  rmSync(path);
  writeImage(opened[0]!, bytes);
  const files = bytes.files.map((file) => ('fd' in file ? file.fd : -1));
  const passed = [CHILD_NULL, CHILD_NULL, CHILD_NULL, CHILD_CONTROL, ...opened, ...files];
  const child = new CellProcess(
    shim().startChild([cellProgram(), '--spawned'], passed, false, true),
  );
  for (const fd of opened) closeSync(fd);
  const reader = new MessageReader();
  let confinement: CellConfinement | null = null;
  let ringRefused = false;
  let over: () => void = () => {};
  const gone = new Promise<void>((resolve) => {
    over = resolve;
  });
  const shown = new Promise<void>((resolve, reject) => {
    const data = (chunk: Uint8Array) => {
      for (const message of reader.push(chunk)) {
        if (message.type === 'confined') confinement = readConfined(message.record);
        if (message.type === 'log') ringRefused ||= message.text.startsWith('io_uring');
        if (message.type === 'started') resolve();
      }
    };
    const ended = () => {
      over();
      reject(new Error('it ended'));
    };
    child.listen({ data, hungUp: () => {}, ended });
  });
  try {
    await within(shown, 'the start');
    look({ pid: child.pid, confinement, ringRefused, image });
  } finally {
    child.kill('SIGKILL');
    await gone;
    for (const disk of disks) disk.close();
  }
}

/** The same by hand. */
async function whileByHand(look: (seen: Seen) => void): Promise<void> {
  const disks = twoDisks(false);
  const image = imageOf(disks);
  const folder = composeFolder(image);
  for (const disk of disks) disk.close(); // it opens and locks them itself
  // Open and none of its business.
  const cell = startFolder(folder, { wrap: ['sh', '-c', 'exec "$@" 9</etc/passwd', 'sh'] });
  try {
    await cell.untilSaid('up');
    look({ pid: cell.child.pid!, confinement: null, ringRefused: false, image });
  } finally {
    cell.child.kill('SIGKILL');
    await cell.ended();
  }
}

// --- Descriptors --------------------------------------------------------------------------------

/** 'WHAT RIGHTS' of each past the standard ones, sorted. */
function descriptors(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .filter((number) => Number(number) > 2)
    .map((number) => {
      const what = readlinkSync(`/proc/${pid}/fd/${number}`).replace(/^socket:.*/, 'socket');
      const info = readFileSync(`/proc/${pid}/fdinfo/${number}`, 'utf8');
      const flags = Number.parseInt(/^flags:\s+(\d+)$/m.exec(info)![1]!, 8);
      const rights = ['r', 'w', 'rw'][flags & (constants.O_WRONLY | constants.O_RDWR)];
      return `${what} ${rights}`;
    })
    .sort();
}

/** What a cell with that image needs once its guest runs. */
function needed({ image, confinement }: Seen, ioUring: boolean): string[] {
  const disks = image.virtio.flatMap((device) => {
    return device.kind === 'virtio-blk' ? [`${device.path} ${device.readOnly ? 'r' : 'rw'}`] : [];
  });
  const vcpus = Array.from({ length: image.cpuCount }, (_, i) => `anon_inode:kvm-vcpu:${i} rw`);
  // News for the I/O thread, the serial port's interrupt, doorbell and interrupt of each disk.
  const events = Array.from({ length: 2 + 2 * disks.length }, () => 'anon_inode:[eventfd] rw');
  return [
    ...[...vcpus, ...events, ...disks],
    'anon_inode:kvm-vm rw', // whose closing would take the interrupt lines along
    'anon_inode:[eventpoll] rw',
    'anon_inode:[signalfd] rw',
    ...(ioUring ? ['anon_inode:[io_uring] rw'] : []),
    ...(confinement ? ['socket rw'] : []),
  ].sort();
}

/** Who is not dumpable can be looked into by root alone. */
function looksInside(name: string, body: () => Promise<void>): void {
  if (isRoot) cellTest(name, body);
  else test.skip(`${name} (skipped: only root may look)`, () => {});
}

for (const ioUring of [false, true]) {
  const title = ioUring ? 'with io_uring its ring is one more' : 'a spawned cell';
  looksInside(`${title}: it holds the descriptors it needs and no other`, () => {
    return whileHosted(ioUring, (seen) => {
      if (seen.ringRefused) process.stdout.write(`SKIPPED: ${title} (this host refuses it)\n`);
      assert.equal(descriptors(seen.pid), needed(seen, ioUring && !seen.ringRefused));
    });
  });
}

looksInside('by hand it closes its image, /dev/kvm, and whatever was open', () => {
  return whileByHand((seen) => assert.equal(descriptors(seen.pid), needed(seen, false)));
});

test('a child is started with the descriptors it is given and with no others', () => {
  // As a shell leaves one open; Node itself closes those below 16.
  const shell = ['-c', 'exec 200</etc/passwd; exec "$@"', 'sh'];
  const words = JSON.stringify(['/bin/ls', '/proc/self/fd']);
  const script = `
    import { shim } from ${JSON.stringify(new URL('../host/shim.ts', import.meta.url).href)};
    shim().startChild(${words}, [0, 1, 2], false, false);`;
  const node = [process.execPath, '--import', 'tsx', '--input-type=module', '-e', script];
  const { stdout } = spawnSync('bash', [...shell, ...node], { encoding: 'utf8' });
  assert.is(stdout, '0\n1\n2\n3\n', 'the last one is that folder');
});

cellTest('it is not dumpable: what /proc says of its insides is for root alone', () => {
  return whileHosted(false, ({ pid }) => {
    assert.is(statSync(`/proc/${pid}/environ`).uid, 0);
    assert.is(statSync(`/proc/${pid}/mem`).uid, 0);
    const look = () => accessSync(`/proc/${pid}/environ`, constants.R_OK);
    if (isRoot) look();
    else assert.throws(look, /EACCES/);
  });
});

looksInside('no memory of it is writable and executable, and no file but its own is mapped', () => {
  return whileHosted(false, ({ pid }) => {
    const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').trim().split('\n');
    const parts = maps.map((line) => /^\S+ (\S+) \S+ \S+ (\d+)\s*(.*)$/.exec(line)!);
    const both = parts.filter(([, rights]) => /wx/.test(rights!));
    assert.equal(both, []);
    const executable = parts.filter(([, rights]) => rights!.includes('x'));
    const names = executable.map(([, , , name]) => name);
    const kernels = ['[vdso]', '[vsyscall]'];
    assert.equal(
      names.filter((name) => !kernels.includes(name!)),
      [cellProgram()],
    );
    const files = parts.filter(([, , inode, name]) => inode !== '0' && name!.startsWith('/'));
    assert.equal([...new Set(files.map(([, , , name]) => name))], [cellProgram()]);
  });
});

// --- Rights, filters, limits --------------------------------------------------------------------

const field = (text: string, name: string): string =>
  new RegExp(`^${name}:[ \\t]*(.*?)[ \\t]*$`, 'm').exec(text)![1]!;

/** Of this process, in a container perhaps. */
const FILTERS_BEFORE = Number(field(readFileSync('/proc/self/status', 'utf8'), 'Seccomp_filters'));

function assertThread(text: string): void {
  const name = field(text, 'Name');
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) {
    assert.is(field(text, set), '0000000000000000', `${set} of ${name}`);
  }
  // The bounding set means nothing to who cannot gain any; only who has rights may empty it.
  if (isRoot) assert.is(field(text, 'CapBnd'), '0000000000000000', name);
  assert.is(field(text, 'NoNewPrivs'), '1', name);
  assert.is(field(text, 'Seccomp'), '2', name);
  const filters = Number(field(text, 'Seccomp_filters')) - FILTERS_BEFORE;
  assert.is(filters, 2, `the start's and its own: ${name}`);
  if (!isRoot) return;
  const users = new Set([...field(text, 'Uid').split('\t'), ...field(text, 'Gid').split('\t')]);
  assert.is(users.size, 1, name);
  assert.ok(Number([...users][0]) >= 0x70000000, `nobody's number: ${[...users]}`);
  assert.is(field(text, 'Groups'), '', name);
}

function assertLimits(pid: number, memoryBytes: number): void {
  const text = readFileSync(`/proc/${pid}/limits`, 'utf8');
  const limit = (name: string) => new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(text)!;
  const wanted: [name: string, value: number][] = [
    ['Max open files', 1],
    ['Max processes', 0],
    ['Max locked memory', 0],
    ['Max core file size', 0],
    ['Max address space', memoryBytes + OWN_BYTES],
  ];
  for (const [name, value] of wanted) {
    assert.equal(limit(name).slice(1), [String(value), String(value)], name);
  }
}

function assertConfined({ pid, image }: Seen): void {
  const threads = readdirSync(`/proc/${pid}/task`);
  const texts = threads.map((id) => readFileSync(`/proc/${pid}/task/${id}/status`, 'utf8'));
  const names = texts.map((text) => field(text, 'Name')).filter((name) => !/^kvm-/.test(name));
  const vcpus = Array.from({ length: VCPUS }, (_, i) => `vcpu ${i}`);
  assert.equal(names.sort(), ['console', 'faraday-cell', ...vcpus]);
  texts.forEach(assertThread);
  assertLimits(pid, image.memoryBytes);
}

cellTest('spawned: every thread has no rights, two filters, and no way to more', () => {
  return whileHosted(false, assertConfined);
});

cellTest('by hand: every thread has no rights, two filters, and no way to more', () => {
  return whileByHand(assertConfined);
});

looksInside('it is in namespaces of its own, and says truly which', () => {
  return whileHosted(false, ({ pid, confinement }) => {
    const differs = (name: string) =>
      readlinkSync(`/proc/${pid}/ns/${name}`) !== readlinkSync(`/proc/self/ns/${name}`);
    const own = confinement!.namespaces.own.map((name) => (name === 'mount' ? 'mnt' : name));
    assert.equal(NAMESPACES.filter(differs), own.sort());
    if (own.includes('mnt')) assert.equal(readdirSync(`/proc/${pid}/root/`), [], 'an empty root');
    if (own.includes('pid')) {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      assert.match(field(status, 'NSpid'), /\t1$/, 'the first of its own');
    }
  });
});

test.run();
