// The emulated host's kernel and initramfs, made once from the distribution's generic kernel.
//
// folder/vmlinux      the kernel, extracted: QEMU enters it by PVH, and the emulated CPU is spared
//                     the decompression, which would take it some three seconds
// folder/initramfs    busybox, the modules below, host-boot.sh as /init
// folder/modules      the package's modules, with modules.dep, for modprobe inside the lab
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { FaradayError } from '../../host/errors.ts';
import { extractKernel } from '../../host/kernel/extract.ts';
import { buildOnce, cacheFolder } from '../../tools/cache.ts';
import { findCommand, run } from '../../tools/command.ts';
import { kernelPackages } from '../../tools/distribution.ts';

// What must be there before a command can run. Everything else can be loaded with modprobe.
// tun and vhost_net are here because no udev loads them when their device node is opened.
const MODULES = [
  'virtio_pci',
  'virtio_console',
  '9pnet_virtio',
  '9p',
  'overlay',
  'kvm-amd',
  'tun',
  'vhost_net',
];

// The busybox applets that host-boot.sh calls by name.
const APPLETS = ['sh', 'mount', 'mkdir', 'insmod', 'ln', 'cp', 'uname', 'switch_root', 'echo'];

const SCRIPTS = ['host-boot.sh', 'host-run.sh'].map((name) => new URL(name, import.meta.url));

// Raised when a change of this file alone makes older images unfit.
const RECIPE_VERSION = 1;

export interface HostImage {
  vmlinux: string;
  initramfs: string;
  modules: string; // holds lib/modules/RELEASE
}

/** Names the recipe: another list, script or version makes another image. */
function recipeHash(): string {
  const hash = createHash('sha256').update(JSON.stringify([RECIPE_VERSION, MODULES, APPLETS]));
  for (const script of SCRIPTS) {
    hash.update(readFileSync(script));
  }
  return hash.digest('hex').slice(0, 16);
}

/** The modules' files in the order in which they must be loaded, each once. */
async function moduleFiles(root: string, release: string): Promise<string[]> {
  const files = new Set<string>();
  for (const name of MODULES) {
    const args = ['-d', root, '-S', release, '--show-depends', name];
    const { stdout } = await run('modprobe', args);
    for (const match of stdout.matchAll(/^insmod (\S+)/gm)) {
      files.add(match[1]!);
    }
  }
  return [...files];
}

/** Copies a module to `target` and unpacks it: busybox loads only plain files. */
async function placeModule(file: string, target: string): Promise<void> {
  copyFileSync(file, target);
  const unpacker = file.endsWith('.xz') ? 'xz' : file.endsWith('.zst') ? 'zstd' : undefined;
  if (unpacker) {
    await run(unpacker, unpacker === 'xz' ? ['-d', target] : ['-dq', '--rm', target]);
  }
}

async function makeInitramfs(folder: string, release: string): Promise<void> {
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'modules', 'dev', 'proc', 'sys']) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  copyFileSync(findCommand('busybox') ?? '/bin/busybox', join(tree, 'bin/busybox'));
  for (const applet of APPLETS) {
    symlinkSync('busybox', join(tree, 'bin', applet));
  }
  const modules = await moduleFiles(join(folder, 'modules'), release);
  for (const [index, file] of modules.entries()) {
    const order = String(index).padStart(3, '0');
    await placeModule(file, join(tree, 'modules', `${order}-${basename(file)}`));
  }
  copyFileSync(SCRIPTS[0]!, join(tree, 'init'));
  copyFileSync(SCRIPTS[1]!, join(tree, 'host-run.sh'));
  chmodSync(join(tree, 'init'), 0o755);
  const { stdout: names } = await run('find', ['.'], { cwd: tree });
  const args = ['--create', '--format=newc', '--quiet', '--owner=0:0', '--file', '../initramfs'];
  await run('cpio', args, { cwd: tree, input: names });
  rmSync(tree, { recursive: true });
}

async function makeImage(folder: string): Promise<void> {
  const packages = await kernelPackages('generic');
  const modules = join(folder, 'modules');
  for (const file of packages) {
    await run('dpkg-deb', ['--extract', file, modules]);
  }
  const [release] = readdirSync(join(modules, 'lib/modules'));
  const image = readdirSync(join(modules, 'boot')).find((name) => name.startsWith('vmlinuz-'));
  if (!release || !image) {
    throw new FaradayError('host', `${packages.join(', ')}: no kernel with modules inside`);
  }
  const { kernel } = await extractKernel(join(modules, 'boot', image));
  writeFileSync(join(folder, 'vmlinux'), kernel);
  await run('depmod', ['-b', modules, release]);
  await makeInitramfs(folder, release);
}

/** The files of the emulated host, from the cache, which is filled at the first call. */
export async function hostImage(): Promise<HostImage> {
  const folder = join(cacheFolder(), 'lab', recipeHash());
  await buildOnce(folder, makeImage);
  return {
    vmlinux: join(folder, 'vmlinux'),
    initramfs: join(folder, 'initramfs'),
    modules: join(folder, 'modules'),
  };
}
