// What a kernel's own bytes tell of it: its release, its configuration where it carries one, and
// which drivers are built in.
import { gunzipSync } from 'node:zlib';
import type { KernelTraits } from './traits.ts';

const BANNER = Buffer.from('Linux version ');
const IKCFG_START = Buffer.from('IKCFG_ST');
const IKCFG_END = Buffer.from('IKCFG_ED');
const CONFIG_BYTES_MAX = 4 * 1024 * 1024;
const RELEASE_CHARACTERS_MAX = 64; // __NEW_UTS_LEN

// Each driver's name, what switches it in the configuration, and a string which only its own
// code puts into the kernel: the name it registers under, in NUL bytes.
const DRIVERS: Record<string, { option: string; trace: string }> = {
  virtio_mmio: { option: 'CONFIG_VIRTIO_MMIO', trace: '\0virtio-mmio\0' },
  virtio_blk: { option: 'CONFIG_VIRTIO_BLK', trace: '\0virtio_blk\0' },
  virtio_net: { option: 'CONFIG_VIRTIO_NET', trace: '\0virtio_net\0' },
  virtio_rng: { option: 'CONFIG_HW_RANDOM_VIRTIO', trace: '\0virtio_rng\0' },
  pvpanic_mmio: { option: 'CONFIG_PVPANIC_MMIO', trace: '\0pvpanic-mmio\0' },
  ext4: { option: 'CONFIG_EXT4_FS', trace: '\0ext4_inode_cache\0' },
  xfs: { option: 'CONFIG_XFS_FS', trace: '\0xfs_inode\0' },
  btrfs: { option: 'CONFIG_BTRFS_FS', trace: '\0btrfs_inode\0' },
  squashfs: { option: 'CONFIG_SQUASHFS', trace: '\0squashfs_inode_cache\0' },
  erofs: { option: 'CONFIG_EROFS_FS', trace: '\0erofs_inode\0' },
};

/** The release in the banner 'Linux version RELEASE (...', null where there is none. */
export function findRelease(kernel: Buffer): string | null {
  for (let at = kernel.indexOf(BANNER); at >= 0; at = kernel.indexOf(BANNER, at + 1)) {
    const start = at + BANNER.length;
    const text = kernel.toString('latin1', start, start + RELEASE_CHARACTERS_MAX + 2);
    const release = /^([0-9][A-Za-z0-9._+~-]*) \(/.exec(text)?.[1];
    if (release) return release;
  }
  return null;
}

/** The configuration inside a kernel built with CONFIG_IKCONFIG, null without. */
export function findConfig(kernel: Buffer): string | null {
  const start = kernel.indexOf(IKCFG_START);
  if (start < 0) return null;
  const end = kernel.indexOf(IKCFG_END, start);
  if (end < 0) return null;
  try {
    const packed = kernel.subarray(start + IKCFG_START.length, end);
    return gunzipSync(packed, { maxOutputLength: CONFIG_BYTES_MAX }).toString();
  } catch {
    return null; // damaged: as good as none
  }
}

/** The drivers that a configuration builds in. */
export function builtInByConfig(config: string): string[] {
  const lines = new Set(config.split('\n'));
  return Object.keys(DRIVERS).filter((name) => lines.has(`${DRIVERS[name].option}=y`));
}

function builtInByTraces(kernel: Buffer): string[] {
  return Object.keys(DRIVERS).filter((name) => {
    return kernel.includes(Buffer.from(DRIVERS[name].trace, 'latin1'));
  });
}

/** Reads an uncompressed kernel; `config` is its configuration where one was found beside it. */
export function inspectKernel(kernel: Buffer, config: string | null): KernelTraits {
  const known = config ?? findConfig(kernel);
  return {
    version: findRelease(kernel),
    acpi: kernel.includes('RSD PTR '),
    builtIn: known === null ? builtInByTraces(kernel) : builtInByConfig(known),
  };
}
