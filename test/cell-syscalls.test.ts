// No row of the tables without need: cells with bare-metal guests are traced through everything
// that a guest, a host or a user makes them do, and each row has to be used by one of them, or to
// say why it stays. What only a real kernel's guest brings about is in boot-syscalls.test.ts.
// Time limit: 300 s
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
} from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineImage } from '../host/boot/image.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { REG } from '../testing/driver.ts';
import { DESC_F_NEXT, DESC_F_WRITE } from '../testing/queue.ts';
import { findCommand } from '../tools/command.ts';
import { kvmTest, le, protectedMode } from './bare-metal.ts';
import {
  awaitUsed,
  beginRead,
  bringUp,
  busyRings,
  DATA,
  DESCRIPTORS,
  HEADER,
  keepGoing,
  largeRead,
  offer,
  queueSegments,
  ringAt,
  testDisk,
  WINDOW,
} from './cell-disk.ts';
import {
  bareImage,
  type CellOptions,
  cellTest,
  composeFolder,
  type RunningCell,
  scratchPath,
  sleep,
  startFolder,
  startSpawned,
  within,
} from './cell-guest.ts';
import { COM1, type Code } from './machine-code.ts';
import { closeAll, enterNamespace } from './net-namespace.ts';
import { streamTraced, tapTraced, withStream } from './net-traced.ts';
import { ONLY_IN_BOOTS, readTrace, strace, Usage } from './syscall-trace.ts';

const MIB = 2 ** 20;
const LARGE_PARTS = 64; // of 8 MiB: takes much longer than a reset
const I8042_COMMAND = 0x64;
const PVPANIC = 0x505;
const RTC = 0x70;
const STOPS = 5; // by SIGSTOP, in a wait that takes all the time there is
const PAUSES = 5;
const PAUSES_MAX = 200;
const FLOOD_BYTES = 24_000; // more than the ring takes and a pipe of one page

const usage = new Usage();
const STRACE = findCommand('strace')!;
const LIMITS = new URL('./cell-limits.py', import.meta.url).pathname;

interface Traced {
  cell: RunningCell;
  path: string; // of the trace
}

type Start = (image: MachineImage, options?: CellOptions) => Traced;

const spawned: Start = (image, options = {}) => {
  const path = scratchPath('trace');
  const wrap = [...(options.wrap ?? []), ...strace(STRACE, path)];
  return { cell: startSpawned(image, { ...options, wrap }), path };
};

const byHand: Start = (image, options = {}) => {
  const path = scratchPath('trace');
  const wrap = [...(options.wrap ?? []), ...strace(STRACE, path)];
  return { cell: startFolder(composeFolder(image), { ...options, wrap }), path };
};

const STARTS: [what: string, start: Start][] = [
  ['under a host', spawned],
  ['by hand', byHand],
];

/** The process of the cell, whoever started it. */
async function cellPid({ path, cell }: Traced): Promise<number> {
  const first = () => (existsSync(path) ? /^\d+/.exec(readFileSync(path, 'utf8')) : null);
  await cell.until(() => first() !== null, 'a first line of the trace');
  return Number(first()![0]);
}

/** Waits for the end of the cell and of the trace, and takes what it used. */
async function take(traced: Traced, status: number): Promise<void> {
  const ended = await traced.cell.ended();
  const complete = async () => {
    const pid = readFileSync(traced.path, 'utf8').split(' ', 1)[0];
    const end = new RegExp(`^${pid} +\\+\\+\\+`, 'm');
    while (!end.test(readFileSync(traced.path, 'utf8'))) await sleep(5);
  };
  await within(complete(), 'the end of the trace');
  assert.is(ended.status, status, `${ended.errors}${ended.failure?.about ?? ''}`);
  assert.equal(usage.add(readTrace(traced.path)), [], 'calls that no row allows');
}

/** Whether a cell that runs on has used a row. */
function usesRow({ path }: Traced, name: string): boolean {
  const sofar = new Usage();
  sofar.add(readTrace(path));
  return sofar.has(name);
}

const run = (start: Start, image: MachineImage, status: number, options?: CellOptions) =>
  take(start(image, options), status);

// --- Starts and ends ----------------------------------------------------------------------------

const NO_IDT = protectedMode({ idtLimit: 0 });
const UD2 = [0x0f, 0x0b];

