// What a cell says, read as hostile: right messages in any pieces, and one error for anything else.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  describeConfinement,
  describeViolation,
  readConfined,
  readViolation,
} from '../host/confine/confined.ts';
import { Cell } from '../host/engine/cell.ts';
import { type Message, MessageReader } from '../host/engine/cell-messages.ts';
import type { CellListener, CellProcess } from '../host/engine/cell-process.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { CRASH_REGISTERS, toRunResult } from '../host/engine/cell-report.ts';
import { FaradayError } from '../host/errors.ts';
import { describeNetwork } from '../host/result.ts';
import { randomFrom } from '../testing/random.ts';
import { diskDevice, machineImage, NET_MAC, netDevice } from './machine-image.ts';

const ROUNDS = 3000;

function message(type: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const header = Buffer.alloc(protocol.MESSAGE_HEADER_BYTES);
  header.writeUInt32LE(type, protocol.MESSAGE_TYPE);
  header.writeUInt32LE(payload.length, protocol.MESSAGE_LENGTH);
  return Buffer.concat([header, payload]);
}

const read = (...chunks: Uint8Array[]): Message[] => {
  const reader = new MessageReader();
  return chunks.flatMap((chunk) => [...reader.push(chunk)]);
};

/** The one error there may be. */
function refusal(act: () => unknown): string | null {
  try {
    act();
    return null;
  } catch (error) {
    assert.instance(error, FaradayError);
    const { code, message } = error as FaradayError;
    assert.is(code, 'internal');
    assert.match(message, /^the cell [\x20-\x7e]+; please report it$/);
    return message;
  }
}

function failed(exitCode: number, errno: number, call: string, about: string): Buffer {
  const payload = Buffer.alloc(protocol.FAILED_BYTES);
  payload.writeUInt32LE(exitCode, protocol.FAILED_EXIT_CODE);
  payload.writeUInt32LE(errno, protocol.FAILED_ERRNO);
  payload.write(call, protocol.FAILED_CALL, 'latin1');
  payload.write(about, protocol.FAILED_ABOUT, 'latin1');
  return message(protocol.FAILED, payload);
}

test('messages come out whole however the bytes are cut', () => {
  const log = Buffer.alloc(protocol.LOG_BYTES);
  log.writeUInt32LE(protocol.LOG_LEVEL_WARN, protocol.LOG_LEVEL);
  log.write('a line\x1b[31m\xff', protocol.LOG_TEXT, 'latin1');
  const stream = Buffer.concat([
    message(protocol.STARTED),
    message(protocol.LOG, log),
    failed(3, 13, 'KVM_CREATE_VM', 'no\nrights'),
  ]);
  const expected: Message[] = [
    { type: 'started' },
    { type: 'log', level: 'warn', text: 'a line?[31m?' },
    {
      type: 'failed',
      failure: { exitCode: 3, errno: 'EACCES', call: 'KVM_CREATE_VM', about: 'no?rights' },
    },
  ];
  assert.equal(read(stream), expected);
  assert.equal(read(...Array.from(stream, (byte) => Uint8Array.of(byte))), expected);
  for (let at = 0; at < stream.length; at += 7) {
    assert.equal(read(stream.subarray(0, at), stream.subarray(at)), expected);
  }
});

test('an errno that is none has no name, and text that fills its field needs no NUL', () => {
  const [message] = read(failed(0xffffffff, 0xffffffff, 'c'.repeat(40), 'a'.repeat(208)));
  assert.is(message?.type, 'failed');
  if (message?.type !== 'failed') return;
  assert.is(message.failure.errno, '');
  assert.is(message.failure.call.length, protocol.FAILED_CALL_BYTES);
  assert.is(message.failure.about.length, protocol.FAILED_ABOUT_BYTES);
});

test('an unknown type, a wrong length or an unknown level is one error', () => {
  assert.match(refusal(() => read(message(99)))!, /unknown type 99/);
  assert.match(refusal(() => read(message(protocol.STARTED, Buffer.alloc(1))))!, /1 bytes/);
  const huge = message(protocol.LOG);
  huge.writeUInt32LE(0xffffffff, protocol.MESSAGE_LENGTH);
  assert.match(refusal(() => read(huge))!, /4294967295 bytes/);
  const log = Buffer.alloc(protocol.LOG_BYTES, 0xff);
  assert.match(refusal(() => read(message(protocol.LOG, log)))!, /unknown level/);
});

