// The emulated host's kernel and initramfs, made once from the distribution's generic kernel.
//
// In the cache's folder lab/:
// kernel/vmlinux      the kernel, extracted: QEMU enters it by PVH, and the emulated CPU is spared
//                     the decompression, which would take it some three seconds
// initramfs-RECIPE/   an archive of busybox, the modules below and host-boot.sh as /init
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { extractKernel } from '../../host/kernel/extract.ts';
import { buildOnce, cacheFolder } from '../../tools/cache.ts';
import { findCommand, run } from '../../tools/command.ts';
import { type KernelFiles, kernelFiles } from '../../tools/distribution.ts';

// What must be there before a command can run, by the folder of the initramfs. Everything else can
// be loaded with modprobe. tun and vhost_net are here because no udev loads them when their device
// node is opened. KVM comes late: see host-boot.sh.
const MODULES = {
  modules: ['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay', 'tun', 'vhost_net'],
  'late-modules': ['kvm-amd'],
};

// The busybox applets that host-boot.sh calls by name.
const APPLETS = [
  'sh',
  'mount',
  'mkdir',
  'insmod',
  'ln',
  'cp',
  'uname',
  'switch_root',
  'echo',
  'sleep',
];

const SCRIPTS = ['host-boot.sh', 'host-run.sh'].map((name) => new URL(name, import.meta.url));

// Raised when a change of this file alone makes older images unfit.
const RECIPE_VERSION = 1;

export interface HostImage {
  vmlinux: string;
  initramfs: string;
  modules: string; // holds lib/modules/RELEASE
}

/** Names the recipe: another kernel, list, script or version makes another initramfs. */
function recipeHash(release: string): string {
  const recipe = JSON.stringify([RECIPE_VERSION, release, MODULES, APPLETS]);
  const hash = createHash('sha256').update(recipe);
  for (const script of SCRIPTS) {
    hash.update(readFileSync(script));
  }
  return hash.digest('hex').slice(0, 16);
}

/** The files of modules in the order in which they must be loaded, each once. */
async function moduleFiles({ folder, release }: KernelFiles, names: string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const name of names) {
    const args = ['-d', folder, '-S', release, '--show-depends', name];
    const { stdout } = await run('modprobe', args);
    for (const match of stdout.matchAll(/^insmod (.+?) *$/gm)) {
      found.add(match[1]!);
    }
  }
  return [...found];
}

/** Copies a module to `target` and unpacks it: busybox loads only plain files. */
async function placeModule(file: string, target: string): Promise<void> {
  copyFileSync(file, target);
  const unpacker = file.endsWith('.xz') ? 'xz' : file.endsWith('.zst') ? 'zstd' : undefined;
  if (unpacker) {
    await run(unpacker, unpacker === 'xz' ? ['-d', target] : ['-dq', '--rm', target]);
  }
}

async function makeInitramfs(folder: string, files: KernelFiles): Promise<void> {
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'dev', 'proc', 'sys', ...Object.keys(MODULES)]) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  copyFileSync(findCommand('busybox') ?? '/bin/busybox', join(tree, 'bin/busybox'));
  for (const applet of APPLETS) {
    symlinkSync('busybox', join(tree, 'bin', applet));
  }
  for (const [place, wanted] of Object.entries(MODULES)) {
    for (const [index, file] of (await moduleFiles(files, wanted)).entries()) {
      const order = String(index).padStart(3, '0');
      await placeModule(file, join(tree, place, `${order}-${basename(file)}`));
    }
  }
  copyFileSync(SCRIPTS[0]!, join(tree, 'init'));
  copyFileSync(SCRIPTS[1]!, join(tree, 'host-run.sh'));
  chmodSync(join(tree, 'init'), 0o755);
  const { stdout: names } = await run('find', ['.'], { cwd: tree });
  const args = ['--create', '--format=newc', '--quiet', '--owner=0:0', '--file', '../initramfs'];
  await run('cpio', args, { cwd: tree, input: names });
  rmSync(tree, { recursive: true });
}

/**
 * The files of the emulated host, from the cache, which is filled at the first call: `onMiss` is
 * called before that, since it takes a while.
 */
export async function hostImage(onMiss: () => void): Promise<HostImage> {
  const cache = join(cacheFolder(), 'lab');
  if (!existsSync(join(cache, 'kernel'))) {
    onMiss();
  }
  const files = await kernelFiles('generic');
  await buildOnce(join(cache, 'kernel'), async (folder) => {
    const { kernel } = await extractKernel(files.image);
    writeFileSync(join(folder, 'vmlinux'), kernel);
  });
  const initramfs = join(cache, `initramfs-${recipeHash(files.release)}`);
  await buildOnce(initramfs, (folder) => makeInitramfs(folder, files));
  return {
    vmlinux: join(cache, 'kernel/vmlinux'),
    initramfs: join(initramfs, 'initramfs'),
    modules: files.folder,
  };
}
