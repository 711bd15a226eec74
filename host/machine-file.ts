// A composed machine image on the disk: DIR/machine, which a cell starts without Node.
import {
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import type { MachineImage } from './boot/image.ts';
import { imageInside } from './boot/image-bytes.ts';
import { MAGIC } from './boot/image-format.ts';
import { FaradayError } from './errors.ts';
import { writeImage } from './write-image.ts';

export const MACHINE_FILE = 'machine';
const MODE = 0o600; // it holds the kernel's command line and an initrd, which may hold secrets

function badFolder(folder: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--out '${folder}' ${finding}`);
}

function unwritable(folder: string, error: unknown): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (syscall === undefined) return error;
  if (code === 'EEXIST' || code === 'ENOTDIR') {
    return badFolder(folder, 'is not a directory; name one');
  }
  return badFolder(folder, `cannot be written to (${code}); name another directory`);
}

/** Whether a file begins as a machine image does. */
function isImage(path: string): boolean {
  const head = Buffer.alloc(4);
  const fd = openSync(path, 'r');
  try {
    return readSync(fd, head, 0, head.length, 0) === head.length && head.readUInt32LE() === MAGIC;
  } finally {
    closeSync(fd);
  }
}

/** Makes the folder where there is none, and refuses to replace what Faraday did not put there. */
export function prepareFolder(folder: string): void {
  try {
    mkdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unwritable(folder, error);
  }
  try {
    const path = join(folder, MACHINE_FILE);
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (!stats || (stats.isFile() && isImage(path))) return;
  } catch (error) {
    throw unwritable(folder, error);
  }
  throw badFolder(folder, `holds a file '${MACHINE_FILE}' that is no machine image; name another`);
}

/** The image as a cell finds it from any folder: its disks by absolute path. */
function withAbsolutePaths(image: MachineImage): MachineImage {
  const virtio = image.virtio.map((device) => {
    return device.kind === 'virtio-blk' ? { ...device, path: resolve(device.path) } : device;
  });
  return { ...image, virtio };
}

/** Writes FOLDER/machine whole or not at all. Throws FaradayError. */
export function writeMachine(folder: string, image: MachineImage): void {
  const path = join(folder, MACHINE_FILE);
  const temporary = join(folder, `.${MACHINE_FILE}.${process.pid}.tmp`);
  try {
    const fd = openSync(temporary, 'wx', MODE);
    try {
      writeImage(fd, imageInside(withAbsolutePaths(image)));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw unwritable(folder, error);
  }
}
