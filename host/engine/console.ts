// The console's input side: the terminal's escape key, and bytes waiting for the UART.

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
