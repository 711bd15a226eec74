// Bare-metal guests in real cells: composes the image, spawns build/faraday-cell by folder or with
// a control socket, and takes what it says apart with the host's own parser.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import * as assert from 'uvu/assert';
import type { MachineImage, VcpuRegisters } from '../host/boot/image.ts';
import { imageBeside, imageInside } from '../host/boot/image-bytes.ts';
import { cellProgram, recordingCellProgram } from '../host/cell-program.ts';
import { type Failure, type Message, MessageReader } from '../host/engine/cell-messages.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { writeImage } from '../host/write-image.ts';
import { CODE, kvmTest, protectedMode } from './bare-metal.ts';
import { Code, TRAMPOLINE, trampoline } from './machine-code.ts';

export const LIMIT_MS = 60_000; // for whatever a cell should do at once
const KNOWN = new Set<ChildProcess>();

// A test that fails must not leave its guest behind.
process.on('exit', () => {
  for (const child of KNOWN) child.kill('SIGKILL');
});

/** A folder that goes away with this process. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-cell-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export const scratch = scratchFolder();
let count = 0;

export function scratchPath(word: string): string {
  count++;
  return join(scratch, `${word}-${count}`);
}

/** A machine that runs `code` from CODE in flat 32-bit mode. */
export function bareImage(
  write: (code: Code) => void,
  change: Partial<MachineImage> = {},
  registers: VcpuRegisters = protectedMode(),
): MachineImage {
  const code = new Code(CODE);
  write(code);
  const segments = [{ name: 'code', address: CODE, bytes: code.bytes() }];
  if ((change.cpuCount ?? 1) > 1) {
    const bytes = trampoline(code.addressOf('arrive'));
    segments.push({ name: 'trampoline', address: TRAMPOLINE, bytes });
  }
  return {
    memoryBytes: 2 ** 20,
    hugePages: 'off',
    prefault: false,
    cpuCount: 1,
    registers,
    entry: 'pvh',
    bootTimer: false,
    virtio: [],
    ...change,
    segments: [...segments, ...(change.segments ?? [])],
  };
}

/** Composes `image` into a folder for faraday-cell DIR. */
export function composeFolder(image: MachineImage): string {
  const folder = scratchPath('image');
  mkdirSync(folder);
  const fd = openSync(join(folder, 'machine'), 'wx');
  writeImage(fd, imageInside(image));
  closeSync(fd);
  return folder;
}

export interface Ended {
  status: number | null;
  signal: string | null;
  output: Buffer;
  errors: string;
  report: DataView | null; // of the ENDED message
  failure: Failure | null; // of the FAILED message
}

export interface CellOptions {
  input?: 'ignore' | 'pipe' | number;
  output?: 'pipe' | 'unread' | number; // 'unread': a pipe that nobody empties
  wrap?: string[]; // a command that runs the cell
  args?: string[];
  recording?: number; // a descriptor, for a cell that records
  program?: string; // in the place of this build's cell
}

