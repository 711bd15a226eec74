// The report of a cell (cell-protocol.ts, REPORT) as the result of a run. Checked like everything
// a cell says: what is impossible is an internal error, what is merely untrue harms nobody.

import type { DiskDevice, MachineImage, NetDevice } from '../boot/image.ts';
import { nowMs } from '../clock.ts';
import { describeExit } from '../exit-names.ts';
import { INCIDENT_NAMES } from '../incident-names.ts';
import type { DiskReport, ExitCause, Histogram, NetQueueReport, NetReport } from '../report.ts';
import { type DeviceResult, type RunResult, SIGNAL_NUMBERS } from '../result.ts';
import type { CrashState } from '../shim.ts';
import { brokenCell, errnoName, textAt } from './cell-messages.ts';
import * as protocol from './cell-protocol.ts';

/** Crash registers in the order of the report, by the names of struct kvm_regs and kvm_sregs. */
export const CRASH_REGISTERS: readonly string[] = [
  ...['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rsp', 'rbp'],
  ...['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'],
  ...['rip', 'cr0', 'rflags', 'cr2', 'cr3', 'cr4', 'cr8', 'efer', 'apic_base'],
  ...['gdt.base', 'gdt.limit', 'idt.base', 'idt.limit'],
  ...['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'].flatMap((name) => {
    return [`${name}.base`, `${name}.selector`];
  }),
];

const INSTRUCTION_BYTES_MAX = 16;
const CAUSES: Record<number, ExitCause> = {
  [protocol.CAUSE_POWER_OFF]: 'power-off',
  [protocol.CAUSE_REBOOT]: 'reboot',
  [protocol.CAUSE_PANIC]: 'panic',
  [protocol.CAUSE_TRIPLE_FAULT]: 'triple-fault',
  [protocol.CAUSE_KVM_ERROR]: 'kvm-error',
  [protocol.CAUSE_SIGNAL]: 'signal',
  [protocol.CAUSE_CONSOLE_QUIT]: 'console-quit',
};
const DISK_ENGINES: Record<number, DiskReport['engine']> = {
  [protocol.ENGINE_SYNC]: 'sync',
  [protocol.ENGINE_IO_URING]: 'io_uring',
};

/** The report's numbers, by place. */
class ReportView {
  readonly view: DataView;
  private readonly base: number;

  constructor(view: DataView, base = 0) {
    this.view = view;
    this.base = base;
  }

  u32(offset: number): number {
    return this.view.getUint32(this.base + offset, true);
  }

  u64(offset: number): bigint {
    return this.view.getBigUint64(this.base + offset, true);
  }

  count(offset: number): number {
    return Number(this.u64(offset));
  }

  text(offset: number, lengthBytes: number): string {
    return textAt(this.view, this.base + offset, lengthBytes);
  }

  device(index: number): ReportView {
    const base = protocol.REPORT_DEVICES + index * protocol.REPORT_DEVICE_STRIDE;
    return new ReportView(this.view, base);
  }
}

// --- Devices ------------------------------------------------------------------------------------

function deviceResult(report: ReportView): DeviceResult {
  const incidents: Record<string, number> = {};
  for (const [index, name] of INCIDENT_NAMES.entries()) {
    const count = report.u32(protocol.DEVICE_INCIDENTS + 4 * index);
    if (count > 0) incidents[name] = count;
  }
  return {
    name: report.text(protocol.DEVICE_NAME, protocol.DEVICE_NAME_BYTES),
    exits: report.count(protocol.DEVICE_EXITS),
    traps: report.u32(protocol.DEVICE_TRAPS),
    incidents,
  };
}

function histogram(report: ReportView, offset: number): Histogram {
  const counts: Histogram = {};
  for (let bucket = 0; bucket < protocol.LATENCY_BUCKETS; bucket++) {
    const count = report.u32(offset + 4 * bucket);
    if (count > 0) counts[`<${2 ** bucket}`] = count;
  }
  return counts;
}

function diskReport({ id, path, readOnly }: DiskDevice, report: ReportView): DiskReport {
  const errors = report.count(protocol.DEVICE_ERRORS);
  const errno = errnoName(report.u32(protocol.DEVICE_LAST_ERRNO));
  const engine = DISK_ENGINES[report.u32(protocol.DEVICE_ENGINE)];
  if (engine === undefined) throw brokenCell(`reports an unknown I/O engine of disk ${id}`);
  return {
    id,
    path,
    readOnly,
    requests: report.count(protocol.DEVICE_REQUESTS),
    bytesRead: report.count(protocol.DEVICE_BYTES_READ),
    bytesWritten: report.count(protocol.DEVICE_BYTES_WRITTEN),
    errors,
    lastError: errors > 0 ? errno || 'refused' : null,
    engine,
    latencyMicroseconds: {
      read: histogram(report, protocol.DEVICE_READ_LATENCY),
      write: histogram(report, protocol.DEVICE_WRITE_LATENCY),
    },
  };
}

/** Why a network device dropped frames, by NET_DROP_*. */
const DROPS: readonly string[] = ['oversize', 'refused', 'down', 'spoofed', 'stale'];

function queueReport(record: ReportView, index: number): NetQueueReport {
  const at = protocol.NET_QUEUES + index * protocol.NET_QUEUE_STRIDE;
  const drops: Record<string, number> = {};
  for (const [reason, name] of DROPS.entries()) {
    const count = record.count(at + protocol.NET_QUEUE_DROPS + 8 * reason);
    if (count > 0) drops[name] = count;
  }
  return {
    frames: record.count(at + protocol.NET_QUEUE_FRAMES),
    bytes: record.count(at + protocol.NET_QUEUE_BYTES),
    drops,
  };
}

