// The console beside the UART: the terminal's escape key, bytes waiting to go in, bytes waiting
// to go out.
import type { NativeError, Watcher } from '../shim.ts';

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

const PENDING_BYTES_MAX = 65536;

/** Input read but not yet taken by the UART, bounded: what finds no room is lost. */
export class PendingInput {
  private bytes: Uint8Array = new Uint8Array(0);

  get empty(): boolean {
    return this.bytes.length === 0;
  }

  /** Room is certain where it is empty; a pipe is read only then, so that it loses nothing. */
  add(bytes: Uint8Array): void {
    const room = bytes.subarray(0, PENDING_BYTES_MAX - this.bytes.length);
    this.bytes = this.empty ? room : Buffer.concat([this.bytes, room]);
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
  private readonly onLoss: (errno: string) => void;
  private reminded = false;
  private lossTold = false;

  /** `onLoss` hears of the first output that could not be written: a full disk, mostly. */
  constructor(
    watcher: Pick<Watcher, 'remind' | 'writeOutput'>,
    onLoss: (errno: string) => void = () => {},
  ) {
    this.watcher = watcher;
    this.onLoss = onLoss;
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
    const written = this.write();
    this.bytes.copyWithin(0, written, this.length);
    this.length -= written;
  }

  /** What cannot be written is dropped, for a guest must not die of a full log; told once. */
  private write(): number {
    try {
      return this.watcher.writeOutput(this.bytes.subarray(0, this.length));
    } catch (error) {
      const { code } = error as NativeError;
      if (code === undefined) throw error;
      if (!this.lossTold) this.onLoss(code);
      this.lossTold = true;
      return this.length;
    }
  }
}
