// Kernels seen before, found again by the identity of their file instead of by its content, which
// would have to be read and hashed at each start. Loads little on purpose: most runs come by here.
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { cacheFolder } from './folders.ts';
import { isTraits, type KernelTraits } from './traits.ts';

const FORMAT = 1; // raise it when the entries change their form
const SETTLED_MS = 2000; // file times are coarser than writes: a younger file may still change

/** A kernel ready to be composed. */
export interface PlainKernel {
  vmlinuxPath: string;
  traits: KernelTraits;
}

/** What tells one state of a file from every other. */
export interface FileIdentity {
  key: string;
  settled: boolean; // not written to within the last moments
}

/** The files beside a kernel that may hold its configuration: config-VERSION, or .config. */
export function configPaths(kernelPath: string): string[] {
  const [, version] = /^(?:vmlinuz|vmlinux|bzImage)-(.+)$/.exec(basename(kernelPath)) ?? [];
  const names = version ? [`config-${version}`] : ['config', '.config'];
  return names.map((name) => join(dirname(kernelPath), name));
}

/** Device, inode, size and times of a file, in few characters; null where there is none. */
function stamp(path: string): { text: string; changedNs: bigint } | null {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stats) return null;
  const { dev, ino, size, mtimeNs, ctimeNs } = stats;
  const text = [dev, ino, size, mtimeNs, ctimeNs].map((part) => part.toString(36)).join('-');
  return { text, changedNs: ctimeNs };
}

/**
 * The identity of a kernel's file as it is now, and of the configuration beside it; null where
 * the file cannot be looked at. Take it before the file is read.
 */
export function identityOf(path: string): FileIdentity | null {
  try {
    const kernel = stamp(path);
    if (!kernel) return null;
    const configs = configPaths(path).map(stamp);
    const newestNs = [kernel, ...configs].reduce((newest, part) => {
      return part && part.changedNs > newest ? part.changedNs : newest;
    }, 0n);
    const key = [FORMAT, kernel.text, ...configs.map((part) => part?.text ?? '')].join('_');
    return { key, settled: Date.now() - Number(newestNs / 1_000_000n) > SETTLED_MS };
  } catch {
    return null;
  }
}

const entryPath = (key: string): string => join(cacheFolder(), `known-${key}.json`);

function isPlainKernel(entry: unknown): entry is PlainKernel {
  const { vmlinuxPath, traits } = (entry ?? {}) as Partial<PlainKernel>;
  return typeof vmlinuxPath === 'string' && isTraits(traits);
}

/** What was found out about the kernel at `path` before; null: nothing, or it has changed since. */
export function knownKernel(path: string): PlainKernel | null {
  try {
    const identity = identityOf(path);
    if (!identity) return null;
    const entry: unknown = JSON.parse(readFileSync(entryPath(identity.key), 'utf8'));
    if (!isPlainKernel(entry)) return null;
    // An ELF file is its own; its path may have been another name of it.
    const vmlinuxPath = entry.vmlinuxPath === '' ? path : entry.vmlinuxPath;
    return existsSync(vmlinuxPath) ? { vmlinuxPath, traits: entry.traits } : null;
  } catch {
    return null; // not there, or damaged: found out again
  }
}

/**
 * Keeps what was read of the kernel at `path`, whose identity was `before` it was read. Without a
 * cache, or where the file is still being written, the next start only takes longer.
 */
export function rememberKernel(path: string, before: FileIdentity, kernel: PlainKernel): void {
  try {
    if (!before.settled || identityOf(path)?.key !== before.key) return;
    const vmlinuxPath = kernel.vmlinuxPath === path ? '' : kernel.vmlinuxPath;
    const target = entryPath(before.key);
    const temporary = `${target}.${process.pid}`;
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(temporary, JSON.stringify({ vmlinuxPath, traits: kernel.traits }));
    renameSync(temporary, target);
  } catch {
    // See above.
  }
}