const ENDS: [what: string, write: (code: Code) => void, status: number][] = [
  [
    'a power off',
    (code) =>
      code
        .out(RTC, 0)
        .in(RTC + 1)
        .powerOff(),
    0,
  ],
  ['a reboot', (code) => code.out(I8042_COMMAND, 0xfe).idle(), 0],
  ['a panic', (code) => code.out(PVPANIC, 1).idle(), 4],
  ['a triple fault', (code) => code.raw(...UD2), 4],
];

const spin = (code: Code) => code.say('up').label('spin').jump('spin');

for (const [how, start] of STARTS) {
  cellTest(`${how}: every end of a guest`, async () => {
    for (const [, write, status] of ENDS) {
      await run(
        start,
        bareImage((code) => write(code.say('up')), {}, NO_IDT),
        status,
      );
    }
  });

  cellTest(`${how}: four vCPUs, memory of large pages that is all there, a signal`, async () => {
    const image = bareImage(
      (code) => {
        code.startOthers(['one', 'two', 'three']).say('up').label('spin').jump('spin');
        for (const name of ['one', 'two', 'three'])
          code
            .label(name)
            .in(COM1 + 7)
            .jump(name);
      },
      { cpuCount: 4, memoryBytes: 8 * MIB, hugePages: 'transparent', prefault: true },
    );
    const traced = start(image);
    await traced.cell.untilSaid('up');
    process.kill(await cellPid(traced), 'SIGTERM');
    await take(traced, 143);
  });

  cellTest(`${how}: a cell that may not use io_uring, and one without its disk`, async () => {
    const disk = testDisk({ ioUring: true });
    const image = bareImage((code) => code.powerOff(), { virtio: [disk.device] });
    const wrap = ['/usr/bin/python3', LIMITS, 'no-io-uring', '--'];
    await run(start, image, 0, { wrap });
    truncateSync(disk.path, 512);
    await run(start, image, 2);
    disk.close();
  });
}

cellTest('a host that pauses, resumes, stops, goes away', async () => {
  for (const end of ['stop', 'gone'] as const) {
    const traced = spawned(bareImage(spin));
    await traced.cell.untilSaid('up');
    await traced.cell.pause();
    await traced.cell.resume();
    if (end === 'gone') traced.cell.control.destroy();
    else traced.cell.command(protocol.COMMAND_STOP, 15);
    await take(traced, end === 'gone' ? 3 : 143);
  }
});

// --- Disks and randomness -----------------------------------------------------------------------

// Virtio 1.2 §5.2.3, §5.2.6.
const FEATURES = (1 << 9) | (1 << 13) | (1 << 14); // FLUSH, DISCARD, WRITE_ZEROES
const READ = 0;
const WRITE = 1;
const FLUSH = 4;
const DISCARD = 11;
const WRITE_ZEROES = 13;
const UNMAP = 1;

/** One request of every kind, each after the one before. */
function everyRequest(code: Code): Code {
  let count = 0;
  bringUp(code, FEATURES);
  const send = (type: number, flags: number, dataBytes: number) => {
    count++;
    code.store(HEADER, type);
    code.store(DESCRIPTORS + 24, dataBytes).store16(DESCRIPTORS + 28, flags);
    code.store16(DESCRIPTORS + 14, dataBytes === 0 ? 2 : 1); // straight to the status
    awaitUsed(offer(code, count), count, `request ${count}`);
  };
  send(READ, DESC_F_NEXT | DESC_F_WRITE, 4096);
  send(WRITE, DESC_F_NEXT, 4096);
  send(FLUSH, DESC_F_NEXT, 0);
  for (const [type, flags] of [
    [DISCARD, 0],
    [WRITE_ZEROES, 0],
    [WRITE_ZEROES, UNMAP],
  ] as const) {
    // struct virtio_blk_discard_write_zeroes
    code
      .store(DATA, 8)
      .store(DATA + 4, 0)
      .store(DATA + 8, 8)
      .store(DATA + 12, flags);
    send(type, DESC_F_NEXT, 16);
  }
  return code.powerOff();
}

const ENGINES = [false, true].flatMap((ioUring) =>
  [false, true].map((writeback) => ({ ioUring, writeback })),
);

