// host/kernel/modinfo.ts: what a module says of itself, and modules that lie.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { FaradayError } from '../host/errors.ts';
import { moduleName, readModuleInfo } from '../host/kernel/modinfo.ts';
import { kernelModule, RELEASE } from './fake-kernel.ts';

function refused(bytes: Buffer): string {
  try {
    readModuleInfo(bytes, 'x.ko');
  } catch (error) {
    assert.instance(error, FaradayError);
    assert.is((error as FaradayError).code, 'bad-kernel');
    return (error as FaradayError).message;
  }
  throw new Error('the module was accepted');
}

const module = kernelModule({
  name: 'ext4',
  depends: ['jbd2', 'mb-cache'],
  softdep: ['pre: crypto-crc32c a post: b', 'post: c'],
  aliases: ['fs-ext4', 'ext3'],
});

test('name, release, dependencies, soft dependencies and aliases are read', () => {
  assert.equal(readModuleInfo(module, 'x.ko'), {
    name: 'ext4',
    release: RELEASE,
    depends: ['jbd2', 'mb_cache'],
    softdepPre: ['crypto-crc32c', 'a'],
    aliases: ['fs-ext4', 'ext3'],
  });
});

test('a module that needs nothing needs nothing', () => {
  const info = readModuleInfo(kernelModule({ name: 'crc16' }), 'x.ko');
  assert.equal([info.depends, info.softdepPre, info.aliases], [[], [], []]);
});

test('dashes and underscores are the same in names', () => {
  assert.is(moduleName('virtio-rng_x-y'), 'virtio_rng_x_y');
});

test('a module cut short at any byte is refused', () => {
  for (let length = 0; length < module.length; length++) refused(module.subarray(0, length));
});

test('what is no module is refused', () => {
  assert.match(refused(Buffer.alloc(4096)), /^module x\.ko: is no ELF file/);
});

test('a section table or a name table outside the file is refused', () => {
  const spoiled = (spoil: (bytes: Buffer) => void): Buffer => {
    const copy = Buffer.from(module);
    spoil(copy);
    return copy;
  };
  const far = 0xffffffffffffff00n;
  assert.match(refused(spoiled((bytes) => bytes.writeBigUInt64LE(far, 40))), /section table/);
  assert.match(refused(spoiled((bytes) => bytes.writeUInt16LE(0xffff, 60))), /section table/);
  assert.match(refused(spoiled((bytes) => bytes.writeUInt16LE(40, 58))), /section table/);
  assert.match(refused(spoiled((bytes) => bytes.writeUInt16LE(3, 62))), /is damaged/);
});

test('a .modinfo outside the file holds nothing', () => {
  const copy = Buffer.from(module);
  const table = Number(copy.readBigUInt64LE(40));
  copy.writeBigUInt64LE(0xffffffffffffff00n, table + 64 + 24);
  assert.match(refused(copy), /has no vermagic/);
});

test('a module without .modinfo is refused', () => {
  const copy = Buffer.from(module);
  copy.write('.xodinfo', copy.indexOf('\0.modinfo\0') + 1);
  assert.match(refused(copy), /has no section \.modinfo/);
});

test.run();
