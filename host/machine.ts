// From a checked configuration to a finished run: opens, composes, starts, reports.
import { commandLine } from './boot/cmdline.ts';
import { composeMachine, virtioSlots } from './boot/compose.ts';
import type { MachineImage, VirtioDevice } from './boot/image.ts';
import { DISK_SNIFF_BYTES, sniffFilesystem } from './boot/sniff.ts';
import type { RunConfig } from './config.ts';
import { closeDisks, type OpenDisk, openDisks, readHead } from './disk.ts';
import { type EngineResult, runV8 } from './engine/v8.ts';
import { EXIT_GUEST, EXIT_OK, FaradayError } from './errors.ts';
import { bootKernel } from './kernel/resolve.ts';
import type { Log } from './log.ts';
import {
  checkReportPath,
  type ExitCause,
  REPORT_SCHEMA_VERSION,
  type RunReport,
  writeReport,
} from './report.ts';
import type { NativeError } from './shim.ts';
import { formatSize } from './size.ts';
import { VERSION } from './version.ts';

const STDIN = 0;
const STDOUT = 1;
const ROOT_DEVICE = '/dev/vda';
const SIGNAL_EXIT_BASE = 128;
const SIGNAL_NUMBERS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };
const CRASHES: readonly ExitCause[] = ['panic', 'triple-fault', 'kvm-error'];

function virtioDevices(disks: readonly OpenDisk[]): VirtioDevice[] {
  const slots = virtioSlots(disks.length + 1);
  const blk = disks.map((disk, i) => ({ kind: 'virtio-blk' as const, slot: slots[i], ...disk }));
  return [...blk, { kind: 'virtio-rng', slot: slots[disks.length] }];
}

/** Composes the machine image for a configuration whose disks are open. */
async function compose(config: RunConfig, disks: readonly OpenDisk[]): Promise<MachineImage> {
  const virtio = virtioDevices(disks);
  const filesystem = config.hasRoot
    ? sniffFilesystem(readHead(disks[0], DISK_SNIFF_BYTES))
    : undefined;
  const root = config.hasRoot ? { filesystem } : undefined;
  const kernel = await bootKernel({ kernel: config.kernel, initrd: config.initrd, root });
  if (kernel.version !== undefined && kernel.initrd === undefined && !config.hasRoot) {
    const fix = 'give --rootfs DISK or --initrd FILE';
    throw new FaradayError('bad-usage', `Linux ${kernel.version} has nothing to boot into; ${fix}`);
  }
  const cmdline = commandLine({
    append: config.cmdline,
    replace: config.cmdlineReplace,
    root: config.hasRoot
      ? { device: ROOT_DEVICE, readOnly: disks[0].readOnly, filesystem }
      : undefined,
  });
  return composeMachine({
    kernelPath: kernel.vmlinuxPath,
    initrd: kernel.initrd,
    cmdline,
    memoryBytes: config.memoryBytes,
    cpuCount: config.cpus,
    entry: config.entry,
    acpi: kernel.acpi,
    bootTimer: config.bootTimer,
    virtio,
  });
}

