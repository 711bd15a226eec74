// A machine image as bytes: every field at its place, read back by the numbers alone.
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ABI_VERSION, BLK_CONFIG_BYTES } from '../assembly/abi.ts';
import { crc32 } from '../host/boot/crc32.ts';
import type { MachineImage } from '../host/boot/image.ts';
import { type ImageBytes, imageBeside, imageInside } from '../host/boot/image-bytes.ts';
import { encodeBlkConfig } from '../host/device-config.ts';
import { FaradayError } from '../host/errors.ts';
import { writeImage } from '../host/write-image.ts';
import { diskDevice, machineImage } from './machine-image.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-image-'));
test.after(() => rmSync(folder, { recursive: true }));

const kernel = join(folder, 'kernel');
writeFileSync(kernel, 'k'.repeat(10_000));

const full = (change: Partial<MachineImage> = {}): MachineImage => {
  const fileSegment = { name: 'text', path: kernel, fileOffset: 4096, lengthBytes: 5000 };
  return machineImage({
    segments: [
      { name: 'code', address: 0x1000, bytes: Buffer.from('first') },
      { ...fileSegment, address: 0x200000 },
      { ...fileSegment, address: 0x300000, fileOffset: 0 },
      { name: 'empty', address: 0x5000, bytes: new Uint8Array(0) },
    ],
    virtio: [
      diskDevice(77, { readOnly: true, ioUring: true, queueCount: 4, queueSize: 64 }),
      { kind: 'virtio-rng', slot: { address: 0xd0001000, pin: 6 } },
    ],
    ...change,
  });
};

function written(image: ImageBytes): Buffer {
  const path = join(folder, 'machine');
  const fd = openSync(path, 'w');
  writeImage(fd, image);
  closeSync(fd);
  return readFileSync(path);
}

const u32 = (bytes: Buffer, ...offsets: number[]) => offsets.map((at) => bytes.readUInt32LE(at));
const u64 = (bytes: Buffer, ...offsets: number[]) => {
  return offsets.map((at) => Number(bytes.readBigUInt64LE(at)));
};

test('the checksum is the one everybody means', () => {
  assert.is(crc32(Buffer.from('123456789')), 0xcbf43926);
  assert.is(crc32(Buffer.alloc(0)), 0);
});

test('the header: what the machine is', () => {
  const { tables, lengthBytes } = imageBeside(full({ bootTimer: true, prefault: true }));
  assert.is(tables.toString('latin1', 0, 4), 'FRDI');
  assert.equal(u32(tables, 4, 8), [2, ABI_VERSION]);
  assert.is(u32(tables, 12)[0], crc32(tables.subarray(16, 6400)));
  assert.equal(u64(tables, 16, 48), [64 * 2 ** 20, lengthBytes]);
  assert.equal(u32(tables, 24, 28, 32, 36, 40, 44), [2, 3, 1, 3, 2, 2]);
  for (const [hugePages, number] of [
    ['off', 0],
    ['2M', 2],
  ] as const) {
    assert.is(u32(imageBeside(full({ hugePages })).tables, 32)[0], number);
  }
  assert.ok(tables.subarray(224, 256).every((byte) => byte === 0));
});

test('the registers, in the order of the layout', () => {
  const image = machineImage();
  const names = ['rip', 'rsp', 'rbx', 'rsi', 'cr0', 'cr3', 'cr4', 'efer', 'gdtBase', 'idtBase'];
  names.forEach((name, index) => {
    Object.assign(image.registers, { [name]: BigInt(index + 1) << 32n });
  });
  Object.assign(image.registers, { gdtLimit: 0x2f, idtLimit: 0xfff });
  const { tables } = imageBeside(image);
  names.forEach((_, index) => {
    assert.is(tables.readBigUInt64LE(64 + 8 * index), BigInt(index + 1) << 32n);
  });
  assert.equal(u32(tables, 144, 148), [0x2f, 0xfff]);
  // Code: base, limit, selector; type, present, dpl, db, s, l, g.
  assert.equal([...u64(tables, 152), ...u32(tables, 160)], [0, 0xffffffff]);
  assert.is(tables.readUInt16LE(164), 0x10);
  assert.equal([...tables.subarray(166, 173)], [0xb, 1, 0, 0, 1, 1, 1]);
  assert.is(tables.readUInt16LE(176 + 12), 0x18);
  assert.is(tables.readUInt16LE(200 + 12), 0x20);
});

