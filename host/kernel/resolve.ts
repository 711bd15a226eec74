// What `--kernel` means: a stored kernel's name, or a path. And what a run needs besides it.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { FilesystemType } from '../boot/sniff.ts';
import { FaradayError } from '../errors.ts';
import { identityOf, knownKernel, type PlainKernel, rememberKernel } from './known.ts';
import { DEFAULT_FILESYSTEM, type KernelEntry, noSuchKernel, storedKernel } from './store.ts';
import { type KernelTraits, NETWORK_MODULE, needsNoModules } from './traits.ts';

export interface ResolvedKernel {
  vmlinuxPath: string; // an ELF file, ready for composeMachine()
  initramfsPath?: string; // stored kernels only: the boot initramfs with its modules
  version?: string;
  acpi: boolean; // composeMachine() wants to know
  traits: KernelTraits;
  stored?: KernelEntry;
}

function fromStore(stored: KernelEntry): ResolvedKernel {
  const { vmlinuxPath, initramfsPath, version, traits } = stored;
  const kernel = { vmlinuxPath, initramfsPath, traits, acpi: traits.acpi, stored };
  return { ...kernel, version: version ?? undefined };
}

async function readKernel(path: string, signal?: AbortSignal): Promise<PlainKernel> {
  const before = identityOf(path);
  // Loaded on demand: hashing and unpacking bring a good part of Node with them, and most runs
  // start a stored kernel or one seen before.
  const { plainKernel } = await import('./extract.ts');
  const kernel = await plainKernel(path, signal);
  if (before) rememberKernel(path, before, kernel);
  return kernel;
}

/**
 * Finds a kernel: the stored one of that name (write './NAME' for a file of the same name), else
 * the file, extracted into the cache where need be. Throws FaradayError.
 */
export async function resolveKernel(
  nameOrPath: string,
  signal?: AbortSignal,
): Promise<ResolvedKernel> {
  const stored = storedKernel(nameOrPath);
  if (stored !== null) return fromStore(stored);
  if (!nameOrPath.includes('/') && !existsSync(nameOrPath)) {
    const reason = noSuchKernel(nameOrPath).message;
    throw new FaradayError('bad-kernel', reason.replace('not in', 'no such file, and not in'));
  }
  const { vmlinuxPath, traits } = knownKernel(nameOrPath) ?? (await readKernel(nameOrPath, signal));
  return { vmlinuxPath, traits, acpi: traits.acpi, version: traits.version ?? undefined };
}

/** What a guest boots from. */
export interface BootKernel {
  vmlinuxPath: string;
  initrd?: string; // a path
  acpi: boolean;
  version?: string;
  warning?: string; // what may be missing in the guest
}

export interface BootKernelOptions {
  kernel: string; // a path or a stored name
  initrd?: string; // the user's own: then nothing is added
  root?: { filesystem?: FilesystemType }; // the root disk, where there is one
  network?: boolean; // the guest has one
  signal?: AbortSignal;
}

function checkStoredFilesystem(stored: KernelEntry, filesystem: FilesystemType): void {
  if (stored.filesystems.includes(filesystem)) return;
  if (stored.traits.builtIn.includes(filesystem)) return;
  const finding = `has no modules for the root disk's file system ${filesystem}`;
  const fix = `import it again with --filesystem ${filesystem}`;
  throw new FaradayError('bad-kernel', `stored kernel ${stored.name}: ${finding}; ${fix}`);
}

/** Whether the network's driver is built in. Older Faradays did not look: then the kernel says. */
async function hasNetworkBuiltIn({ traits, vmlinuxPath }: KernelEntry): Promise<boolean> {
  if (traits.builtIn.includes(NETWORK_MODULE)) return true;
  const { builtInByConfig, inspectKernel } = await import('./inspect.ts');
  const configPath = join(dirname(vmlinuxPath), 'config');
  const builtIn = existsSync(configPath)
    ? builtInByConfig(readFileSync(configPath, 'utf8')) // the kernel takes far longer to read
    : inspectKernel(readFileSync(vmlinuxPath), null).builtIn;
  return builtIn.includes(NETWORK_MODULE);
}

/**
 * That nothing loads the network's driver: so it is with what was stored before Faraday had one.
 * No error, because the root's own init may find the module on its disk.
 */
async function networkWarning(stored: KernelEntry): Promise<string | undefined> {
  const { name, source, modules } = stored; // the source's name, not where it lies
  if (modules.includes(NETWORK_MODULE) || (await hasNetworkBuiltIn(stored))) return undefined;
  const finding = `has no ${NETWORK_MODULE}; unless the root disk has it the guest has no network`;
  const fix = `with ${source} at hand run: faraday kernel remove ${name}, then import it again`;
  return `stored kernel ${name}: ${finding}; ${fix}`;
}

/**
 * Everything `run` needs of a kernel: the ELF file, and the initrd to boot it with, made on the
 * fly where the root disk needs modules. Throws FaradayError.
 */
export async function bootKernel(options: BootKernelOptions): Promise<BootKernel> {
  const { kernel, initrd, root, network, signal } = options;
  const resolved = await resolveKernel(kernel, signal);
  const { vmlinuxPath, initramfsPath, acpi, version, stored, traits } = resolved;
  const plain = { vmlinuxPath, acpi, version };
  if (initrd !== undefined) return { ...plain, initrd };
  if (root === undefined) return plain;
  const filesystem = root.filesystem ?? DEFAULT_FILESYSTEM;
  if (stored) {
    checkStoredFilesystem(stored, filesystem);
    const warning = network ? await networkWarning(stored) : undefined;
    return { ...plain, initrd: initramfsPath, warning };
  }
  if (needsNoModules(traits, filesystem)) return plain;
  const { cachedInitramfs } = await import('./import.ts');
  const made = await cachedInitramfs(traits, { kernelPath: kernel, filesystem, signal });
  return { ...plain, initrd: made };
}
