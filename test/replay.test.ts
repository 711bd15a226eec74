// Recording and replay: what was recorded replays in both engines, a difference is told by event
// and device, and no file, however damaged, ends in anything but one line.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { KIND_VIRTIO_RNG, PORT_RTC, PORT_SERIAL } from '../assembly/abi.ts';
import { crc32 } from '../host/boot/crc32.ts';
import type { MachineImage } from '../host/boot/image.ts';
import { Cage } from '../host/core.ts';
import { encodeRngConfig } from '../host/device-config.ts';
import { Bus, type Place } from '../host/engine/bus.ts';
import type { Device } from '../host/engine/device.ts';
import { serveQueue } from '../host/engine/serve-queue.ts';
import { EXIT_INTERNAL, EXIT_USAGE, FaradayError } from '../host/errors.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import type { ReplayEngine } from '../host/replay/engines.ts';
import { openRecording, Recorder } from '../host/replay/recorder.ts';
import { replay } from '../host/replay/replay.ts';
import { Driver, REG } from '../testing/driver.ts';
import { guestMemory } from '../testing/queue.ts';
import { type Random, randomFrom } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { kvmTest } from './bare-metal.ts';
import { nasty, offerNearlyRight, spoilRings } from './hostile.ts';
import { IDLE_FOR_EVER, MARKER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';
import { spin } from './traps.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const RAM_BYTES = 0x100000;
const WINDOW = 0xd0000000;
const ENGINES: readonly ReplayEngine[] = ['v8', 'cell'];
const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;

const folder = mkdtempSync(join(tmpdir(), 'faraday-replay-'));
test.after(() => rmSync(folder, { recursive: true }));

const at = (name: string) => join(folder, name);

/** A machine's devices over plain memory, every call into them recorded. */
function recordedBus(path: string): { bus: Bus; recorder: Recorder; memory: GuestMemory } {
  const slot = (index: number) => ({ address: WINDOW + 0x1000 * index, pin: 5 + index });
  const disk = { id: 'rootfs', path: 'none', fd: -1, capacityBytes: 2 ** 20, readOnly: false };
  const image = {
    memoryBytes: RAM_BYTES,
    bootTimer: true,
    virtio: [
      { kind: 'virtio-blk', slot: slot(0), ...disk },
      { kind: 'virtio-rng', slot: slot(1) },
    ],
  } as unknown as MachineImage;
  const recorder = openRecording(path, []);
  const buffer = new ArrayBuffer(RAM_BYTES);
  const bus = new Bus(image, [buffer], {
    now: () => 0,
    unixSeconds: () => 1_700_000_000,
    onTrap: () => {},
    recorder,
  });
  return { bus, recorder, memory: new GuestMemory(buffer) };
}

/** A hostile driver on one device, with rings that may lie over each other. */
function drive(random: Random, device: Device, memory: GuestMemory, actions: number): void {
  const driver = new Driver(device as unknown as Cage, memory);
  for (let action = 0; action < actions; action++) {
    if (action % 400 === 0) {
      driver.bringUp({ queueSize: 16 });
      const queue = driver.queues[0];
      if (random(2)) {
        queue.usedRing = random(2) ? queue.availRing : queue.descTable;
        driver.negotiate();
        driver.configureQueue(queue);
        driver.set(REG.QueueReady, 1);
        driver.addStatus(4);
      }
    }
    const queue = driver.queues[0];
    if (random(2)) spoilRings(random, queue);
    else offerNearlyRight(random, memory, queue);
    if (random(8) === 0) driver.get([0, 4, 0x70, 0x100, 0x60][random(5)], [4, 1, 2][random(3)]);
    serveQueue(device, driver.set(REG.QueueNotify, 0), 0, {
      execute: (record) => ({
        tag: parseRecord(record).tag,
        result: random(3),
        bytes: random(600),
      }),
      apply: () => {},
      interrupted: () => true,
    });
    if (random(50) === 0) device.complete(nasty(random), 0, 0);
  }
}

function drivePorts(random: Random, bus: Bus): void {
  const serial = bus.port(PORT_SERIAL) as Place;
  const rtc = bus.port(PORT_RTC) as Place;
  for (let action = 0; action < 500; action++) {
    serial.device.write(random(8), 1, random(256));
    serial.device.read(random(8), 1);
    if (random(4) === 0)
      serial.device.input(Uint8Array.from({ length: random(9) }, () => random(256)));
    if (random(4) === 0) serial.device.next(0);
    rtc.prepare?.();
    rtc.device.write(0, 1, random(16));
    rtc.prepare?.();
    rtc.device.read(1, 1);
  }
}

/** A recording of every kind of call but notify(), which the engine v8 has no use for. */
function record(path: string, actions = 3000): string {
  const random = randomFrom(SEED);
  const { bus, recorder, memory } = recordedBus(path);
  drivePorts(random, bus);
  for (const index of [0, 1]) {
    drive(random, (bus.mmio(WINDOW + 0x1000 * index) as Place).device, memory, actions);
  }
  recorder.finish();
  return path;
}

/** The failure of `act`: one line with an exit code of its own. Null where there is none. */
function failure(act: () => unknown): FaradayError | null {
  try {
    act();
  } catch (error) {
    if (!(error instanceof FaradayError)) throw error;
    return error;
  }
  return null;
}

const recorded = record(at('recorded'));
const small = readFileSync(record(at('small'), 20));

// --- Round trips --------------------------------------------------------------------------------

for (const engine of ENGINES) {
  test(`what hostile drivers did to all devices replays in engine ${engine}`, () => {
    const { events, devices, guestBytes } = replay(recorded, engine);
    assert.ok(events > 10_000, `${events} events`);
    assert.is(devices, 8);
    assert.ok(guestBytes > 50_000, `${guestBytes} bytes`);
  });
}

test('a device that was restarted replays from a fresh cage', () => {
  const path = at('restarted');
  const recorder = openRecording(path, []);
  const memory = guestMemory(RAM_BYTES);
  memory.log = recorder.log;
  recorder.setMemory(RAM_BYTES);
  const config = encodeRngConfig({ queueSize: 16 });
  const place = recorder.addDevice('rng', KIND_VIRTIO_RNG, config);
  for (let life = 0; life < 3; life++) {
    const cage = recorder.watch(place, new Cage(KIND_VIRTIO_RNG, memory, config));
    new Driver(cage as unknown as Cage, memory).bringUp();
    cage.fail();
  }
  recorder.finish();
  for (const engine of ENGINES) assert.is(replay(path, engine).devices, 1);
});

kvmTest('a run with --record replays through the command, in both engines', () => {
  const kernel = at('kernel');
  const report = at('report.json');
  writeFileSync(kernel, tinyKernel(print('hello\r\n'), MARKER, POWER_OFF, IDLE_FOR_EVER));
  const flags = ['--engine', 'v8', '--boot-timer', '--record', at('run'), '--report', report];
  const run = faraday(['--kernel', kernel, ...flags]);
  assert.equal([run.status, run.stdout, run.stderr], [0, 'hello\r\n', '']);
  for (const engine of ENGINES) {
    const { status, stdout, stderr } = faraday(['replay', at('run'), '--engine', engine]);
    assert.equal([status, stderr], [0, '']);
    assert.match(stdout, /^identical in engine \w+: \d+ events of 7 devices, \d+ guest bytes\n$/);
  }
});

// --- Differences --------------------------------------------------------------------------------

test('a call that trapped when it was recorded and does not now is told, exit code 5', () => {
  const path = at('trapped');
  const recorder = openRecording(path, []);
  const memory = guestMemory(RAM_BYTES);
  memory.log = recorder.log;
  recorder.setMemory(RAM_BYTES);
  const config = encodeRngConfig({ queueSize: 16 });
  const cage = new Cage(KIND_VIRTIO_RNG, memory, config);
  const watched = recorder.watch(recorder.addDevice('rng', KIND_VIRTIO_RNG, config), cage);
  new Driver(watched as unknown as Cage, memory).bringUp();
  const state = new Uint8Array(0x20000);
  state.set(cage.stateBytes(), 0x8000);
  spin(state, new Uint8Array(memory.view.buffer as ArrayBuffer));
  cage.restore(state.subarray(0x8000));
  assert.throws(() => watched.write(REG.QueueNotify, 4, 0), /unreachable/);
  recorder.finish();
  for (const engine of ENGINES) {
    const error = failure(() => replay(path, engine));
    assert.is(error?.exitCode, EXIT_INTERNAL);
    assert.match(
      error?.message ?? '',
      /^event \d+, write\(0x50, 0x4, 0x0\) of rng: expected access/,
    );
  }
});

test('each kind of difference names event, device, call, and both sides', () => {
  const wrong: [string, (cage: Cage) => number | Uint8Array, RegExp][] = [
    [
      'effects',
      (cage) => cage.read(0, 4) | 1,
      /event 1, read\(0x0, 0x4\) of rng: expected effects 0x1, got 0x0/,
    ],
    ['value', (cage) => cage.read(4, 4), /expected value 0x2, got 0x74726976/],
  ];
  for (const [what, run, message] of wrong) {
    const path = at(`wrong-${what}`);
    const recorder = openRecording(path, []);
    recorder.setMemory(RAM_BYTES);
    const config = encodeRngConfig({ queueSize: 16 });
    const cage = new Cage(KIND_VIRTIO_RNG, guestMemory(RAM_BYTES), config);
    const lying = Object.assign(Object.create(cage), {
      read: () => run(cage),
      value: () => cage.value(),
      stateBytes: () => cage.stateBytes(),
    }) as Cage;
    const place = recorder.addDevice('rng', KIND_VIRTIO_RNG, config);
    recorder.watch(place, lying).read(0, 4);
    recorder.finish();
    for (const engine of ENGINES) {
      const error = failure(() => replay(path, engine));
      assert.is(error?.code, 'divergence', what);
      assert.match(error?.message ?? '', message);
    }
  }
});

test('a state that ends up different is told for its device', () => {
  const bytes = Buffer.from(small);
  bytes[bytes.length - 1] ^= 1; // the last device's checksum
  writeFileSync(at('state'), resealed(bytes));
  for (const engine of ENGINES) {
    const error = failure(() => replay(at('state'), engine));
    assert.is(error?.code, 'divergence');
    assert.match(
      error?.message ?? '',
      /^at the end of virtio-rng: expected state with CRC-32 0x\w+, got/,
    );
  }
});

// --- Damaged files ------------------------------------------------------------------------------

interface Block {
  at: number;
  payload: Buffer;
}

function blocksOf(bytes: Buffer): Block[] {
  const blocks: Block[] = [];
  for (let at = 16; at < bytes.length; at += 8 + bytes.readUInt32LE(at)) {
    blocks.push({ at, payload: bytes.subarray(at + 8, at + 8 + bytes.readUInt32LE(at)) });
  }
  return blocks;
}

/** The same bytes with the blocks' checksums made to fit: what a liar would write. */
function resealed(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  for (const { at, payload } of blocksOf(copy)) {
    copy.writeUInt32LE(crc32(payload), at + 4);
  }
  return copy;
}

/**
 * What becomes of bytes as a recording: nothing, a bad file, a difference, or guest memory that is
 * more than this host can map.
 */
function verdict(bytes: Uint8Array, engine: ReplayEngine): FaradayError | null {
  writeFileSync(at('damaged'), bytes);
  const error = failure(() => replay(at('damaged'), engine));
  if (error) {
    const { code, message } = error;
    const expected = ['bad-recording', 'divergence'].includes(code);
    assert.ok(expected || /^this host cannot map/.test(message), `${code}: ${message}`);
    assert.not.match(message, '\n');
  }
  return error;
}

test('each field of the preamble and of a block is checked, and said what is wrong', () => {
  const first = blocksOf(small)[0].at;
  const fields: [number, number, RegExp][] = [
    [0, 0x66, /is no recording/],
    [8, 1, /has format 1, and this faraday reads 2/],
    [12, 9, /ABI 9/],
    [first, 0xff, /ends early|is damaged/],
    [first + 3, 0xff, /is damaged at byte 16/],
    [first + 4, small[first + 4] ^ 1, /is damaged between bytes 16 and/],
    [first + 8, small[first + 8] ^ 1, /is damaged between bytes 16 and/],
  ];
  for (const [offset, value, message] of fields) {
    const bytes = Buffer.from(small);
    bytes[offset] = value;
    const error = verdict(bytes, 'v8');
    assert.is(error?.exitCode, EXIT_USAGE, `${offset}`);
    assert.match(error?.message ?? '', message);
  }
});

test('a recording cut anywhere is exit code 2', () => {
  const random = randomFrom(SEED);
  const ends = [0, 1, 15, 16, 17, 23, 24, small.length - 1];
  for (const length of [...ends, ...Array.from({ length: 50 }, () => random(small.length))]) {
    const error = verdict(small.subarray(0, length), 'v8');
    assert.is(error?.exitCode, EXIT_USAGE, `${length} bytes`);
  }
  assert.is(verdict(Buffer.concat([small, Buffer.of(0)]), 'v8')?.exitCode, EXIT_USAGE);
});

test('a flipped bit anywhere is exit code 2', () => {
  const random = randomFrom(SEED);
  for (let round = 0; round < 100; round++) {
    const bytes = Buffer.from(small);
    bytes[random(bytes.length)] ^= 1 << random(8);
    assert.is(verdict(bytes, 'v8')?.exitCode, EXIT_USAGE, `SEED=${SEED} round ${round}`);
  }
});

for (const engine of ENGINES) {
  test(`a lie in a sealed block is a bad file or a difference, engine ${engine}`, () => {
    const random = randomFrom(SEED + 1);
    let refused = 0;
    for (let round = 0; round < 200; round++) {
      const bytes = Buffer.from(small);
      const blocks = blocksOf(bytes);
      const { payload } = blocks[random(3) ? random(blocks.length) : 0];
      for (let count = 1 + random(3); count > 0; count--) {
        payload[random(payload.length)] = random(2) ? random(256) : [0, 0x7f, 0xff][random(3)];
      }
      if (verdict(resealed(bytes), engine)) refused++;
    }
    assert.ok(refused > 100, `${refused} refused`);
  });
}

// --- Files that cannot be -----------------------------------------------------------------------

test('a recording is for its owner only, also where the file was there', () => {
  const path = at('private');
  writeFileSync(path, 'old');
  chmodSync(path, 0o644);
  openRecording(path, []).close();
  assert.is(statSync(path).mode & 0o777, 0o600);
});

test('where nothing can be recorded is said before a guest starts', () => {
  mkdirSync(at('folder'));
  writeFileSync(at('kernel-file'), 'kernel');
  spawnSync('mkfifo', [at('fifo')]);
  const cases: [string, RegExp][] = [
    [at('folder'), /^--record '.*' is a directory/],
    [at('no/such/folder'), /^--record '.*' cannot be written \(ENOENT\)/],
    [at('kernel-file'), /would overwrite '.*kernel-file', which this run reads/],
    [at('fifo'), /cannot be written \(ENXIO\)/],
    ['/dev/null', /is no regular file/],
  ];
  for (const [path, message] of cases) {
    const error = failure(() => openRecording(path, [at('kernel-file')]));
    assert.is(error?.exitCode, EXIT_USAGE, path);
    assert.match(error?.message ?? '', message);
  }
  assert.is(readFileSync(at('kernel-file'), 'latin1'), 'kernel');
});

test('a recording that cannot be written on leaves the run alone, and is told at its end', () => {
  writeFileSync(at('read-only'), '');
  const fd = openSync(at('read-only'), 'r');
  const recorder = new Recorder(at('read-only'), fd);
  const config = encodeRngConfig({ queueSize: 16 });
  const cage = new Cage(KIND_VIRTIO_RNG, guestMemory(RAM_BYTES), config);
  recorder.setMemory(RAM_BYTES);
  const watched = recorder.watch(recorder.addDevice('rng', KIND_VIRTIO_RNG, config), cage);
  for (let count = 0; count < 50_000; count++) watched.read(0, 4);
  const error = failure(() => recorder.finish());
  assert.is(error?.exitCode, EXIT_USAGE);
  assert.match(error?.message ?? '', /could not be written to its end \(EBADF\)/);
  assert.throws(() => closeSync(fd), /EBADF/);
});

// --- The command --------------------------------------------------------------------------------

function faraday(args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [FARADAY, ...args], {
    cwd: folder,
    timeout: 20_000,
    killSignal: 'SIGKILL',
    encoding: 'latin1',
  });
  return { status, stdout, stderr };
}

