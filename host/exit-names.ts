// The exit kinds (EXIT_* of shim.ts) by name, for reports and messages.

export const EXIT_NAMES = [
  'kicked',
  'io-read',
  'io-write',
  'mmio-read',
  'mmio-write',
  'halt',
  'shutdown',
  'fail-entry',
  'internal-error',
  'system-event',
  'unknown',
] as const;

/** What KVM said at an exit that ends a run. */
export function describeExit(kind: number, code: bigint): string {
  return `${EXIT_NAMES[kind] ?? `exit ${kind}`}, code ${code}`;
}
