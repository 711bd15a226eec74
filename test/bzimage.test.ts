// host/boot/bzimage.ts and host/kernel/extract.ts: from a bzImage to the kernel inside, in every
// compression that Linux uses, and what may be wrong with one.
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Compression, readBzImage } from '../host/boot/bzimage.ts';
import { readElfKernel } from '../host/boot/elf.ts';
import { inputOf } from '../host/boot/file.ts';
import { FaradayError } from '../host/errors.ts';
import { extractKernel, plainKernel } from '../host/kernel/extract.ts';
import {
  bzImage,
  elf,
  KERNEL_BASE,
  PAYLOAD_OFFSET,
  pack,
  RELEASE,
  vmlinux,
} from './fake-kernel.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-bzimage-'));
const cache = join(folder, 'cache', 'faraday', 'kernels');
const path = join(folder, 'bzImage');
test.before(() => {
  process.env.XDG_CACHE_HOME = join(folder, 'cache');
});
test.after(() => rmSync(folder, { recursive: true }));
test.after.each(() => rmSync(cache, { recursive: true, force: true }));

const parse = (bytes: Buffer) => readBzImage(inputOf(bytes, path, 'kernel', 'bad-kernel'));
const kernel = vmlinux();

function isPlain(error: unknown, code: string): string {
  assert.instance(error, FaradayError);
  const failure = error as FaradayError;
  assert.is(failure.code, code);
  assert.not.match(failure.message, /\n/);
  return failure.message;
}

function refused(bytes: Buffer): string {
  try {
    parse(bytes);
  } catch (error) {
    return isPlain(error, 'bad-kernel');
  }
  throw new Error('the bzImage was accepted');
}

/** Extraction fails with one line, and leaves nothing in the cache. */
async function extractionRefused(bytes: Buffer, code = 'bad-kernel'): Promise<string> {
  writeFileSync(path, bytes);
  return refusedAs(code);
}

async function refusedAs(code: string): Promise<string> {
  try {
    await plainKernel(path);
  } catch (error) {
    const message = isPlain(error, code);
    assert.ok(message.startsWith(`kernel ${path}: `), message);
    assert.equal(cached(), []);
    return message;
  }
  throw new Error('the bzImage was accepted');
}

function cached(): string[] {
  try {
    return readdirSync(cache);
  } catch {
    return [];
  }
}

function hasTool(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;
}

test('the setup header says where the payload is, and which kernel it holds', () => {
  const image = bzImage(pack(kernel, 'gzip'));
  const found = parse(image);
  assert.is(found.version, RELEASE);
  assert.is(found.compression, 'gzip');
  assert.is(found.packedOffset, 3 * 512 + PAYLOAD_OFFSET);
  assert.is(found.unpackedBytes, kernel.length);
});

test('a setup_sects of 0 means 4', () => {
  const found = parse(bzImage(pack(kernel, 'gzip'), { setupSectors: 0 }));
  assert.is(found.packedOffset, 5 * 512 + PAYLOAD_OFFSET);
});

test('the length which the build adds is not part of the packed bytes', () => {
  const payload = pack(kernel, 'xz');
  const found = parse(bzImage(payload));
  assert.is(found.packedBytes, payload.length - 4);
  assert.is(found.unpackedBytes, kernel.length);
});

test('a header cut short at any byte is refused', () => {
  const image = bzImage(pack(kernel, 'gzip'));
  for (let length = 0; length < 0x250; length++) {
    assert.match(refused(image.subarray(0, length)), /truncated: the bzImage setup header/);
  }
});

test('a payload past the end of the file is called truncated', () => {
  const payload = pack(kernel, 'gzip');
  const image = bzImage(payload);
  const end = 3 * 512 + PAYLOAD_OFFSET + payload.length;
  assert.match(refused(image.subarray(0, end - 1)), /truncated: the payload ends at byte/);
  assert.match(refused(bzImage(payload, { payloadLength: 0xffffffff })), /truncated/);
  assert.match(refused(bzImage(payload, { payloadOffset: 0xffffffff })), /truncated/);
});

test('a boot protocol without a payload field is refused by number', () => {
  assert.match(refused(bzImage(pack(kernel, 'gzip'), { protocol: 0x0207 })), /protocol 2\.07/);
});

test('a 32-bit bzImage is refused', () => {
  assert.match(refused(bzImage(pack(kernel, 'gzip'), { loadFlags: 0 })), /is a 32-bit bzImage/);
});

