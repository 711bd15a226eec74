// host/boot/sniff.ts: what files look like.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readElfKernel } from '../host/boot/elf.ts';
import { sniffFilesystem, sniffKernel } from '../host/boot/sniff.ts';
import type { FaradayError } from '../host/errors.ts';
import { bzImage, pack, vmlinux } from './fake-kernel.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-sniff-'));
const path = join(folder, 'file');
test.after(() => rmSync(folder, { recursive: true }));

function at(offset: number, magic: string, size = 0x20000): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.write(magic, offset, 'latin1');
  return bytes;
}

test('a vmlinux and a bzImage are told from anything else', () => {
  assert.is(sniffKernel(vmlinux()), 'elf');
  assert.is(sniffKernel(bzImage(pack(vmlinux(), 'gzip'))), 'bzimage');
  assert.is(sniffKernel(Buffer.alloc(0)), 'other');
  assert.is(sniffKernel(at(0x1fe, '\x55\xaa')), 'other');
  assert.is(sniffKernel(at(0x202, 'HdrS')), 'other');
});

const MISTAKES: [string, Buffer, RegExp][] = [
  ['a gzip file', at(0, '\x1f\x8b'), /looks like a gzip file; decompress it first/],
  ['an xz file', at(0, '\xfd7zXZ\0'), /an xz file/],
  ['a zstd file', at(0, '\x28\xb5\x2f\xfd'), /a zstd file/],
  ['a Debian package', at(0, '!<arch>\ndebian-binary'), /faraday kernel import/],
  ['an arm64 Image', at(56, 'ARM\x64'), /an arm64 kernel image; .*64-bit x86/],
  ['an arm64 Image with an EFI stub', at(56, 'ARM\x64').fill('MZ', 0, 2), /an arm64 kernel image/],
  ['a RISC-V Image', at(56, 'RSC\x05'), /a RISC-V kernel image/],
  ['a cpio archive', at(0, '070701'), /a cpio archive; pass it as --initrd/],
  ['a qcow2 image', at(0, 'QFI\xfb'), /a qcow2 disk image/],
  ['a script', at(0, '#!/bin/sh\n'), /a script/],
  ['an EFI program', at(0, 'MZ'), /a Windows or EFI program/],
  ['a disk image', at(0x1fe, '\x55\xaa'), /a disk image with a boot sector/],
  ['noise', Buffer.alloc(4096, 0xa5), /in no format Faraday knows/],
];

for (const [name, bytes, wanted] of MISTAKES) {
  test(`${name} passed as a kernel is called what it is`, () => {
    writeFileSync(path, bytes);
    try {
      readElfKernel(path);
    } catch (error) {
      assert.match((error as FaradayError).message, wanted);
      return;
    }
    throw new Error('it was accepted');
  });
}

test('a root disk is known by its file system', () => {
  assert.is(sniffFilesystem(at(0x438, '\x53\xef')), 'ext4');
  assert.is(sniffFilesystem(at(0, 'XFSB')), 'xfs');
  assert.is(sniffFilesystem(at(0x10040, '_BHRfS_M')), 'btrfs');
  assert.is(sniffFilesystem(at(0, 'hsqs')), 'squashfs');
  assert.is(sniffFilesystem(at(1024, '\xe2\xe1\xf5\xe0')), 'erofs');
});

test('a disk without a known file system, or cut short, has none', () => {
  assert.is(sniffFilesystem(Buffer.alloc(0x11000)), undefined);
  assert.is(sniffFilesystem(Buffer.alloc(0)), undefined);
  assert.is(sniffFilesystem(at(0x438, '\x53\xef').subarray(0, 0x439)), undefined);
});

test.run();
