// What of this machine decides which paths a run needs (host-paths.ts). Looks only, and takes
// whatever is missing or wrong as it is: the run itself says so in its own words.
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { ELF_MAGIC } from '../boot/sniff.ts';
import { PROGRAM_FOLDER } from '../cell-program.ts';
import type { RunConfig } from '../config.ts';
import { blockSizePath } from '../disk.ts';
import { cacheFolder } from '../kernel/folders.ts';
import { configPaths } from '../kernel/known.ts';
import { modulePlaces } from '../kernel/module-places.ts';
import { storedFolder } from '../kernel/store.ts';
import { temporaryFolder } from '../temporary-folder.ts';
import type { HostFacts, OutputPlace } from './host-paths.ts';

function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

// --- The kernel ---------------------------------------------------------------------------------

/** Whether a file is an ELF file, which needs no unpacking. */
function isElf(path: string): boolean {
  const head = new Uint8Array(ELF_MAGIC.length);
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return readSync(fd, head, 0, head.length, 0) === head.length && ELF_MAGIC.equals(head);
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

// Where programs and libraries are; the last two are the places of distributions with their own.
const SYSTEM_FOLDERS = ['/usr', '/bin', '/sbin', '/lib', '/lib64', '/nix/store', '/gnu/store'];
const LOADER_FILES = ['/etc/ld.so.cache', '/etc/ld.so.preload'];

/** The folders of programs that PATH names beside the usual ones. */
function otherFolders(): string[] {
  const below = (path: string) => SYSTEM_FOLDERS.some((folder) => path.startsWith(`${folder}/`));
  return (process.env.PATH ?? '')
    .split(':')
    .filter((path) => isAbsolute(path) && !SYSTEM_FOLDERS.includes(path) && !below(path));
}

type KernelFacts = Pick<
  HostFacts,
  'storedKernel' | 'kernelConfigs' | 'moduleFolders' | 'toolFolders' | 'toolFiles'
>;

function kernelFacts({ kernel, initrd, hasRoot }: RunConfig): KernelFacts {
  const none = { kernelConfigs: [], moduleFolders: [], toolFolders: [], toolFiles: [] };
  const storedKernel = storedFolder(kernel);
  if (storedKernel !== null || !existsSync(kernel)) return { storedKernel, ...none };
  const needsModules = hasRoot && initrd === undefined;
  const kernelConfigs = configPaths(kernel).filter(existsSync);
  const moduleFolders = needsModules ? modulePlaces(kernel) : [];
  const found = { storedKernel, ...none, kernelConfigs, moduleFolders };
  if (!needsModules && isElf(kernel)) return found;
  const toolFolders = [...SYSTEM_FOLDERS, ...otherFolders()].filter(existsSync);
  return { ...found, toolFolders, toolFiles: LOADER_FILES.filter(existsSync) };
}

// --- Disks and outputs --------------------------------------------------------------------------

function blockSizes({ disks }: RunConfig): string[] {
  return disks.flatMap(({ path }) => {
    const stats = statsOf(path);
    return stats?.isBlockDevice() ? [blockSizePath(stats)] : [];
  });
}

/** A file that takes the place of another as a whole is made beside it. */
function placeOf(path: string | undefined, replaced: boolean): OutputPlace | null {
  if (path === undefined) return null;
  const stats = statsOf(path);
  if (stats && !(stats.isFile() && replaced)) return { path, isFolder: false };
  try {
    return { path: dirname(stats ? realpathSync(path) : resolve(path)), isFolder: true };
  } catch {
    return null; // gone again
  }
}

/** What hostPaths() wants to know. */
export function hostFacts(config: RunConfig): HostFacts {
  return {
    ...kernelFacts(config),
    programFolder: PROGRAM_FOLDER,
    cacheFolder: cacheFolder(),
    temporaryFolder: temporaryFolder(),
    blockSizes: blockSizes(config),
    reportPlace: placeOf(config.report, true),
    recordPlace: placeOf(config.record, false),
  };
}
