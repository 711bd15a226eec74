// What a finished run was, the same from either engine, and what is made of it: the exit code, the
// line for a crash, the report.

import type { EntryMode } from './boot/image.ts';
import type { HostConfinement } from './confine/confine-host.ts';
import type { CellConfinement } from './confine/confined.ts';
import { EXIT_GUEST, EXIT_OK } from './errors.ts';
import { EXIT_NAMES } from './exit-names.ts';
import {
  type DiskReport,
  type ExitCause,
  type NetQueueReport,
  type NetReport,
  REPORT_SCHEMA_VERSION,
  type RunReport,
} from './report.ts';
import type { CrashState } from './shim.ts';
import { VERSION } from './version.ts';

const SIGNAL_EXIT_BASE = 128;
/** The signals that stop a guest. */
export const SIGNAL_NUMBERS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };
const CRASHES: readonly ExitCause[] = ['panic', 'triple-fault', 'kvm-error'];

export interface DeviceResult {
  name: string; // as the report and the log show it
  exits: number;
  traps: number;
  incidents: Record<string, number>; // only what happened
}

/** Times are milliseconds from the start of this process. */
export interface RunResult {
  cause: ExitCause;
  signal: string | null;
  detail: string | null;
  crash: CrashState | null;
  phases: {
    cellStartedMs: number | null;
    loadedMs: number | null;
    createdMs: number | null;
    runningMs: number | null;
  };
  markerMs: number | null;
  endMs: number;
  exits: ArrayLike<number>; // by exit kind
  unclaimedExits: number; // accesses no device answers
  devices: readonly DeviceResult[];
  disks: readonly DiskReport[];
  networks: readonly NetReport[];
  confinement: CellConfinement | null; // null: engine v8, or it ended before
}

export function exitCode(result: RunResult): number {
  if (result.signal) return SIGNAL_EXIT_BASE + SIGNAL_NUMBERS[result.signal];
  return CRASHES.includes(result.cause) ? EXIT_GUEST : EXIT_OK;
}

/** The line a crashed guest leaves on stderr. */
export function describeCrash(result: RunResult): string {
  if (result.cause === 'panic') return 'the guest kernel panicked; its console says why';
  const at = result.crash ? ` at rip 0x${result.crash.registers.rip.toString(16)}` : '';
  const what = result.cause === 'triple-fault' ? 'triple fault' : result.detail;
  return `the guest crashed: ${what}${at}; --report FILE shows registers and instruction bytes`;
}

/** The line of the log that sums a network up. */
export function describeNetwork(net: NetReport): string {
  const name = `network ${net.id} (${net.backend} at ${net.interface})`;
  if (net.receive.length === 0) return `${name}: counted by the kernel alone`;
  const total = (queues: readonly NetQueueReport[]): string => {
    const sum = (of: (queue: NetQueueReport) => number) => queues.reduce((n, q) => n + of(q), 0);
    const dropped = sum(({ drops }) => Object.values(drops).reduce((n, drop) => n + drop, 0));
    return `${sum((q) => q.frames)} frames of ${sum((q) => q.bytes)} bytes, ${dropped} dropped`;
  };
  return `${name}: received ${total(net.receive)}; sent ${total(net.transmit)}`;
}

/** The entries of `counts` by name, without those that are zero. */
function nonZero(counts: Iterable<readonly [string, number]>): Record<string, number> {
  return Object.fromEntries([...counts].filter(([, count]) => count > 0));
}

function crashReport({ crash }: RunResult): RunReport['crash'] {
  if (!crash) return null;
  const registers = Object.entries(crash.registers).map(([name, value]) => {
    return [name, `0x${value.toString(16)}`];
  });
  const instructionBytes = Buffer.from(crash.instructionBytes).toString('hex');
  return { registers: Object.fromEntries(registers), instructionBytes };
}

function exitsReport(result: RunResult): RunReport['exits'] {
  const { devices, exits, unclaimedExits, phases, endMs } = result;
  const byDevice = nonZero([
    ...devices.map((device) => [device.name, device.exits] as const),
    ['unclaimed', unclaimedExits],
  ]);
  const seconds = phases.runningMs === null ? 0 : (endMs - phases.runningMs) / 1000;
  const rate = (count: number): number => (seconds > 0 ? Number((count / seconds).toFixed(1)) : 0);
  return {
    total: Array.from(exits).reduce((sum, count) => sum + count, 0),
    byKind: nonZero(EXIT_NAMES.map((name, kind) => [name, exits[kind] ?? 0] as const)),
    byDevice,
    perSecondByDevice: nonZero(
      Object.entries(byDevice).map(([name, count]) => [name, rate(count)] as const),
    ),
  };
}

/** What of a run only its host knows. */
export interface RunFacts {
  engine: string;
  entry: EntryMode;
  composedMs: number;
  confinement: HostConfinement;
}

/** Everything about a run, for --report. */
export function toReport(facts: RunFacts, result: RunResult): RunReport {
  const { cause, signal, detail, phases, devices } = result;
  const incidents = devices.map((device) => [device.name, device.incidents] as const);
  return {
    schemaVersion: REPORT_SCHEMA_VERSION,
    faradayVersion: VERSION,
    engine: facts.engine,
    entry: facts.entry,
    exit: { cause, code: exitCode(result), signal, detail },
    milliseconds: {
      toFirstInstruction: phases.runningMs,
      toMarker: result.markerMs,
      total: result.endMs,
    },
    phases: {
      composed: facts.composedMs,
      cellStarted: phases.cellStartedMs,
      loaded: phases.loadedMs,
      created: phases.createdMs,
      running: phases.runningMs,
    },
    exits: exitsReport(result),
    disks: [...result.disks],
    networks: [...result.networks],
    incidents: Object.fromEntries(incidents.filter(([, kinds]) => Object.keys(kinds).length > 0)),
    traps: nonZero(devices.map((device) => [device.name, device.traps] as const)),
    crash: crashReport(result),
    confinement: { host: facts.confinement, cell: result.confinement },
  };
}
