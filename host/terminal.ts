// The terminal of a guest whose cell makes it raw. Loaded only where there is one: the addon that
// it needs costs milliseconds.
import { type NativeError, shim } from './shim.ts';

/**
 * Remembers how the terminal is, for restoreTerminal(). False: another job has it, so that the
 * guest must do without. Throws a NativeError.
 */
export function rememberTerminal(fd: number): boolean {
  try {
    shim().terminalRemember(fd);
    return true;
  } catch (error) {
    if ((error as NativeError).code === 'EIO') return false;
    throw error;
  }
}

/** The terminal as it was remembered. */
export function restoreTerminal(): void {
  shim().terminalRestore();
}
