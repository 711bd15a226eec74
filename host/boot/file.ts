// Reading input files of unknown quality: bounded reads, and one line for what is wrong.
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type ErrorCode, FaradayError } from '../errors.ts';

/** An open regular file; `label` starts every message about it ('kernel /boot/vmlinux'). */
export interface InputFile {
  label: string;
  code: ErrorCode;
  path: string;
  fd: number;
  sizeBytes: number;
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

/** Opens a regular file for reading. Throws a FaradayError of `code` which names `what` and path. */
export function openInput(path: string, what: string, code: ErrorCode): InputFile {
  const file: InputFile = { label: `${what} ${path}`, code, path, fd: -1, sizeBytes: 0 };
  try {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
    file.fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).code ?? '';
    throw fileError(file, REASONS[errno] ?? `cannot be opened (${errno || String(error)})`);
  }
  const status = fstatSync(file.fd);
  if (!status.isFile()) {
    closeSync(file.fd);
    const kind = status.isDirectory() ? 'is a directory' : 'is not a regular file';
    throw fileError(file, `${kind}; name a file`);
  }
  file.sizeBytes = status.size;
  return file;
}

/** Opens, hands the file to `use`, and closes it in any case. */
export function withInput<T>(
  path: string,
  what: string,
  code: ErrorCode,
  use: (file: InputFile) => T,
): T {
  const file = openInput(path, what, code);
  try {
    return use(file);
  } finally {
    closeSync(file.fd);
  }
}

/** Reads up to `lengthBytes` at `offset`: fewer where the file ends. */
export function readUpTo(file: InputFile, offset: number, lengthBytes: number): Buffer {
  const wanted = Math.max(0, Math.min(lengthBytes, file.sizeBytes - offset));
  const bytes = Buffer.alloc(wanted);
  let done = 0;
  while (done < wanted) {
    const count = readSync(file.fd, bytes, done, wanted - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

/** Reads exactly `lengthBytes`; where the file ends before, says that `part` is truncated. */
export function readExactly(
  file: InputFile,
  offset: number,
  lengthBytes: number,
  part: string,
): Buffer {
  const bytes = readUpTo(file, offset, lengthBytes);
  if (bytes.length === lengthBytes) return bytes;
  const finding = `truncated: ${part} needs ${offset + lengthBytes} bytes, the file has`;
  throw fileError(file, `${finding} ${file.sizeBytes}; copy or download it again`);
}
