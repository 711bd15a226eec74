// The reference engine: cages as WebAssembly instances, one vCPU stepped from a short loop.
// docs/design.md, 'Two engines, one module'. Synchronous on purpose: while the guest runs, Node's
// event loop does not turn; the shim's watcher thread kicks the vCPU out when there is news.
import {
  BOOT_TIMER_MARKER,
  EFFECT_INPUT_SPACE,
  EFFECT_IRQ,
  EFFECT_MARKER,
  EFFECT_MORE,
  EFFECT_OUTPUT,
  EFFECT_PANIC,
  EFFECT_POWER_OFF,
  EFFECT_REBOOT,
  EFFECT_REQUEST,
} from '../../assembly/abi.ts';
import type { MachineImage } from '../boot/image.ts';
import { describeExit, EXIT_NAMES } from '../exit-names.ts';
import type { Log } from '../log.ts';
import type { Recorder } from '../replay/recorder.ts';
import type { RunResult } from '../result.ts';
import * as native from '../shim.ts';
import { Bus, type Place } from './bus.ts';
import { EscapeParser, OutputBuffer, PendingInput } from './console.ts';
import type { Device } from './device.ts';
import { Executor } from './execute.ts';
import { loadImage } from './load.ts';
import { serveQueue } from './serve-queue.ts';

const INPUT_CHUNK_BYTES = 4096;
const FAREWELL_MS = 100; // for output when a signal ends the run
const ALL_ONES = 0xffffffff;

const SIGNALS = [
  { event: native.EVENT_SIGINT, name: 'SIGINT' },
  { event: native.EVENT_SIGTERM, name: 'SIGTERM' },
  { event: native.EVENT_SIGHUP, name: 'SIGHUP' },
];

export interface EngineOptions {
  log: Log;
  inputFd: number;
  outputFd: number;
  now: () => number; // milliseconds since process start
  unixSeconds: () => number;
  recorder?: Recorder;
}

type Stop = Pick<RunResult, 'cause' | 'signal' | 'detail'>;

function stopped(cause: Stop['cause'], detail: string | null = null): Stop {
  return { cause, signal: null, detail };
}

class Machine {
  private readonly vm: native.Vm;
  private readonly watcher: native.Watcher;
  private readonly options: EngineOptions;
  private readonly bus: Bus;
  private readonly executor: Executor;
  private readonly record: DataView;
  // 32 bits would be over after a day: a busy guest exits 50000 times a second.
  private readonly exits = new Float64Array(EXIT_NAMES.length);
  private readonly input = new PendingInput();
  private readonly escape: EscapeParser | null; // on a terminal only
  private readonly output: OutputBuffer;
  private unclaimedExits = 0;
  private markerMs: number | null = null;
  private stop: Stop | null = null;

  constructor(
    image: MachineImage,
    vm: native.Vm,
    watcher: native.Watcher,
    terminal: boolean,
    options: EngineOptions,
  ) {
    this.escape = terminal ? new EscapeParser() : null;
    this.vm = vm;
    this.watcher = watcher;
    this.options = options;
    this.output = new OutputBuffer(watcher, (errno) => {
      options.log('warn', `standard output cannot be written (${errno}); console output is lost`);
    });
    this.record = new DataView(vm.exit);
    this.executor = new Executor(vm, image.virtio);
    this.bus = new Bus(image, vm.windows, {
      now: options.now,
      unixSeconds: options.unixSeconds,
      recorder: options.recorder,
      onTrap: (device, dead, reason) => {
        const state = dead ? 'second trap within a second, out of service' : 'restarted';
        options.log('error', `device ${device.name} trapped (${reason}): ${state}`);
      },
    });
  }

  run(before: { loadedMs: number; createdMs: number }): RunResult {
    const runningMs = this.options.now();
    while (!this.stop) this.handle(this.vm.run());
    this.flushOutput();
    const crashed = this.stop.cause === 'triple-fault' || this.stop.cause === 'kvm-error';
    return {
      confinement: null,
      ...this.stop,
      crash: crashed ? this.vm.crashState() : null,
      phases: { ...before, cellStartedMs: null, runningMs },
      markerMs: this.markerMs,
      endMs: this.options.now(),
      exits: this.exits,
      unclaimedExits: this.unclaimedExits,
      devices: this.bus.devices.map((device) => {
        const { name, exits, traps } = device;
        return { name, exits, traps, incidents: device.incidents() };
      }),
      disks: this.executor.diskReports,
      networks: [],
    };
  }

