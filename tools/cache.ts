// The cache folder and things built in it once: whole or absent, also when several build at once.
import { accessSync, constants, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.mjs';

/** The root of this checkout. */
export const REPOSITORY = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');

function writableFolder(path: string): boolean {
  try {
    mkdirSync(path, { recursive: true });
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * $XDG_CACHE_HOME/faraday, by default ~/.cache/faraday; where neither can be written, a folder
 * of the checkout. Created when absent.
 */
export function cacheFolder(): string {
  const xdg = process.env.XDG_CACHE_HOME;
  const base = xdg && isAbsolute(xdg) ? xdg : join(homedir(), '.cache');
  const folder = join(base, 'faraday');
  if (isAbsolute(folder) && writableFolder(folder)) {
    return folder;
  }
  const fallback = join(REPOSITORY, 'build', 'cache');
  mkdirSync(fallback, { recursive: true });
  return fallback;
}

/**
 * Makes the folder `path` by calling `make` with an empty folder beside it, which is renamed into
 * place when it is complete. Does nothing when `path` is there; others who want it wait.
 */
export async function buildOnce(
  path: string,
  make: (folder: string) => Promise<void>,
): Promise<void> {
  if (existsSync(path)) {
    return;
  }
  await withLock(`${path}.lock`, async () => {
    if (existsSync(path)) {
      return;
    }
    // What an interrupted builder left behind: we hold the lock, so nobody works on it.
    for (const name of readdirSync(dirname(path))) {
      if (name.startsWith(`${basename(path)}.part-`)) {
        rmSync(join(dirname(path), name), { recursive: true, force: true });
      }
    }
    const part = `${path}.part-${process.pid}`;
    mkdirSync(part, { recursive: true });
    try {
      await make(part);
      await rename(part, path);
    } catch (error) {
      rmSync(part, { recursive: true, force: true });
      throw error;
    }
  });
}
