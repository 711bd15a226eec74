// What a cell says, read as hostile: right messages in any pieces, and one error for anything else.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Message, MessageReader } from '../host/engine/cell-messages.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { CRASH_REGISTERS, toRunResult } from '../host/engine/cell-report.ts';
import { FaradayError } from '../host/errors.ts';
import { diskDevice, machineImage } from './machine-image.ts';
import { randomFrom } from './random.ts';

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
      bytes.writeUInt32LE(1 + next(8), 0);
      bytes.writeUInt32LE([0, 256, 9792, 2 ** 31][next(4)]!, 4);
    }
    const at = bytes.length === 0 ? 0 : next(bytes.length);
    refusal(() => read(bytes.subarray(0, at), bytes.subarray(at)));
  }
});

// --- The report ---------------------------------------------------------------------------------

const image = machineImage({ virtio: [diskDevice(9, { ioUring: true })] });

function report(change: (bytes: Buffer) => void = () => {}): DataView {
  const bytes = Buffer.alloc(protocol.REPORT_BYTES);
  const device = protocol.REPORT_DEVICES + protocol.REPORT_DEVICE_STRIDE;
  bytes.writeUInt32LE(protocol.CAUSE_POWER_OFF, protocol.REPORT_CAUSE);
  bytes.writeUInt32LE(2, protocol.REPORT_DEVICE_COUNT);
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

test('a report becomes the result of the run', () => {
  const now = process.hrtime.bigint();
  const result = toRunResult(
    report((bytes) => {
      bytes.writeBigUInt64LE(now - 5_000_000n, protocol.REPORT_PHASES);
      bytes.writeBigUInt64LE(now, protocol.REPORT_PHASES + 8 * protocol.PHASE_RUNNING);
      bytes.writeBigUInt64LE(12n, protocol.REPORT_EXITS + 8 * 2);
    }),
    image,
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
  );
  assert.is(detail, 'internal-error, code 3');
  const { rax, rip, 'cs.base': base, 'ldt.selector': last } = crash!.registers;
  assert.equal([rax, rip, base, last], [0n, 16n, 29n, 44n]);
  assert.is(crash!.instructionBytes.length, 16);
});

test('a report that cannot be is one error', () => {
  const finding = (change: (bytes: Buffer) => void) => {
    return refusal(() => toRunResult(report(change), image)) ?? '';
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
      ),
    );
  }
});

test.run();