  /** The guest's last words: all of them, but a signal gives a slow reader little time. */
  private flushOutput(): void {
    if (this.stop?.signal) this.watcher.remind(FAREWELL_MS);
    this.output.flush();
    while (this.output.length > 0 && !this.stop?.signal) {
      this.takeSignals(this.watcher.takeEvents());
      this.output.flush();
    }
  }

  private handle(kind: number): void {
    this.exits[kind]++;
    switch (kind) {
      case native.EXIT_IO_READ:
      case native.EXIT_IO_WRITE:
      case native.EXIT_MMIO_READ:
      case native.EXIT_MMIO_WRITE:
        return this.access(kind);
      case native.EXIT_KICKED:
        return this.takeEvents();
      case native.EXIT_SHUTDOWN:
        this.stop = stopped('triple-fault');
        return;
      default:
        this.stop = stopped('kvm-error', this.describeExit(kind));
    }
  }

  private describeExit(kind: number): string {
    const code = this.record.getBigUint64(native.EXIT_RECORD_ADDRESS, true);
    return describeExit(kind, code);
  }

  private access(kind: number): void {
    // Two halves instead of a BigInt, on the hottest path; physical addresses end below 2^53.
    const low = this.record.getUint32(native.EXIT_RECORD_ADDRESS, true);
    const address = low + this.record.getUint32(native.EXIT_RECORD_ADDRESS + 4, true) * 2 ** 32;
    const width = this.record.getUint32(native.EXIT_RECORD_WIDTH, true);
    const isPort = kind === native.EXIT_IO_READ || kind === native.EXIT_IO_WRITE;
    const isRead = kind === native.EXIT_IO_READ || kind === native.EXIT_MMIO_READ;
    const place = isPort ? this.bus.port(address) : this.bus.mmio(address);
    if (place) {
      place.device.exits++;
      if (isRead) this.read(place, address - place.base, width);
      else this.write(place, address - place.base, width);
      return;
    }
    this.unclaimedExits++;
    if (isRead) this.answer(ALL_ONES, width);
  }

  /** Widths past 4 only meet all ones: no register of ours is that wide. */
  private answer(value: number, width: number): void {
    this.record.setUint32(native.EXIT_RECORD_DATA, value, true);
    this.record.setUint32(native.EXIT_RECORD_DATA + 4, width > 4 ? ALL_ONES : 0, true);
  }

  private read(place: Place, offset: number, width: number): void {
    const { device } = place;
    place.prepare?.();
    const effects = device.read(offset, width);
    this.answer(device.value(), width);
    this.apply(device, effects);
  }

  private write(place: Place, offset: number, width: number): void {
    const { device } = place;
    place.prepare?.();
    const value = this.record.getUint32(native.EXIT_RECORD_DATA, true);
    const effects = device.write(offset, width, value);
    // The only register whose write yields requests is QueueNotify: its value names the queue.
    if (effects & (EFFECT_REQUEST | EFFECT_MORE)) this.drain(device, effects, value);
    this.apply(device, effects);
  }

  /** Carries out what an entry of the cage answered. */
  private apply(device: Device, effects: number): void {
    if (effects === 0) return;
    if (effects & EFFECT_IRQ) this.vm.pulseIrq(device.pin);
    if (effects & EFFECT_OUTPUT) this.consoleOut(device);
    if (effects & EFFECT_INPUT_SPACE) this.feedInput();
    if (effects & EFFECT_MARKER) this.marker(device.value());
    if (effects & EFFECT_POWER_OFF) this.stop ??= stopped('power-off');
    if (effects & EFFECT_REBOOT) this.stop ??= stopped('reboot');
    if (effects & EFFECT_PANIC) this.stop ??= stopped('panic', 'told by pvpanic');
  }