test('a payload without bytes, or in no known compression, is refused', () => {
  assert.match(refused(bzImage(Buffer.alloc(8), { payloadLength: 8 })), /has 8 bytes/);
  assert.match(refused(bzImage(Buffer.alloc(64, 0x41))), /no known compression/);
});

const COMPRESSIONS: Compression[] = ['gzip', 'xz', 'zstd', 'lz4', 'lzma', 'bzip2', 'lzo', 'none'];
const TOOL: Partial<Record<Compression, string>> = {
  xz: 'xz',
  lzma: 'xz',
  zstd: 'zstd',
  lz4: 'lz4',
  bzip2: 'bzip2',
  lzo: 'lzop',
};

for (const compression of COMPRESSIONS) {
  const tool = TOOL[compression];
  if (tool && !hasTool(tool)) {
    test.skip(`a kernel packed with ${compression} is extracted (skipped: no ${tool})`, () => {});
    continue;
  }
  test(`a kernel packed with ${compression} is extracted`, async () => {
    writeFileSync(path, bzImage(pack(kernel, compression)));
    const { vmlinuxPath, traits } = await plainKernel(path);
    assert.is(traits.version, RELEASE);
    const found = readElfKernel(vmlinuxPath);
    const plain = join(folder, 'vmlinux');
    writeFileSync(plain, kernel);
    const wanted = readElfKernel(plain);
    assert.is(found.pvhEntry, wanted.pvhEntry);
    assert.is(found.endAddress, wanted.endAddress);
    assert.equal(contents(vmlinuxPath), contents(wanted.path));
  });
}

/** What each segment of a kernel puts into memory. */
function contents(vmlinuxPath: string): [number, string][] {
  const bytes = readFileSync(vmlinuxPath);
  return readElfKernel(vmlinuxPath).segments.map(({ address, fileOffset, fileBytes }) => {
    return [address, bytes.toString('latin1', fileOffset, fileOffset + fileBytes)];
  });
}

test('a second extraction comes from the cache', async () => {
  writeFileSync(path, bzImage(pack(kernel, 'xz')));
  const first = await plainKernel(path);
  assert.is(cached().length, 1);
  writeFileSync(first.vmlinuxPath, 'still the cached file');
  const second = await plainKernel(path);
  assert.equal(second, first);
  assert.is(readFileSync(second.vmlinuxPath, 'utf8'), 'still the cached file');
});

test('the cache goes by content, not by path', async () => {
  writeFileSync(path, bzImage(pack(kernel, 'gzip')));
  const first = await plainKernel(path);
  writeFileSync(path, bzImage(pack(vmlinux([], '6.1.0-other'), 'gzip')));
  const second = await plainKernel(path);
  assert.is.not(second.vmlinuxPath, first.vmlinuxPath);
  assert.is(second.traits.version, '6.1.0-other');
  const copy = join(folder, 'copy');
  writeFileSync(copy, bzImage(pack(kernel, 'gzip')));
  assert.is((await plainKernel(copy)).vmlinuxPath, first.vmlinuxPath);
});

test('a cache entry that was never finished is made again', async () => {
  writeFileSync(path, bzImage(pack(kernel, 'gzip')));
  const first = await plainKernel(path);
  rmSync(join(dirname(first.vmlinuxPath), 'traits.json'));
  writeFileSync(first.vmlinuxPath, '');
  const second = await plainKernel(path);
  assert.is(readElfKernel(second.vmlinuxPath).endAddress, KERNEL_BASE + 0x205000);
});

test('a cache entry whose traits are damaged is made again', async () => {
  writeFileSync(path, bzImage(pack(kernel, 'gzip')));
  const first = await plainKernel(path);
  for (const text of ['{}', 'null', '{"version": null, "acpi": true, "builtIn": [1]}']) {
    writeFileSync(join(dirname(first.vmlinuxPath), 'traits.json'), text);
    assert.equal((await plainKernel(path)).traits, first.traits, text);
  }
});

test('what a killed extraction left in the cache is swept away', async () => {
  // A process id past the kernel's limit belongs to nobody.
  const left = join(cache, '.tmp-99999999-abc');
  mkdirSync(left, { recursive: true });
  writeFileSync(path, bzImage(pack(kernel, 'gzip')));
  await plainKernel(path);
  assert.not.ok(readdirSync(cache).includes('.tmp-99999999-abc'));
});

for (const compression of ['gzip', 'xz', 'zstd', 'bzip2'] as const) {
  test(`a ${compression} payload with a flipped byte is called corrupt`, async () => {
    const payload = pack(Buffer.concat([kernel, Buffer.alloc(65536, 'noise')]), compression);
    payload[Math.floor(payload.length / 2)] ^= 0xff;
    assert.match(await extractionRefused(bzImage(payload)), /its payload is corrupt/);
  });
}

