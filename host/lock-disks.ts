// Locks on the disks of engine v8. A cell takes the same locks itself, and the error is the same.
import { lockedDisk, type OpenDisk, onDisk } from './disk.ts';
import { shim } from './shim.ts';

/** Locks all disks until they are closed. Throws FaradayError('bad-disk'). */
export function lockDisks(disks: readonly OpenDisk[]): void {
  for (const disk of disks) {
    if (!onDisk(disk, () => shim().lockFile(disk.fd, !disk.readOnly))) throw lockedDisk(disk.path);
  }
}
