// host/boot/cpio.ts: archives as the kernel and cpio(1) read them.
import { spawnSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type CpioEntry, cpioArchive } from '../host/boot/cpio.ts';

const ENTRIES: CpioEntry[] = [
  { kind: 'folder', path: 'dev' },
  { kind: 'character', path: 'dev/console', major: 5, minor: 1 },
  { kind: 'file', path: 'init', bytes: Buffer.from('#!/bin/sh\n'), permissions: 0o755 },
  { kind: 'link', path: 'sh', target: 'init' },
];

test('an empty archive is its trailer alone, byte for byte', () => {
  const numbers = ['00000000', '00000000', '00000000', '00000000', '00000001', '00000000'];
  const rest = ['00000000', '00000000', '00000000', '00000000', '00000000', '0000000B', '00000000'];
  const head = `070701${numbers.join('')}${rest.join('')}TRAILER!!!\0`;
  assert.is(head.length, 121);
  assert.is(cpioArchive([]).toString('latin1'), `${head}\0\0\0`);
});

test('a file is header, padded name, padded body, byte for byte', () => {
  const entry: CpioEntry = { kind: 'file', path: 'abc', bytes: Buffer.from('hello') };
  const fields = ['00000001', '000081A4', '00000000', '00000000', '00000001', '00000000'];
  const more = ['00000005', '00000000', '00000000', '00000000', '00000000', '00000004', '00000000'];
  const wanted = `070701${fields.join('')}${more.join('')}abc\0\0\0hello\0\0\0`;
  assert.is(cpioArchive([entry]).toString('latin1', 0, wanted.length), wanted);
});

test('the same entries give the same bytes', () => {
  assert.ok(cpioArchive(ENTRIES).equals(cpioArchive(ENTRIES)));
});

test('every header starts at a multiple of 4', () => {
  for (let length = 0; length < 8; length++) {
    const path = 'x'.repeat(length + 1);
    const archive = cpioArchive([{ kind: 'file', path, bytes: Buffer.alloc(length, 1) }]);
    const trailer = archive.lastIndexOf('070701');
    assert.is(trailer % 4, 0);
    assert.is(archive.length % 4, 0);
  }
});

function listing(): string | null {
  const options = { input: cpioArchive(ENTRIES) };
  const { error, status, stdout } = spawnSync('cpio', ['-itv', '--quiet'], options);
  if (error) return null;
  assert.is(status, 0);
  return stdout.toString();
}

if (listing() === null) {
  test.skip('cpio(1) reads it (skipped: no cpio)', () => {});
} else {
  test('cpio(1) reads kinds, permissions, device numbers and targets', () => {
    const lines = listing()!.split('\n');
    assert.match(lines[0], /^drwxr-xr-x .* dev$/);
    assert.match(lines[1], /^crw------- .* 5, +1 .* dev\/console$/);
    assert.match(lines[2], /^-rwxr-xr-x .* 10 .* init$/);
    assert.match(lines[3], /^lrwxrwxrwx .* sh -> init$/);
  });
}

test.run();
