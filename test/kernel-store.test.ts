// host/kernel/: importing kernels into the store and on the fly, module dependencies, and what
// `--kernel` finds.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readElfKernel } from '../host/boot/elf.ts';
import { type ErrorCode, FaradayError } from '../host/errors.ts';
import { importKernel, importOnTheFly } from '../host/kernel/import.ts';
import { bootKernel, resolveKernel } from '../host/kernel/resolve.ts';
import { removeKernel, storedKernel, storedNames } from '../host/kernel/store.ts';
import { buildGuest } from '../tools/build-guest.ts';
import { bzImage, type FakeModule, kernelModule, pack, RELEASE, vmlinux } from './fake-kernel.ts';

const TRACES = ['virtio-mmio', 'virtio_blk', 'ext4_inode_cache'];

let folder: string;
let kernelPath: string; // a bzImage, with its modules in lib/modules beside it
let moduleFolder: string;
let store: string;

test.before(() => {
  if (!existsSync(new URL('../build/init', import.meta.url))) buildGuest();
});

test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'faraday-store-'));
  process.env.XDG_DATA_HOME = join(folder, 'data');
  process.env.XDG_CACHE_HOME = join(folder, 'cache');
  store = join(folder, 'data', 'faraday', 'kernels');
  kernelPath = join(folder, `vmlinuz-${RELEASE}`);
  writeFileSync(kernelPath, bzImage(pack(vmlinux(), 'gzip')));
  moduleFolder = join(folder, 'lib', 'modules', RELEASE);
  mkdirSync(moduleFolder, { recursive: true });
  STOCK.forEach(([path, module]) => {
    install(path, module);
  });
  writeFileSync(join(moduleFolder, 'modules.builtin'), 'kernel/lib/crc16.ko\n');
});

test.after.each(() => rmSync(folder, { recursive: true }));

// The modules of a distribution's kernel, as far as they matter, with their real dependencies.
const STOCK: [string, FakeModule][] = [
  ['kernel/drivers/virtio/virtio.ko', { name: 'virtio', depends: ['virtio_ring'] }],
  ['kernel/drivers/virtio/virtio_ring.ko', { name: 'virtio_ring' }],
  [
    'kernel/drivers/virtio/virtio_mmio.ko',
    { name: 'virtio_mmio', depends: ['virtio', 'virtio_ring'] },
  ],
  [
    'kernel/drivers/block/virtio_blk.ko',
    { name: 'virtio_blk', depends: ['virtio', 'virtio_ring'] },
  ],
  [
    'kernel/drivers/net/virtio_net.ko',
    { name: 'virtio_net', depends: ['virtio', 'virtio_ring', 'net_failover'] },
  ],
  ['kernel/drivers/net/net_failover.ko', { name: 'net_failover', depends: ['failover'] }],
  ['kernel/net/core/failover.ko', { name: 'failover' }],
  ['kernel/drivers/misc/pvpanic/pvpanic-mmio.ko', { name: 'pvpanic_mmio', depends: ['pvpanic'] }],
  ['kernel/drivers/misc/pvpanic/pvpanic.ko', { name: 'pvpanic' }],
  [
    'kernel/fs/ext4/ext4.ko',
    { name: 'ext4', depends: ['jbd2', 'mbcache', 'crc16'], softdep: ['pre: crypto-crc32c'] },
  ],
  ['kernel/fs/jbd2/jbd2.ko', { name: 'jbd2', softdep: ['pre: crypto-crc32c'] }],
  ['kernel/fs/mbcache.ko', { name: 'mbcache' }],
  ['kernel/fs/xfs/xfs.ko', { name: 'xfs', depends: ['libcrc32c'] }],
  ['kernel/lib/libcrc32c.ko', { name: 'libcrc32c', softdep: ['pre: crc32c'] }],
  [
    'kernel/crypto/crc32c_generic.ko',
    { name: 'crc32c_generic', aliases: ['crc32c', 'crypto-crc32c'] },
  ],
  [
    'kernel/arch/x86/crypto/crc32c-intel.ko',
    { name: 'crc32c_intel', aliases: ['crc32c', 'crypto-crc32c'] },
  ],
];