test('random bytes, in random pieces, never do more than that', () => {
  const next = randomFrom(201);
  for (let round = 0; round < ROUNDS; round++) {
    const bytes = Buffer.from(Array.from({ length: next(600) }, () => next(256)));
    // Half of them look like messages at first.
    if (round % 2 === 0 && bytes.length > 8) {
      bytes.writeUInt32LE(1 + next(11), 0);
      bytes.writeUInt32LE([0, 64, 256, 9792, protocol.NET_BYTES, 2 ** 31][next(6)]!, 4);
    }
    const at = bytes.length === 0 ? 0 : next(bytes.length);
    refusal(() => read(bytes.subarray(0, at), bytes.subarray(at)));
  }
});

// --- The report ---------------------------------------------------------------------------------

const slot = { address: 0xd0001000, pin: 6 };
const image = machineImage({
  virtio: [diskDevice(9, { ioUring: true }), netDevice([10], { slot })],
});

function report(change: (bytes: Buffer) => void = () => {}): DataView {
  const bytes = Buffer.alloc(protocol.REPORT_BYTES);
  const device = protocol.REPORT_DEVICES + protocol.REPORT_DEVICE_STRIDE;
  bytes.writeUInt32LE(protocol.CAUSE_POWER_OFF, protocol.REPORT_CAUSE);
  bytes.writeUInt32LE(3, protocol.REPORT_DEVICE_COUNT);
  bytes.write('net:net', device + protocol.REPORT_DEVICE_STRIDE, 'latin1');
  bytes.write('serial', protocol.REPORT_DEVICES, 'latin1');
  bytes.writeUInt32LE(7, protocol.REPORT_DEVICES + protocol.DEVICE_EXITS);
  bytes.writeUInt32LE(3, protocol.REPORT_DEVICES + protocol.DEVICE_INCIDENTS + 4 * 2);
  bytes.write('disk:rootfs', device, 'latin1');
  bytes.writeUInt32LE(protocol.ENGINE_IO_URING, device + protocol.DEVICE_ENGINE);
  bytes.writeUInt32LE(5, device + protocol.DEVICE_REQUESTS);
  bytes.writeUInt32LE(1, device + protocol.DEVICE_ERRORS);
  bytes.writeUInt32LE(28, device + protocol.DEVICE_LAST_ERRNO);
  bytes.writeUInt32LE(4, device + protocol.DEVICE_READ_LATENCY + 4 * 3);
  bytes.writeUInt32LE(1, device + protocol.DEVICE_WRITE_LATENCY);
  change(bytes);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** What the network device did. */
function network(change: (bytes: Buffer) => void = () => {}): DataView {
  const bytes = Buffer.alloc(protocol.NET_BYTES);
  bytes.writeUInt32LE(2, protocol.NET_DEVICE);
  bytes.writeUInt32LE(2, protocol.NET_QUEUE_COUNT);
  const transmit = protocol.NET_QUEUES + protocol.NET_QUEUE_STRIDE;
  bytes.writeUInt32LE(5, protocol.NET_QUEUES + protocol.NET_QUEUE_FRAMES);
  bytes.writeUInt32LE(300, protocol.NET_QUEUES + protocol.NET_QUEUE_BYTES);
  const spoofed = protocol.NET_QUEUE_DROPS + 8 * protocol.NET_DROP_SPOOFED;
  bytes.writeUInt32LE(4, transmit + spoofed);
  change(bytes);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

test('a report becomes the result of the run', () => {
  const now = process.hrtime.bigint();
  const result = toRunResult(
    report((bytes) => {
      bytes.writeBigUInt64LE(now - 5_000_000n, protocol.REPORT_PHASES);
      bytes.writeBigUInt64LE(now, protocol.REPORT_PHASES + 8 * protocol.PHASE_RUNNING);
      bytes.writeBigUInt64LE(12n, protocol.REPORT_EXITS + 8 * 2);
    }),
    image,
    [network()],
  );
  assert.is(result.cause, 'power-off');
  assert.equal(result.devices[0], { name: 'serial', exits: 7, traps: 0, incidents: { status: 3 } });
  assert.is(result.exits[2], 12);
  const { cellStartedMs, runningMs, loadedMs } = result.phases;
  assert.is(loadedMs, null);
  assert.ok(Math.abs(runningMs! - cellStartedMs! - 5) < 0.01, 'five milliseconds apart');
  assert.ok(Math.abs(runningMs! - performance.now()) < 1000, "on this process' clock");
  const [disk] = result.disks;
  assert.equal(disk, {
    ...{ id: 'rootfs', path: '/data/root.img', readOnly: false },
    ...{ requests: 5, bytesRead: 0, bytesWritten: 0, errors: 1, lastError: 'ENOSPC' },
    engine: 'io_uring',
    latencyMicroseconds: { read: { '<8': 4 }, write: { '<1': 1 } },
  });
  assert.equal(result.networks, [
    {
      ...{ id: 'net', backend: 'tap', interface: 'test', mac: NET_MAC, queuePairs: 1, gone: false },
      receive: [{ frames: 5, bytes: 300, drops: {} }],
      transmit: [{ frames: 0, bytes: 0, drops: { spoofed: 4 } }],
    },
  ]);
  assert.is(
    describeNetwork(result.networks[0]!),
    'network net (tap at test): received 5 frames of 300 bytes, 0 dropped; ' +
      'sent 0 frames of 0 bytes, 4 dropped',
  );
});

test('a crash brings 45 registers by name', () => {
  assert.is(CRASH_REGISTERS.length, protocol.REGISTER_COUNT);
  const { crash, detail } = toRunResult(
    report((bytes) => {
      bytes.writeUInt32LE(protocol.CAUSE_KVM_ERROR, protocol.REPORT_CAUSE);
      bytes.writeUInt32LE(8, protocol.REPORT_EXIT_KIND);
      bytes.writeUInt32LE(3, protocol.REPORT_EXIT_CODE);
      bytes.writeUInt32LE(1, protocol.REPORT_CRASHED);
      bytes.writeUInt32LE(99, protocol.REPORT_INSTRUCTION_COUNT);
      for (let index = 0; index < protocol.REGISTER_COUNT; index++) {
        bytes.writeBigUInt64LE(BigInt(index), protocol.REPORT_REGISTERS + 8 * index);
      }
    }),
    image,
    [network()],
  );
  assert.is(detail, 'internal-error, code 3');
  const { rax, rip, 'cs.base': base, 'ldt.selector': last } = crash!.registers;
  assert.equal([rax, rip, base, last], [0n, 16n, 29n, 44n]);
  assert.is(crash!.instructionBytes.length, 16);
});

test('a report that cannot be is one error', () => {
  const finding = (change: (bytes: Buffer) => void) => {
    return refusal(() => toRunResult(report(change), image, [network()])) ?? '';
  };
  assert.match(
    finding((b) => b.writeUInt32LE(0, protocol.REPORT_CAUSE)),
    /cannot be/,
  );
  assert.match(
    finding((b) => b.writeUInt32LE(8, protocol.REPORT_CAUSE)),
    /cannot be/,
  );
  assert.match(
    finding((b) => b.writeUInt32LE(25, protocol.REPORT_DEVICE_COUNT)),
    /25 devices/,
  );
  assert.match(
    finding((b) => b.writeUInt32LE(1, protocol.REPORT_DEVICE_COUNT)),
    /disk rootfs/,
  );
  const signal = (b: Buffer) => {
    b.writeUInt32LE(protocol.CAUSE_SIGNAL, protocol.REPORT_CAUSE);
    b.writeUInt32LE(9, protocol.REPORT_SIGNAL);
  };
  assert.match(finding(signal), /signal 9/);
  const missing = (...records: DataView[]) =>
    refusal(() => toRunResult(report(), image, records)) ?? '';
  const of = (device: number) => network((b) => b.writeUInt32LE(device, protocol.NET_DEVICE));
  assert.match(missing(), /nothing of network net/);
  assert.match(missing(of(1), of(0xffffffff)), /nothing of network net/);
  for (const count of [0, 1, 4, 0xffffffff]) {
    const record = network((b) => b.writeUInt32LE(count, protocol.NET_QUEUE_COUNT));
    assert.match(missing(record), /other queues of network net/);
  }
  assert.is(missing(of(1), network()), '');
});

test('random reports never do more than that', () => {
  const next = randomFrom(7);
  for (let round = 0; round < ROUNDS / 10; round++) {
    refusal(() =>
      toRunResult(
        report((bytes) => {
          for (let change = 0; change < 400; change++) bytes[next(bytes.length)] = next(256);
        }),
        image,
        [network(), network((bytes) => scramble(bytes, next))],
      ),
    );
  }
});

// --- Confinement --------------------------------------------------------------------------------

const NAMESPACE = /^(user|mount|pid|net|ipc|uts|cgroup)$/;

function record(bytes: number, fill: (buffer: Buffer) => void = () => {}): DataView {
  const buffer = Buffer.alloc(bytes);
  fill(buffer);
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}

test('what a cell says of its confinement is in words', () => {
  const said = readConfined(
    record(protocol.CONFINED_BYTES, (bytes) => {
      bytes.writeUInt32LE(protocol.NAMESPACE_PID, protocol.CONFINED_NAMESPACES);
      bytes.writeUInt32LE(1, protocol.CONFINED_NAMESPACES_ERRNO);
      bytes.writeUInt32LE(2, protocol.CONFINED_LANDLOCK_ABI);
      bytes.writeUInt32LE(protocol.SECCOMP_ENFORCE, protocol.CONFINED_SECCOMP);
      bytes.writeUInt32LE(7, protocol.CONFINED_CAPABILITIES);
      bytes.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, protocol.CONFINED_PROCESSES);
    }),
  );
  assert.equal(said.namespaces.own, ['pid']);
  assert.is(said.namespaces.missing.length, 6);
  assert.is(said.namespaces.reason, 'EPERM');
  assert.is(said.landlock.state, 'partial');
  assert.equal(said.capabilities, { held: false, ambient: false, bounding: false });
  assert.is(said.limits.processes, null);
  const line = describeConfinement(said);
  assert.match(line, /^seccomp enforce; Landlock partial \(ABI 2\): not truncating files /);
  assert.match(line, /namespaces pid, not user mount net ipc uts cgroup \(EPERM\)/);
  assert.match(line, /no capabilities; NO no_new_privs$/);
});

function scramble(bytes: Buffer, next: (limit: number) => number): void {
  for (let at = 0; at < bytes.length; at++) bytes[at] = next(256);
}

test('whatever a cell says of its confinement has the right form', () => {
  const next = randomFrom(31);
  for (let round = 0; round < ROUNDS; round++) {
    const said = readConfined(record(protocol.CONFINED_BYTES, (bytes) => scramble(bytes, next)));
    assert.match(said.seccomp, /^(off|log|enforce)$/);
    assert.match(said.landlock.state, /^(full|partial|unavailable|off)$/);
    const all = [...said.namespaces.own, ...said.namespaces.missing];
    assert.ok(all.length === 7 && all.every((name) => NAMESPACE.test(name)));
    assert.match(describeConfinement(said), /^[\x20-\x7e]{1,600}$/);
  }
});

test('whatever call a cell says it was ended for is one line', () => {
  const next = randomFrom(32);
  for (let round = 0; round < ROUNDS; round++) {
    const view = record(protocol.VIOLATION_BYTES, (bytes) => {
      scramble(bytes, next);
      if (round % 2 === 0) bytes.writeUInt32LE(next(600), protocol.VIOLATION_CALL);
      if (round % 3 === 0) bytes.writeUInt32LE(next(6), protocol.VIOLATION_ROLE);
    });
    assert.match(describeViolation(readViolation(view)), /^[\x20-\x7e]{1,600}$/);
  }
});

// --- Whole conversations ------------------------------------------------------------------------

/** A message of every type, as a real cell sends it. */
function everyMessage(): Buffer[] {
  const confined = Buffer.alloc(protocol.CONFINED_BYTES, 1);
  const log = Buffer.alloc(protocol.LOG_BYTES);
  log.writeUInt32LE(protocol.LOG_LEVEL_INFO, protocol.LOG_LEVEL);
  log.write('a line', protocol.LOG_TEXT);
  const view = report();
  const ended = Buffer.from(view.buffer, view.byteOffset, view.byteLength);
  return [
    message(protocol.CONFINED, confined),
    message(protocol.STARTED),
    message(protocol.MARKER),
    message(protocol.LOG, log),
    message(protocol.PAUSED),
    message(protocol.RESUMED),
    failed(3, 1, 'namespaces', 'not all of them'),
    message(protocol.VIOLATION, Buffer.alloc(protocol.VIOLATION_BYTES)),
    message(protocol.NET, new Uint8Array(network().buffer)),
    message(protocol.ENDED, ended),
  ];
}

/** A process that says `chunks` to the host's side of it and is gone then. */
class FakeProcess {
  killed = false;
  private listener: CellListener | null = null;

  listen(listener: CellListener): void {
    this.listener = listener;
  }
  release(): void {}
  send(): void {}
  kill(): void {
    this.killed = true;
  }
  say(chunks: Uint8Array[], status: number): void {
    for (const chunk of chunks) this.listener!.data(chunk);
    this.listener!.hungUp();
    this.listener!.ended({ status, signal: null });
  }
}

/** The end of a conversation: a cause, or the message of the one error there may be. */
async function converse(chunks: Uint8Array[]): Promise<{ end: string; lines: number }> {
  let lines = 0;
  const process = new FakeProcess();
  const options = {
    log: () => {
      lines++;
    },
    program: 'none',
    confinement: { seccomp: 'enforce', landlock: 'auto', namespaces: 'auto' } as const,
  };
  const ended = new Cell(image, options, process as unknown as CellProcess).ended();
  process.say(chunks, 0);
  try {
    return { end: (await ended).cause, lines };
  } catch (error) {
    assert.instance(error, FaradayError);
    const { message } = error as FaradayError;
    assert.match(message, /^[\x20-\x7e]{1,900}$/);
    return { end: message, lines };
  }
}

/** The bytes in pieces. */
function pieces(bytes: Buffer, next: (limit: number) => number): Buffer[] {
  const all: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + next(bytes.length);
    all.push(bytes.subarray(at, at + length));
    at += length;
  }
  return all;
}

