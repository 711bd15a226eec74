// `faraday run --record`: writes every call into a cage, with what it answered and every access to
// guest memory that it made (docs/replay.md). A whole event stands in one block; what is not yet
// written is never more than a block and an event.
import { closeSync, constants, fchmodSync, fstatSync, openSync, writeSync } from 'node:fs';
import { EFFECT_REQUEST, KIND_VIRTIO_BLK } from '../../assembly/abi.ts';
import { AccessLog } from '../access-log.ts';
import { crc32 } from '../boot/crc32.ts';
import { nowMs } from '../clock.ts';
import type { Cage } from '../core.ts';
import type { CageCalls } from '../engine/device.ts';
import { FaradayError } from '../errors.ts';
import { checkOutputPath } from '../output-path.ts';
import {
  CALL_COMPLETE,
  CALL_END,
  CALL_FAIL,
  CALL_INPUT,
  CALL_NEXT,
  CALL_READ,
  CALL_RESTART,
  CALL_WRITE,
  Encoder,
  TIME_MAX_US,
  TRAPPED,
} from './format.ts';
import { blockHeader, type DevicePlan, recordingHeader } from './header.ts';

const BLOCK_BYTES = 0x10000; // a block is written once it holds as many
const CALLS_FOR_A_TIME = 32; // into devices behind ports, for one look at the clock
const PRIVATE = 0o600; // a recording holds what the guest's memory held
const NOTHING = new Uint8Array(0);

