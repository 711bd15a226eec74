// The production engine: a cell, one process for each guest, spawned and then only listened to.
// docs/design.md, 'Two engines, one module'. Nothing the cell says is trusted (cell-messages.ts).

import type { MachineImage } from '../boot/image.ts';
import { nowMs } from '../clock.ts';
import {
  type CellConfinement,
  describeConfinement,
  describeViolation,
  readConfined,
  readViolation,
} from '../confine/confined.ts';
import { lockedDisk } from '../disk.ts';
import { EXIT_HOST, EXIT_USAGE, FaradayError } from '../errors.ts';
import { explainCall, explainConfinement } from '../explain.ts';
import type { Log } from '../log.ts';
import type { CellRecording } from '../replay/cell-recording.ts';
import { type RunResult, SIGNAL_NUMBERS } from '../result.ts';
import { type NativeError, shim } from '../shim.ts';
import { brokenCell, type Failure, type Message, MessageReader } from './cell-messages.ts';
import type { CellProcess } from './cell-process.ts';
import { COMMAND_BYTES, COMMAND_STOP } from './cell-protocol.ts';
import { toRunResult } from './cell-report.ts';
import { type CellWish, type SpawnOptions, spawnCell } from './spawn-cell.ts';

const STDIN = 0;
const FAREWELL_MS = 5000; // from a cell's last message to its end
const LOG_LINES_MAX = 1000;
const STOP_PATIENCE_MS = 10_000; // a request under way may be gigabytes
const ASK_AGAIN_MS = 1000; // sooner it is one and the same wish: timeout(1) sends two

export interface CellOptions {
  log: Log;
  program: string; // build/faraday-cell
  confinement: CellWish;
  recording?: CellRecording; // then the program is the recording cell
  onSpawned?: () => void; // everything that a cell needs is opened
}

const ERROR_CODES = new Map([
  [EXIT_USAGE, 'bad-usage'],
  [EXIT_HOST, 'host'],
] as const);

const KILLED_AT_ONCE =
  'the cell was killed by its seccomp filter for a system call that is only ever an attack; ' +
  'please report it';

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
  const confinement = explainConfinement(call, errno, about);
  if (confinement) return confinement;
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
    ...{ markerMs: null, endMs: nowMs() },
    ...{ exits: [], unclaimedExits: 0, devices: [], disks, networks: [], confinement: null },
  };
}

/** One running cell, from its first word to its last. */
export class Cell {
  readonly child: CellProcess;
  private readonly image: MachineImage;
  private readonly options: CellOptions;
  private readonly reader = new MessageReader();
  private readonly signals = new Set<string>(); // those passed on
  private readonly networks: DataView[] = []; // what each network device did
  private logLines = 0;
  private confinement: CellConfinement | null = null;
  private marked = false;
  private violated = false;
  private stopAskedMs: number | null = null;
  private forced: NodeJS.Signals | null = null; // the signal on which it was killed
  private result: RunResult | null = null;
  private recorded: string | null = null; // the errno of its recording, '' where that is whole
  private problem: unknown = null; // the first one counts
  private onStarted: () => void = () => {};

  constructor(image: MachineImage, options: CellOptions, child: CellProcess) {
    this.image = image;
    this.options = options;
    this.child = child;
  }

