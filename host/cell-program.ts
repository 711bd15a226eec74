// Where the cell's executable lies: tools/build-shim.ts makes it.
// This file stands directly in host/, so that the address below holds in the bundle too.

export function cellProgram(): string {
  return new URL('../build/faraday-cell', import.meta.url).pathname;
}