function install(path: string, module: FakeModule | Buffer): string {
  const target = join(moduleFolder, path);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, Buffer.isBuffer(module) ? module : kernelModule(module));
  return target;
}

async function refused(code: ErrorCode, work: () => Promise<unknown> | unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    assert.instance(error, FaradayError);
    const failure = error as FaradayError;
    assert.is(failure.code, code, failure.message);
    assert.not.match(failure.message, /\n/);
    return failure.message;
  }
  throw new Error('it was accepted');
}

/** An import that fails leaves the store as it was. */
async function importRefused(
  code: ErrorCode,
  options: Partial<Parameters<typeof importKernel>[0]> = {},
): Promise<string> {
  const before = existsSync(store) ? readdirSync(store) : [];
  const message = await refused(code, () => importKernel({ source: kernelPath, ...options }));
  assert.equal(existsSync(store) ? readdirSync(store) : [], before);
  return message;
}

/** Reads a newc archive: path to body. */
function unpackCpio(path: string): Map<string, Buffer> {
  const bytes = readFileSync(path);
  const files = new Map<string, Buffer>();
  const round = (value: number): number => Math.ceil(value / 4) * 4;
  for (let at = 0; at < bytes.length; ) {
    const field = (index: number): number => {
      const start = at + 6 + index * 8;
      return Number.parseInt(bytes.toString('latin1', start, start + 8), 16);
    };
    assert.is(bytes.toString('latin1', at, at + 6), '070701');
    const nameEnd = at + 110 + field(11);
    const name = bytes.toString('latin1', at + 110, nameEnd - 1);
    const body = round(nameEnd);
    if (name === 'TRAILER!!!') break;
    files.set(name, bytes.subarray(body, body + field(6)));
    at = round(body + field(6));
  }
  return files;
}

const order = (path: string): string[] => {
  return unpackCpio(path).get('modules/order')!.toString().trimEnd().split('\n');
};

// --- Importing ----------------------------------------------------------------------------------

test('a bzImage is stored with its kernel, config, modules and meta data', async () => {
  const config = 'CONFIG_X86_64=y\nCONFIG_VIRTIO_BLK=m\n';
  writeFileSync(join(folder, `config-${RELEASE}`), config);
  const steps: string[] = [];
  const kernel = await importKernel({ source: kernelPath, progress: (step) => steps.push(step) });
  assert.is(kernel.name, RELEASE);
  assert.is(kernel.version, RELEASE);
  assert.is(kernel.source, `vmlinuz-${RELEASE}`);
  assert.match(kernel.sourceSha256, /^[0-9a-f]{64}$/);
  assert.equal(kernel.filesystems, ['ext4']);
  assert.is(readFileSync(join(store, RELEASE, 'config'), 'utf8'), config);
  assert.is.not(readElfKernel(kernel.vmlinuxPath).pvhEntry, null);
  assert.ok(steps.length > 1);
  assert.equal(readdirSync(store), [RELEASE]);
});

test('modules come in dependency order, the disk first, built-in ones not at all', async () => {
  const { modules, initramfsPath } = await importKernel({ source: kernelPath });
  assert.equal(modules, [
    'virtio_ring',
    'virtio',
    'virtio_mmio',
    'virtio_blk',
    'pvpanic',
    'pvpanic_mmio',
    'crc32c_generic', // by its alias, the generic one before the processor's own
    'jbd2',
    'mbcache',
    'ext4',
    'failover',
    'net_failover',
    'virtio_net',
  ]);
  const files = unpackCpio(initramfsPath!);
  const init = readFileSync(new URL('../build/init', import.meta.url));
  assert.ok(files.get('init')!.equals(init));
  const ext4 = readFileSync(join(moduleFolder, 'kernel/fs/ext4/ext4.ko'));
  assert.ok(files.get('modules/ext4.ko')!.equals(ext4));
  assert.equal([...files.keys()].slice(0, 5), ['dev', 'dev/console', 'proc', 'sys', 'newroot']);
});