test('an lz4 payload with an impossible block length is called corrupt', async () => {
  const payload = pack(kernel, 'lz4');
  payload.writeUInt32LE(0x7fffffff, 4);
  assert.match(await extractionRefused(bzImage(payload)), /its payload is corrupt/);
});

test('a payload shorter than the image says is called corrupt', async () => {
  const payload = pack(kernel, 'lz4');
  payload.writeUInt32LE(kernel.length + 1, payload.length - 4);
  const sizes = `${kernel.length} bytes instead of ${kernel.length + 1}`;
  assert.match(await extractionRefused(bzImage(payload)), new RegExp(`corrupt: ${sizes}`));
});

test('a payload longer than the image says is stopped there', async () => {
  const payload = pack(Buffer.alloc(1 << 20), 'xz');
  payload.writeUInt32LE(1000, payload.length - 4);
  assert.match(await extractionRefused(bzImage(payload)), /corrupt \(more than 1000 bytes\)/);
});

test('a payload that claims an absurd size is refused unread', async () => {
  const payload = pack(kernel, 'xz');
  payload.writeUInt32LE(0xffffffff, payload.length - 4);
  assert.match(await extractionRefused(bzImage(payload)), /claims to unpack to 4294967295/);
});

test('a payload that unpacks to something else than a kernel is refused', async () => {
  const payload = pack(Buffer.from('#!/bin/sh\necho this is no kernel\n'), 'xz');
  assert.match(await extractionRefused(bzImage(payload)), /looks like a script/);
  const arm = pack(elf({ machine: 183 }), 'xz');
  assert.match(await extractionRefused(bzImage(arm)), /built for arm64/);
});

test('a missing tool is named with its package', async () => {
  const before = process.env.PATH;
  const image = bzImage(pack(kernel, 'xz'));
  process.env.PATH = join(folder, 'nothing');
  try {
    const message = await extractionRefused(image, 'host');
    assert.match(message, /needs the program xz, which is missing; .*apt install xz-utils/);
  } finally {
    process.env.PATH = before;
  }
});

test('an abort stops an extraction and leaves nothing', async () => {
  writeFileSync(path, bzImage(pack(kernel, 'xz')));
  const abort = new AbortController();
  const work = plainKernel(path, abort.signal);
  abort.abort();
  try {
    await work;
  } catch (error) {
    assert.is((error as Error).name, 'AbortError');
    assert.equal(cached(), []);
    return;
  }
  throw new Error('the extraction went on');
});

test('an extracted kernel is stored without the zeros at the ends of its segments', async () => {
  const data = Buffer.concat([Buffer.alloc(5000, 1), Buffer.alloc(100_000)]);
  const headers = [{ address: KERNEL_BASE, body: data }];
  writeFileSync(path, elf({ headers }));
  const { kernel: small } = await extractKernel(path);
  assert.ok(small.length < 20_000, `${small.length} bytes`);
  const smallPath = join(folder, 'small');
  writeFileSync(smallPath, small);
  const [segment] = readElfKernel(smallPath).segments;
  assert.is(segment.memoryBytes, data.length);
  const body = small.subarray(segment.fileOffset, segment.fileOffset + segment.fileBytes);
  assert.ok(body.equals(data.subarray(0, body.length)));
  assert.ok(data.subarray(body.length).every((byte) => byte === 0));
});

test('debug information in a vmlinux is neither read nor limited', async () => {
  const bytes = vmlinux();
  writeFileSync(path, bytes);
  truncateSync(path, 2 ** 34); // sparse: 16 GiB behind the kernel
  const { vmlinuxPath, traits } = await plainKernel(path);
  assert.is(vmlinuxPath, path);
  assert.is(traits.version, RELEASE);
  rmSync(path);
});

test('segments that share bytes of the file cannot make a kernel of absurd size', async () => {
  const body = Buffer.alloc(64);
  const headers = Array.from({ length: 64 }, (_, index) => {
    const size = 2 ** 30;
    return {
      address: KERNEL_BASE + index * size,
      body,
      offset: 0,
      fileBytes: size,
      memoryBytes: size,
    };
  });
  writeFileSync(path, elf({ headers }));
  truncateSync(path, 2 ** 31);
  assert.match(await refusedAs('bad-kernel'), /loads more than 512 MiB/);
  rmSync(path);
});

test.run();
