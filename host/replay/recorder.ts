// `faraday run --record`: writes every call into a cage, with what it answered and every access to
// guest memory that it made (docs/replay.md). A whole event stands in one block; what is not yet
// written is never more than a block and an event.
import { closeSync, constants, fchmodSync, fstatSync, openSync, writeSync } from 'node:fs';
import { ABI_VERSION, EFFECT_REQUEST } from '../../assembly/abi.ts';
import { AccessLog } from '../access-log.ts';
import { crc32 } from '../boot/crc32.ts';
import { nowMs } from '../clock.ts';
import type { Cage } from '../core.ts';
import type { CageCalls } from '../engine/device.ts';
import { FaradayError } from '../errors.ts';
import { checkOutputPath } from '../output-path.ts';
import { coreHash } from './core-hash.ts';
import {
  BLOCK_CHECKSUM,
  BLOCK_HEADER_BYTES,
  CALL_COMPLETE,
  CALL_END,
  CALL_FAIL,
  CALL_INPUT,
  CALL_NEXT,
  CALL_READ,
  CALL_RESTART,
  CALL_WRITE,
  ENGINE_FIRST,
  Encoder,
  FORMAT_VERSION,
  MAGIC,
  PREAMBLE_ABI,
  PREAMBLE_BYTES,
  PREAMBLE_FORMAT,
  TIME_MAX_US,
  TRAPPED,
} from './format.ts';

const BLOCK_BYTES = 0x10000; // a block is written once it holds as many
const PRIVATE = 0o600; // a recording holds what the guest's memory held
const NOTHING = new Uint8Array(0);

interface RecordedDevice {
  name: string;
  kind: number;
  config: Uint8Array;
  cage: Cage | null; // the present one
}

/** The request record of the last call; none where its claims would be a trap. */
export function recordOf(cage: Pick<Cage, 'record'>): Uint8Array {
  try {
    return cage.record();
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) return NOTHING;
    throw error;
  }
}

export function stateChecksum(cage: Pick<Cage, 'stateBytes'>): number {
  return crc32(cage.stateBytes());
}