test("a file system's modules are loaded for its roots only, shared ones for each", async () => {
  const filesystems = ['ext4', 'xfs'] as const;
  const { initramfsPath } = await importKernel({ source: kernelPath, filesystems });
  const lines = order(initramfsPath!);
  assert.ok(lines.includes('virtio_blk.ko'));
  assert.ok(lines.includes('jbd2.ko ext4'));
  assert.ok(lines.includes('xfs.ko xfs'));
  assert.ok(lines.includes('crc32c_generic.ko ext4 xfs'));
});

test("the network's modules are loaded where there is a network device only", async () => {
  const { initramfsPath } = await importKernel({ source: kernelPath });
  const network = order(initramfsPath!).filter((line) => line.includes(' virtio:'));
  assert.equal(network, [
    'failover.ko virtio:0x0001',
    'net_failover.ko virtio:0x0001',
    'virtio_net.ko virtio:0x0001',
  ]);
});

test('a module that a file system needs too is loaded for either', async () => {
  install('kernel/fs/mbcache.ko', { name: 'mbcache', depends: ['failover'] });
  const { initramfsPath } = await importKernel({ source: kernelPath });
  assert.ok(order(initramfsPath!).includes('failover.ko ext4 virtio:0x0001'));
});

test('a kernel without a network driver, or with one built in, is taken as it is', async () => {
  appendFileSync(join(moduleFolder, 'modules.builtin'), 'kernel/drivers/net/virtio_net.ko\n');
  assert.not.ok((await importKernel({ source: kernelPath })).modules.includes('failover'));
  removeKernel(RELEASE);
  writeFileSync(join(moduleFolder, 'modules.builtin'), 'kernel/lib/crc16.ko\n');
  rmSync(join(moduleFolder, 'kernel/drivers/net'), { recursive: true });
  const { modules } = await importKernel({ source: kernelPath });
  assert.ok(modules.includes('ext4') && !modules.includes('failover'));
});

test('an alias that a built-in module provides needs no module', async () => {
  const path = join(moduleFolder, 'modules.builtin.modinfo');
  writeFileSync(path, 'crc32c_generic.alias=crypto-crc32c\0crc32c_generic.license=GPL\0');
  const { modules } = await importKernel({ source: kernelPath });
  assert.not.ok(modules.includes('crc32c_generic'));
});

test('a soft dependency that nobody provides is left out', async () => {
  rmSync(join(moduleFolder, 'kernel/crypto'), { recursive: true });
  rmSync(join(moduleFolder, 'kernel/arch'), { recursive: true });
  const { modules } = await importKernel({ source: kernelPath });
  assert.not.ok(modules.includes('crc32c_generic'));
  assert.ok(modules.includes('ext4'));
});

test('compressed modules are stored uncompressed', async () => {
  const plain = kernelModule({ name: 'virtio_ring' });
  const ext4 = readFileSync(join(moduleFolder, 'kernel/fs/ext4/ext4.ko'));
  rmSync(join(moduleFolder, 'kernel/drivers/virtio/virtio_ring.ko'));
  rmSync(join(moduleFolder, 'kernel/fs/ext4/ext4.ko'));
  install('kernel/drivers/virtio/virtio_ring.ko.gz', gzipSync(plain));
  install('kernel/fs/ext4/ext4.ko.xz', execFileSync('xz', ['-c'], { input: ext4 }));
  const { initramfsPath } = await importKernel({ source: kernelPath });
  const files = unpackCpio(initramfsPath!);
  assert.ok(files.get('modules/virtio_ring.ko')!.equals(plain));
  assert.ok(files.get('modules/ext4.ko')!.equals(ext4));
});

test('modules that depend on each other in a circle are each taken once', async () => {
  install('kernel/fs/mbcache.ko', { name: 'mbcache', depends: ['ext4'] });
  const { modules } = await importKernel({ source: kernelPath });
  assert.is(modules.filter((name) => name === 'mbcache').length, 1);
});

test('a module built for another kernel is refused', async () => {
  install('kernel/fs/jbd2/jbd2.ko', { name: 'jbd2', release: '6.1.0-other' });
  const message = await importRefused('bad-kernel');
  assert.match(message, /jbd2 is built for 6\.1\.0-other, the kernel is 6\.1\.0-test/);
});

