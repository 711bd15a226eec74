// Puts a machine image together: from checked configuration to memory segments and registers.
// docs/memory-map.md has the address plan; image.ts says what an image is.
import { FaradayError } from '../errors.ts';
import { acpiSegment } from './acpi.ts';
import { acpiIsOff, checkCommandLine, withVirtioDevices } from './cmdline.ts';
import { e820Map } from './e820.ts';
import { checkKernelFits, chooseEntry, kernelSegments, readElfKernel } from './elf.ts';
import type {
  BytesSegment,
  EntryMode,
  HugePages,
  MachineImage,
  VirtioDevice,
  VirtioSlot,
} from './image.ts';
import { placeInitrd } from './initrd.ts';
import { COMMAND_LINE, VIRTIO_MMIO_BYTES, VIRTIO_MMIO_START, VIRTIO_PINS } from './layout.ts';
import { linux64Registers, linux64Segments } from './linux64.ts';
import { mpTableSegment } from './mptable.ts';
import { pvhRegisters, pvhSegments } from './pvh.ts';

export interface ComposeConfig {
  kernelPath: string; // an ELF vmlinux; see host/kernel/resolve.ts for everything else
  initrd?: Uint8Array | string; // bytes, or the path of a file
  cmdline: string; // complete but for the devices; see cmdline.ts
  memoryBytes: number;
  hugePages?: HugePages; // default: transparent
  prefault?: boolean;
  cpuCount: number;
  entry?: 'auto' | EntryMode; // default: auto
  acpi?: boolean; // false: the kernel has no ACPI, so it learns of devices by its command line
  bootTimer: boolean;
  virtio: VirtioDevice[]; // with the slots from virtioSlots(), in order
}

/** Windows and pins for `count` virtio devices. Throws FaradayError('bad-usage') past the limit. */
export function virtioSlots(count: number): VirtioSlot[] {
  const limit = VIRTIO_PINS.length;
  if (count > limit) {
    const finding = `${count} virtio devices, but interrupt pins for ${limit}`;
    throw new FaradayError('bad-usage', `--disk and --net: ${finding}; remove ${count - limit}`);
  }
  return VIRTIO_PINS.slice(0, count).map((pin, index) => {
    return { address: VIRTIO_MMIO_START + index * VIRTIO_MMIO_BYTES, pin };
  });
}

function commandLineSegment(text: string): BytesSegment {
  const bytes = Buffer.from(`${text}\0`);
  return { name: 'command line', address: COMMAND_LINE, bytes };
}

/**
 * Composes a machine image. Reads only headers of the kernel; kernel and initrd stay ranges of
 * their files. Throws FaradayError: 'bad-kernel', 'bad-initrd' or 'bad-usage'.
 */
export function composeMachine(config: ComposeConfig): MachineImage {
  const { memoryBytes, cpuCount, bootTimer, virtio } = config;
  const { hugePages = 'transparent', prefault = false } = config;
  const slots = virtio.map((device) => device.slot);
  checkCommandLine(config.cmdline);
  // A kernel which reads ACPI would meet each device twice, and complain of the second.
  const byCommandLine = config.acpi === false || acpiIsOff(config.cmdline);
  const cmdline = byCommandLine ? withVirtioDevices(config.cmdline, slots) : config.cmdline;

  const kernel = readElfKernel(config.kernelPath);
  const entry = chooseEntry(kernel, config.entry ?? 'auto');
  checkKernelFits(kernel, memoryBytes);
  const initrd =
    config.initrd === undefined ? null : placeInitrd(config.initrd, kernel.endAddress, memoryBytes);

  const map = e820Map(memoryBytes);
  const pvh = entry === 'pvh';
  const segments = [
    ...(pvh ? pvhSegments(map, initrd) : linux64Segments(map, initrd)),
    commandLineSegment(cmdline),
    mpTableSegment(cpuCount),
    acpiSegment(cpuCount, slots),
    ...kernelSegments(kernel),
  ];
  if (initrd) segments.push(initrd.segment);
  const registers = pvh ? pvhRegisters(kernel.pvhEntry!) : linux64Registers(kernel.linux64Entry);
  const memory = { memoryBytes, hugePages, prefault };
  return { ...memory, cpuCount, segments, registers, entry, bootTimer, virtio };
}
