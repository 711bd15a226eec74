// The console beside the UART: the terminal's escape key, bytes waiting to go in, bytes waiting
// to go out.
import type { Watcher } from '../shim.ts';

const CTRL_A = 0x01;

/** What escape() found: the bytes for the guest, and whether the user asked to leave. */
export interface Typed {
  bytes: Uint8Array;
  quit: boolean;
}

/**
 * Follows Ctrl-A through what is typed, across reads: Ctrl-A x leaves, Ctrl-A Ctrl-A sends one
 * Ctrl-A, anything else after it goes to the guest with the Ctrl-A (readline's start-of-line).
 */
export class EscapeParser {
  private pending = false;

  parse(typed: Uint8Array): Typed {
    const bytes: number[] = [];
    for (const byte of typed) {
      if (!this.pending) {
        if (byte === CTRL_A) this.pending = true;
        else bytes.push(byte);
        continue;
      }
      this.pending = false;
      if (byte === 0x78 || byte === 0x58) return { bytes: Uint8Array.from(bytes), quit: true };
      bytes.push(CTRL_A);
      if (byte !== CTRL_A) bytes.push(byte);
    }
    return { bytes: Uint8Array.from(bytes), quit: false };
  }
}

/** Input read but not yet taken by the UART: one chunk, so memory stays bounded. */
export class PendingInput {
  private bytes: Uint8Array = new Uint8Array(0);

  get empty(): boolean {
    return this.bytes.length === 0;
  }

  /** Callers fill only what is empty: reading stops until the guest took the last chunk. */
  fill(bytes: Uint8Array): void {
    this.bytes = bytes;
  }

  /** Offers what waits to `take`, which returns how many bytes it accepted. */
  offer(take: (bytes: Uint8Array) => number): void {
    while (!this.empty) {
      const accepted = take(this.bytes);
      if (accepted === 0) return;
      this.bytes = this.bytes.subarray(accepted);
    }
  }
}

const NEWLINE = 0x0a;
const OUTPUT_MS = 10; // how long a byte may wait for the rest of its line

/**
 * Output on its way to the terminal or pipe. A guest sends byte by byte; a system call for each
 * would double the cost of its exits. A line goes out at its end, or after OUTPUT_MS.
 */
export class OutputBuffer {
  readonly bytes = new Uint8Array(2048);
  length = 0;
  private readonly watcher: Pick<Watcher, 'remind' | 'writeOutput'>;
  private reminded = false;

  constructor(watcher: Pick<Watcher, 'remind' | 'writeOutput'>) {
    this.watcher = watcher;
  }

  /** Too full for what a device may send at once: flush() first. */
  get full(): boolean {
    return this.length > this.bytes.length / 2;
  }

  /** `count` bytes were put at `length`. */
  added(count: number): void {
    this.length += count;
    // A newline within what was sent at once waits for the reminder, no longer.
    if (this.bytes[this.length - 1] === NEWLINE) this.flush();
    else if (!this.reminded) {
      this.reminded = true;
      this.watcher.remind(OUTPUT_MS);
    }
  }

  /** The reminder came: whatever waits goes out. */
  onReminder(): void {
    this.reminded = false;
    this.flush();
  }

  /** Writes out what it can; an event ends the wait for a slow reader, and bytes stay. */
  flush(): void {
    if (this.length === 0) return;
    const written = this.watcher.writeOutput(this.bytes.subarray(0, this.length));
    this.bytes.copyWithin(0, written, this.length);
    this.length -= written;
  }
}