test('the command replays, and says each mistake in one line', () => {
  assert.match(faraday(['replay', recorded]).stdout, /^identical in engine v8: \d+ events of 8/);
  writeFileSync(at('cut'), small.subarray(0, 1000));
  const mistakes: [string[], RegExp][] = [
    [['replay'], /missing required argument/],
    [['replay', 'missing'], /recording 'missing' cannot be read \(ENOENT\)/],
    [['replay', folder], /is no regular file/],
    [['replay', at('cut')], /ends early/],
    [['replay', recorded, '--engine', 'x'], /--engine 'x' is unknown; known are v8, cell/],
    [['--kernel', 'k', '--record', 'r', '--detach'], /--detach and --record exclude each other/],
    [
      ['--kernel', 'k', '--engine', 'v8', '--record', 'r', '--report', 'r'],
      /--record and --report are both 'r'/,
    ],
  ];
  for (const [args, message] of mistakes) {
    const { status, stdout, stderr } = faraday(args);
    assert.equal([status, stdout], [EXIT_USAGE, ''], args.join(' '));
    assert.match(stderr, /^faraday: [^\n]+\r?\n$/);
    assert.match(stderr, message);
  }
});

test('the command ends with 5 where a replay differs', () => {
  const { status, stderr } = faraday(['replay', at('state'), '--engine', 'cell']);
  assert.is(status, EXIT_INTERNAL);
  assert.match(stderr, /^faraday: at the end of virtio-rng: [^\n]+\n$/);
});

test.run();
