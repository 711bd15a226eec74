// Stored kernels: one folder for each under $XDG_DATA_HOME/faraday/kernels, with
//   vmlinux         the ELF file, smaller by what no guest loads
//   config          the kernel's configuration, where it was found
//   initramfs.cpio  Faraday's init and the modules, where the kernel needs any
//   meta.json       StoredKernel
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { FilesystemType } from '../boot/sniff.ts';
import { FaradayError } from '../errors.ts';
import { storeFolder } from './folders.ts';
import { isTexts, isTraits, type KernelTraits } from './traits.ts';

export const META_VERSION = 1;
export const DEFAULT_FILESYSTEM: FilesystemType = 'ext4'; // of a root disk nobody described
const META_BYTES_MAX = 1024 * 1024;
// No separators, no leading dot or dash: a name is a folder of the store and nothing else.
const NAME = /^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$/;

/** meta.json of a stored kernel. */
export interface StoredKernel {
  metaVersion: number;
  name: string;
  version: string | null; // the kernel's release
  source: string; // file name of what was imported
  sourceSha256: string; // of that file
  modules: string[]; // in loading order
  filesystems: FilesystemType[]; // those a root disk may have
  traits: KernelTraits;
}

/** A stored kernel and where its files are. */
export interface KernelEntry extends StoredKernel {
  vmlinuxPath: string;
  initramfsPath?: string; // undefined: the kernel needs no modules
}

/** Throws FaradayError('bad-usage') for a name that is not allowed. */
export function checkKernelName(name: string): void {
  if (NAME.test(name)) return;
  const shown = JSON.stringify(name.slice(0, 80));
  const rule = 'use up to 64 letters, digits and . _ + ~ -, starting with a letter or digit';
  throw new FaradayError('bad-usage', `kernel name ${shown}: not allowed; ${rule}`);
}

function isMeta(value: unknown): value is StoredKernel {
  const meta = (value ?? {}) as Partial<StoredKernel>;
  const { metaVersion, version, source, sourceSha256, modules, filesystems, traits } = meta;
  if (metaVersion !== META_VERSION || !isTraits(traits)) return false;
  if (version !== null && typeof version !== 'string') return false;
  const texts = [meta.name, source, sourceSha256];
  return isTexts(texts) && isTexts(modules) && isTexts(filesystems);
}

function readMeta(path: string): StoredKernel | null {
  try {
    const status = statSync(path);
    if (!status.isFile() || status.size > META_BYTES_MAX) return null;
    const meta: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isMeta(meta) ? meta : null;
  } catch {
    return null;
  }
}

/** Where the stored kernel of that name lies, null where there is none. */
export function storedFolder(name: string): string | null {
  if (!NAME.test(name)) return null;
  const folder = join(storeFolder(), name);
  return existsSync(folder) ? folder : null;
}

/** The stored kernel of that name, null where there is none. Throws FaradayError('bad-kernel'). */
export function storedKernel(name: string): KernelEntry | null {
  const folder = storedFolder(name);
  if (folder === null) return null;
  const meta = readMeta(join(folder, 'meta.json'));
  const vmlinuxPath = join(folder, 'vmlinux');
  if (meta === null || !existsSync(vmlinuxPath)) {
    const fix = `run: faraday kernel remove ${name}, then import it again`;
    throw new FaradayError('bad-kernel', `stored kernel ${name}: is damaged; ${fix}`);
  }
  const initramfsPath = join(folder, 'initramfs.cpio');
  const entry: KernelEntry = { ...meta, name, vmlinuxPath };
  return existsSync(initramfsPath) ? { ...entry, initramfsPath } : entry;
}

/** The names of all stored kernels, sorted. */
export function storedNames(): string[] {
  try {
    return readdirSync(storeFolder(), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && NAME.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch {
    return []; // no store yet
  }
}

/** Removes a stored kernel. Throws FaradayError('bad-usage') where there is none of that name. */
export function removeKernel(name: string): void {
  checkKernelName(name);
  const folder = join(storeFolder(), name);
  if (!existsSync(folder)) throw noSuchKernel(name);
  rmSync(folder, { recursive: true });
}

export function noSuchKernel(name: string): FaradayError {
  const stored = storedNames();
  const known = stored.length > 0 ? `stored are: ${stored.join(', ')}` : 'none is stored yet';
  return new FaradayError('bad-usage', `kernel ${name}: not in the store; ${known}`);
}
