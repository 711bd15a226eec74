// Kernel packages of the distribution this machine runs, fetched with apt-get as any user.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { buildOnce, cacheFolder } from './cache.ts';
import { findCommand, run } from './command.ts';

/** 'cloud': made for virtual machines; 'generic': the one for any computer. */
export type KernelFlavour = 'cloud' | 'generic';

// The packages that depend on the current kernel of each kind.
const META_PACKAGES: Record<string, Record<KernelFlavour, string>> = {
  debian: { cloud: 'linux-image-cloud-amd64', generic: 'linux-image-amd64' },
  ubuntu: { cloud: 'linux-image-virtual', generic: 'linux-image-generic' },
};

// Ubuntu keeps a kernel's modules in a package of their own.
const KERNEL_PACKAGE = /^\s*Depends: (linux-image-\d\S*|linux-modules-\d\S*)$/gm;

/** The ID of /etc/os-release, or the distribution it says it is like. */
function distribution(): string {
  const text = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  const ids = [/^ID="?([^"\n]*)/m, /^ID_LIKE="?([^"\n]*)/m].flatMap(
    (pattern) => pattern.exec(text)?.[1]?.split(' ') ?? [],
  );
  const known = ids.find((id) => id in META_PACKAGES);
  if (!known || !findCommand('apt-get')) {
    throw new FaradayError(
      'host',
      `no kernel package to fetch on '${ids[0] ?? 'this system'}': Debian and Ubuntu are known`,
    );
  }
  return known;
}

/**
 * Options that give apt-get a state folder of our own, so that an ordinary user can update the
 * package lists, and root does not change the machine's.
 */
function privateApt(): string[] {
  const state = join(cacheFolder(), 'apt');
  for (const folder of ['lists/partial', 'archives/partial']) {
    mkdirSync(join(state, folder), { recursive: true });
  }
  return [
    '-o',
    `Dir::State=${state}`,
    '-o',
    'Dir::State::status=/var/lib/dpkg/status',
    '-o',
    `Dir::Cache=${state}`,
  ];
}

/** The names of the packages that `meta` stands for; empty when apt does not know it. */
async function resolvePackages(meta: string, apt: string[]): Promise<string[]> {
  const answer = await run('apt-cache', [...apt, 'depends', meta], { acceptStatus: [100] });
  const names = [...answer.stdout.matchAll(KERNEL_PACKAGE)].map((match) => match[1]!);
  if (names.length === 1 && distribution() === 'ubuntu') {
    const more = await run('apt-cache', [...apt, 'depends', names[0]!], { acceptStatus: [100] });
    names.push(...[...more.stdout.matchAll(KERNEL_PACKAGE)].map((match) => match[1]!));
  }
  return names;
}

async function download(meta: string, folder: string, apt: string[]): Promise<void> {
  const names = await resolvePackages(meta, apt);
  if (names.length === 0) {
    throw new FaradayError('host', `apt knows no package ${meta}: is there a network?`);
  }
  await run('apt-get', [...apt, 'download', '-qq', ...names], { cwd: folder });
}

/**
 * The .deb files of the distribution's current kernel of one flavour, kernel first. Downloaded once
 * into the cache; delete its `packages` folder to get a newer one.
 */
export async function kernelPackages(flavour: KernelFlavour): Promise<string[]> {
  const folder = join(cacheFolder(), 'packages', flavour);
  if (process.arch !== 'x64') {
    throw new FaradayError('host', `processor '${process.arch}': only x64 is supported`);
  }
  await buildOnce(folder, async (part) => {
    const meta = META_PACKAGES[distribution()]![flavour];
    try {
      await download(meta, part, []);
    } catch {
      // No package lists, or lists older than the mirror: fetch current ones for ourselves.
      const apt = privateApt();
      await run('apt-get', [...apt, '-qq', 'update']);
      await download(meta, part, apt);
    }
  });
  const files = readdirSync(folder).filter((name) => name.endsWith('.deb'));
  return files.sort().map((name) => join(folder, name));
}

export interface KernelFiles {
  folder: string; // holds boot/ and lib/modules/RELEASE with modules.dep
  image: string; // the bzImage
  release: string;
}

/** The same packages unpacked, once, into the cache. */
export async function kernelFiles(flavour: KernelFlavour): Promise<KernelFiles> {
  const folder = join(cacheFolder(), 'packages', `${flavour}-files`);
  await buildOnce(folder, async (part) => {
    for (const file of await kernelPackages(flavour)) {
      await run('dpkg-deb', ['--extract', file, part]);
    }
    for (const release of readdirSync(join(part, 'lib/modules'))) {
      await run('depmod', ['-b', part, release]);
    }
  });
  const image = readdirSync(join(folder, 'boot')).find((name) => name.startsWith('vmlinuz-'));
  if (!image) {
    throw new FaradayError('host', `${folder}: no kernel inside`);
  }
  const release = image.slice('vmlinuz-'.length);
  return { folder, image: join(folder, 'boot', image), release };
}
