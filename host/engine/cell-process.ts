// A cell's process as its host sees it: bytes on the control socket, and how it ended. Through the
// addon and not node:child_process, which would cost a start more than everything else before the
// guest runs (shim/child.h).
import { closeSync, read, writeSync } from 'node:fs';
import { constants } from 'node:os';
import type { Child } from '../shim.ts';
import { shim } from '../shim.ts';

const CHUNK_BYTES = 16384;
const REAP_FIRST_MS = 1; // from the end of the socket to the end of the process is never far
const REAP_MOST_MS = 50;
const EXIT_STATUS_SHIFT = 8;
const SIGNAL_MASK = 0x7f;
const SIGNAL_EXIT_BASE = 128;
const { SIGABRT, SIGBUS, SIGSEGV } = constants.signals;
const FAULTS = [SIGABRT, SIGBUS, SIGSEGV].map((number) => SIGNAL_EXIT_BASE + number);

export interface CellEnd {
  status: number | null; // exit status, or null after a signal
  signal: NodeJS.Signals | null;
}

export interface CellListener {
  data(chunk: Uint8Array): void;
  hungUp(): void; // nothing more will come, though the process may still be there
  ended(end: CellEnd): void;
}

function signalName(number: number): NodeJS.Signals | null {
  const entries = Object.entries(constants.signals) as [NodeJS.Signals, number][];
  return entries.find(([, value]) => value === number)?.[0] ?? null;
}

/** What waitpid(2) says of a child. A cell that meets a fault tells the signal by its status. */
function decodeStatus(status: number): CellEnd {
  const code = status >> EXIT_STATUS_SHIFT;
  const signal = status & SIGNAL_MASK || (FAULTS.includes(code) ? code - SIGNAL_EXIT_BASE : 0);
  if (signal === 0) return { status: code, signal: null };
  return { status: null, signal: signalName(signal) };
}

export class CellProcess {
  readonly pid: number;
  private readonly control: number;
  private readonly chunk = new Uint8Array(CHUNK_BYTES);
  private listener: CellListener | null = null;
  private over = false;

  constructor({ pid, control }: Child) {
    this.pid = pid;
    this.control = control;
    // One thread waits in read(2) for as long as the guest runs; another is for everything else.
    process.env.UV_THREADPOOL_SIZE ??= '2';
  }

  /** Listens until the process is gone, or the listener lets go of it. */
  listen(listener: CellListener): void {
    this.listener = listener;
    this.readOn();
  }

  private readOn(): void {
    read(this.control, this.chunk, 0, CHUNK_BYTES, null, (error, count) => {
      const { listener } = this;
      if (!listener) return;
      if (error || count === 0) {
        listener.hungUp();
        closeSync(this.control);
        this.reap(REAP_FIRST_MS);
        return;
      }
      listener.data(this.chunk.slice(0, count));
      if (this.listener) this.readOn();
      else closeSync(this.control);
    });
  }

  /** The socket closes while the process ends, which takes a moment more. */
  private reap(pauseMs: number): void {
    const status = shim().reapChild(this.pid);
    if (status === null) {
      setTimeout(() => this.reap(Math.min(2 * pauseMs, REAP_MOST_MS)), pauseMs);
      return;
    }
    this.over = true;
    this.listener?.ended(decodeStatus(status));
  }

  /** Sends bytes, as far as there is still somebody to take them. */
  send(bytes: Uint8Array): void {
    try {
      writeSync(this.control, bytes);
    } catch {
      // It is gone: its end says how.
    }
  }

  kill(signal: NodeJS.Signals): void {
    if (this.over) return;
    try {
      process.kill(this.pid, signal);
    } catch {
      // It is gone: its end says how.
    }
  }

  /** Lets go of a process that runs on. To be called from a listener, between two reads. */
  release(): void {
    this.listener = null;
  }
}