function netReport(net: NetDevice, record: ReportView): NetReport {
  const { id, name, mac, queuePairs, stream, vhostFds } = net;
  if (record.u32(protocol.NET_QUEUE_COUNT) !== 2 * queuePairs) {
    throw brokenCell(`reports other queues of network ${id} than it has`);
  }
  const isKernels = vhostFds.length > 0;
  const indexes = isKernels ? [] : Array.from({ length: queuePairs }, (_, pair) => 2 * pair);
  return {
    id,
    backend: stream ? 'user' : isKernels ? 'vhost-net' : 'tap',
    interface: name,
    mac,
    queuePairs,
    gone: record.u32(protocol.NET_GONE) !== 0,
    receive: indexes.map((index) => queueReport(record, index)),
    transmit: indexes.map((index) => queueReport(record, index + 1)),
  };
}

// --- The end ------------------------------------------------------------------------------------

function ending(report: ReportView): Pick<RunResult, 'cause' | 'signal' | 'detail'> {
  const cause = CAUSES[report.u32(protocol.REPORT_CAUSE)];
  if (cause === undefined) throw brokenCell('reports an end that cannot be');
  if (cause === 'signal') {
    const number = report.u32(protocol.REPORT_SIGNAL);
    const signal = Object.keys(SIGNAL_NUMBERS).find((name) => SIGNAL_NUMBERS[name] === number);
    if (signal === undefined) throw brokenCell(`reports its end by signal ${number}`);
    return { cause, signal, detail: null };
  }
  if (cause === 'kvm-error') {
    const kind = report.u32(protocol.REPORT_EXIT_KIND);
    return {
      cause,
      signal: null,
      detail: describeExit(kind, report.u64(protocol.REPORT_EXIT_CODE)),
    };
  }
  return { cause, signal: null, detail: cause === 'panic' ? 'told by pvpanic' : null };
}

function crashState(report: ReportView): CrashState | null {
  if (report.u32(protocol.REPORT_CRASHED) === 0) return null;
  const registers = CRASH_REGISTERS.map((name, index) => {
    return [name, report.u64(protocol.REPORT_REGISTERS + 8 * index)] as const;
  });
  const count = Math.min(report.u32(protocol.REPORT_INSTRUCTION_COUNT), INSTRUCTION_BYTES_MAX);
  const { buffer, byteOffset } = report.view;
  const bytes = new Uint8Array(buffer, byteOffset + protocol.REPORT_INSTRUCTION, count);
  return { registers: Object.fromEntries(registers), instructionBytes: bytes };
}

/** Turns nanoseconds of CLOCK_MONOTONIC into milliseconds from the start of this process. */
function processClock(): (nanoseconds: bigint) => number {
  const nowNanoseconds = process.hrtime.bigint();
  const hostMs = nowMs();
  return (nanoseconds) => hostMs - Number(nowNanoseconds - nanoseconds) / 1e6;
}

/**
 * Reads a report of REPORT_BYTES, with the records of NET_BYTES that came before it. Throws
 * FaradayError('internal') for what cannot be.
 */
export function toRunResult(
  view: DataView,
  image: MachineImage,
  networks: readonly DataView[] = [],
): Omit<RunResult, 'confinement'> {
  const report = new ReportView(view);
  const toProcessMs = processClock();
  const phase = (index: number): number | null => {
    const nanoseconds = report.u64(protocol.REPORT_PHASES + 8 * index);
    return nanoseconds === 0n ? null : toProcessMs(nanoseconds);
  };
  const count = report.u32(protocol.REPORT_DEVICE_COUNT);
  if (count > protocol.REPORT_DEVICE_COUNT_MAX) throw brokenCell(`reports ${count} devices`);
  const views = Array.from({ length: count }, (_, index) => report.device(index));
  const devices = views.map(deviceResult);
  const disks = image.virtio.filter((device) => device.kind === 'virtio-blk');
  return {
    ...ending(report),
    crash: crashState(report),
    phases: {
      cellStartedMs: phase(protocol.PHASE_ENTERED),
      loadedMs: phase(protocol.PHASE_LOADED),
      createdMs: phase(protocol.PHASE_CREATED),
      runningMs: phase(protocol.PHASE_RUNNING),
    },
    markerMs: phase(protocol.PHASE_MARKER),
    endMs: phase(protocol.PHASE_ENDED) ?? nowMs(),
    exits: Array.from({ length: protocol.EXIT_KIND_COUNT }, (_, kind) => {
      return report.count(protocol.REPORT_EXITS + 8 * kind);
    }),
    unclaimedExits: report.count(protocol.REPORT_UNCLAIMED),
    devices,
    disks: disks.map((disk) => {
      const index = devices.findIndex(({ name }) => name === `disk:${disk.id}`);
      if (index < 0) throw brokenCell(`reports nothing of disk ${disk.id}`);
      return diskReport(disk, views[index]);
    }),
    networks: image.virtio.flatMap((device) => {
      if (device.kind !== 'virtio-net') return [];
      const index = devices.findIndex(({ name }) => name === `net:${device.id}`);
      const record = networks
        .map((network) => new ReportView(network))
        .find((network) => network.u32(protocol.NET_DEVICE) === index);
      if (!record) throw brokenCell(`reports nothing of network ${device.id}`);
      return [netReport(device, record)];
    }),
  };
}
