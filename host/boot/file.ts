// Reading input files of unknown quality: bounded reads, and one line for what is wrong.
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type ErrorCode, FaradayError } from '../errors.ts';

/** A file, open or in memory; `label` starts every message about it ('kernel /boot/vmlinux'). */
export interface InputFile {
  label: string;
  code: ErrorCode;
  path: string;
  sizeBytes: number;
  /** Reads up to `lengthBytes` at `offset`: fewer where the file ends. */
  read(offset: number, lengthBytes: number): Buffer;
}

const REASONS: Record<string, string> = {
  ENOENT: 'no such file; check the path',
  ENOTDIR: 'part of the path is not a folder; check the path',
  EACCES: 'no right to read it; check its permissions',
  EISDIR: 'is a directory; name a file',
  ELOOP: 'its symbolic links go round in a circle; name the file itself',
  ENAMETOOLONG: 'the path is too long',
};

/** Makes the error for `file`: its label, the finding, and the fix. */
export function fileError(file: Pick<InputFile, 'label' | 'code'>, finding: string): FaradayError {
  return new FaradayError(file.code, `${file.label}: ${finding}`);
}

function openRegular(path: string, label: string, code: ErrorCode): [number, number] {
  let fd: number;
  try {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).code ?? '';
    const finding = REASONS[errno] ?? `cannot be opened (${errno || String(error)})`;
    throw fileError({ label, code }, finding);
  }
  const status = fstatSync(fd);
  if (status.isFile()) return [fd, status.size];
  closeSync(fd);
  const kind = status.isDirectory() ? 'is a directory' : 'is not a regular file';
  throw fileError({ label, code }, `${kind}; name a file`);
}

function readUpTo(fd: number, offset: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  let done = 0;
  while (done < lengthBytes) {
    const count = readSync(fd, bytes, done, lengthBytes - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

/**
 * Opens a regular file, hands it to `use`, and closes it in any case. Throws a FaradayError of
 * `code` which names `what` and the path.
 */
export function withInput<T>(
  path: string,
  what: string,
  code: ErrorCode,
  use: (file: InputFile) => T,
): T {
  const label = `${what} ${path}`;
  const [fd, sizeBytes] = openRegular(path, label, code);
  const read = (offset: number, lengthBytes: number): Buffer => {
    return readUpTo(fd, offset, Math.max(0, Math.min(lengthBytes, sizeBytes - offset)));
  };
  try {
    return use({ label, code, path, sizeBytes, read });
  } finally {
    closeSync(fd);
  }
}

/** Bytes in memory, seen as the file they came from. */
export function inputOf(bytes: Buffer, path: string, what: string, code: ErrorCode): InputFile {
  const read = (offset: number, lengthBytes: number): Buffer => {
    return bytes.subarray(offset, offset + lengthBytes);
  };
  return { label: `${what} ${path}`, code, path, sizeBytes: bytes.length, read };
}

/** Reads exactly `lengthBytes`; where the file ends before, says that `part` is truncated. */
export function readExactly(
  file: InputFile,
  offset: number,
  lengthBytes: number,
  part: string,
): Buffer {
  const bytes = file.read(offset, lengthBytes);
  if (bytes.length === lengthBytes) return bytes;
  const finding = `truncated: ${part} needs ${offset + lengthBytes} bytes, the file has`;
  throw fileError(file, `${finding} ${file.sizeBytes}; copy or download it again`);
}
