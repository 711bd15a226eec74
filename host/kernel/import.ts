// Importing a kernel: into the store by name, or on the fly into the cache.
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { withInput } from '../boot/file.ts';
import { type FilesystemType, SNIFF_BYTES } from '../boot/sniff.ts';
import { FaradayError } from '../errors.ts';
import { guestInit } from '../guest-init.ts';
import { unpackPackage } from './deb.ts';
import { type Extracted, extractKernel, plainKernel, sha256, sha256OfFile } from './extract.ts';
import { cacheFolder, publish, storeFolder, withTemporaryFolder, writeDurably } from './folders.ts';
import { bootInitramfs } from './initramfs.ts';
import { findModuleFolder, openModuleFolder } from './module-folder.ts';
import { type BootModule, planModules } from './modules.ts';
import {
  checkKernelName,
  DEFAULT_FILESYSTEM,
  type KernelEntry,
  META_VERSION,
  type StoredKernel,
  storedKernel,
} from './store.ts';
import { type KernelTraits, needsNoModules } from './traits.ts';

const DEB_MAGIC = '!<arch>\ndebian-binary';

export interface ImportOptions {
  source: string; // a .deb, a bzImage or a vmlinux
  modulesDir?: string;
  name?: string; // default: the kernel's release
  filesystems?: readonly FilesystemType[]; // default: ext4
  progress?: (message: string) => void;
  signal?: AbortSignal; // aborts the import; nothing is left of it
}

interface ModuleSearch {
  traits: KernelTraits;
  kernelPath: string;
  sourceLabel: string; // what messages call the kernel
  modulesDir?: string;
  filesystems: readonly FilesystemType[];
  signal?: AbortSignal;
}

function releaseOf(search: ModuleSearch): string {
  if (search.traits.version) return search.traits.version;
  const finding = 'does not tell its version, so its modules cannot be found';
  throw new FaradayError('bad-kernel', `kernel ${search.sourceLabel}: ${finding}; give --initrd`);
}

function noModules(search: ModuleSearch, release: string): FaradayError {
  const finding = `its modules were not found (lib/modules/${release} here or beside it)`;
  const fix = 'run: faraday kernel import PACKAGE.deb, or import FILE --modules DIR';
  return new FaradayError('bad-kernel', `kernel ${search.sourceLabel}: ${finding}; ${fix}`);
}

function moduleFolderOf(search: ModuleSearch): string | null {
  const { filesystems, traits, kernelPath, modulesDir } = search;
  if (filesystems.every((filesystem) => needsNoModules(traits, filesystem))) return null;
  const release = releaseOf(search);
  const folder = findModuleFolder(release, kernelPath, modulesDir);
  if (folder === null) throw noModules(search, release);
  return folder;
}

async function modulesFrom(path: string, search: ModuleSearch): Promise<BootModule[]> {
  const { traits, filesystems, signal } = search;
  const folder = openModuleFolder(path);
  return planModules({ folder, release: releaseOf(search), traits, filesystems, signal });
}

function isPackage(path: string): boolean {
  return withInput(path, 'kernel', 'bad-kernel', (file) => {
    return file.read(0, SNIFF_BYTES).toString('latin1').startsWith(DEB_MAGIC);
  });
}

function refuseStored(name: string): void {
  checkKernelName(name);
  if (!existsSync(join(storeFolder(), name))) return;
  const fix = `run: faraday kernel remove ${name}, or give another --name`;
  throw new FaradayError('bad-usage', `kernel name ${name}: is in the store already; ${fix}`);
}

/** Where to read the kernel and its modules from: a package is unpacked first. */
async function openSource(options: ImportOptions, folder: string): Promise<[string, string?]> {
  const { source, modulesDir, signal } = options;
  if (!isPackage(source)) return [source, modulesDir];
  const unpacked = join(folder, 'package');
  mkdirSync(unpacked);
  const progress = options.progress ?? (() => {});
  const { kernelPath, modulesRoot } = await unpackPackage(source, unpacked, { progress, signal });
  return [kernelPath, modulesDir ?? modulesRoot];
}

function writeEntry(folder: string, extracted: Extracted, modules: BootModule[]): void {
  writeDurably(join(folder, 'vmlinux'), extracted.kernel);
  if (extracted.config !== null) writeDurably(join(folder, 'config'), extracted.config);
  if (modules.length > 0) {
    writeDurably(join(folder, 'initramfs.cpio'), bootInitramfs(guestInit(), modules));
  }
}