test('a missing module is refused by name', async () => {
  rmSync(join(moduleFolder, 'kernel/drivers/block/virtio_blk.ko'));
  assert.match(await importRefused('bad-kernel'), /holds no module virtio_blk; .*--modules/);
  assert.match(await importRefused('bad-kernel', { filesystems: ['btrfs'] }), /virtio_blk|btrfs/);
});

test('a missing dependency is refused by name', async () => {
  rmSync(join(moduleFolder, 'kernel/fs/mbcache.ko'));
  assert.match(await importRefused('bad-kernel'), /holds no module mbcache/);
});

test('a damaged module is refused by path', async () => {
  const path = install('kernel/fs/mbcache.ko', Buffer.alloc(100));
  assert.ok((await importRefused('bad-kernel')).startsWith(`module ${path}: is no ELF file`));
});

test('virtio_rng and pvpanic are taken where they exist, and not missed where not', async () => {
  rmSync(join(moduleFolder, 'kernel/drivers/misc'), { recursive: true });
  const { modules } = await importKernel({ source: kernelPath });
  assert.not.ok(modules.some((name) => name.startsWith('pvpanic')));
});

test('--modules takes a root, the folder of modules, or the folder of one kernel', async () => {
  const elsewhere = join(folder, 'elsewhere', 'bzImage');
  const at = join(folder, 'deep', 'lib', 'modules');
  mkdirSync(dirname(elsewhere));
  mkdirSync(dirname(at), { recursive: true });
  execFileSync('mv', [join(folder, 'lib', 'modules'), at]);
  writeFileSync(elsewhere, readFileSync(kernelPath));
  for (const modulesDir of [join(folder, 'deep'), at, join(at, RELEASE)]) {
    const { modules } = await importKernel({ source: elsewhere, modulesDir });
    assert.ok(modules.includes('ext4'), modulesDir);
    removeKernel(RELEASE);
  }
  const empty = join(folder, 'elsewhere');
  const options = { source: elsewhere, modulesDir: empty };
  assert.match(await importRefused('bad-kernel', options), /its modules were not found/);
});

test('a kernel without modules anywhere names the way out', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  assert.match(await importRefused('bad-kernel'), /faraday kernel import PACKAGE\.deb/);
});

test('drivers built in, by the configuration beside the kernel, need no modules', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  const drivers = ['X86_64', 'VIRTIO_MMIO', 'VIRTIO_BLK', 'EXT4_FS'];
  const config = drivers.map((name) => `CONFIG_${name}=y\n`).join('');
  writeFileSync(join(folder, `config-${RELEASE}`), config);
  const kernel = await importKernel({ source: kernelPath });
  assert.equal(kernel.modules, []);
  assert.is(kernel.initramfsPath, undefined);
});

test('drivers built in, by the configuration inside the kernel, need no modules', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  const config = gzipSync('CONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_EXT4_FS=y\n');
  const inside = `IKCFG_ST${config.toString('latin1')}IKCFG_ED`;
  writeFileSync(kernelPath, bzImage(pack(vmlinux([inside]), 'gzip')));
  assert.equal((await importKernel({ source: kernelPath })).modules, []);
  assert.match(readFileSync(join(store, RELEASE, 'config'), 'utf8'), /CONFIG_EXT4_FS=y/);
});

test('drivers built in, by the names they leave in the kernel, need no modules', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  writeFileSync(kernelPath, vmlinux(TRACES));
  assert.equal((await importKernel({ source: kernelPath })).modules, []);
  removeKernel(RELEASE);
  writeFileSync(kernelPath, vmlinux(TRACES.slice(1)));
  await importRefused('bad-kernel');
});

test('names that are no plain folder names are refused', async () => {
  for (const name of ['', '.', '..', '../x', 'a/b', '/etc', '-x', '.hidden', 'a b', 'a\0b', 'ä']) {
    assert.match(await importRefused('bad-usage', { name }), /^kernel name .*not allowed/);
    await refused('bad-usage', () => removeKernel(name));
    assert.is(storedKernel(name), null);
  }
  assert.match(await importRefused('bad-usage', { name: 'x'.repeat(65) }), /not allowed/);
});