  /** Resolves once the vCPUs run, and lets the cell go then. Throws where it does not start. */
  started(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.onStarted = () => {
        this.child.release();
        resolve();
      };
      this.ended().then(() => resolve(), reject);
    });
  }

  /** Resolves to what the run was once the process is gone. Throws what went wrong. */
  ended(): Promise<RunResult> {
    return new Promise((resolve, reject) => {
      this.child.listen({
        data: (chunk) => this.listen(chunk),
        hungUp: () => this.farewell(),
        ended: ({ status, signal }) => {
          try {
            resolve(this.outcome(status, signal));
          } catch (error) {
            reject(error);
          }
        },
      });
    });
  }

  /**
   * Asks the cell to stop, as on `signal`. One that does not, or a user who asks again after a
   * moment, has it killed: nobody can make a cell obey that has been taken over.
   */
  stop(signal: NodeJS.Signals): void {
    const now = nowMs();
    this.stopAskedMs ??= now;
    if (now - this.stopAskedMs > ASK_AGAIN_MS) this.force(signal);
    else if (this.signals.size === 0) this.forceLater(signal);
    this.signals.add(signal);
    const command = Buffer.alloc(COMMAND_BYTES);
    command.writeUInt32LE(COMMAND_STOP, 0);
    command.writeUInt32LE(SIGNAL_NUMBERS[signal], 4);
    this.child.send(command);
  }

  private forceLater(signal: NodeJS.Signals): void {
    setTimeout(() => this.force(signal), STOP_PATIENCE_MS).unref();
  }

  private force(signal: NodeJS.Signals): void {
    if (this.result || this.problem) return; // it is ending
    this.forced ??= signal;
    this.kill();
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }

  private fail(problem: unknown): void {
    this.problem ??= problem;
  }

  private listen(chunk: Uint8Array): void {
    if (this.problem) return; // it is being ended
    try {
      for (const message of this.reader.push(chunk)) this.handle(message);
    } catch (error) {
      this.fail(error);
      this.child.kill('SIGKILL');
    }
  }

  private handle(message: Message): void {
    if (this.violated) return; // another thread's word, sent before the process was gone
    if (this.result || this.problem) throw brokenCell('went on after its last message');
    switch (message.type) {
      case 'started':
        return this.onStarted();
      case 'marker': {
        if (this.marked) return;
        this.marked = true;
        const ms = nowMs().toFixed(0);
        return this.options.log('info', `guest reached user space after ${ms} ms`);
      }
      case 'confined':
        if (this.confinement) throw brokenCell('told twice what confines it');
        this.confinement = readConfined(message.record);
        return this.options.log('info', `confined: ${describeConfinement(this.confinement)}`);
      case 'violation':
        this.violated = true;
        this.fail(new FaradayError('internal', describeViolation(readViolation(message.record))));
        return this.farewell();
      case 'log':
        return this.log(message.level, message.text);
      case 'failed':
        this.fail(explainFailure(message.failure, this.image));
        return this.farewell();
      case 'recorded':
        if (!this.options.recording || this.recorded !== null) {
          throw brokenCell('spoke of a recording that it does not make');
        }
        this.recorded = message.errno;
        return;
      case 'network':
        if (this.networks.length === this.image.virtio.length)
          throw brokenCell('has no such network');
        this.networks.push(message.record);
        return;
      case 'ended':
        if (this.options.recording && this.recorded === null) {
          throw brokenCell('ended without a word on its recording');
        }
        this.result = {
          ...toRunResult(message.report, this.image, this.networks),
          confinement: this.confinement,
        };
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
    if (this.result) {
      if (this.recorded && this.options.recording)
        throw this.options.recording.failed(this.recorded);
      return this.result;
    }
    if (this.forced && signal === 'SIGKILL') {
      this.options.log('warn', 'the cell did not stop when asked to, and was killed');
      return stoppedEarly(this.forced, this.image);
    }
    // Before it watches for signals itself, one sent to the whole job ends it.
    if (signal && this.signals.has(signal)) return stoppedEarly(signal, this.image);
    if (signal === 'SIGSYS') throw new FaradayError('internal', KILLED_AT_ONCE);
    if (this.reader.partial) throw brokenCell('ended in the middle of a message');
    throw brokenCell(signal ? `ended by ${signal}` : `ended with status ${status} and no report`);
  }
}

/**
 * Takes the signals that stop a guest, from before there is a cell: that may print before this
 * process even knows that it runs. And Ctrl-Z: the first process of a namespace ignores it.
 */
class Signals {
  private readonly names = Object.keys(SIGNAL_NUMBERS) as NodeJS.Signals[];
  private readonly early: NodeJS.Signals[] = [];
  private cell: Cell | null = null;
  private readonly take = (name: NodeJS.Signals): void => {
    if (this.cell) this.cell.stop(name);
    else this.early.push(name);
  };
  private readonly suspend = (): void => {
    process.off('SIGTSTP', this.suspend);
    this.cell?.child.kill('SIGSTOP');
    // Stops here until somebody continues this process; in a group without a shell it does not.
    process.kill(process.pid, 'SIGTSTP');
    this.cell?.child.kill('SIGCONT');
    process.on('SIGTSTP', this.suspend);
  };

  constructor() {
    for (const name of this.names) process.on(name, this.take);
    process.on('SIGTSTP', this.suspend);
  }

  passTo(cell: Cell): void {
    this.cell = cell;
    for (const name of this.early) cell.stop(name);
  }

  release(): void {
    for (const name of this.names) process.off(name, this.take);
    process.off('SIGTSTP', this.suspend);
  }
}

/**
 * Spawns a cell for `image` and runs `use` with it, while signals go to the cell. Whatever ends
 * this process meanwhile ends the cell.
 */
export async function withCell<T>(
  image: MachineImage,
  options: CellOptions,
  how: Omit<SpawnOptions, keyof CellOptions>,
  use: (cell: Cell) => Promise<T>,
): Promise<T> {
  const signals = new Signals();
  let cell: Cell | null = null;
  const onExit = (): void => cell?.kill();
  process.once('exit', onExit);
  try {
    const recording = options.recording?.fd;
    cell = new Cell(image, options, spawnCell(image, { ...how, ...options, recording }));
    signals.passTo(cell);
    options.onSpawned?.();
    return await use(cell);
  } finally {
    signals.release();
    process.off('exit', onExit);
  }
}

/**
 * Remembers how the terminal is, because the cell makes it raw. 'none': the input is no terminal;
 * 'lent': another job has it, so that the guest must do without.
 */
function rememberTerminal(): 'ours' | 'lent' | 'none' {
  try {
    shim().terminalRemember(STDIN);
    return 'ours';
  } catch (error) {
    const { code } = error as NativeError;
    if (code === 'EIO') return 'lent';
    if (code === 'ENOTTY' || code === 'EBADF' || code === 'EINVAL') return 'none';
    throw error;
  }
}

/** Runs `image` in a cell to its end. Throws FaradayError or the system's errors. */
export async function runCell(image: MachineImage, options: CellOptions): Promise<RunResult> {
  const terminal = rememberTerminal();
  const input = terminal === 'lent' ? 'ignore' : 'inherit';
  const how = { input, output: 'inherit', errors: 'inherit', detached: false } as const;
  try {
    return await withCell(image, options, how, (cell) => cell.ended());
  } finally {
    if (terminal === 'ours') shim().terminalRestore();
  }
}
