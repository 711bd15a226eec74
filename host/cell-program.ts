// Where the cell's executable lies: tools/build-shim.ts makes it.
// This file stands directly in host/, so that the address below holds in the bundle too.
import { join } from 'node:path';

export function cellProgram(): string {
  return join(import.meta.dirname, '../build/faraday-cell');
}