for (const [how, start] of STARTS) {
  cellTest(`${how}: every request to a disk, by both engines and caches`, async () => {
    for (const change of ENGINES) {
      const disk = testDisk(change);
      const segments = queueSegments({ heads: 1 });
      await run(start, bareImage(everyRequest, { virtio: [disk.device], segments }), 0);
      disk.close();
    }
  });
}

/** A disk that is one hole, and a guest that asks for all of it at once. */
cellTest('a reset and a pause while a request is under way', async () => {
  for (const ioUring of [false, true]) {
    const { disk, machine } = largeRead(ioUring, LARGE_PARTS);
    const write = (code: Code) =>
      beginRead(code)
        .store(WINDOW + REG.Status, 0)
        .powerOff();
    await run(spawned, bareImage(write, machine), 0);
    disk.close();
  }
  const { disk, machine } = largeRead(true, LARGE_PARTS);
  const write = (code: Code) => beginRead(code).say('up').label('spin').jump('spin');
  const traced = spawned(bareImage(write, machine));
  await traced.cell.untilSaid('up');
  await traced.cell.pause();
  traced.cell.command(protocol.COMMAND_STOP, 15);
  await take(traced, 143);
  disk.close();
});

cellTest('a disk under load, paused and resumed, then stopped', async () => {
  for (const ioUring of [false, true]) {
    const disk = testDisk({ ioUring });
    const segments = queueSegments({ headerType: WRITE });
    const image = bareImage((code) => keepGoing(offer(bringUp(code), 128).say('up')), {
      virtio: [disk.device],
      segments,
    });
    const traced = spawned(image);
    await traced.cell.untilSaid('up');
    // Whether requests are still under way when a pause comes is up to chance.
    const hasWaited = () =>
      !ioUring || usesRow(traced, 'io: io_uring_enter IORING_ENTER_GETEVENTS');
    for (let i = 0; i < PAUSES_MAX && (i < PAUSES || !hasWaited()); i++) {
      await sleep(20);
      await traced.cell.pause();
      await traced.cell.resume();
    }
    traced.cell.command(protocol.COMMAND_STOP, 15);
    await take(traced, 143);
    disk.close();
  }
});

cellTest('a guest that draws randomness', async () => {
  const table = Buffer.alloc(16);
  table.writeUInt32LE(DATA, 0);
  table.writeUInt32LE(64, 8);
  table.writeUInt16LE(DESC_F_WRITE, 12);
  const ring = ringAt(0, { queueSize: 64, depth: 1 });
  const image = bareImage((code) => busyRings(code, [ring], [ring], 3).powerOff(), {
    virtio: [{ kind: 'virtio-rng', slot: { address: WINDOW, pin: 5 } }],
    segments: [{ name: 'table', address: DESCRIPTORS, bytes: table }],
  });
  await run(spawned, image, 0);
});

// --- A network ----------------------------------------------------------------------------------

const noTaps = enterNamespace(import.meta.filename);
test.after(closeAll);

if (noTaps) test.skip(`a tap (skipped: ${noTaps})`, () => {});
else {
  cellTest('a tap that is served, left waiting, paused, removed', () => {
    return tapTraced(spawned, async (traced) => {
      await stopAndGo(await cellPid(traced));
      await traced.cell.pause();
      await traced.cell.resume();
    }).then((traced) => take(traced, 143));
  });
}

cellTest('a stream of frames', async () => take(await streamTraced(spawned), 143));

// --- The console --------------------------------------------------------------------------------

/** Stops and continues a process now and then. */
async function stopAndGo(pid: number): Promise<void> {
  for (let i = 0; i < STOPS; i++) {
    await sleep(30);
    process.kill(pid, 'SIGSTOP');
    await sleep(30);
    process.kill(pid, 'SIGCONT');
  }
  await sleep(30);
}

const flood = (bytes: number): MachineImage =>
  bareImage(
    (code) => {
      code.say('up').raw(0xbd, ...le(bytes, 4)); // mov ebp
      code.label('send').out(COM1, 0x2e).raw(0x4d).jumpIfNotZero('send');
      code.out(0x3f0, 123).powerOff();
    },
    { bootTimer: true },
  );