test('messages in any order, any number of times, end in a cause or one error', async () => {
  const next = randomFrom(33);
  const ends = new Set<string>();
  for (let round = 0; round < ROUNDS / 3; round++) {
    const every = everyMessage();
    const order = Array.from({ length: next(12) }, () => every[next(every.length)]!);
    ends.add((await converse(pieces(Buffer.concat(order), next))).end);
  }
  assert.ok(ends.has('power-off'));
  assert.ok([...ends].some((end) => /nothing of network net/.test(end)));
  assert.ok([...ends].some((end) => /no such network/.test(end)));
  assert.ok([...ends].some((end) => /told twice what confines it/.test(end)));
  assert.ok([...ends].some((end) => /went on after its last message/.test(end)));
  assert.ok([...ends].some((end) => /seccomp filter/.test(end)));
});

test('a conversation with bytes changed, lost or doubled does no more than that', async () => {
  const next = randomFrom(34);
  for (let round = 0; round < ROUNDS / 3; round++) {
    let bytes = Buffer.concat(everyMessage().slice(next(4)));
    for (let change = next(6); change > 0; change--) {
      const at = next(bytes.length);
      const kind = next(4);
      const length = 1 + next(40);
      if (kind === 0) bytes[at] = next(256);
      else if (kind === 1) bytes.writeUInt8(bytes[at]! ^ (1 << next(8)), at);
      else if (kind === 2) {
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
      } else
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.max(0, at - length))]);
      if (bytes.length === 0) bytes = Buffer.alloc(1);
    }
    await converse(pieces(bytes, next));
  }
});

