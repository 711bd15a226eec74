// A kernel's module folder, /lib/modules/VERSION: where to look for it, and what is in it.
import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { Compression } from '../boot/bzimage.ts';
import { withInput } from '../boot/file.ts';
import { FaradayError } from '../errors.ts';
import { decompress } from './decompress.ts';
import { type ModuleInfo, modinfoPairs, moduleName, readModuleInfo } from './modinfo.ts';
import { ancestors, isModuleFolder } from './module-places.ts';

const MODULE_FILE = /^(.+)\.ko(?:\.(xz|zst|gz))?$/;
const SUFFIX: Record<string, Compression> = { xz: 'xz', zst: 'zstd', gz: 'gzip' };
const MODULE_BYTES_MAX = 128 * 1024 * 1024;
const MODULE_COUNT_MAX = 100_000;
const FOLDER_DEPTH_MAX = 16;
// Where providers of an alias such as 'crypto-crc32c' live.
const ALIAS_FOLDERS = /^kernel\/(?:crypto|lib|arch\/[^/]+\/(?:crypto|lib))\//;

export interface LoadedModule {
  info: ModuleInfo;
  bytes: Buffer; // uncompressed, as finit_module(2) takes it
}

/** What is known of a module folder before any module is read. */
export interface ModuleFolder {
  path: string;
  files: Map<string, string>; // module name to the path inside the folder
  builtIn: Set<string>; // names in modules.builtin
  builtInAliases: Set<string>;
}

function below(root: string, release: string): string[] {
  return [join(root, 'lib/modules', release), join(root, 'usr/lib/modules', release)];
}

/**
 * The modules for kernel `release`: in `given`, or else beside or above the kernel's file, or
 * else where this host has its own. Null where there are none.
 */
export function findModuleFolder(
  release: string,
  kernelPath: string,
  given: string | undefined,
): string | null {
  const kernel = resolve(kernelPath);
  const places =
    given === undefined
      ? [
          ...ancestors(kernel).flatMap((folder) => {
            // Some distributions keep the kernel itself among its modules.
            return basename(folder) === release
              ? [folder, ...below(folder, release)]
              : below(folder, release);
          }),
          ...below('/', release),
        ]
      : [...below(given, release), join(given, release), given];
  const found = places.find(isModuleFolder);
  return found === undefined ? null : realpathSync(found);
}

function collectFiles(
  path: string,
  inside: string,
  depth: number,
  files: Map<string, string>,
): void {
  if (depth > FOLDER_DEPTH_MAX) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    // Symbolic links ('build', 'source') are not followed.
    if (entry.isDirectory()) {
      collectFiles(join(path, entry.name), join(inside, entry.name), depth + 1, files);
    }
    const name = entry.isFile() && MODULE_FILE.exec(entry.name)?.[1];
    if (name && files.size < MODULE_COUNT_MAX) {
      files.set(moduleName(name), join(inside, entry.name));
    }
  }
}

function optionalFile(path: string): Buffer {
  const status = statSync(path, { throwIfNoEntry: false });
  return status?.isFile() ? readFileSync(path) : Buffer.alloc(0);
}

/** Lists a module folder. Throws FaradayError('bad-kernel') where it cannot be read. */
export function openModuleFolder(path: string): ModuleFolder {
  const files = new Map<string, string>();
  try {
    collectFiles(path, '', 0, files);
    const names = optionalFile(join(path, 'modules.builtin')).toString().split('\n');
    const builtIn = names.filter(Boolean).map((line) => moduleName(basename(line, '.ko')));
    // Keys there carry their module's name: 'crc32c_generic.alias'.
    const aliases = modinfoPairs(optionalFile(join(path, 'modules.builtin.modinfo')))
      .filter(([key]) => key.endsWith('.alias'))
      .map(([, value]) => value);
    return { path, files, builtIn: new Set(builtIn), builtInAliases: new Set(aliases) };
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    const fix = 'check its permissions or name another with --modules';
    throw new FaradayError('bad-kernel', `module folder ${path}: not readable (${reason}); ${fix}`);
  }
}

/** Reads one module of the folder, decompressed. Throws FaradayError. */
export async function readModule(
  folder: ModuleFolder,
  name: string,
  signal?: AbortSignal,
): Promise<LoadedModule> {
  const path = join(folder.path, folder.files.get(name)!);
  const bytes = withInput(path, 'module', 'bad-kernel', (file) => {
    return file.read(0, Math.min(file.sizeBytes, MODULE_BYTES_MAX));
  });
  const suffix = MODULE_FILE.exec(basename(path))?.[2];
  const label = `module ${path}`;
  const options = { limitBytes: MODULE_BYTES_MAX, label, signal };
  const plain = suffix ? await decompress(SUFFIX[suffix], bytes, options) : bytes;
  return { info: { ...readModuleInfo(plain, path), name }, bytes: plain };
}

/** Modules which offer `alias`, of those in the folders for algorithms. */
export async function modulesByAlias(
  folder: ModuleFolder,
  alias: string,
  signal?: AbortSignal,
): Promise<string[]> {
  const found: string[] = [];
  for (const [name, path] of folder.files) {
    if (!ALIAS_FOLDERS.test(path)) continue;
    const { info } = await readModule(folder, name, signal);
    if (info.aliases.includes(alias)) found.push(name);
  }
  return found.sort();
}