/** What the shim's errors mean to a user, where they mean something. */
function explainNative(error: unknown, config: RunConfig): unknown {
  const { code, syscall } = error as NativeError;
  if (typeof syscall !== 'string' || typeof code !== 'string') return error;
  if (code === 'EMFILE' || code === 'ENFILE') return error; // main() knows what to do
  if (syscall === 'open' && (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO')) {
    return new FaradayError('host', "/dev/kvm is missing; 'faraday check' says what to do");
  }
  if (syscall === 'open') {
    return new FaradayError('host', `/dev/kvm: ${code}; 'faraday check' says what to do`);
  }
  if (syscall === 'mmap' || syscall === 'KVM_SET_USER_MEMORY_REGION') {
    const size = formatSize(config.memoryBytes);
    const finding = `--memory ${size} is more than this host can map (${syscall}: ${code})`;
    return new FaradayError('bad-memory', `${finding}; use less`);
  }
  if (syscall.startsWith('KVM_')) {
    return new FaradayError('host', `${syscall} failed (${code}); 'faraday check' says more`);
  }
  return error;
}

function exitCode(result: EngineResult): number {
  if (result.signal) return SIGNAL_EXIT_BASE + SIGNAL_NUMBERS[result.signal];
  return CRASHES.includes(result.cause) ? EXIT_GUEST : EXIT_OK;
}

/** The entries of `counts` by name, without those that are zero. */
function nonZero(counts: Iterable<readonly [string, number]>): Record<string, number> {
  return Object.fromEntries([...counts].filter(([, count]) => count > 0));
}

function crashReport(result: EngineResult): RunReport['crash'] {
  if (!result.crash) return null;
  const registers = Object.entries(result.crash.registers).map(([name, value]) => [
    name,
    `0x${value.toString(16)}`,
  ]);
  return {
    registers: Object.fromEntries(registers),
    instructionBytes: Buffer.from(result.crash.instructionBytes).toString('hex'),
  };
}

function toReport(config: RunConfig, image: MachineImage, result: EngineResult): RunReport {
  const { devices, exitNames, exits } = result;
  const byDevice = devices.map((device) => [device.name, device.exits] as const);
  const incidents = devices.map((device) => [device.name, device.incidents()] as const);
  return {
    schemaVersion: REPORT_SCHEMA_VERSION,
    faradayVersion: VERSION,
    engine: config.engine,
    entry: image.entry,
    exit: {
      cause: result.cause,
      code: exitCode(result),
      signal: result.signal,
      detail: result.detail,
    },
    milliseconds: {
      toFirstInstruction: result.firstInstructionMs,
      toMarker: result.markerMs,
      total: result.endMs,
    },
    exits: {
      total: exits.reduce((sum, count) => sum + count, 0),
      byKind: nonZero(exitNames.map((name, kind) => [name, exits[kind]] as const)),
      byDevice: nonZero([...byDevice, ['unclaimed', result.unclaimedExits]]),
    },
    disks: result.executor.diskReports,
    incidents: Object.fromEntries(incidents.filter(([, kinds]) => Object.keys(kinds).length > 0)),
    traps: nonZero(devices.map((device) => [device.name, device.traps] as const)),
    crash: crashReport(result),
  };
}

/** The line a crashed guest leaves on stderr. */
function describeCrash(result: EngineResult): string {
  if (result.cause === 'panic') return 'the guest kernel panicked; its console says why';
  const at = result.crash ? ` at rip 0x${result.crash.registers.rip.toString(16)}` : '';
  const what = result.cause === 'triple-fault' ? 'triple fault' : result.detail;
  return `the guest crashed: ${what}${at}; --report FILE shows registers and instruction bytes`;
}

/** The files a run is made of. */
function inputsOf({ kernel, initrd, disks, configFile }: RunConfig): string[] {
  const files = [kernel, initrd, configFile, ...disks.map(({ path }) => path)];
  return files.filter((path) => path !== undefined);
}

/** Runs one guest from start to end. Returns the exit code; throws FaradayError before a start. */
export async function runMachine(config: RunConfig, log: Log): Promise<number> {
  const disks = openDisks(config.disks);
  try {
    if (config.report) checkReportPath(config.report, inputsOf(config));
    const image = await compose(config, disks);
    const memory = formatSize(config.memoryBytes);
    log('info', `starting ${config.kernel} (${image.entry}), ${memory}, engine ${config.engine}`);
    const result = runV8(image, {
      log,
      inputFd: STDIN,
      outputFd: STDOUT,
      now: () => performance.now(),
      unixSeconds: () => Math.floor(Date.now() / 1000),
    });
    const code = exitCode(result);
    if (code === EXIT_GUEST) log('error', describeCrash(result));
    if (config.report) writeReport(config.report, toReport(config, image, result));
    if (code !== EXIT_GUEST)
      log('info', `ended by ${result.cause} after ${result.endMs.toFixed(0)} ms`);
    return code;
  } catch (error) {
    throw explainNative(error, config);
  } finally {
    closeDisks(disks);
  }
}