test('a name that is taken is refused, and the stored kernel stays', async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  const before = readFileSync(join(store, 'mine', 'meta.json'), 'utf8');
  assert.match(await importRefused('bad-usage', { name: 'mine' }), /is in the store already/);
  assert.is(readFileSync(join(store, 'mine', 'meta.json'), 'utf8'), before);
});

test('sources that are no kernel are refused and leave nothing', async () => {
  assert.match(await importRefused('bad-kernel', { source: join(folder, 'no') }), /no such file/);
  assert.match(await importRefused('bad-kernel', { source: folder }), /is a directory/);
  writeFileSync(kernelPath, 'hello');
  assert.match(await importRefused('bad-kernel'), /in no format Faraday knows/);
});

test('an aborted import leaves nothing', async () => {
  writeFileSync(kernelPath, bzImage(pack(vmlinux(), 'xz')));
  const abort = new AbortController();
  const work = importKernel({ source: kernelPath, signal: abort.signal });
  abort.abort();
  const error = await work.then(
    () => null,
    (reason: Error) => reason,
  );
  assert.is(error?.name, 'AbortError');
  assert.equal(readdirSync(store), []);
});

// --- Debian packages ----------------------------------------------------------------------------

function debianPackage(fill: (root: string) => void): string {
  const root = join(folder, 'package');
  mkdirSync(join(root, 'DEBIAN'), { recursive: true });
  const control = ['Package: x', 'Version: 1', 'Architecture: amd64', 'Maintainer: x <x@y>'];
  writeFileSync(join(root, 'DEBIAN', 'control'), `${control.join('\n')}\nDescription: x\n`);
  fill(root);
  const path = join(folder, 'kernel.deb');
  execFileSync('dpkg-deb', ['--build', '--root-owner-group', root, path], { stdio: 'pipe' });
  return path;
}

function fillKernelPackage(root: string, modules: string): void {
  mkdirSync(join(root, 'boot'));
  writeFileSync(join(root, 'boot', `vmlinuz-${RELEASE}`), readFileSync(kernelPath));
  writeFileSync(join(root, 'boot', `config-${RELEASE}`), 'CONFIG_X86_64=y\n');
  mkdirSync(join(root, modules), { recursive: true });
  execFileSync('cp', ['-r', moduleFolder, join(root, modules)]);
}

if (spawnSync('dpkg-deb', ['--version']).error) {
  test.skip('Debian packages are imported (skipped: no dpkg-deb)', () => {});
} else {
  for (const modules of ['lib/modules', 'usr/lib/modules']) {
    test(`a Debian package with its modules in ${modules} is imported`, async () => {
      const source = debianPackage((root) => fillKernelPackage(root, modules));
      rmSync(join(folder, 'lib'), { recursive: true });
      const kernel = await importKernel({ source });
      assert.is(kernel.source, 'kernel.deb');
      assert.ok(kernel.modules.includes('ext4'));
      assert.ok(kernel.modules.includes('virtio_net'));
      assert.ok(existsSync(join(store, RELEASE, 'config')));
      assert.equal(readdirSync(store), [RELEASE]);
    });
  }

  test('a damaged package is refused', async () => {
    const source = debianPackage((root) => fillKernelPackage(root, 'lib/modules'));
    const bytes = readFileSync(source);
    writeFileSync(source, bytes.subarray(0, bytes.length / 2));
    const message = await importRefused('bad-kernel', { source });
    assert.match(message, /^package .*kernel\.deb: cannot be unpacked \(.*download it again/);
  });

  test('a package without a kernel names the one to take', async () => {
    const source = debianPackage(() => {});
    assert.match(await importRefused('bad-kernel', { source }), /name the package it depends on/);
  });

  test('a package whose kernel is a link out of it is refused', async () => {
    const source = debianPackage((root) => {
      mkdirSync(join(root, 'boot'));
      symlinkSync(kernelPath, join(root, 'boot', `vmlinuz-${RELEASE}`));
    });
    assert.match(await importRefused('bad-kernel', { source }), /is no regular file/);
  });
}

// --- On the fly ---------------------------------------------------------------------------------

test('a bzImage is prepared on the fly from the modules beside it, and cached', async () => {
  const first = await importOnTheFly({ kernelPath, filesystem: 'ext4' });
  assert.ok(order(first.initramfsPath!).includes('ext4.ko ext4'));
  assert.ok(first.initramfsPath!.startsWith(join(folder, 'cache')));
  writeFileSync(first.initramfsPath!, 'still the cached file');
  const second = await importOnTheFly({ kernelPath, filesystem: 'ext4' });
  assert.equal(second, first);
  assert.is(readFileSync(second.initramfsPath!, 'utf8'), 'still the cached file');
  assert.not.ok(existsSync(store));
});

test('another file system, or other modules, make another initramfs', async () => {
  const ext4 = await importOnTheFly({ kernelPath });
  const xfs = await importOnTheFly({ kernelPath, filesystem: 'xfs' });
  assert.is.not(xfs.initramfsPath, ext4.initramfsPath);
  appendFileSync(join(moduleFolder, 'modules.builtin'), 'kernel/fs/mbcache.ko\n');
  const changed = await importOnTheFly({ kernelPath });
  assert.is.not(changed.initramfsPath, ext4.initramfsPath);
});

test('modules are found above the kernel too', async () => {
  const boot = join(folder, 'boot', 'deeper');
  mkdirSync(boot, { recursive: true });
  writeFileSync(join(boot, 'bzImage'), readFileSync(kernelPath));
  const { initramfsPath } = await importOnTheFly({ kernelPath: join(boot, 'bzImage') });
  assert.ok(initramfsPath);
});

test('a kernel on the fly whose modules are nowhere names `faraday kernel import`', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  const message = await refused('bad-kernel', () => importOnTheFly({ kernelPath }));
  assert.ok(message.startsWith(`kernel ${kernelPath}: its modules were not found`), message);
  assert.match(message, /faraday kernel import/);
});

