// Which modules a stock kernel needs to find its root disk and its network, in the order to load
// them.
// Dependencies are read from the modules themselves: depmod's files need not exist.
import type { FilesystemType } from '../boot/sniff.ts';
import { FaradayError } from '../errors.ts';
import { moduleName } from './modinfo.ts';
import {
  type LoadedModule,
  type ModuleFolder,
  modulesByAlias,
  readModule,
} from './module-folder.ts';
import { DISK_MODULES, type KernelTraits, NETWORK_MODULE } from './traits.ts';

// A guest without these boots all the same.
const OPTIONAL_MODULES = ['pvpanic_mmio', 'virtio_rng'];

/**
 * What a module is for: a root of that file system, or a virtio device of that id, as the device's
 * file in sysfs has it. Asking sysfs takes init microseconds; to load a driver in vain takes
 * milliseconds. A word on the command line would be as cheap, but could be wrong.
 */
export type Purpose = FilesystemType | `virtio:0x${string}`;

// NETWORK_MODULE is optional too, and loaded last: nothing waits for it before the root's own init.
const NETWORK_DEVICE: Purpose = 'virtio:0x0001'; // virtio 1.2 §5.1.1

/** A module to load at boot; with purposes named, only where one of them is given. */
export interface BootModule {
  name: string;
  bytes: Buffer;
  purposes: Purpose[];
}

export interface PlanRequest {
  folder: ModuleFolder;
  release: string;
  traits: KernelTraits;
  filesystems: readonly FilesystemType[];
  signal?: AbortSignal;
}

interface Planned extends LoadedModule {
  always: boolean;
  purposes: Set<Purpose>;
}

function isBuiltIn({ folder, traits }: PlanRequest, name: string): boolean {
  return (
    folder.builtIn.has(name) || folder.builtInAliases.has(name) || traits.builtIn.includes(name)
  );
}

function absent(request: PlanRequest, finding: string): FaradayError {
  const fix = 'install the whole kernel package or name its folder with --modules';
  return new FaradayError('bad-kernel', `module folder ${request.folder.path}: ${finding}; ${fix}`);
}

/** What stands for a soft dependency: a module of that name, or the plainest with that alias. */
async function softProvider(request: PlanRequest, wanted: string): Promise<string | null> {
  const name = moduleName(wanted);
  if (isBuiltIn(request, name) || request.folder.builtInAliases.has(wanted)) return null;
  if (request.folder.files.has(name)) return name;
  const providers = await modulesByAlias(request.folder, wanted, request.signal);
  // The generic code runs on every processor; the others may refuse to load.
  return providers.find((provider) => provider.endsWith('_generic')) ?? providers[0] ?? null;
}

/** `name` and all it depends on, each after what it needs. */
async function closure(
  request: PlanRequest,
  name: string,
  seen: Set<string>,
): Promise<LoadedModule[]> {
  if (seen.has(name) || isBuiltIn(request, name)) return [];
  seen.add(name);
  if (!request.folder.files.has(name)) throw absent(request, `holds no module ${name}`);
  const module = await readModule(request.folder, name, request.signal);
  if (module.info.release !== request.release) {
    const finding = `${name} is built for ${module.info.release}, the kernel is ${request.release}`;
    throw absent(request, finding);
  }
  const soft: string[] = [];
  for (const wanted of module.info.softdepPre) {
    const provider = await softProvider(request, wanted);
    if (provider !== null) soft.push(provider);
  }
  const before: LoadedModule[] = [];
  for (const needed of [...soft, ...module.info.depends]) {
    before.push(...(await closure(request, needed, seen)));
  }
  return [...before, module];
}

/**
 * The modules for a root of any of `filesystems` on virtio-blk, and for a network where the kernel
 * has one as a module, in loading order. Throws FaradayError('bad-kernel') where one is missing or
 * built for another kernel.
 */
export async function planModules(request: PlanRequest): Promise<BootModule[]> {
  const planned = new Map<string, Planned>();
  const add = async (name: string, purpose: Purpose | null): Promise<void> => {
    for (const module of await closure(request, name, new Set())) {
      const known = planned.get(module.info.name);
      const entry = known ?? { ...module, always: false, purposes: new Set() };
      if (purpose === null) entry.always = true;
      else entry.purposes.add(purpose);
      planned.set(module.info.name, entry);
    }
  };
  const addOptional = async (name: string, purpose: Purpose | null): Promise<void> => {
    if (request.folder.files.has(name)) await add(name, purpose);
  };
  for (const name of DISK_MODULES) await add(name, null);
  for (const name of OPTIONAL_MODULES) await addOptional(name, null);
  for (const filesystem of request.filesystems) await add(filesystem, filesystem);
  await addOptional(NETWORK_MODULE, NETWORK_DEVICE);
  return [...planned.values()].map(({ info, bytes, always, purposes }) => {
    return { name: info.name, bytes, purposes: always ? [] : [...purposes] };
  });
}
