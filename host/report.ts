// The run report (--report FILE): what happened, as JSON for scripts. docs/cli.md lists its fields.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { HostConfinement } from './confine/confine-host.ts';
import type { CellConfinement } from './confine/confined.ts';
import { FaradayError } from './errors.ts';
import { checkOutputPath } from './output-path.ts';

export const REPORT_SCHEMA_VERSION = 1;

export type ExitCause =
  | 'power-off' // ACPI S5
  | 'reboot' // ACPI reset register or the i8042
  | 'panic' // the guest said so through pvpanic
  | 'triple-fault' // KVM_EXIT_SHUTDOWN
  | 'kvm-error' // KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY or an exit KVM should not give
  | 'signal' // SIGINT, SIGTERM or SIGHUP
  | 'console-quit'; // Ctrl-A x

export interface DiskReport {
  id: string;
  path: string;
  readOnly: boolean;
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  errors: number;
  lastError: string | null; // errno name
  engine: 'sync' | 'io_uring';
  latencyMicroseconds: { read: Histogram; write: Histogram }; // write: flushes and the rest too
}

/** What a network device did, by queue: receive and transmit as the guest sees them. */
export interface NetReport {
  id: string;
  backend: 'tap' | 'vhost-net' | 'user'; // a macvtap is driven as a tap
  interface: string; // of the host; 'passt'
  mac: string;
  queuePairs: number;
  gone: boolean; // its host interface went away
  receive: NetQueueReport[]; // none with vhost-net: the kernel does not count by queue
  transmit: NetQueueReport[];
}

export interface NetQueueReport {
  frames: number;
  bytes: number; // of the frames, without virtio's headers
  drops: Record<string, number>; // by reason; only what happened
}

/** How many requests took less than so long: '<1', '<2', '<4', ... Only what happened. */
export type Histogram = Record<string, number>;

/** Milliseconds from the start of the process until something was done; null: never. */
export interface Phases {
  composed: number; // the machine image is made
  cellStarted: number | null; // the cell's main() began
  loaded: number | null; // guest memory holds the image
  created: number | null; // the machine and its vCPUs exist
  running: number | null; // before the first instruction
}

export interface RunReport {
  schemaVersion: number;
  faradayVersion: string;
  engine: string;
  entry: string; // pvh or linux64
  exit: { cause: ExitCause; code: number; signal: string | null; detail: string | null };
  milliseconds: {
    toFirstInstruction: number | null; // from process start; null: it never ran
    toMarker: number | null; // from process start to the boot timer's marker
    total: number; // from process start to the guest's end
  };
  phases: Phases;
  exits: {
    total: number;
    byKind: Record<string, number>;
    byDevice: Record<string, number>;
    perSecondByDevice: Record<string, number>;
  };
  disks: DiskReport[];
  networks: NetReport[];
  incidents: Record<string, Record<string, number>>; // by device, by kind; only what happened
  traps: Record<string, number>; // by device; only what happened
  crash: { registers: Record<string, string>; instructionBytes: string } | null;
  confinement: {
    host: HostConfinement;
    cell: CellConfinement | null; // null: engine v8 has no cell
  };
}

function badReport(path: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--report '${path}' ${finding}`);
}

function unwritable(path: string, error: unknown): FaradayError {
  return badReport(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
}

function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw unwritable(path, error);
  }
}

const isSame = (one: Stats, other: Stats): boolean =>
  one.dev === other.dev && one.ino === other.ino;

/** Fails before the guest starts where the report could not be written after it. */
export function checkReportPath(path: string, inputs: readonly string[]): void {
  checkOutputPath('--report', path, inputs);
}

/** Renames a finished file to the place: nobody ever reads half a report. */
function replaceFile(path: string, text: string): void {
  const temporary = join(dirname(path), `.faraday-report-${process.pid}.tmp`);
  try {
    writeFileSync(temporary, text, { flag: 'wx' });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

function writeThrough(path: string, text: string): void {
  // O_NONBLOCK fails for a FIFO that nobody reads, where a plain open would wait for ever.
  const probe = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  try {
    writeFileSync(path, text);
  } finally {
    closeSync(probe);
  }
}

/** Writes the report whole or not at all; a pipe or device is written to directly. */
export function writeReport(path: string, report: RunReport): void {
  const text = `${JSON.stringify(report, null, 2)}\n`;
  const stats = statsOf(path);
  try {
    // '/dev/stdout' and the like: the file behind it goes on being written to by its descriptor.
    const open = stats && [1, 2].find((fd) => isSame(fstatSync(fd), stats));
    if (open !== undefined) writeFileSync(open, text);
    else if (stats && !stats.isFile()) writeThrough(path, text);
    else replaceFile(stats ? realpathSync(path) : path, text); // a link goes on being one
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw code === 'ENXIO' ? badReport(path, 'is a pipe nobody reads') : unwritable(path, error);
  }
}