test('a kernel with everything built in gets no initramfs', async () => {
  writeFileSync(kernelPath, vmlinux(TRACES));
  const { vmlinuxPath, initramfsPath } = await importOnTheFly({ kernelPath });
  assert.is(vmlinuxPath, kernelPath);
  assert.is(initramfsPath, undefined);
});

test('an ELF kernel runs even where the cache cannot be written', async () => {
  writeFileSync(kernelPath, vmlinux(TRACES));
  writeFileSync(join(folder, 'file'), '');
  process.env.XDG_CACHE_HOME = join(folder, 'file');
  assert.is((await importOnTheFly({ kernelPath })).vmlinuxPath, kernelPath);
});

// --- The store ----------------------------------------------------------------------------------

test('kernels are listed by name, and gone when removed', async () => {
  assert.equal(storedNames(), []);
  await importKernel({ source: kernelPath, name: 'b' });
  await importKernel({ source: kernelPath, name: 'a' });
  assert.equal(storedNames(), ['a', 'b']);
  removeKernel('a');
  assert.equal(storedNames(), ['b']);
  const message = await refused('bad-usage', () => removeKernel('a'));
  assert.match(message, /^kernel a: not in the store; stored are: b/);
});

test('a damaged entry says how to be rid of it', async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  const path = join(store, 'mine', 'meta.json');
  const right = JSON.parse(readFileSync(path, 'utf8'));
  const wrong = [{ version: 6 }, { source: null }, { modules: [1] }, { traits: { builtIn: [] } }];
  const changed = wrong.map((change) => JSON.stringify({ ...right, ...change }));
  for (const meta of ['', 'null', '[]', '{"metaVersion": 1}', '{"metaVersion": 99}', ...changed]) {
    writeFileSync(path, meta);
    const message = await refused('bad-kernel', () => storedKernel('mine'));
    assert.match(message, /run: faraday kernel remove mine/);
  }
  removeKernel('mine');
});

test('--kernel finds a stored name before a file, and a file by its path', async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  const stored = await resolveKernel('mine');
  assert.is(stored.vmlinuxPath, join(store, 'mine', 'vmlinux'));
  assert.ok(stored.initramfsPath);
  assert.is(stored.version, RELEASE);
  const plain = await resolveKernel(kernelPath);
  assert.is(plain.initramfsPath, undefined);
  assert.is(plain.version, RELEASE);
  const message = await refused('bad-kernel', () => resolveKernel('nothing'));
  assert.match(message, /^kernel nothing: no such file, and not in the store; stored are: mine/);
});

