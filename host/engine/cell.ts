// The production engine: a cell, one process for each guest, spawned and then only listened to.
// docs/design.md, 'Two engines, one module'. Nothing the cell says is trusted (cell-messages.ts).
import type { ChildProcess } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { isatty } from 'node:tty';
import type { MachineImage } from '../boot/image.ts';
import { lockedDisk } from '../disk.ts';
import { EXIT_HOST, EXIT_USAGE, FaradayError } from '../errors.ts';
import { explainCall } from '../explain.ts';
import type { Log } from '../log.ts';
import { type RunResult, SIGNAL_NUMBERS } from '../result.ts';
import type { NativeError } from '../shim.ts';
import { brokenCell, type Failure, type Message, MessageReader } from './cell-messages.ts';
import { COMMAND_BYTES, COMMAND_STOP, FD_CONTROL } from './cell-protocol.ts';
import { toRunResult } from './cell-report.ts';
import { type CellStreams, spawnCell } from './spawn-cell.ts';

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const FAREWELL_MS = 5000; // from a cell's last message to its end
const LOG_LINES_MAX = 1000;

export interface CellOptions {
  log: Log;
  program: string; // build/faraday-cell
}

const ERROR_CODES = new Map([
  [EXIT_USAGE, 'bad-usage'],
  [EXIT_HOST, 'host'],
] as const);

/** The error for a cell that says it could not start. */
function explainFailure(failure: Failure, image: MachineImage): FaradayError {
  const { call, errno, about, exitCode } = failure;
  if (call === 'lock') {
    const disk = image.virtio.find((device) => device.kind === 'virtio-blk' && device.id === about);
    if (disk?.kind === 'virtio-blk') return lockedDisk(disk.path);
  }
  if (call === 'loadFile') {
    return new FaradayError('bad-kernel', `the kernel or initrd changed meanwhile (${about})`);
  }
  if (call === 'mmap' && image.hugePages === '2M') {
    return new FaradayError('bad-memory', `--huge-pages 2M: ${about}`);
  }
  const code = ERROR_CODES.get(exitCode as typeof EXIT_USAGE);
  const explained = code && explainCall(call, errno, image.memoryBytes);
  if (explained) return explained;
  const what = `${call || 'the cell'} failed${errno && ` (${errno})`}${about && `: ${about}`}`;
  if (code) return new FaradayError(code, what);
  return new FaradayError('internal', `${what}; please report it`);
}

/** A run that a signal ended before there was a report. */
function stoppedEarly(signal: string, image: MachineImage): RunResult {
  const counts = { requests: 0, bytesRead: 0, bytesWritten: 0, errors: 0, lastError: null };
  const disks = image.virtio.flatMap((device) => {
    if (device.kind !== 'virtio-blk') return [];
    const { id, path, readOnly, ioUring } = device;
    const engine = ioUring ? ('io_uring' as const) : ('sync' as const);
    return { id, path, readOnly, ...counts, engine, latencyMicroseconds: { read: {}, write: {} } };
  });
  return {
    ...{ cause: 'signal', signal, detail: null, crash: null },
    phases: { cellStartedMs: null, loadedMs: null, createdMs: null, runningMs: null },
    ...{ markerMs: null, endMs: performance.now() },
    ...{ exits: [], unclaimedExits: 0, devices: [], disks },
  };
}

/** One running cell, from its first word to its last. */
class Cell {
  readonly child: ChildProcess;
  private readonly image: MachineImage;
  private readonly options: CellOptions;
  private readonly control: Duplex;
  private readonly reader = new MessageReader();
  private readonly signals = new Set<string>(); // those passed on
  private logLines = 0;
  private result: RunResult | null = null;
  private problem: unknown = null; // the first one counts
  private onStarted: () => void = () => {};

  constructor(image: MachineImage, options: CellOptions, child: ChildProcess) {
    this.image = image;
    this.options = options;
    this.child = child;
    this.control = child.stdio[FD_CONTROL] as Duplex;
  }

  /** Resolves once the vCPUs run, or once the cell is over. */
  started(): Promise<void> {
    return new Promise((resolve) => {
      this.onStarted = resolve;
    });
  }

  /** Resolves to what the run was once the process is gone. Throws what went wrong. */
  ended(): Promise<RunResult> {
    return new Promise((resolve, reject) => {
      this.control.on('data', (chunk: Uint8Array) => this.listen(chunk));
      this.control.on('error', () => {}); // the cell is gone: its 'close' says how
      this.control.on('end', () => this.farewell());
      this.child.on('error', () => {}); // of kill(): it is gone already
      this.child.once('close', (status, signal) => {
        try {
          resolve(this.outcome(status, signal));
        } catch (error) {
          reject(error);
        } finally {
          this.onStarted();
        }
      });
    });
  }