function refused(path: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--record '${path}' ${finding}`);
}

/** Opens the file of --record, or says in one line why a run cannot be recorded there. */
export function openRecording(path: string, inputs: readonly string[]): Recorder {
  checkOutputPath('--record', path, inputs);
  let fd: number | undefined;
  try {
    const { O_CREAT, O_NONBLOCK, O_WRONLY, O_TRUNC } = constants;
    fd = openSync(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_TRUNC, PRIVATE);
    if (!fstatSync(fd).isFile()) throw refused(path, 'is no regular file; name a file');
    fchmodSync(fd, PRIVATE); // one that was there may be anybody's to read
    return new Recorder(path, fd);
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    if (error instanceof FaradayError) throw error;
    throw refused(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

export class Recorder {
  /** To be set as the log of the memory that the recorded cages reach. */
  readonly log = new AccessLog();
  private readonly path: string;
  private readonly devices: RecordedDevice[] = [];
  private readonly block = new Encoder();
  private memoryBytes = 0;
  private begun = false;
  private failure: string | null = null; // an errno name: nothing was recorded from there on
  private fd: number;
  private readonly now: () => number; // milliseconds
  private readonly startMs: number;
  private lastUs = 0; // since the start, of the last event

  constructor(path: string, fd: number, now = nowMs) {
    this.path = path;
    this.fd = fd;
    this.now = now;
    this.startMs = now();
  }

  setMemory(bytes: number): void {
    this.memoryBytes = bytes;
  }

  /** Announces a device, before the first call into any; returns its place in the recording. */
  addDevice(name: string, kind: number, config: Uint8Array): number {
    return this.devices.push({ name, kind, config, cage: null }) - 1;
  }

  /** The device's cage from now on, with its calls recorded. */
  watch(place: number, cage: Cage): CageCalls {
    const device = this.devices[place];
    if (device.cage) this.event(CALL_RESTART, place, []);
    device.cage = cage;
    const note = (call: number, args: number[], run: () => number, input?: Uint8Array): number =>
      this.call(place, cage, call, args, run, input);
    return {
      read: (offset, width) => note(CALL_READ, [offset, width], () => cage.read(offset, width)),
      write: (offset, width, value) =>
        note(CALL_WRITE, [offset, width, value], () => cage.write(offset, width, value)),
      next: (queue) => note(CALL_NEXT, [queue], () => cage.next(queue)),
      complete: (tag, result, bytes) =>
        note(CALL_COMPLETE, [tag, result, bytes], () => cage.complete(tag, result, bytes)),
      input: (bytes) => note(CALL_INPUT, [], () => cage.input(bytes), bytes),
      fail: () => note(CALL_FAIL, [], () => cage.fail()),
      value: () => cage.value(),
      record: () => cage.record(),
      outputBytes: (target, offset) => cage.outputBytes(target, offset),
      counters: () => cage.counters(),
    };
  }

  /** Ends the recording with the state of every device. Throws where it could not be written. */
  finish(): void {
    this.begin();
    this.block.u8(CALL_END);
    for (const { cage } of this.devices) this.block.u32(cage ? stateChecksum(cage) : 0);
    this.writeBlock();
    this.close();
    if (this.failure) throw refused(this.path, `could not be written to its end (${this.failure})`);
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  private call(
    place: number,
    cage: Cage,
    call: number,
    args: number[],
    run: () => number,
    input?: Uint8Array,
  ): number {
    // Taken before the call, which may be the engine's own buffer's last moment.
    this.event(call, place, args, input);
    this.log.clear();
    let effects = TRAPPED;
    try {
      effects = run();
      return effects;
    } finally {
      this.answer(cage, effects);
    }
  }

  private event(call: number, place: number, args: number[], input?: Uint8Array): void {
    this.begin();
    this.block.u8(call);
    this.block.u8(place);
    this.block.varint(this.sinceLastUs());
    for (const argument of args) this.block.varint(argument);
    if (input) this.block.bytes(input);
  }

  /** A clock that went back, or a pause past TIME_MAX_US, leaves a time that is not exact. */
  private sinceLastUs(): number {
    const sinceStartUs = Math.round((this.now() - this.startMs) * 1000);
    const passedUs = Math.min(Math.max(sinceStartUs - this.lastUs, 0), TIME_MAX_US);
    this.lastUs += passedUs;
    return passedUs;
  }

  private answer(cage: Cage, effects: number): void {
    const { block } = this;
    block.varint(effects);
    if (effects !== TRAPPED) {
      block.varint(cage.value());
      if (effects & EFFECT_REQUEST) block.bytes(recordOf(cage));
    }
    block.bytes(this.log.entries());
    if (block.length >= BLOCK_BYTES) this.writeBlock();
  }

  /** The preamble and the machine, once all devices are known. */
  private begin(): void {
    if (this.begun) return;
    this.begun = true;
    const preamble = Buffer.alloc(PREAMBLE_BYTES);
    preamble.write(MAGIC, 'latin1');
    preamble.writeUInt32LE(FORMAT_VERSION, PREAMBLE_FORMAT);
    preamble.writeUInt32LE(ABI_VERSION, PREAMBLE_ABI);
    this.write(preamble);
    const { block } = this;
    block.varint(this.memoryBytes / 4096);
    block.u8(ENGINE_FIRST);
    block.raw(coreHash());
    block.u8(this.devices.length);
    for (const { name, kind, config } of this.devices) {
      block.varint(kind);
      block.bytes(Buffer.from(name));
      block.bytes(config);
    }
    this.writeBlock();
  }

  private writeBlock(): void {
    const payload = this.block.take();
    const header = Buffer.alloc(BLOCK_HEADER_BYTES);
    header.writeUInt32LE(payload.length);
    header.writeUInt32LE(crc32(payload), BLOCK_CHECKSUM);
    this.write(header);
    this.write(payload);
  }

  /** A recording that cannot go on does not stop the guest; finish() tells. */
  private write(bytes: Uint8Array): void {
    try {
      for (let done = 0; done < bytes.length && !this.failure; ) {
        done += writeSync(this.fd, bytes, done);
      }
    } catch (error) {
      this.failure = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    }
  }
}
