// From a checked configuration to a finished run: opens, composes, starts, reports.
import { closeSync } from 'node:fs';
import { commandLine, type NetParameters } from './boot/cmdline.ts';
import { composeMachine, virtioSlots } from './boot/compose.ts';
import type { MachineImage, VirtioDevice } from './boot/image.ts';
import { DISK_SNIFF_BYTES, sniffFilesystem } from './boot/sniff.ts';
import { cellProgram, recordingCellProgram } from './cell-program.ts';
import { nowMs } from './clock.ts';
import type { RunConfig } from './config.ts';
import { HostGuard } from './confine/confine-host.ts';
import { closeDisks, type OpenDisk, openDisks, readHead } from './disk.ts';
import { type CellOptions, runCell } from './engine/cell.ts';
import { EXIT_GUEST, FaradayError } from './errors.ts';
import { explainCall } from './explain.ts';
import { bootKernel } from './kernel/resolve.ts';
import type { Log } from './log.ts';
import { closeNets, type OpenNet, toNetDevice } from './net/open-net.ts';
import { passtAddressing } from './net/passt-address.ts';
import type { Recorder } from './replay/recorder.ts';
import { checkReportPath, writeReport } from './report.ts';
import { describeCrash, describeNetwork, exitCode, type RunResult, toReport } from './result.ts';
import type { NativeError } from './shim.ts';
import { formatSize } from './size.ts';

const STDIN = 0;
const STDOUT = 1;
const ROOT_DEVICE = '/dev/vda';

/** What of the host is open for the machine. */
interface Opened {
  disks: readonly OpenDisk[];
  nets: readonly OpenNet[];
}

function virtioDevices({ disks, nets }: Opened): VirtioDevice[] {
  const slots = virtioSlots(disks.length + nets.length + 1);
  const blk = disks.map((disk, i) => ({ kind: 'virtio-blk' as const, slot: slots[i], ...disk }));
  const net = nets.map((open, i) => toNetDevice(slots[disks.length + i], open));
  return [...blk, ...net, { kind: 'virtio-rng', slot: slots[disks.length + nets.length] }];
}

/** The guest's interfaces with an address; it counts them in the order of their devices. */
function netParameters(nets: RunConfig['nets']): NetParameters[] {
  return nets.flatMap((net, i): NetParameters[] => {
    const { ip, gateway } = net;
    const device = `eth${i}`;
    if (net.backend !== 'user') return ip ? [{ device, ip, gateway }] : [];
    const { address, prefix, ...rest } = passtAddressing(net);
    return [{ device, ip: { address, prefix }, gateway: rest.gateway, dns: rest.dns }];
  });
}

