// What a cell says over its control socket, and what the host makes of it: messages, the report of
// a run, confinement, violations. An input is the size of the pieces it comes in, then the bytes.
import {
  describeConfinement,
  describeViolation,
  readConfined,
  readViolation,
} from '../../../host/confine/confined.ts';
import { type Message, MessageReader } from '../../../host/engine/cell-messages.ts';
import * as protocol from '../../../host/engine/cell-protocol.ts';
import { toRunResult } from '../../../host/engine/cell-report.ts';
import { FaradayError } from '../../../host/errors.ts';
import { explainCall, explainConfinement } from '../../../host/explain.ts';
import { describeCrash, type RunFacts, toReport } from '../../../host/result.ts';
import { diskDevice, machineImage, netDevice } from '../../../test/machine-image.ts';
import type { Random } from '../../../testing/random.ts';
import { spoilField } from '../mutate.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';

const NET_DEVICE = 2; // of the report: after the console and the disk
const NET = netDevice([10, 11], { slot: { address: 0xd0001000, pin: 6 }, queuePairs: 2 });
const IMAGE = machineImage({ virtio: [diskDevice(9), NET] });
const NETS_MAX = 4; // records that are kept, as the host keeps few
const PLAIN = /^[\x20-\x7e]*$/;

function report(view: DataView, networks: DataView[]): void {
  const result = { ...toRunResult(view, IMAGE, networks), confinement: null };
  const facts = { engine: 'cell', entry: 'pvh', composedMs: 1, confinement: {} };
  const text = JSON.stringify(toReport(facts as RunFacts, result));
  must(PLAIN.test(text), 'a report with characters of the cell');
  must(!text.includes('NaN'), 'a report with a number that is none');
  must(PLAIN.test(describeCrash(result)), 'a line with characters of the cell');
}

function take(message: Message, networks: DataView[]): void {
  if (message.type === 'ended') return report(message.report, networks);
  if (message.type === 'network' && networks.length < NETS_MAX) networks.push(message.record);
  if (message.type === 'confined') {
    must(PLAIN.test(describeConfinement(readConfined(message.record))), 'odd characters');
  } else if (message.type === 'violation') {
    must(PLAIN.test(describeViolation(readViolation(message.record))), 'odd characters');
  } else if (message.type === 'log') {
    must(PLAIN.test(message.text), 'odd characters');
  } else if (message.type === 'failed') {
    const { call, errno, about } = message.failure;
    must(PLAIN.test(call + errno + about), 'odd characters');
    explainConfinement(call, errno, about);
    explainCall(call, errno, IMAGE.memoryBytes);
  }
}

function run(input: Uint8Array): void {
  const reader = new MessageReader();
  const networks: DataView[] = [];
  const size = Math.max(1, input[0] ?? 1);
  for (let at = 1; at < input.length; at += size) {
    for (const message of reader.push(input.subarray(at, at + size))) take(message, networks);
  }
}

function message(type: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const header = Buffer.alloc(protocol.MESSAGE_HEADER_BYTES);
  header.writeUInt32LE(type, protocol.MESSAGE_TYPE);
  header.writeUInt32LE(payload.length, protocol.MESSAGE_LENGTH);
  return Buffer.concat([header, payload]);
}

function ended(change: (bytes: Buffer) => void): Buffer {
  const bytes = Buffer.alloc(protocol.REPORT_BYTES);
  bytes.writeUInt32LE(protocol.CAUSE_POWER_OFF, protocol.REPORT_CAUSE);
  bytes.writeUInt32LE(3, protocol.REPORT_DEVICE_COUNT);
  for (const [i, name] of ['serial', 'disk:rootfs', 'net:net'].entries()) {
    const place = protocol.REPORT_DEVICES + i * protocol.REPORT_DEVICE_STRIDE;
    bytes.write(name, place + protocol.DEVICE_NAME, 'latin1');
  }
  const at = protocol.REPORT_DEVICES + protocol.REPORT_DEVICE_STRIDE;
  bytes.writeUInt32LE(protocol.ENGINE_SYNC, at + protocol.DEVICE_ENGINE);
  change(bytes);
  return message(protocol.ENDED, bytes);
}

