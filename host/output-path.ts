// Whether a file that a run is to write may be written there, asked before the guest starts.
import { accessSync, constants, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { FaradayError } from './errors.ts';

const isSame = (one: Stats, other: Stats): boolean =>
  one.dev === other.dev && one.ino === other.ino;

/**
 * Throws where the file of `flag` could not be written, or would replace one of `inputs`, the files
 * the run is made of.
 */
export function checkOutputPath(flag: string, path: string, inputs: readonly string[]): void {
  const bad = (finding: string) => new FaradayError('bad-usage', `${flag} '${path}' ${finding}`);
  const unwritable = (error: unknown) =>
    bad(`cannot be written (${(error as NodeJS.ErrnoException).code})`);
  let stats: Stats | undefined;
  try {
    stats = statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw unwritable(error);
  }
  if (stats?.isDirectory()) throw bad('is a directory; name a file');
  for (const input of inputs) {
    const other = stats && statSync(input, { throwIfNoEntry: false });
    if (!stats || !other || !isSame(stats, other)) continue;
    throw bad(`would overwrite '${input}', which this run reads; name another file`);
  }
  const target = stats && !stats.isFile() ? path : dirname(path);
  try {
    accessSync(target, constants.W_OK);
    if (stats?.isFile()) accessSync(path, constants.W_OK);
  } catch (error) {
    throw unwritable(error);
  }
}