/** Composes the machine image for a configuration whose disks and networks are open. */
async function compose(config: RunConfig, opened: Opened, log: Log): Promise<MachineImage> {
  const { disks } = opened;
  const virtio = virtioDevices(opened);
  const filesystem = config.hasRoot
    ? sniffFilesystem(readHead(disks[0], DISK_SNIFF_BYTES))
    : undefined;
  const root = config.hasRoot ? { filesystem } : undefined;
  const network = config.nets.length > 0;
  const kernel = await bootKernel({ kernel: config.kernel, initrd: config.initrd, root, network });
  if (kernel.warning !== undefined) log('warn', kernel.warning);
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
    nets: netParameters(config.nets),
  });
  return composeMachine({
    kernelPath: kernel.vmlinuxPath,
    initrd: kernel.initrd,
    cmdline,
    memoryBytes: config.memoryBytes,
    hugePages: config.hugePages,
    prefault: config.prefault,
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
  return explainCall(syscall, code, config.memoryBytes) ?? error;
}

/** The files a run is made of. */
function inputsOf({ kernel, initrd, disks, configFile }: RunConfig): string[] {
  const files = [kernel, initrd, configFile, ...disks.map(({ path }) => path)];
  return files.filter((path) => path !== undefined);
}

/** A machine that is ready to start. */
interface Prepared {
  image: MachineImage;
  composedMs: number; // since process start
}

async function prepare(config: RunConfig, opened: Opened, log: Log): Promise<Prepared> {
  if (config.report) checkReportPath(config.report, inputsOf(config));
  const image = await compose(config, opened, log);
  const memory = formatSize(config.memoryBytes);
  log('info', `starting ${config.kernel} (${image.entry}), ${memory}, engine ${config.engine}`);
  return { image, composedMs: nowMs() };
}

async function openRecorder(config: RunConfig): Promise<Recorder | undefined> {
  if (config.record === undefined) return undefined;
  const { openRecording } = await import('./replay/recorder.ts');
  return openRecording(config.record, inputsOf(config));
}

async function runV8(
  image: MachineImage,
  config: RunConfig,
  disks: readonly OpenDisk[],
  log: Log,
): Promise<RunResult> {
  let recorder: Recorder | undefined;
  try {
    const { lockDisks } = await import('./lock-disks.ts');
    lockDisks(disks);
    const engine = await import('./engine/v8.ts');
    recorder = await openRecorder(config);
    const result = engine.runV8(image, {
      recorder,
      log,
      inputFd: STDIN,
      outputFd: STDOUT,
      now: nowMs,
      unixSeconds: () => Math.floor(Date.now() / 1000),
    });
    recorder?.finish();
    return result;
  } catch (error) {
    throw explainNative(error, config);
  } finally {
    recorder?.close();
  }
}

function cellOptions({ confine }: RunConfig, log: Log, guard: HostGuard): CellOptions {
  const onSpawned = (): void => guard.started();
  return { log, program: cellProgram(), confinement: confine, onSpawned };
}

/** Runs the guest in a cell, which records itself where that is wanted. */
async function runInCell(
  image: MachineImage,
  config: RunConfig,
  log: Log,
  guard: HostGuard,
): Promise<RunResult> {
  const options = cellOptions(config, log, guard);
  if (config.record === undefined) return runCell(image, options);
  const { openCellRecording } = await import('./replay/cell-recording.ts');
  const recording = openCellRecording(config.record, inputsOf(config), image);
  try {
    return await runCell(image, { ...options, program: recordingCellProgram(), recording });
  } finally {
    closeSync(recording.fd);
  }
}

/**
 * Opens what the guest shall have, uses it, closes it. Networks come first: making and changing
 * interfaces, and passt, take rights that HostGuard gives up.
 */
async function withOpened<T>(
  config: RunConfig,
  log: Log,
  use: (opened: Opened, guard: HostGuard) => Promise<T>,
): Promise<T> {
  const nets = await openNetsOf(config, log);
  try {
    const guard = new HostGuard(config, log);
    const disks = openDisks(config.disks);
    try {
      return await use({ disks, nets }, guard);
    } finally {
      closeDisks(disks);
    }
  } finally {
    closeNets(nets);
  }
}

/** Loads what opens them only where there are any. */
async function openNetsOf({ nets }: RunConfig, log: Log): Promise<OpenNet[]> {
  if (nets.length === 0) return [];
  const { openNets } = await import('./net/nets.ts');
  return openNets(nets, log);
}

async function runToEnd(
  config: RunConfig,
  log: Log,
  opened: Opened,
  guard: HostGuard,
): Promise<number> {
  const { image, composedMs } = await prepare(config, opened, log);
  const result =
    config.engine === 'cell'
      ? await runInCell(image, config, log, guard)
      : await runV8(image, config, opened.disks, log);
  const code = exitCode(result);
  if (code === EXIT_GUEST) log('error', describeCrash(result));
  if (config.report) {
    const { confinement } = guard;
    const facts = { engine: config.engine, entry: image.entry, composedMs, confinement };
    writeReport(config.report, toReport(facts, result));
  }
  for (const net of result.networks) log('info', describeNetwork(net));
  if (code !== EXIT_GUEST)
    log('info', `ended by ${result.cause} after ${result.endMs.toFixed(0)} ms`);
  return code;
}

/** Runs one guest from start to end. Returns the exit code; throws FaradayError before a start. */
export async function runMachine(config: RunConfig, log: Log): Promise<number> {
  return withOpened(config, log, (opened, guard) => runToEnd(config, log, opened, guard));
}

/** Starts one guest that runs on without this process; returns the pid of its cell. */
export async function startMachine(config: RunConfig, log: Log): Promise<number> {
  return withOpened(config, log, async (opened, guard) => {
    const { image } = await prepare(config, opened, log);
    const { startDetached } = await import('./engine/detach.ts');
    return startDetached(image, cellOptions(config, log, guard));
  });
}

/** The machine image of a configuration, to be kept; its disks are only looked at. */
export async function composeImage(config: RunConfig): Promise<MachineImage> {
  if (config.nets.length > 0) {
    const fix = "leave 'net-backend', 'net' and 'tap' out";
    throw new FaradayError('bad-usage', `a composed machine has no network yet; ${fix}`);
  }
  const disks = openDisks(config.disks);
  try {
    return await compose(config, { disks, nets: [] }, () => {});
  } finally {
    closeDisks(disks);
  }
}