interface RecordedDevice extends DevicePlan {
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

/** The error for a recording that ended before its guest did; `errno` is a name. */
export function cutShort(path: string, errno: string): FaradayError {
  return refused(path, `could not be written to its end (${errno})`);
}

function refused(path: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--record '${path}' ${finding}`);
}

/** Opens the file of --record, or says in one line why a run cannot be recorded there. */
export function openRecordingFile(path: string, inputs: readonly string[]): number {
  checkOutputPath('--record', path, inputs);
  let fd: number | undefined;
  try {
    const { O_CREAT, O_NONBLOCK, O_WRONLY, O_TRUNC } = constants;
    fd = openSync(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_TRUNC, PRIVATE);
    if (!fstatSync(fd).isFile()) throw refused(path, 'is no regular file; name a file');
    fchmodSync(fd, PRIVATE); // one that was there may be anybody's to read
    return fd;
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    if (error instanceof FaradayError) throw error;
    throw refused(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

/** The same with a recorder of this process' own cages. */
export function openRecording(path: string, inputs: readonly string[]): Recorder {
  return new Recorder(path, openRecordingFile(path, inputs));
}

/**
 * A cage whose calls are recorded. Each is spelled out, without a closure: these lie on the path of
 * every exit.
 */
class RecordedCage implements CageCalls {
  private readonly recorder: Recorder;
  private readonly place: number;
  private readonly cage: Cage;

  constructor(recorder: Recorder, place: number, cage: Cage) {
    this.recorder = recorder;
    this.place = place;
    this.cage = cage;
  }

  read(offset: number, width: number): number {
    const block = this.recorder.begin(CALL_READ, this.place);
    block.varint(offset);
    block.varint(width);
    let effects = TRAPPED;
    try {
      effects = this.cage.read(offset, width);
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  write(offset: number, width: number, value: number): number {
    const block = this.recorder.begin(CALL_WRITE, this.place);
    block.three(offset, width, value);
    let effects = TRAPPED;
    try {
      effects = this.cage.write(offset, width, value);
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  next(queue: number): number {
    this.recorder.begin(CALL_NEXT, this.place).varint(queue);
    let effects = TRAPPED;
    try {
      effects = this.cage.next(queue);
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  complete(tag: number, result: number, bytes: number): number {
    const block = this.recorder.begin(CALL_COMPLETE, this.place);
    block.three(tag, result, bytes);
    let effects = TRAPPED;
    try {
      effects = this.cage.complete(tag, result, bytes);
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  input(bytes: Uint8Array): number {
    this.recorder.begin(CALL_INPUT, this.place).bytes(bytes);
    let effects = TRAPPED;
    try {
      effects = this.cage.input(bytes);
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  fail(): number {
    this.recorder.begin(CALL_FAIL, this.place);
    let effects = TRAPPED;
    try {
      effects = this.cage.fail();
      return effects;
    } finally {
      this.recorder.end(this.cage, effects);
    }
  }

  value(): number {
    return this.cage.value();
  }

  record(): Uint8Array {
    return this.cage.record();
  }

  outputBytes(target: Uint8Array, offset: number): number {
    return this.cage.outputBytes(target, offset);
  }

  counters(): Record<string, number> {
    return this.cage.counters();
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
  private portCalls = 0;

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
    if (device.cage) this.begin(CALL_RESTART, place);
    device.cage = cage;
    return new RecordedCage(this, place, cage);
  }

  /**
   * Notes that a call begins; its arguments go into the encoder that is returned. Before the call,
   * which may be the last moment of what they are in.
   */
  begin(call: number, place: number): Encoder {
    if (!this.begun) this.writeMachine();
    const { block } = this;
    const passedUs = this.sharesTime(place) ? 0 : this.sinceLastUs();
    if (place < 0x80) block.three(call, place, passedUs);
    else {
      block.u8(call);
      block.u8(place);
      block.varint(passedUs);
    }
    if (this.log.length !== 0) this.log.clear();
    return block;
  }

  /** Notes what the call answered; TRAPPED where it trapped. */
  end(cage: Cage, effects: number): void {
    const { block } = this;
    // What most calls are: no request, and no access to guest memory.
    if (this.log.length === 0 && effects !== TRAPPED && !(effects & EFFECT_REQUEST)) {
      block.three(effects, cage.value(), 0);
      if (block.length >= BLOCK_BYTES) this.writeBlock();
      return;
    }
    block.varint(effects);
    if (effects !== TRAPPED) {
      block.varint(cage.value());
      if (effects & EFFECT_REQUEST) this.noteRecord(cage);
    }
    // An empty view is no cheaper than a full one.
    if (this.log.length === 0) block.varint(0);
    else block.bytes(this.log.entries());
    if (block.length >= BLOCK_BYTES) this.writeBlock();
  }

  /** The request record; none where its claims would be a trap. */
  private noteRecord(cage: Cage): void {
    try {
      cage.showRecord(this.takeRecord);
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      this.block.varint(0);
    }
  }

  private readonly takeRecord = (memory: Uint8Array, start: number, length: number): void => {
    this.block.varint(length);
    this.block.part(memory, start, length);
  };

  /** Ends the recording with the state of every device. Throws where it could not be written. */
  finish(): void {
    if (!this.begun) this.writeMachine();
    this.block.u8(CALL_END);
    for (const { cage } of this.devices) this.block.u32(cage ? stateChecksum(cage) : 0);
    this.writeBlock();
    this.close();
    if (this.failure) throw cutShort(this.path, this.failure);
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  /**
   * Whether a call has the time of the one before. Ports, the console's above all, are most of a
   * recording, and where the clock is a device the time costs more than all else that is noted.
   */
  private sharesTime(place: number): boolean {
    const { kind } = this.devices[place];
    return kind < KIND_VIRTIO_BLK && this.portCalls++ % CALLS_FOR_A_TIME !== 0;
  }

  /** A clock that went back, or a pause past TIME_MAX_US, leaves a time that is not exact. */
  private sinceLastUs(): number {
    const sinceStartUs = Math.round((this.now() - this.startMs) * 1000);
    const passedUs = Math.min(Math.max(sinceStartUs - this.lastUs, 0), TIME_MAX_US);
    this.lastUs += passedUs;
    return passedUs;
  }

  /** The preamble and the machine, once all devices are known. */
  private writeMachine(): void {
    this.begun = true;
    this.write(recordingHeader('v8', this.memoryBytes, this.devices));
  }

  private writeBlock(): void {
    const payload = this.block.take();
    this.write(blockHeader(payload));
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
