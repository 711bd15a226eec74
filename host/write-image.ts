// Writing a machine image to an open file: tables, then the pieces, each at its place.
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import type { ImageBytes, Piece } from './boot/image-bytes.ts';
import { FaradayError } from './errors.ts';

const CHUNK_BYTES = 2 ** 20;

function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  }
}

function copyRange(fd: number, piece: Exclude<Piece, { bytes: Uint8Array }>): void {
  const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, piece.lengthBytes));
  const source = openSync(piece.path, 'r');
  try {
    for (let done = 0; done < piece.lengthBytes; ) {
      const most = Math.min(chunk.length, piece.lengthBytes - done);
      const count = readSync(source, chunk, 0, most, piece.fileOffset + done);
      // The file was checked before: whoever gets here changed it in between.
      if (count === 0) throw changedFile(piece.path);
      writeAll(fd, chunk.subarray(0, count), piece.offset + done);
      done += count;
    }
  } finally {
    closeSync(source);
  }
}

export function changedFile(path: string): FaradayError {
  return new FaradayError('bad-kernel', `'${path}' changed while it was being loaded`);
}

/** Writes `image` to an empty file. Throws the system's errors. */
export function writeImage(fd: number, image: ImageBytes): void {
  ftruncateSync(fd, image.lengthBytes);
  writeAll(fd, image.tables, 0);
  for (const piece of image.pieces) {
    if ('bytes' in piece) writeAll(fd, piece.bytes, piece.offset);
    else copyRange(fd, piece);
  }
}
