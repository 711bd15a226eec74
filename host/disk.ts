// Opening disk images: checked, and with no more rights than the configuration asks for.
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs';
import type { DiskConfig } from './disk-config.ts';
import { FaradayError } from './errors.ts';

const SECTOR_BYTES = 512;

export interface OpenDisk extends DiskConfig {
  fd: number;
  capacityBytes: number;
}

function badDisk(path: string, finding: string): FaradayError {
  return new FaradayError('bad-disk', `disk '${path}' ${finding}`);
}

function describeErrno(code: string | undefined, readOnly: boolean): string {
  if (code === 'ENOENT' || code === 'ENOTDIR') return 'does not exist';
  if (code === 'ELOOP') return 'is a symbolic link that leads round in a circle';
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return readOnly
      ? 'may not be read by this user'
      : 'may not be written by this user; add ,ro to attach it read-only';
  }
  if (code === 'ETXTBSY') return 'is a running program or a swap file';
  return `cannot be used (${code ?? 'unknown error'})`;
}

/** Where sysfs has the size of a block device. */
export function blockSizePath(stats: Stats): string {
  const major = Number((BigInt(stats.rdev) >> 8n) & 0xfffn);
  const minor = Number((BigInt(stats.rdev) & 0xffn) | ((BigInt(stats.rdev) >> 12n) & 0xfff00n));
  return `/sys/dev/block/${major}:${minor}/size`;
}

/** A block device's size, which stands in sysfs in sectors; stat() shows 0. */
function blockDeviceBytes(stats: Stats): number {
  return Number(readFileSync(blockSizePath(stats), 'ascii')) * SECTOR_BYTES;
}

function checkKind(path: string, stats: Stats): void {
  if (stats.isDirectory())
    throw badDisk(path, 'is a directory; name an image file or a block device');
  if (!stats.isFile() && !stats.isBlockDevice()) {
    throw badDisk(path, 'is neither a regular file nor a block device');
  }
}

/** Checks what was opened; returns the disk's size in bytes. */
function checkOpen({ path }: DiskConfig, fd: number): number {
  const stats = fstatSync(fd);
  checkKind(path, stats);
  const capacityBytes = stats.isFile() ? stats.size : blockDeviceBytes(stats);
  if (capacityBytes === 0)
    throw badDisk(path, 'is empty; make it at least one sector of 512 bytes');
  if (capacityBytes % SECTOR_BYTES !== 0) {
    const fix = Math.ceil(capacityBytes / SECTOR_BYTES) * SECTOR_BYTES;
    throw badDisk(
      path,
      `has ${capacityBytes} bytes, not a multiple of 512; 'truncate -s ${fix}' pads it`,
    );
  }
  return capacityBytes;
}

/** Runs `action` on a disk; an error of the system becomes one of the disk. */
export function onDisk<T>({ path, readOnly }: DiskConfig, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    throw badDisk(path, describeErrno(code, readOnly));
  }
}

function openOne(config: DiskConfig, stats: Stats): OpenDisk {
  const { path, readOnly } = config;
  // The kind is checked before opening too: opening a FIFO or a device node can block or act.
  checkKind(path, stats);
  const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK;
  const fd = onDisk(config, () => openSync(path, flags));
  try {
    return { ...config, fd, capacityBytes: onDisk(config, () => checkOpen(config, fd)) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Opens all disks or none. Errors: FaradayError 'bad-disk', one line each. */
export function openDisks(configs: readonly DiskConfig[]): OpenDisk[] {
  const seen = new Set<string>();
  const open: OpenDisk[] = [];
  try {
    for (const config of configs) {
      // Both the given-twice check and the lock go by inode: two names of one file are one disk.
      const stats = onDisk(config, () => statSync(config.path));
      const inode = `${stats.dev}:${stats.ino}`;
      if (seen.has(inode)) throw badDisk(config.path, 'is given twice; attach each disk once');
      seen.add(inode);
      open.push(openOne(config, stats));
    }
  } catch (error) {
    closeDisks(open);
    throw error;
  }
  return open;
}

/** The error for a disk whose lock somebody else holds. */
export function lockedDisk(path: string): FaradayError {
  const fix = 'stop that one or attach both with ,ro';
  return badDisk(path, `is locked: another Faraday uses it; ${fix}`);
}

export function closeDisks(disks: readonly OpenDisk[]): void {
  for (const { fd } of disks) closeSync(fd);
}

/** The first bytes of a disk, for finding out its file system. */
export function readHead(disk: OpenDisk, lengthBytes: number): Uint8Array {
  const head = new Uint8Array(Math.min(lengthBytes, disk.capacityBytes));
  const read = onDisk(disk, () => readSync(disk.fd, head, 0, head.length, 0));
  return head.subarray(0, read);
}
