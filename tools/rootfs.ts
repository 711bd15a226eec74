// Small guests: a busybox user space as an ext4 image or as an initramfs, with one script as init.
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { findCommand, run } from './command.ts';

export interface GuestTree {
  init: string; // a shell script, run as the first process; Faraday's own init has mounted /dev,
  // /proc and /sys by then where it starts from a boot initramfs
  files?: Record<string, string | Uint8Array>; // more files, by their path in the guest
}

/** Lays out a busybox user space in `folder`. */
async function layOut(folder: string, tree: GuestTree): Promise<void> {
  for (const name of ['bin', 'sbin', 'dev', 'proc', 'sys', 'tmp', 'mnt', 'etc']) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  const busybox = findCommand('busybox');
  if (!busybox) {
    throw new FaradayError('host', 'busybox is missing: install the package busybox-static');
  }
  copyFileSync(busybox, join(folder, 'bin/busybox'));
  const { stdout } = await run(busybox, ['--list']);
  for (const applet of stdout.trim().split('\n')) {
    if (applet !== 'busybox' && applet !== 'init') {
      symlinkSync('/bin/busybox', join(folder, 'bin', applet));
    }
  }
  writeFileSync(join(folder, 'sbin/init'), tree.init);
  chmodSync(join(folder, 'sbin/init'), 0o755);
  symlinkSync('/sbin/init', join(folder, 'init')); // where an initramfs has it
  for (const [path, content] of Object.entries(tree.files ?? {})) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content, { mode: 0o755 }); // some are programs
  }
}

async function withTree(tree: GuestTree, use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-tree-'));
  try {
    chmodSync(folder, 0o755); // it becomes the guest's root folder
    await layOut(folder, tree);
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Makes an ext4 image of `sizeMiB` MiB at `path`, replacing what is there. */
export async function makeRootDisk(path: string, sizeMiB: number, tree: GuestTree): Promise<void> {
  await withTree(tree, async (folder) => {
    rmSync(path, { force: true });
    writeFileSync(path, '');
    truncateSync(path, sizeMiB * 2 ** 20);
    const owner = ['-E', 'root_owner=0:0,lazy_itable_init=0'];
    await run('mkfs.ext4', ['-q', '-F', ...owner, '-d', folder, path]);
  });
}

/** Packs an initramfs at `path`, replacing what is there. */
export async function makeInitramfs(path: string, tree: GuestTree): Promise<void> {
  await withTree(tree, async (folder) => {
    const { stdout: names } = await run('find', ['.'], { cwd: folder });
    const args = ['--create', '--format=newc', '--quiet', '--owner=0:0', '--file', path];
    await run('cpio', args, { cwd: folder, input: names });
  });
}