  stop(signal: NodeJS.Signals): void {
    this.signals.add(signal);
    const command = Buffer.alloc(COMMAND_BYTES);
    command.writeUInt32LE(COMMAND_STOP, 0);
    command.writeUInt32LE(SIGNAL_NUMBERS[signal], 4);
    this.control.write(command);
  }

  /** Lets go of a cell that runs on. */
  release(): void {
    this.control.removeAllListeners('end');
    this.control.destroy();
    this.child.removeAllListeners();
    this.child.unref();
  }

  private fail(problem: unknown): void {
    this.problem ??= problem;
  }

  private listen(chunk: Uint8Array): void {
    try {
      for (const message of this.reader.push(chunk)) this.handle(message);
    } catch (error) {
      this.fail(error);
      this.control.destroy();
      this.child.kill('SIGKILL');
    }
  }

  private handle(message: Message): void {
    if (this.result || this.problem) throw brokenCell('went on after its last message');
    switch (message.type) {
      case 'started':
        return this.onStarted();
      case 'marker': {
        const ms = performance.now().toFixed(0);
        return this.options.log('info', `guest reached user space after ${ms} ms`);
      }
      case 'log':
        return this.log(message.level, message.text);
      case 'failed':
        this.fail(explainFailure(message.failure, this.image));
        return this.farewell();
      case 'ended':
        this.result = toRunResult(message.report, this.image);
        return this.farewell();
    }
  }

  private log(level: 'error' | 'warn' | 'info', text: string): void {
    this.logLines++;
    if (this.logLines <= LOG_LINES_MAX) this.options.log(level, text);
    else if (this.logLines === LOG_LINES_MAX + 1) {
      this.options.log('warn', `the cell sent ${LOG_LINES_MAX} lines; the rest is dropped`);
    }
  }

  /** What a cell does after its last word is not worth waiting for. */
  private farewell(): void {
    setTimeout(() => this.child.kill('SIGKILL'), FAREWELL_MS).unref();
  }

  private outcome(status: number | null, signal: NodeJS.Signals | null): RunResult {
    if (this.problem) throw this.problem;
    if (this.result) return this.result;
    // Before it watches for signals itself, one sent to the whole job ends it.
    if (signal && this.signals.has(signal)) return stoppedEarly(signal, this.image);
    if (this.reader.partial) throw brokenCell('ended in the middle of a message');
    throw brokenCell(signal ? `ended by ${signal}` : `ended with status ${status} and no report`);
  }
}

/** Passes signals on until the returned function is called. */
function forwardSignals(cell: Cell): () => void {
  const pass = (name: NodeJS.Signals): void => cell.stop(name);
  const names = Object.keys(SIGNAL_NUMBERS) as NodeJS.Signals[];
  for (const name of names) process.on(name, pass);
  return () => {
    for (const name of names) process.off(name, pass);
  };
}

/**
 * Remembers how the terminal is, which the cell makes raw. Where another job has it the guest gets
 * no console input.
 */
async function takeTerminal(): Promise<CellStreams['input']> {
  const { shim } = await import('../shim.ts');
  try {
    shim().terminalRemember(STDIN);
    return 'inherit';
  } catch (error) {
    if ((error as NativeError).code === 'EIO') return 'ignore';
    throw error;
  }
}

/** Runs `image` in a cell to its end. Throws FaradayError or the system's errors. */
export async function runCell(image: MachineImage, options: CellOptions): Promise<RunResult> {
  const onTerminal = isatty(STDIN);
  // The addon costs milliseconds: only a terminal needs it.
  const input = onTerminal ? await takeTerminal() : 'inherit';
  const streams = { input, output: 'inherit', errors: 'inherit' } as const;
  const child = await spawnCell(image, { ...streams, program: options.program, detached: false });
  const cell = new Cell(image, options, child);
  const restoreSignals = forwardSignals(cell);
  try {
    return await cell.ended();
  } finally {
    restoreSignals();
    if (onTerminal) (await import('../shim.ts')).shim().terminalRestore();
  }
}

const unlessTerminal = (fd: number) => (isatty(fd) ? 'ignore' : 'inherit');

/** Starts `image` in a cell that outlives this process; returns its pid once its vCPUs run. */
export async function startDetached(image: MachineImage, options: CellOptions): Promise<number> {
  const child = await spawnCell(image, {
    program: options.program,
    detached: true,
    input: 'ignore',
    output: unlessTerminal(STDOUT),
    errors: unlessTerminal(STDERR),
  });
  const cell = new Cell(image, options, child);
  const restoreSignals = forwardSignals(cell);
  try {
    await Promise.race([cell.started(), cell.ended()]);
    cell.release();
    return child.pid!;
  } finally {
    restoreSignals();
  }
}
