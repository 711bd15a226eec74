// Where Faraday keeps kernels: XDG Base Directory Specification 0.8.
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { FaradayError } from '../errors.ts';

let homeOfAccount: string | undefined;

/** Without HOME the account's, read once: a process that restricts itself cannot ask again. */
function home(): string {
  if (process.env.HOME !== undefined) return homedir();
  homeOfAccount ??= homedir();
  return homeOfAccount;
}

function base(variable: string, fallback: string): string {
  const value = process.env[variable];
  // The specification has relative paths ignored.
  return value && isAbsolute(value) ? value : join(home(), fallback);
}

/** The folder of stored kernels, one folder each. */
export function storeFolder(): string {
  return join(base('XDG_DATA_HOME', '.local/share'), 'faraday', 'kernels');
}

/** The folder of things that can be made again: extracted kernels, boot initramfs files. */
export function cacheFolder(): string {
  return join(base('XDG_CACHE_HOME', '.cache'), 'faraday', 'kernels');
}

const TEMPORARY = /^\.tmp-(\d+)-/;

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

// A process that was killed could not clean up: whoever comes next does.
function sweep(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = TEMPORARY.exec(name)?.[1];
    if (pid !== undefined && !isRunning(Number(pid))) {
      rmSync(join(parent, name), { recursive: true, force: true });
    }
  }
}

/** Like mkdir -p. Node's own recursion never ends where a folder can be neither found nor made. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return; // or a file: found out by whoever uses it
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    makeFolder(dirname(path));
    mkdirSync(path);
  }
}

/**
 * Runs `use` with a fresh folder inside `parent` and removes what is left of it in any case.
 * Renaming out of it to a place in `parent` is atomic. Throws FaradayError('host').
 */
export async function withTemporaryFolder<T>(
  parent: string,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  let folder: string;
  try {
    makeFolder(parent);
    sweep(parent);
    folder = mkdtempSync(join(parent, `.tmp-${process.pid}-`));
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    const fix = 'check the folder, or set XDG_DATA_HOME and XDG_CACHE_HOME';
    throw new FaradayError('host', `${parent}: cannot be written to (${reason}); ${fix}`);
  }
  try {
    return await use(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    throw new FaradayError('host', `${parent}: the disk is full; free some space`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Writes a new file and waits until it is on the disk, so that a rename never outlives it. */
export function writeDurably(path: string, content: Uint8Array | string): void {
  const fd = openSync(path, 'wx');
  try {
    writeFileSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Renames a finished folder to its place. False: a folder of that name is there already. */
export function publish(temporary: string, folder: string): boolean {
  try {
    renameSync(temporary, folder);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return false;
    throw error;
  }
}