test('beside: segments of a file refer to one descriptor, bytes lie on pages of their own', () => {
  const encoded = imageBeside(full());
  const bytes = written(encoded);
  assert.equal(encoded.files, [{ path: kernel }, { fd: 77 }]);
  const segment = (index: number) => {
    const at = 256 + 32 * index;
    return [...u64(bytes, at, at + 8, at + 16), ...u32(bytes, at + 24)];
  };
  assert.equal(segment(0), [0x1000, 5, 8192, 0]);
  assert.equal(segment(1), [0x200000, 5000, 4096, 1]);
  assert.equal(segment(2), [0x300000, 5000, 0, 1]);
  assert.equal(segment(3), [0, 0, 0, 0]);
  assert.is(bytes.toString('latin1', 8192, 8197), 'first');
  assert.is(bytes.length, encoded.lengthBytes);
  assert.is(bytes.length, 3 * 4096);
});

test('a disk and its configuration', () => {
  const image = full();
  const { tables } = imageBeside(image);
  const at = 2304;
  assert.equal(u32(tables, at, at + 4, at + 16, at + 20), [16, 5, 3, 4]);
  assert.equal(u64(tables, at + 8, at + 24), [0xd0000000, 2 ** 20]);
  assert.equal(u32(tables, at + 32, at + 36, at + 48), [BLK_CONFIG_BYTES, 2, 0]);
  assert.is(tables.toString('latin1', at + 56, at + 80), 'rootfs'.padEnd(24, '\0'));
  const [disk] = image.virtio;
  const config = encodeBlkConfig(disk as Parameters<typeof encodeBlkConfig>[0]);
  assert.equal(tables.subarray(at + 80, at + 80 + config.length), Buffer.from(config));
  const rng = at + 256;
  assert.equal(u32(tables, rng, rng + 4, rng + 16, rng + 20, rng + 36), [17, 6, 0, 1, 0]);
});

test('inside: files are copied page by page and a disk is named by its path', () => {
  const encoded = imageInside(full());
  const bytes = written(encoded);
  assert.equal(encoded.files, []);
  assert.is(u32(bytes, 44)[0], 0);
  const [first, second] = [256 + 32, 256 + 64].map((at) => u64(bytes, at + 16)[0]!);
  assert.equal(u32(bytes, 256 + 24, 256 + 56, 256 + 88), [0, 0, 0]);
  for (const offset of [first!, second!]) {
    assert.is(offset % 4096, 0);
    assert.is(bytes.toString('latin1', offset, offset + 5000), 'k'.repeat(5000));
  }
  const [offset] = u64(bytes, 2304 + 40);
  const [length] = u32(bytes, 2304 + 48);
  assert.is(bytes.toString('utf8', offset, offset! + length!), '/data/root.img');
  assert.is(u32(bytes, 2304 + 36)[0], 0);
});

test('more segments than there is room for are refused in one line', () => {
  const segment = { name: 'x', address: 0, bytes: Buffer.from('x') };
  const many = machineImage({ segments: Array.from({ length: 65 }, () => segment) });
  try {
    imageBeside(many);
    assert.unreachable();
  } catch (error) {
    assert.instance(error, FaradayError);
    assert.match((error as FaradayError).message, /65 segments, more than 64; use another kernel$/);
    assert.is((error as FaradayError).code, 'bad-kernel');
  }
});

test('a file that shrank meanwhile is an error, not a hole', () => {
  const image = full();
  const encoded = imageInside(image);
  writeFileSync(kernel, 'short');
  assert.throws(() => written(encoded), /changed while it was being loaded/);
});

test.run();
