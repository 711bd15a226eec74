// A composed machine image as a folder, for `faraday-cell DIR`.
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { type ComposeConfig, composeMachine, virtioSlots } from '../../host/boot/compose.ts';
import type { DiskDevice, VirtioDevice } from '../../host/boot/image.ts';
import { imageInside } from '../../host/boot/image-bytes.ts';
import { writeImage } from '../../host/write-image.ts';

/** What differs between the machines of benchmarks. */
export type ComposedConfig = Pick<ComposeConfig, 'kernelPath' | 'initrd' | 'cmdline'> & {
  cpuCount?: number;
  disks?: Omit<DiskDevice, 'kind' | 'slot'>[];
};

const MEMORY_BYTES = 128 * 2 ** 20;

/** Writes FOLDER/machine: 128 MiB, the given disks and an entropy device, as `faraday run` has. */
export function writeComposed(folder: string, config: ComposedConfig): void {
  const { cpuCount = 1, disks = [], ...rest } = config;
  const slots = virtioSlots(disks.length + 1);
  const virtio: VirtioDevice[] = [
    ...disks.map((disk, i) => ({ kind: 'virtio-blk' as const, slot: slots[i]!, ...disk })),
    { kind: 'virtio-rng', slot: slots[disks.length]! },
  ];
  const machine = { ...rest, cpuCount, virtio, memoryBytes: MEMORY_BYTES, bootTimer: false };
  mkdirSync(folder, { recursive: true });
  const fd = openSync(join(folder, 'machine'), 'w');
  try {
    writeImage(fd, imageInside(composeMachine(machine)));
  } finally {
    closeSync(fd);
  }
}
