// Recordings of cells: whatever bare-metal guests do on several vCPUs, and however they end, is
// recorded by build/faraday-cell-recording and replays identically in both engines.
import { spawnSync } from 'node:child_process';
import { closeSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineImage } from '../host/boot/image.ts';
import { recordingCellProgram } from '../host/cell-program.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { EXIT_HOST, EXIT_USAGE } from '../host/errors.ts';
import { openCellRecording } from '../host/replay/cell-recording.ts';
import type { ReplayEngine } from '../host/replay/engines.ts';
import { CALL_FAIL, CALL_NAMES, CALL_RESTART, TRAPPED } from '../host/replay/format.ts';
import type { RecordedEvent } from '../host/replay/parse.ts';
import { Recording } from '../host/replay/recording.ts';
import { replay } from '../host/replay/replay.ts';
import { REG } from '../testing/driver.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { le } from './bare-metal.ts';
import { busyRings, queueSegments, type Ring, ringAt, testDisk, WINDOW } from './cell-disk.ts';
import {
  bareImage,
  type CellOptions,
  causeOf,
  cellTest,
  composeFolder,
  type Ended,
  type RunningCell,
  scratchPath,
  sleep,
  startSpawned,
  within,
} from './cell-guest.ts';
import { COM1, type Code } from './machine-code.ts';
import { plantedRecorder, TRAP_VALUE } from './planted-recorder.ts';
import { ECHO_UNTIL_Q, IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';

const ENGINES: readonly ReplayEngine[] = ['v8', 'cell'];
const FARADAY = join(REPOSITORY, 'bin/faraday.js');
const RTC = 0x70;
const SCRATCH_REGISTER = COM1 + 7;
const RESET_PORT = 0x602;
const PANIC_PORT = 0x505;
const FLOOD_BYTES = 2 ** 20; // of a recording: more than the console's ring holds

/** A guest whose cell records into a new file. */
function startRecorded(image: MachineImage, options: CellOptions = {}) {
  const path = scratchPath('recording');
  const { fd } = openCellRecording(path, [], image);
  try {
    return { path, cell: startSpawned(image, { ...options, recording: fd }) };
  } finally {
    closeSync(fd);
  }
}

function eventsOf(path: string): RecordedEvent[] {
  const recording = new Recording(path);
  try {
    return [...recording.events()];
  } finally {
    recording.close();
  }
}

const callsOf = (events: RecordedEvent[]): string[] => {
  return [...new Set(events.map(({ call }) => CALL_NAMES[call]!))].sort();
};

/** Replays in both engines; how many events there were. */
function assertReplays(path: string): number {
  const counts = ENGINES.map((engine) => replay(path, engine).events);
  assert.is(counts[0], counts[1]);
  return counts[0]!;
}

/** What the cell said of its recording: '' for one that is whole. */
function saidOf(cell: RunningCell): string | undefined {
  const message = cell.messages.find(({ type }) => type === 'recorded');
  return message?.type === 'recorded' ? message.errno : undefined;
}

/** Devices by the names of the report. */
function namesOf({ report }: Ended): string[] {
  const count = report!.getUint32(protocol.REPORT_DEVICE_COUNT, true);
  return Array.from({ length: count }, (_, i) => {
    const at = protocol.REPORT_DEVICES + i * protocol.REPORT_DEVICE_STRIDE;
    const bytes = new Uint8Array(report!.buffer, report!.byteOffset + at, 32);
    return Buffer.from(bytes).toString('latin1').replace(/\0.*/, '');
  });
}

// --- What guests do -----------------------------------------------------------------------------

cellTest('console output and input replay, byte for byte', async () => {
  const text = 'typed '.repeat(500);
  const image = bareImage((code) => {
    code.say('hello').raw(0xbd, ...le(text.length, 4)); // mov ebp, count
    code.label('echo').receiveAl().sendAl().raw(0x4d).jumpIfNotZero('echo').powerOff();
  });
  const { path, cell } = startRecorded(image, { input: 'pipe' });
  cell.input.write(text);
  const ended = await cell.ended();
  assert.is(ended.status, 0);
  assert.is(ended.output.toString(), `hello${text}`);
  assert.is(saidOf(cell), '');
  assert.ok(assertReplays(path) > 4 * text.length);
  const events = eventsOf(path);
  assert.equal(callsOf(events), ['input', 'next', 'read', 'write']);
  const input = events.map((event) => Buffer.from(event.input).toString());
  assert.ok(input.join('').includes('typed typed'), 'what was typed is in it');
  const times = events.map(({ timeUs }) => timeUs);
  assert.ok(times.at(-1)! > 0 && times.every((time, i) => i === 0 || time >= times[i - 1]!));
});

/** A vCPU that never leaves the ports and the second disk's registers alone. */
const meddle = (code: Code, name: string): Code =>
  code
    .label(name)
    .out(SCRATCH_REGISTER, 0x5a)
    .in(SCRATCH_REGISTER)
    .out(RTC, 0x0a)
    .in(RTC + 1)
    .load(WINDOW)
    .load(WINDOW + REG.Status)
    .jump(name);

function blockLoad(ioUring: boolean, requests: number) {
  const slot = { address: WINDOW + 0x1000, pin: 6 };
  const disks = [
    testDisk({ ioUring, queueCount: 2 }),
    testDisk({ ioUring, queueCount: 1, id: 'second', slot }),
  ] as const;
  const rings: Ring[] = [
    ringAt(0, { depth: 32 }),
    ringAt(1, { queue: 1, depth: 32 }),
    ringAt(2, { window: slot.address, depth: 16 }),
  ];
  const image = bareImage(
    (code) => {
      code.startOthers(['one', 'two']);
      busyRings(code, rings, rings, requests).powerOff();
      meddle(meddle(code, 'one'), 'two');
    },
    {
      cpuCount: 3,
      bootTimer: true,
      virtio: disks.map(({ device }) => device),
      segments: queueSegments({ heads: 32 }),
    },
  );
  return { image, disks };
}

for (const ioUring of [false, true]) {
  const engine = ioUring ? 'io_uring' : 'sync';
  cellTest(`two busy disks and two vCPUs that meddle replay, io-engine=${engine}`, async () => {
    const requests = 600;
    const { image, disks } = blockLoad(ioUring, requests);
    const { path, cell } = startRecorded(image);
    const ended = await cell.ended();
    for (const disk of disks) disk.close();
    assert.is(ended.status, 0);
    assert.is(saidOf(cell), '');
    assertReplays(path);
    const recording = new Recording(path);
    assert.is(recording.machine.engine, 'cell');
    assert.equal(
      recording.machine.devices.map(({ name }) => name),
      namesOf(ended),
      "the host's order of devices is the cell's",
    );
    recording.close();
    const events = eventsOf(path);
    const completions = events.filter(({ call }) => CALL_NAMES[call] === 'complete');
    assert.ok(completions.length >= 3 * requests, `${completions.length} completions`);
    assert.equal(callsOf(events), ['complete', 'input', 'next', 'notify', 'read', 'write']);
    // Threads took turns: no device's events stand in one row.
    const changes = events.filter((event, i) => event.place !== events[i - 1]?.place);
    assert.ok(changes.length > 1000, `${changes.length} changes between devices`);
  });
}

cellTest('a device that traps, starts again and traps again replays', async () => {
  const program = await plantedRecorder();
  const image = bareImage(
    (code) => {
      code.say('before').out(SCRATCH_REGISTER, TRAP_VALUE).say('between');
      code.store(WINDOW + REG.QueueSel, TRAP_VALUE).load(WINDOW + REG.Status);
      code
        .store(WINDOW + REG.QueueSel, TRAP_VALUE)
        .load(WINDOW + REG.Status)
        .powerOff();
    },
    { virtio: [{ kind: 'virtio-rng', slot: { address: WINDOW, pin: 5 } }] },
  );
  const { path, cell } = startRecorded(image, { program: program.cell });
  const ended = await cell.ended();
  assert.is(ended.status, 0);
  assert.is(ended.output.toString(), 'beforebetween');
  const events = eventsOf(path);
  const of = (wanted: number) => events.filter(({ call }) => call === wanted).length;
  assert.is(events.filter(({ effects }) => effects === TRAPPED).length, 3);
  assert.equal([of(CALL_RESTART), of(CALL_FAIL)], [2, 2], 'the third trap was the last');
  // The core of this build has no such bug, so another one replays.
  const { status, stdout, stderr } = run([program.faraday, 'replay', path]);
  assert.equal([status, stderr], [0, '']);
  assert.match(stdout, /^identical in engine v8/);
  for (const engine of ENGINES) {
    assert.throws(() => replay(path, engine), /expected effects a trap, got/);
  }
});

// --- How guests end -----------------------------------------------------------------------------

const ENDS: [string, (code: Code) => Code, number][] = [
  ['a power-off', (code) => code.powerOff(), protocol.CAUSE_POWER_OFF],
  ['a reset', (code) => code.out(RESET_PORT, 0x42).idle(), protocol.CAUSE_REBOOT],
  ['a panic', (code) => code.out(PANIC_PORT, 1).idle(), protocol.CAUSE_PANIC],
  ['a crash', (code) => code.raw(0x0f, 0x0b), protocol.CAUSE_TRIPLE_FAULT], // ud2
];

for (const [name, end, cause] of ENDS) {
  cellTest(`a recording is whole after ${name}`, async () => {
    const { path, cell } = startRecorded(bareImage((code) => end(code.say('guest'))));
    assert.is(causeOf(await cell.ended()), cause);
    assert.is(saidOf(cell), '');
    assert.ok(assertReplays(path) > 10);
  });
}

const busy = bareImage(
  (code) => meddle(meddle(code.startOthers(['other']).say('up'), 'first'), 'other'),
  { cpuCount: 2, virtio: [{ kind: 'virtio-rng', slot: { address: WINDOW, pin: 5 } }] },
);

cellTest('a recording is whole after a guest was stopped, paused or not', async () => {
  for (const pause of [false, true]) {
    const { path, cell } = startRecorded(busy);
    await cell.untilSaid('up');
    if (pause) await cell.pause();
    assert.is((await cell.stop()).status, 143);
    assert.is(saidOf(cell), '');
    assertReplays(path);
  }
});

cellTest('a recording is whole after its host went away', async () => {
  const { path, cell } = startRecorded(busy);
  await cell.untilSaid('up');
  cell.control.destroy();
  assert.is((await cell.ended()).status, EXIT_HOST);
  assertReplays(path);
});

cellTest('a recording is whole after Ctrl-A x and a signal to its host', async () => {
  const kernel = scratchPath('kernel');
  writeFileSync(kernel, tinyKernel(print('up'), ECHO_UNTIL_Q, IDLE_FOR_EVER));
  const runner = join(import.meta.dirname, 'on-terminal.py');
  for (const [keys, status] of [
    ['ab\x01x', 0],
    ['SIGTERM', 143],
  ] as const) {
    const path = scratchPath('recording');
    const command = [process.execPath, FARADAY, '--kernel', kernel, '--record', path];
    const { stdout } = run([runner, keys, ...command], 'python3');
    assert.match(stdout, new RegExp(`status=${status} raw=True restored=True`), keys);
    assertReplays(path);
  }
});

cellTest('a console that nobody reads keeps no recording from its end', async () => {
  const image = bareImage((code) => {
    code.label('flood').out(COM1, 0x2e).label('more').raw(0xee).jump('more');
  });
  const { path, cell } = startRecorded(image, { output: 'unread' });
  await cell.untilTold('started');
  const filled = async () => {
    while (statSync(path).size < FLOOD_BYTES) await sleep(5);
  };
  await within(filled(), 'a recording that grows');
  assert.is((await cell.stop()).status, 143);
  assert.is(saidOf(cell), '');
  assertReplays(path);
});

// --- What goes wrong ----------------------------------------------------------------------------

interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(args: string[], command = process.execPath): Run {
  const options = { timeout: 20_000, killSignal: 'SIGKILL', encoding: 'latin1' } as const;
  const { status, stdout, stderr } = spawnSync(command, args, options);
  return { status, stdout, stderr };
}

// A command that runs another one with a limit on the size of files.
const LIMIT_BYTES = 100 * 1024;
const LIMITED = ['/bin/bash', '-c', `ulimit -f ${LIMIT_BYTES / 1024}; exec "$0" "$@"`];

/** Writes the scratch register 0x8000 times, then says so and powers off. */
function longKernel(): string {
  const path = scratchPath('kernel');
  const loop = [0x66, 0xba, ...le(SCRATCH_REGISTER, 2), 0xb9, ...le(0x8000, 4), 0xee, 0xe2, 0xfd];
  writeFileSync(path, tinyKernel(loop, print('done'), POWER_OFF, IDLE_FOR_EVER));
  return path;
}

cellTest('the command records and replays', async () => {
  const path = scratchPath('recording');
  const { status, stdout, stderr } = run([FARADAY, '--kernel', longKernel(), '--record', path]);
  assert.equal([status, stdout, stderr], [0, 'done', '']);
  assert.is(statSync(path).mode & 0o777, 0o600);
  for (const engine of ENGINES) {
    const replayed = run([FARADAY, 'replay', path, '--engine', engine]);
    assert.match(replayed.stdout, /^identical in engine \w+: 32\d{3} events of 6 devices/);
  }
});

cellTest('a file that cannot be written on is told at the end, and the guest runs on', async () => {
  const path = scratchPath('recording');
  const args = [process.execPath, FARADAY, '--kernel', longKernel(), '--record', path];
  const { status, stdout, stderr } = run([...LIMITED.slice(1), ...args], LIMITED[0]);
  assert.is(stdout, 'done');
  assert.is(status, EXIT_USAGE);
  const line = `faraday: --record '${path}' could not be written to its end (EFBIG)\n`;
  assert.is(stderr, line);
  assert.is(statSync(path).size, LIMIT_BYTES);
  assert.match(run([FARADAY, 'replay', path]).stderr, /ends early/);
});

// Where it is the I/O thread that writes, outside of a process namespace: the signal that comes
// with such a limit would end the cell.
cellTest('nor does the I/O thread end of it', async () => {
  const disk = testDisk();
  const ring = ringAt(0, { depth: 32 });
  const image = bareImage((code) => busyRings(code, [ring], [ring], 1000).powerOff(), {
    virtio: [disk.device],
    segments: queueSegments({ heads: 32 }),
  });
  const { path, cell } = startRecorded(image, { wrap: LIMITED });
  disk.close();
  assert.is((await cell.ended()).status, 0);
  assert.is(saidOf(cell), 'EFBIG');
  assert.is(statSync(path).size, LIMIT_BYTES);
});

cellTest('a recording cell wants a host, and a file to write', async () => {
  const folder = composeFolder(bareImage((code) => code.powerOff()));
  const byHand = run([folder], recordingCellProgram());
  assert.is(byHand.status, EXIT_USAGE);
  assert.match(byHand.stderr, /^faraday-cell: usage \(EINVAL\): a recording needs a host[^\n]+\n$/);
  const { failure } = await startSpawned(busy, { program: recordingCellProgram() }).ended();
  assert.is(failure?.call, 'recording');
  assert.is(failure?.errno, 'EBADF');
});

test.run();