function network(change: (bytes: Buffer) => void = () => {}): Buffer {
  const bytes = Buffer.alloc(protocol.NET_BYTES);
  bytes.writeUInt32LE(NET_DEVICE, protocol.NET_DEVICE);
  bytes.writeUInt32LE(2 * NET.queuePairs, protocol.NET_QUEUE_COUNT);
  change(bytes);
  return message(protocol.NET, bytes);
}

function failed(call: string, about: string, errno = 13): Buffer {
  const bytes = Buffer.alloc(protocol.FAILED_BYTES);
  bytes.writeUInt32LE(3, protocol.FAILED_EXIT_CODE);
  bytes.writeUInt32LE(errno, protocol.FAILED_ERRNO);
  bytes.write(call, protocol.FAILED_CALL, 'latin1');
  bytes.write(about, protocol.FAILED_ABOUT, 'latin1');
  return message(protocol.FAILED, bytes);
}

const CALLS = ['landlock', 'namespaces', 'seccomp', 'setresuid', 'open', 'mmap', 'KVM_RUN', 'x'];

function seeds(): Uint8Array[] {
  const whole = (...parts: Uint8Array[]): Uint8Array => Buffer.concat([Buffer.of(255), ...parts]);
  const confined = Buffer.alloc(protocol.CONFINED_BYTES);
  confined.writeUInt32LE(0x7f, protocol.CONFINED_NAMESPACES);
  confined.writeUInt32LE(4, protocol.CONFINED_LANDLOCK_ABI);
  const log = Buffer.alloc(protocol.LOG_BYTES);
  log.write('a line', protocol.LOG_TEXT);
  const causes = [protocol.CAUSE_SIGNAL, protocol.CAUSE_KVM_ERROR, protocol.CAUSE_TRIPLE_FAULT];
  return [
    whole(message(protocol.STARTED), message(protocol.MARKER), message(protocol.PAUSED)),
    whole(message(protocol.CONFINED, confined), message(protocol.RESUMED)),
    whole(message(protocol.CONFINED, Buffer.alloc(protocol.CONFINED_BYTES, 0xff))),
    whole(message(protocol.VIOLATION, Buffer.alloc(protocol.VIOLATION_BYTES))),
    whole(message(protocol.LOG, log), message(protocol.LOG, log)),
    ...CALLS.map((call) => whole(failed(call, 'ABI 3, network'))),
    whole(
      network(),
      ended(() => {}),
    ),
    whole(
      network((bytes) => bytes.fill(0xff, protocol.NET_QUEUES)),
      ended(() => {}),
    ),
    ...causes.map((cause) => {
      return whole(
        network(),
        ended((bytes) => {
          bytes.writeUInt32LE(cause, protocol.REPORT_CAUSE);
          bytes.writeUInt32LE(2, protocol.REPORT_SIGNAL);
          bytes.writeUInt32LE(1, protocol.REPORT_CRASHED);
          bytes.writeUInt32LE(16, protocol.REPORT_INSTRUCTION_COUNT);
          bytes.writeBigUInt64LE(1n, protocol.REPORT_PHASES + 8 * protocol.PHASE_RUNNING);
        }),
      );
    }),
  ];
}

/** Spoils a header, or a number of the first payload. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  const header = 1 + protocol.MESSAGE_HEADER_BYTES;
  const start = random(4) === 0 ? 1 : header + 4 * random(Math.min(170, bytes.length >> 2));
  if (start + 8 <= bytes.length) spoilField(bytes, start, 4 + 4 * random(2), random);
  return bytes;
}

/** By design a cell that breaks the protocol is an internal error: nobody else can have done it. */
function isRefusal(error: unknown): boolean {
  const text = /^the cell [\x20-\x7e]+; please report it$/;
  return error instanceof FaradayError && text.test(error.message);
}

export const messagesParser: Parser = { seeds, run, mutate, isRefusal };