test('a kernel without ACPI code is known as such', async () => {
  assert.is((await resolveKernel(kernelPath)).acpi, false);
  writeFileSync(kernelPath, vmlinux(['RSD PTR ']));
  assert.is((await resolveKernel(kernelPath)).acpi, true);
});

test("the user's own initrd is taken as it is, for any kernel", async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  rmSync(join(folder, 'lib'), { recursive: true });
  for (const kernel of ['mine', kernelPath]) {
    assert.is((await bootKernel({ kernel, initrd: '/my/initrd', root: {} })).initrd, '/my/initrd');
  }
});

test('without a root disk no modules are looked for', async () => {
  rmSync(join(folder, 'lib'), { recursive: true });
  assert.is((await bootKernel({ kernel: kernelPath })).initrd, undefined);
});

test('with a root disk the initramfs comes from the store or is made', async () => {
  const { initramfsPath } = await importKernel({ source: kernelPath, name: 'mine' });
  const root = { filesystem: 'ext4' as const };
  assert.is((await bootKernel({ kernel: 'mine', root })).initrd, initramfsPath);
  assert.match((await bootKernel({ kernel: kernelPath, root })).initrd!, /initramfs\.cpio$/);
});

test('a stored kernel without the modules for a root disk says how to get them', async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  const root = { filesystem: 'xfs' as const };
  const message = await refused('bad-kernel', () => bootKernel({ kernel: 'mine', root }));
  assert.match(message, /^stored kernel mine: .*xfs; import it again with --filesystem xfs/);
});

/** Makes a stored kernel what an older Faraday made of it: it had no network's modules. */
function makeOld(name: string, files: Record<string, string | Buffer> = {}): void {
  const path = join(store, name, 'meta.json');
  const meta = JSON.parse(readFileSync(path, 'utf8'));
  const known = (driver: string) => !/^(virtio_net|net_failover|failover)$/.test(driver);
  meta.modules = meta.modules.filter(known);
  meta.traits.builtIn = meta.traits.builtIn.filter(known);
  writeFileSync(path, JSON.stringify(meta));
  for (const [file, bytes] of Object.entries(files)) writeFileSync(join(store, name, file), bytes);
}

test('a stored kernel without a network driver is told of, where there is a network', async () => {
  await importKernel({ source: kernelPath, name: 'mine' });
  const warning = async (change: { initrd?: string; network?: boolean; kernel?: string } = {}) => {
    const root = { filesystem: 'ext4' as const };
    return (await bootKernel({ kernel: 'mine', root, network: true, ...change })).warning;
  };
  assert.is(await warning(), undefined);
  makeOld('mine');
  const finding = 'has no virtio_net; unless the root disk has it the guest has no network';
  const fix = `run: faraday kernel remove mine, then import it again`;
  assert.is(
    await warning(),
    `stored kernel mine: ${finding}; with vmlinuz-${RELEASE} at hand ${fix}`,
  );
  assert.is(await warning({ network: false }), undefined);
  assert.is(await warning({ initrd: '/my/initrd' }), undefined, 'nothing is known of that');
  assert.is(await warning({ kernel: kernelPath }), undefined, 'its modules are made anew');
});

test('a driver that is built into a stored kernel is found, whoever stored it', async () => {
  const root = { filesystem: 'ext4' as const };
  const kinds: Record<string, string | Buffer>[] = [
    { config: 'CONFIG_X86_64=y\nCONFIG_VIRTIO_NET=y\n' },
    { vmlinux: vmlinux(['\0virtio_net\0']) },
  ];
  for (const files of kinds) {
    await importKernel({ source: kernelPath, name: 'mine' });
    makeOld('mine', files);
    const { warning } = await bootKernel({ kernel: 'mine', root, network: true });
    assert.is(warning, undefined, Object.keys(files)[0]);
    // What the configuration says counts more.
    makeOld('mine', { config: 'CONFIG_VIRTIO_NET=m\n' });
    assert.ok((await bootKernel({ kernel: 'mine', root, network: true })).warning);
    removeKernel('mine');
  }
});

test.run();
