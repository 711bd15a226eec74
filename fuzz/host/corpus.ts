// The inputs of a target as files: fuzz/corpus/TARGET, fuzz/regressions/TARGET, and crashes.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const CORPUS_FILES_MAX = 100;
export const CORPUS_BYTES_MAX = 64 * 1024; // of all files of a target

const NAME_DIGITS = 12;

export const nameOf = (bytes: Uint8Array): string => {
  return createHash('sha256').update(bytes).digest('hex').slice(0, NAME_DIGITS);
};

/** The paths of the inputs in a folder, sorted; none where there is no folder. */
export function inputFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder).filter((name) => name.endsWith('.bin'));
  return names.sort().map((name) => join(folder, name));
}

export function readInputs(folder: string): Uint8Array[] {
  return inputFiles(folder).map((path) => new Uint8Array(readFileSync(path)));
}

/** Writes an input under a name made of its content; returns the path. */
export function saveInput(folder: string, bytes: Uint8Array, prefix = ''): string {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${prefix}${nameOf(bytes)}.bin`);
  writeFileSync(path, bytes);
  return path;
}

/** Makes the folder hold exactly these inputs. */
export function replaceInputs(folder: string, inputs: readonly Uint8Array[]): void {
  for (const path of inputFiles(folder)) rmSync(path);
  for (const bytes of inputs) saveInput(folder, bytes);
}