test('a cell that talks without end is listened to in little memory and few lines', async () => {
  const [confined, started, marker, log] = everyMessage();
  const chunk = Buffer.concat(Array.from({ length: 500 }, () => Buffer.concat([log!, marker!])));
  const chunks = Array.from({ length: 100 }, () => chunk);
  const { lines } = await converse([confined!, started!, ...chunks]);
  assert.ok(lines <= 1003, `${lines} lines`);
  // Of a message that never ends it keeps what one message may be, and no more.
  const reader = new MessageReader();
  const header = message(protocol.ENDED, Buffer.alloc(protocol.REPORT_BYTES)).subarray(0, 8);
  const before = process.memoryUsage().arrayBuffers;
  assert.equal([...reader.push(header)], []);
  const garbage = Buffer.alloc(1 << 20);
  let refused = 0;
  for (let i = 0; i < 64; i++) if (refusal(() => [...reader.push(garbage)]) !== null) refused++;
  assert.is(refused, 64);
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 << 20);
});

test('a layer that a cell could not have is one line with what to do', async () => {
  const lines: [string, string, RegExp][] = [
    ['landlock', 'ABI 3, and 6 is needed', /^--landlock required: partial \(ABI 3\): not TCP .*; /],
    ['landlock', 'ABI 0, and 6 is needed', /^--landlock required: not available \(EPERM\); /],
    ['namespaces', 'none', /^--namespaces required: .* \(EPERM\); .*--namespaces auto$/],
    ['seccomp', 'none', /^this kernel takes no seccomp filter \(EPERM\); .*--seccomp off$/],
    ['setresuid', '5:6', /^the cell cannot become user 5:6 \(EPERM\); .*--user UID:GID$/],
  ];
  for (const [call, about, expected] of lines) {
    const { end } = await converse([failed(3, 1, call, about)]);
    assert.match(end, expected);
  }
});

test.run();
