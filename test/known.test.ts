// Kernels known by the identity of their file: found again, and never once anything changed.
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { identityOf, knownKernel, rememberKernel } from '../host/kernel/known.ts';
import { resolveKernel } from '../host/kernel/resolve.ts';
import { vmlinux } from './fake-kernel.ts';

let folder: string;
let path: string;
const traits = { version: '6.1.0', acpi: true, builtIn: ['ext4'] };

test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'faraday-known-'));
  process.env.XDG_CACHE_HOME = join(folder, 'cache');
  process.env.XDG_DATA_HOME = join(folder, 'data');
  path = join(folder, 'kernel');
  writeFileSync(path, 'kernel one');
});

test.after.each(() => rmSync(folder, { recursive: true }));

/** Remembers as if the file had been written long ago, which no call can make true of ctime. */
function remember(vmlinuxPath = path): void {
  const identity = identityOf(path)!;
  assert.not.ok(identity.settled, 'it was written just now');
  rememberKernel(path, { ...identity, settled: true }, { vmlinuxPath, traits });
}

test('a kernel is found again, also by another name of the same file', () => {
  assert.is(knownKernel(path), null);
  remember();
  assert.equal(knownKernel(path), { vmlinuxPath: path, traits });
  assert.is(knownKernel(join(folder, 'absent')), null);
});

test('any change makes it unknown: content, time, another file in its place', () => {
  remember();
  const { atime, mtime, size } = statSync(path);
  writeFileSync(path, 'kernel two'); // the same length
  assert.is(statSync(path).size, size);
  utimesSync(path, atime, mtime); // and the old time
  assert.is(knownKernel(path), null, 'its ctime differs');

  remember();
  writeFileSync(join(folder, 'other'), 'kernel two');
  renameSync(join(folder, 'other'), path);
  assert.is(knownKernel(path), null, 'its inode differs');

  remember();
  linkSync(path, join(folder, 'link'));
  assert.is(knownKernel(path), null, 'even a link changes its ctime');
});

test('a configuration that comes, changes or goes makes it unknown', () => {
  remember();
  writeFileSync(join(folder, '.config'), 'CONFIG_X86_64=y\n');
  assert.is(knownKernel(path), null);
  remember();
  assert.ok(knownKernel(path));
  writeFileSync(join(folder, '.config'), 'CONFIG_X86_64=n\n');
  assert.is(knownKernel(path), null);
  remember();
  rmSync(join(folder, '.config'));
  assert.ok(knownKernel(path), 'as at first');
});

test('what was written a moment ago, or changed while it was read, is not remembered', () => {
  const before = identityOf(path)!;
  rememberKernel(path, before, { vmlinuxPath: path, traits });
  assert.is(knownKernel(path), null);
  writeFileSync(path, 'kernel three');
  rememberKernel(path, { ...before, settled: true }, { vmlinuxPath: path, traits });
  assert.is(knownKernel(path), null);
});

test('an unpacked kernel that is gone, or a damaged entry, is unknown', () => {
  const unpacked = join(folder, 'vmlinux');
  writeFileSync(unpacked, '');
  remember(unpacked);
  assert.is(knownKernel(path)!.vmlinuxPath, unpacked);
  rmSync(unpacked);
  assert.is(knownKernel(path), null);
  remember();
  const cache = join(folder, 'cache/faraday/kernels');
  const unfit = [
    '{"builtIn": 3}',
    '{"builtIn": []}',
    '{"version": 6, "acpi": true, "builtIn": []}',
  ];
  const entries = unfit.map((text) => `{"vmlinuxPath": "", "traits": ${text}}`);
  for (const text of ['', '{}', 'null', ...entries]) {
    for (const name of readdirSync(cache)) writeFileSync(join(cache, name), text);
    assert.is(knownKernel(path), null, text);
  }
});

test('a cache that cannot be written is no error', () => {
  writeFileSync(join(folder, 'cache'), '');
  remember();
  assert.is(knownKernel(path), null);
});

test('resolveKernel uses it and fills it', async () => {
  mkdirSync(join(folder, 'cache'), { recursive: true });
  writeFileSync(path, vmlinux());
  const fresh = await resolveKernel(path);
  remember();
  assert.equal((await resolveKernel(path)).traits, traits, 'what was remembered');
  writeFileSync(path, readFileSync(path));
  assert.equal((await resolveKernel(path)).traits, fresh.traits, 'read anew');
});

test.run();
