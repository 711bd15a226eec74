// The run report (--report FILE): what happened, as JSON for scripts. docs/cli.md lists its fields.
import { accessSync, constants, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { FaradayError } from './errors.ts';

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
}

export interface RunReport {
  schemaVersion: number;
  faradayVersion: string;
  engine: string;
  entry: string; // pvh or linux64
  exit: { cause: ExitCause; code: number; signal: string | null; detail: string | null };
  milliseconds: {
    toFirstInstruction: number; // from process start
    toMarker: number | null; // from process start to the boot timer's marker
    total: number; // from process start to the guest's end
  };
  exits: { total: number; byKind: Record<string, number>; byDevice: Record<string, number> };
  disks: DiskReport[];
  incidents: Record<string, Record<string, number>>; // by device, by kind; only what happened
  traps: Record<string, number>; // by device; only what happened
  crash: { registers: Record<string, string>; instructionBytes: string } | null;
}

function badReport(path: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--report '${path}' ${finding}`);
}

/** Fails before the guest starts where the report could not be written after it. */
export function checkReportPath(path: string): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats?.isDirectory()) throw badReport(path, 'is a directory; name a file');
  const target = stats && !stats.isFile() ? path : dirname(path);
  try {
    accessSync(target, constants.W_OK);
    if (stats?.isFile()) accessSync(path, constants.W_OK);
  } catch (error) {
    throw badReport(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

/** Writes the report whole or not at all; a pipe or device is written to directly. */
export function writeReport(path: string, report: RunReport): void {
  const text = `${JSON.stringify(report, null, 2)}\n`;
  const stats = statSync(path, { throwIfNoEntry: false });
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    if (stats && !stats.isFile()) return writeFileSync(path, text);
    writeFileSync(temporary, text);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw badReport(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}
