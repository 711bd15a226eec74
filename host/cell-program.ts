// Where the cell's executable lies: tools/build-shim.ts makes it.
// This file stands directly in host/, so that the address below holds in the bundle too.
import { join } from 'node:path';

/** What the build makes: the bundle, the core, the addon, the cell, the guest's init. */
export const PROGRAM_FOLDER = join(import.meta.dirname, '../build');

export function cellProgram(): string {
  return join(PROGRAM_FOLDER, 'faraday-cell');
}

/** The same cell with shim/record.c in it: for `--record` alone. */
export function recordingCellProgram(): string {
  return join(PROGRAM_FOLDER, 'faraday-cell-recording');
}