cellTest('what is typed comes back, whatever the input is', async () => {
  const echo = bareImage((code) => {
    code.say('up').receiveAl().sendAl().powerOff();
  });
  for (const [, start] of STARTS) {
    const traced = start(echo, { input: 'pipe' });
    traced.cell.input.write('x');
    await take(traced, 0);
    const input = openSync('/dev/zero', 'r');
    await run(start, echo, 0, { input });
    closeSync(input);
  }
});

// F_SETPIPE_SZ, so that it takes few bytes; and Node makes what it hands over blocking.
const PIPE = `import fcntl, os, sys
fcntl.fcntl(1, 1031, 4096)
os.set_blocking(1, sys.argv[1] == "blocking")
os.execv(sys.argv[2], sys.argv[2:])`;

for (const mode of ['blocking', 'non-blocking']) {
  cellTest(`a ${mode} pipe that nobody reads, a job that is stopped, an end`, async () => {
    const path = scratchPath('pipe');
    execFileSync('mkfifo', [path]);
    const output = openSync(path, constants.O_RDWR);
    const wrap = ['/usr/bin/python3', '-c', PIPE, mode];
    const traced = spawned(flood(FLOOD_BYTES), { output, wrap });
    closeSync(output);
    await traced.cell.untilTold('marker');
    await stopAndGo(await cellPid(traced));
    traced.cell.command(protocol.COMMAND_STOP, 15);
    await take(traced, 0);
  });
}

cellTest('a reader that goes away, and a full disk', async () => {
  const full = openSync('/dev/full', 'w');
  await run(spawned, flood(1000), 0, { output: full });
  closeSync(full);
  const left = spawned(flood(FLOOD_BYTES));
  await left.cell.untilSaid('up');
  left.cell.stdout.destroy();
  await take(left, 0);
});

// --- A terminal ---------------------------------------------------------------------------------

const ON_TERMINAL = ['/usr/bin/python3', '-c', 'import pty, sys\npty.spawn(sys.argv[1:])'];
// tgkill(2) of another process: SIGSYS, as a forbidden call of that thread would raise it.
const SIGSYS = 31;
const FORBID = 'import ctypes, sys\nctypes.CDLL(None).syscall(234, *map(int, sys.argv[1:]))';

function threadOf(pid: number, name: string): number {
  const tids = readdirSync(`/proc/${pid}/task`);
  const tid = tids.find((each) => {
    return readFileSync(`/proc/${pid}/task/${each}/comm`, 'utf8').trim() === name;
  });
  return Number(tid ?? assert.unreachable(`no thread '${name}'`));
}

function forbid(name: string, pid: number): void {
  const words = [pid, threadOf(pid, name), SIGSYS].map(String);
  execFileSync('/usr/bin/python3', ['-c', FORBID, ...words]);
}

const WAYS: [what: string, how: (pid: number, cell: RunningCell) => void][] = [
  [
    'Ctrl-A x, after the job was stopped',
    (pid, { input }) => {
      process.kill(pid, 'SIGCONT');
      setTimeout(() => input.write('\x01'), 100);
      setTimeout(() => input.write('x'), 200);
    },
  ],
  ["the host's death", (pid) => process.kill(pid, 'SIGUSR2')],
  ['a fault', (pid) => process.kill(pid, 'SIGSEGV')],
  ...['faraday-cell', 'vcpu 0', 'console'].map((name): (typeof WAYS)[number] => [
    `a forbidden call of thread '${name}'`,
    (pid) => forbid(name, pid),
  ]),
];

for (const [what, how] of WAYS) {
  cellTest(`by hand on a terminal: ${what}`, async () => {
    const traced = byHand(bareImage(spin), { wrap: ON_TERMINAL, input: 'pipe' });
    await traced.cell.untilSaid('up');
    how(await cellPid(traced), traced.cell);
    await take(traced, 0); // the player's own
  });
}

cellTest("under a host on a terminal: a forbidden call of thread 'net'", async () => {
  const traced = await withStream((image) => {
    return spawned(image, { wrap: ON_TERMINAL, input: 'pipe' });
  });
  forbid('net', await cellPid(traced));
  await take(traced, 0); // the player's own
});

// --- All of it ----------------------------------------------------------------------------------

kvmTest('every row was used or says why it stays', () => {
  assert.equal(
    usage.unneeded().filter((name) => !ONLY_IN_BOOTS.includes(name)),
    [],
  );
});

test.run();