/** Fails with `what` and all that is known where `promise` takes longer than a hang would. */
export async function within<T>(promise: Promise<T>, what: string, ms = LIMIT_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`hangs: ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** One running cell. */
export class RunningCell {
  readonly child: ChildProcess;
  readonly messages: Message[] = [];
  private readonly chunks: Buffer[] = [];
  private readonly result: Promise<Ended>;
  private errors = '';
  private changed: (() => void)[] = [];
  private over = false;

  constructor(child: ChildProcess, unread: boolean) {
    this.child = child;
    KNOWN.add(child);
    if (!unread) {
      child.stdout?.on('data', (chunk: Buffer) => {
        this.chunks.push(chunk);
        this.notify();
      });
    }
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text;
    });
    child.stdin?.on('error', () => {}); // a cell that ends does not read on
    this.listen();
    this.result = new Promise((resolve, reject) => {
      child.once('error', reject);
      if (unread) child.once('exit', () => child.stdout?.destroy()); // it would never be at its end
      // Not its exit: what it said last may still be in the control socket then.
      child.once('close', (status, signal) => {
        this.over = true;
        KNOWN.delete(child);
        this.notify();
        resolve(this.ending(status, signal));
      });
    });
    this.result.catch(() => {});
  }

  get control(): Duplex {
    return this.child.stdio[protocol.FD_CONTROL] as Duplex;
  }

  get input(): Writable {
    return this.child.stdin!;
  }

  get stdout(): Readable {
    return this.child.stdout!;
  }

  get output(): Buffer {
    return Buffer.concat(this.chunks);
  }

  private listen(): void {
    const reader = new MessageReader();
    this.control?.on('error', () => {});
    this.control?.on('data', (chunk: Uint8Array) => {
      this.messages.push(...reader.push(chunk));
      this.notify();
    });
  }

  private notify(): void {
    for (const wake of this.changed.splice(0)) wake();
  }

  private ending(status: number | null, signal: string | null): Ended {
    const ended = this.messages.find((message) => message.type === 'ended');
    const failed = this.messages.find((message) => message.type === 'failed');
    return {
      status,
      signal,
      output: this.output,
      errors: this.errors,
      report: ended?.type === 'ended' ? ended.report : null,
      failure: failed?.type === 'failed' ? failed.failure : null,
    };
  }

  /** Waits until `condition` holds, which is looked at whenever the cell has said something. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const wait = async () => {
      while (!condition()) {
        if (this.over) throw new Error(`the cell ended before: ${what}; ${this.errors}`);
        await new Promise<void>((resolve) => {
          this.changed.push(resolve);
        });
      }
    };
    await within(wait(), `${what}; it said '${this.output.subarray(0, 200)}'`);
  }

  /** Waits until the guest has sent `text`. */
  untilSaid(text: string): Promise<void> {
    return this.until(() => this.output.includes(text), `'${text}' of the guest`);
  }

  private seen(type: Message['type']): number {
    return this.messages.filter((message) => message.type === type).length;
  }

  untilTold(type: Message['type'], times = 1): Promise<void> {
    return this.until(() => this.seen(type) >= times, `${type} number ${times}`);
  }

  command(type: number, value = 0): void {
    const bytes = Buffer.alloc(protocol.COMMAND_BYTES);
    bytes.writeUInt32LE(type, 0);
    bytes.writeUInt32LE(value, 4);
    this.control.write(bytes);
  }

  async pause(): Promise<void> {
    const times = this.seen('paused') + 1;
    this.command(protocol.COMMAND_PAUSE);
    await this.untilTold('paused', times);
  }

  async resume(): Promise<void> {
    const times = this.seen('resumed') + 1;
    this.command(protocol.COMMAND_RESUME);
    await this.untilTold('resumed', times);
  }

  ended(): Promise<Ended> {
    return within(this.result, `the end of a cell; it said '${this.output.subarray(0, 200)}'`);
  }

  /** Stops the guest as a host does on SIGTERM. */
  async stop(): Promise<Ended> {
    this.command(protocol.COMMAND_STOP, 15);
    return await this.ended();
  }
}

type Stdio = 'ignore' | 'pipe' | number;

function start(args: string[], options: CellOptions, beyond: Stdio[]): RunningCell {
  const { input = 'ignore', output = 'pipe', wrap = [], recording } = options;
  const own = recording === undefined ? cellProgram() : recordingCellProgram();
  const program = options.program ?? own;
  const [command, ...rest] = [...wrap, program, ...args, ...(options.args ?? [])];
  const stdio = [input, output === 'unread' ? 'pipe' : output, 'pipe', ...beyond] as Stdio[];
  const child = spawn(command!, rest, { stdio, env: {}, cwd: '/' });
  return new RunningCell(child, output === 'unread');
}

/** faraday-cell DIR */
export function startFolder(folder: string, options: CellOptions = {}): RunningCell {
  return start([folder], options, []);
}

/** faraday-cell --spawned, with the descriptors that a host hands over. */
export function startSpawned(image: MachineImage, options: CellOptions = {}): RunningCell {
  const bytes = imageBeside(image);
  const path = scratchPath('spawned');
  const imageFd = openSync(path, 'wx+');
  const kvmFd = openSync('/dev/kvm', 'r+');
  writeImage(imageFd, bytes);
  rmSync(path);
  const files = bytes.files.map((file) => ('fd' in file ? file.fd : openSync(file.path, 'r')));
  try {
    const last = options.recording === undefined ? [] : [options.recording];
    return start(['--spawned'], options, ['pipe', imageFd, kvmFd, ...files, ...last]);
  } finally {
    closeSync(imageFd);
    closeSync(kvmFd);
    for (const [i, fd] of files.entries()) if ('path' in bytes.files[i]!) closeSync(fd);
  }
}

export function runFolder(folder: string, options: CellOptions = {}): Promise<Ended> {
  return startFolder(folder, options).ended();
}

export function runSpawned(image: MachineImage, options: CellOptions = {}): Promise<Ended> {
  return startSpawned(image, options).ended();
}

// --- Looking at it ------------------------------------------------------------------------------

export const causeOf = (ended: Ended): number | undefined =>
  ended.report?.getUint32(protocol.REPORT_CAUSE, true);

/** Exits of `kind` (EXIT_* of host/shim.ts) in the report. */
export const exitsOf = (ended: Ended, kind: number): number =>
  Number(ended.report!.getBigUint64(protocol.REPORT_EXITS + 8 * kind, true));

export const isAlive = (pid: number): boolean => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));

/** Memory of a process that is really there, in KiB. */
export function residentKib(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Rss:\s+(\d+) kB/m.exec(text)![1]);
}

/** Processes that run this build's cell, or the one that records, and come from this process. */
function strayCells(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isAlive(Number(name)))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
          .replace(/^.*\) /, '')
          .split(' ');
        const session = readFileSync('/proc/self/stat', 'utf8')
          .replace(/^.*\) /, '')
          .split(' ');
        const programs = [cellProgram(), recordingCellProgram()];
        return stat[3] === session[3] && programs.includes(readlinkSync(`/proc/${pid}/exe`));
      } catch {
        return false; // it ended in between
      }
    });
}

/** A test with real cells, which must all be gone when it is over. */
export function cellTest(name: string, body: () => Promise<void>): void {
  kvmTest(name, async () => {
    let strays: number[] = [];
    try {
      await body();
    } finally {
      strays = strayCells();
      for (const pid of strays) process.kill(pid, 'SIGKILL');
    }
    assert.equal(strays, [], 'cells that run on');
  });
}