/**
 * Imports a kernel into the store. Throws FaradayError; whatever fails, nothing is left behind.
 */
export async function importKernel(options: ImportOptions): Promise<KernelEntry> {
  const { source, signal } = options;
  const progress = options.progress ?? (() => {});
  const filesystems = [...new Set(options.filesystems ?? [DEFAULT_FILESYSTEM])];
  if (options.name !== undefined) refuseStored(options.name);
  return withTemporaryFolder(storeFolder(), async (temporary) => {
    const [kernelPath, modulesDir] = await openSource(options, temporary);
    progress('extracting the kernel');
    const extracted = await extractKernel(kernelPath, signal);
    const { traits } = extracted;
    const name = options.name ?? traits.version ?? basename(source);
    refuseStored(name);
    progress('collecting modules');
    const search = { traits, kernelPath, sourceLabel: source, modulesDir, filesystems, signal };
    const moduleFolder = moduleFolderOf(search);
    const modules = moduleFolder === null ? [] : await modulesFrom(moduleFolder, search);
    const meta: StoredKernel = {
      metaVersion: META_VERSION,
      name,
      version: traits.version,
      source: basename(source),
      sourceSha256: await sha256OfFile(source, signal),
      modules: modules.map((module) => module.name),
      filesystems,
      traits,
    };
    progress('storing');
    const entry = join(temporary, 'entry');
    mkdirSync(entry);
    writeEntry(entry, extracted, modules);
    writeDurably(join(entry, 'meta.json'), `${JSON.stringify(meta, null, 2)}\n`);
    signal?.throwIfAborted();
    if (!publish(entry, join(storeFolder(), name))) refuseStored(name);
    return storedKernel(name)!;
  });
}

export interface OnTheFlyOptions {
  kernelPath: string; // a bzImage or a vmlinux
  modulesDir?: string;
  filesystem?: FilesystemType; // of the root disk; default: ext4
  signal?: AbortSignal;
}

/** What a run needs of a kernel given by path. */
export interface OnTheFlyKernel {
  vmlinuxPath: string;
  initramfsPath?: string; // undefined: virtio and the file system are built in
  traits: KernelTraits;
}

/** A cache key for the modules: the folder, and when its contents last changed. */
function folderStamp(path: string): string {
  const names = ['', 'modules.builtin', 'modules.order', 'modules.dep'];
  const stamps = names.map((name) => {
    const status = statSync(join(path, name), { bigint: true, throwIfNoEntry: false });
    return status ? `${status.ino}:${status.mtimeNs}` : '';
  });
  return [path, ...stamps].join();
}

/**
 * Prepares a kernel given by path for a root disk: extracts it, and where its drivers are modules
 * makes the boot initramfs that loads them, from the modules beside it or of this host. Both are
 * cached. Throws FaradayError('bad-kernel') where the modules it needs are not found.
 */
export async function importOnTheFly(options: OnTheFlyOptions): Promise<OnTheFlyKernel> {
  const { vmlinuxPath, traits } = await plainKernel(options.kernelPath, options.signal);
  return { vmlinuxPath, traits, initramfsPath: await cachedInitramfs(traits, options) };
}

/** The second half of importOnTheFly(), for a kernel whose traits are known. */
export async function cachedInitramfs(
  traits: KernelTraits,
  options: OnTheFlyOptions,
): Promise<string | undefined> {
  const { kernelPath, modulesDir, signal } = options;
  const filesystems = [options.filesystem ?? DEFAULT_FILESYSTEM];
  const sourceLabel = kernelPath;
  const search = { traits, kernelPath, sourceLabel, modulesDir, filesystems, signal };
  const moduleFolder = moduleFolderOf(search);
  if (moduleFolder === null) return undefined;

  const init = guestInit();
  const builtIn = traits.builtIn.join();
  const stamp = folderStamp(moduleFolder);
  const key = sha256(stamp, releaseOf(search), builtIn, filesystems.join(), init);
  const folder = join(cacheFolder(), `initramfs-${key}`);
  const initramfsPath = join(folder, 'initramfs.cpio');
  if (existsSync(initramfsPath)) return initramfsPath;
  await withTemporaryFolder(cacheFolder(), async (temporary) => {
    const modules = await modulesFrom(moduleFolder, search);
    writeDurably(join(temporary, 'initramfs.cpio'), bootInitramfs(init, modules));
    // Within one folder: the first Landlock (Linux 5.13) has nothing moved between two.
    publish(temporary, folder);
  });
  return initramfsPath;
}