  /** Serves a queue, and lets signals and Ctrl-A x through while the guest keeps refilling it. */
  private drain(device: Device, effects: number, queue: number): void {
    serveQueue(device, effects, queue, {
      execute: (record) => this.executor.execute(device, record),
      apply: (more) => this.pulse(device, more),
      interrupted: () => {
        this.takeEvents();
        return this.stop !== null;
      },
    });
  }

  private pulse(device: Device, effects: number): void {
    if (effects & EFFECT_IRQ) this.vm.pulseIrq(device.pin);
  }

  private consoleOut(device: Device): void {
    const { output } = this;
    // Room first: what next() takes out of the UART cannot go back.
    while (output.full) {
      output.flush();
      // A full console holds the guest up here; a signal or Ctrl-A x must still get through.
      this.takeEvents();
      if (this.stop) return;
    }
    const effects = device.next(0);
    if (effects & EFFECT_REQUEST) output.added(device.outputBytes(output.bytes, output.length));
    this.pulse(device, effects);
  }

  private marker(byte: number): void {
    if (byte !== BOOT_TIMER_MARKER || this.markerMs !== null) return;
    this.markerMs = this.options.now();
    this.options.log('info', `guest reached user space after ${this.markerMs.toFixed(0)} ms`);
  }

  private takeEvents(): void {
    const events = this.watcher.takeEvents();
    if (events & native.EVENT_REMINDER) this.output.onReminder();
    this.takeSignals(events);
    if (events & native.EVENT_INPUT) this.readInput();
  }

  private takeSignals(events: number): void {
    for (const { event, name } of SIGNALS) {
      if (events & event) this.stop = { cause: 'signal', signal: name, detail: null };
    }
  }

  private readInput(): void {
    // A pipe is read on once the guest took the last chunk. A terminal is always read: a guest
    // that takes no input must not lock Ctrl-A x away.
    if (!this.escape && !this.input.empty) return;
    const typed = this.typed();
    if (typed === null) return this.watcher.watchInput();
    if (typed.length === 0) return; // the end: stop looking
    const { bytes, quit } = this.escape?.parse(typed) ?? { bytes: typed, quit: false };
    if (quit) this.stop ??= stopped('console-quit');
    this.input.add(bytes);
    this.feedInput();
    if (this.escape) this.watcher.watchInput();
  }

  /** What there is to read: null for nothing now, no bytes at the end or where reading fails. */
  private typed(): Uint8Array | null {
    try {
      return this.watcher.readInput(INPUT_CHUNK_BYTES);
    } catch (error) {
      const { code } = error as native.NativeError;
      if (code === undefined) throw error;
      this.options.log('warn', `standard input cannot be read (${code}); the guest gets none`);
      return new Uint8Array(0);
    }
  }

  private feedInput(): void {
    if (this.input.empty) return;
    const serial = this.bus.serial;
    this.input.offer((bytes) => {
      const effects = serial.input(bytes);
      const accepted = serial.dead ? bytes.length : serial.value();
      this.pulse(serial, effects);
      return accepted;
    });
    if (this.input.empty) this.watcher.watchInput();
  }
}

/** Puts the input in raw mode where it is a terminal of ours to use; true then. */
function makeRaw(inputFd: number): boolean {
  try {
    native.shim().terminalRaw(inputFd);
    return true;
  } catch (error) {
    const { code } = error as native.NativeError;
    if (code === 'ENOTTY' || code === 'EIO') return false;
    throw error;
  }
}

/** Boots `image` and stays with it to its end. Throws FaradayError or a NativeError. */
export function runV8(image: MachineImage, options: EngineOptions): RunResult {
  const vm = native.shim().createVm({ memoryBytes: image.memoryBytes, cpuCount: image.cpuCount });
  const createdMs = options.now();
  try {
    loadImage(vm, image);
    const loadedMs = options.now();
    const { inputFd, outputFd } = options;
    const watcher = native.shim().createWatcher(vm, { inputFd, outputFd, signals: true });
    try {
      const terminal = makeRaw(inputFd);
      return new Machine(image, vm, watcher, terminal, options).run({
        createdMs,
        loadedMs,
      });
    } finally {
      native.shim().terminalRestore();
      watcher.close();
    }
  } finally {
    vm.close();
  }
}
