// host/cli/kernel.ts: the three verbs as a user types them, in processes of their own.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bzImage, pack, RELEASE, vmlinux } from './fake-kernel.ts';

const MAIN = new URL('../host/main.ts', import.meta.url).href;
const SCRIPT = `import { main } from '${MAIN}'; await main(process.argv.slice(1));`;
const NODE = ['--import', 'tsx', '--input-type=module', '--eval', SCRIPT, '--'];

const folder = mkdtempSync(join(tmpdir(), 'faraday-kernel-'));
const store = join(folder, 'faraday', 'kernels');
const bin = join(folder, 'bin');
const kernelPath = join(folder, 'vmlinux');
const env = { ...process.env, XDG_DATA_HOME: folder, XDG_CACHE_HOME: join(folder, 'cache') };
writeFileSync(kernelPath, vmlinux(['virtio-mmio', 'virtio_blk', 'ext4_inode_cache']));
test.after(() => rmSync(folder, { recursive: true }));
test.after.each(() => rmSync(store, { recursive: true, force: true }));

function faraday(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [...NODE, 'kernel', ...args], { env, encoding: 'utf8' });
}

test('a kernel is imported, listed and removed', () => {
  const imported = faraday('import', kernelPath);
  assert.equal([imported.status, imported.stderr], [0, '']);
  assert.is(imported.stdout, `stored ${RELEASE}\nmodules: none needed\n`);
  assert.is(faraday('list').stdout, `${RELEASE}  ${RELEASE}  root on ext4  0 modules\n`);
  const [listed] = JSON.parse(faraday('list', '--json').stdout);
  assert.is(listed.name, RELEASE);
  assert.is(listed.vmlinuxPath, join(store, RELEASE, 'vmlinux'));
  assert.is(faraday('remove', RELEASE).stdout, `removed ${RELEASE}\n`);
  assert.is(faraday('list').stdout, '');
  assert.is(faraday('list', '--json').stdout, '[]\n');
});

test('a name of its own is taken', () => {
  assert.match(faraday('import', kernelPath, '--name', 'mine').stdout, /^stored mine\n/);
  assert.ok(existsSync(join(store, 'mine', 'vmlinux')));
});

test('mistakes give one line and exit 2', () => {
  const mistakes: [string[], RegExp][] = [
    [['import'], /missing required argument 'source'/],
    [['import', join(folder, 'missing')], /no such file/],
    [['import', kernelPath, '--name', '../x'], /kernel name "\.\.\/x": not allowed/],
    [['import', kernelPath, '--filesystem', 'ntfs'], /--filesystem ntfs: not a root file system/],
    [['import', kernelPath, '--modul', 'x'], /unknown option .*did you mean '--modules'/],
    [['remove', 'missing'], /not in the store/],
    [['remove', '..'], /not allowed/],
  ];
  for (const [args, wanted] of mistakes) {
    const { status, stdout, stderr } = faraday(...args);
    assert.is(status, 2, args.join(' '));
    assert.is(stdout, '');
    assert.match(stderr, /^faraday: [^\n]+\n$/);
    assert.match(stderr, wanted);
  }
  assert.equal(existsSync(store) ? readdirSync(store) : [], []);
});

test('a damaged entry is listed as damaged, beside the others', () => {
  faraday('import', kernelPath, '--name', 'good');
  mkdirSync(join(store, 'bad'));
  const { status, stdout } = faraday('list');
  assert.is(status, 0);
  assert.match(stdout, /^bad {2}damaged: remove it and import it again\ngood {2}/);
  const kernels = JSON.parse(faraday('list', '--json').stdout);
  assert.equal(kernels[0], { name: 'bad', damaged: true });
  assert.is(faraday('remove', 'bad').status, 0);
});

test('SIGTERM stops an import, leaves nothing and exits with 143', async () => {
  // A stand-in for xz that says it is there and then waits for ever.
  const started = join(folder, 'started');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, 'xz'), `#!/bin/sh\n: > ${started}\nexec sleep 100\n`);
  chmodSync(join(bin, 'xz'), 0o755);
  const source = join(folder, 'bzImage');
  writeFileSync(source, bzImage(pack(vmlinux(), 'xz')));
  const child = spawn(process.execPath, [...NODE, 'kernel', 'import', source], {
    env: { ...env, PATH: `${bin}:${process.env.PATH}` },
    stdio: 'ignore',
  });
  const ended = once(child, 'exit');
  while (!existsSync(started)) await new Promise((resolve) => setTimeout(resolve, 10));
  child.kill('SIGTERM');
  assert.equal(await ended, [143, null]);
  assert.equal(readdirSync(store), []);
});

test.run();
