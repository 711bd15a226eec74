// Where a kernel's modules may lie, as far as it can be told before its version is known. Loads
// little: a run asks which paths it is going to need before it reads anything.
import { readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

const ANCESTORS_MAX = 16;

/** The folders above a file, the nearest first. */
export function ancestors(path: string): string[] {
  const found = [dirname(path)];
  while (
    found.length < ANCESTORS_MAX &&
    dirname(found[found.length - 1]) !== found[found.length - 1]
  ) {
    found.push(dirname(found[found.length - 1]));
  }
  return found;
}

export function isModuleFolder(path: string): boolean {
  const has = (name: string): boolean => {
    return statSync(join(path, name), { throwIfNoEntry: false }) !== undefined;
  };
  try {
    return has('modules.builtin') || has('kernel');
  } catch {
    return false; // a file on the way, or no right to look
  }
}

/** A folder of module folders, and what links in it lead to; nothing where there is none. */
function withTargets(path: string): string[] {
  try {
    const links = readdirSync(path, { withFileTypes: true }).filter((one) => one.isSymbolicLink());
    return [path, ...links.map(({ name }) => realpathSync(join(path, name)))];
  } catch {
    return [];
  }
}

/** Every folder in which the modules of the kernel at `kernelPath` may be found. */
export function modulePlaces(kernelPath: string): string[] {
  const above = ancestors(resolve(kernelPath));
  const own = isModuleFolder(above[0]) ? [above[0]] : [];
  const below = above.flatMap((folder) => [
    join(folder, 'lib/modules'),
    join(folder, 'usr/lib/modules'),
  ]);
  return [...own, ...below.flatMap(withTargets)];
}
