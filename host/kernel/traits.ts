// What is worth knowing of a kernel before it starts; inspect.ts finds it out.
import type { FilesystemType } from '../boot/sniff.ts';

export interface KernelTraits {
  version: string | null; // the release, as in /lib/modules/VERSION
  acpi: boolean; // it can read ACPI tables
  builtIn: string[]; // of the drivers that inspect.ts looks for: those which need no module
}

/** A list of nothing but text. */
export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

/** Traits as they were written to a file, which may have been damaged since. */
export function isTraits(value: unknown): value is KernelTraits {
  const { version, acpi, builtIn } = (value ?? {}) as Partial<KernelTraits>;
  const isVersion = version === null || typeof version === 'string';
  return isVersion && typeof acpi === 'boolean' && isTexts(builtIn);
}

export const NETWORK_MODULE = 'virtio_net';

// The disk comes first: its driver probes while the file system's modules load.
export const DISK_MODULES = ['virtio_mmio', 'virtio_blk'];

/** True where the kernel reaches a root of `filesystem` on virtio-blk without any module. */
export function needsNoModules(traits: KernelTraits, filesystem: FilesystemType): boolean {
  return [...DISK_MODULES, filesystem].every((name) => traits.builtIn.includes(name));
}
