// The boot initramfs of an imported kernel: Faraday's init, the modules, and the order to load
// them in. guest/init.c is the other side.
import { type CpioEntry, cpioArchive } from '../boot/cpio.ts';
import type { BootModule } from './modules.ts';

/**
 * The order file has one line for each module: its file, then what it is for, if it is not for all
 * ('ext4.ko ext4', 'virtio_net.ko virtio:0x0001').
 */
function orderFile(modules: readonly BootModule[]): string {
  return modules.map(({ name, purposes }) => `${[`${name}.ko`, ...purposes].join(' ')}\n`).join('');
}

/** The archive, uncompressed: the kernel unpacks it fastest so. */
export function bootInitramfs(init: Uint8Array, modules: readonly BootModule[]): Buffer {
  const entries: CpioEntry[] = [
    { kind: 'folder', path: 'dev' },
    // The kernel opens the console for init before devtmpfs is there.
    { kind: 'character', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'folder', path: 'proc' },
    { kind: 'folder', path: 'sys' },
    { kind: 'folder', path: 'newroot' },
    { kind: 'file', path: 'init', bytes: init, permissions: 0o755 },
    { kind: 'folder', path: 'modules' },
    { kind: 'file', path: 'modules/order', bytes: Buffer.from(orderFile(modules)) },
  ];
  for (const { name, bytes } of modules) {
    entries.push({ kind: 'file', path: `modules/${name}.ko`, bytes });
  }
  return cpioArchive(entries);
}
