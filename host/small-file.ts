// Reading a small text file from a path the user gave: it may be a pipe, or never end.
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

export const SMALL_FILE_BYTES_MAX = 2 ** 20;
const WAIT_MS = 10;

/** Reads on in a pipe whose writer is not ready yet; 0 at the end. */
function readOn(fd: number, bytes: Uint8Array, at: number): number {
  for (;;) {
    try {
      return readSync(fd, bytes, at, bytes.length - at, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, WAIT_MS);
    }
  }
}

/**
 * The text of a regular file or pipe; null for anything else and for more than
 * SMALL_FILE_BYTES_MAX. A pipe nobody has open for writing is empty. Throws the system's errors.
 */
export function readSmallFile(path: string): string | null {
  // Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile() && !stats.isFIFO()) return null;
    const bytes = Buffer.alloc(SMALL_FILE_BYTES_MAX + 1);
    let length = 0;
    for (let got = -1; got !== 0 && length < bytes.length; length += got) {
      got = readOn(fd, bytes, length);
    }
    return length > SMALL_FILE_BYTES_MAX ? null : bytes.toString('utf8', 0, length);
  } finally {
    closeSync(fd);
  }
}
