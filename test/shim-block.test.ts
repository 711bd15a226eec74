// The shim's block and entropy executors on real files and hostile records. No KVM: memory only.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ENTROPY_BYTES_MAX,
  RANGE_COUNT_MAX,
  REQUEST_FLAG_SYNC,
  REQUEST_FLAG_UNMAP,
  REQUEST_KIND_BLK_DISCARD,
  REQUEST_KIND_BLK_FLUSH,
  REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT,
  REQUEST_KIND_BLK_WRITE_ZEROES,
  REQUEST_KIND_CONSOLE_OUT,
  REQUEST_KIND_ENTROPY,
  RESULT_IOERR,
  RESULT_OK,
  RESULT_UNSUPPORTED,
} from '../assembly/abi.ts';
import { type BlockResult, type DiskRights, type GuestMemory, shim } from '../host/shim.ts';
import { GIB, type RecordFields, record } from './bare-metal.ts';

const DISK_BYTES = 64 * 1024;
const MEMORY_BYTES = 2 ** 20;

const folder = mkdtempSync(join(tmpdir(), 'faraday-shim-'));
const diskPath = join(folder, 'disk');
let memory: GuestMemory;
let disk: DiskRights;

/** Byte `i` of the disk before each test: tells its place, never 0. */
function pattern(i: number): number {
  return 1 + ((i ^ (i >> 8)) % 251);
}

const ORIGINAL = Uint8Array.from({ length: DISK_BYTES }, (_, i) => pattern(i));

test.before.each(() => {
  writeFileSync(diskPath, ORIGINAL);
  memory = shim().createMemory(MEMORY_BYTES);
  disk = { fd: openSync(diskPath, 'r+'), capacityBytes: DISK_BYTES, readOnly: false };
});

test.after.each(() => {
  closeSync(disk.fd);
  memory.close();
});

test.after(() => rmSync(folder, { recursive: true }));

function execute(fields: RecordFields, on: Partial<DiskRights> = {}): BlockResult {
  return memory.executeBlock({ ...disk, ...on }, record(fields));
}

function ok(bytes: number): BlockResult {
  return { result: RESULT_OK, bytes, errno: '' };
}

function ioError(errno: string, bytes = 0): BlockResult {
  return { result: RESULT_IOERR, bytes, errno };
}

const HOSTILE = ioError('EPROTO');

function ram(address: number, length: number): Uint8Array {
  return new Uint8Array(memory.memory, address, length);
}

function diskBytes(start: number, end: number): Uint8Array {
  return new Uint8Array(readFileSync(diskPath)).slice(start, end);
}

test('a read scatters the sectors over its ranges, in order, odd lengths and all', () => {
  const ranges: [number, number][] = [
    [0x5000, 1000],
    [0x1001, 23],
    [0x9000, 1],
  ];
  assert.equal(execute({ kind: REQUEST_KIND_BLK_IN, offset: 512, ranges }), ok(1024));
  const moved = ranges.flatMap(([address, length]) => [...ram(address, length)]);
  assert.equal(moved, [...ORIGINAL.slice(512, 1536)]);
  assert.is(ram(0x5000 + 1000, 1)[0], 0, 'nothing behind the range is touched');
});

test('a write gathers its ranges and leaves the rest of the disk alone', () => {
  ram(0x2000, 300).fill(0xaa);
  ram(0x7000, 212).fill(0xbb);
  const ranges: [number, number][] = [
    [0x2000, 300],
    [0x7000, 212],
  ];
  const result = execute({ kind: REQUEST_KIND_BLK_OUT, offset: 1024, ranges });
  assert.equal(result, ok(512));
  const expected = ORIGINAL.slice();
  expected.fill(0xaa, 1024, 1324).fill(0xbb, 1324, 1536);
  assert.equal(diskBytes(0, DISK_BYTES), expected);
});

test('a record may carry as many ranges as the ABI allows, empty ones among them', () => {
  const ranges = Array.from({ length: RANGE_COUNT_MAX }, (_, i): [number, number] => {
    return [0x1000 + i * 16, i % 2 === 0 ? 8 : 0];
  });
  assert.equal(execute({ kind: REQUEST_KIND_BLK_IN, ranges }), ok(1024));
  assert.equal([...ram(0x1000 + 254 * 16, 9)], [...ORIGINAL.slice(1016, 1024), 0]);
});

test('the last sector is reachable', () => {
  const ranges: [number, number][] = [[0x1000, 512]];
  const offset = DISK_BYTES - 512;
  assert.equal(execute({ kind: REQUEST_KIND_BLK_IN, offset, ranges }), ok(512));
  assert.equal(ram(0x1000, 512), ORIGINAL.slice(offset));
});

test('the sync flag syncs after the write, and a flush syncs alone', () => {
  const ranges: [number, number][] = [[0x1000, 512]];
  const flags = REQUEST_FLAG_SYNC;
  ram(0x1000, 512).fill(7);
  assert.equal(execute({ kind: REQUEST_KIND_BLK_OUT, flags, ranges }), ok(512));
  assert.equal(execute({ kind: REQUEST_KIND_BLK_FLUSH }), ok(0));
  assert.equal(diskBytes(0, 512), new Uint8Array(512).fill(7));
  // The null device takes writes but no fdatasync(2): its error shows that one was tried.
  const fd = openSync('/dev/null', 'r+');
  assert.equal(execute({ kind: REQUEST_KIND_BLK_OUT, ranges }, { fd }), ok(512));
  assert.equal(
    execute({ kind: REQUEST_KIND_BLK_OUT, flags, ranges }, { fd }),
    ioError('EINVAL', 512),
  );
  const zeroes = { kind: REQUEST_KIND_BLK_WRITE_ZEROES, length: 512 };
  assert.equal(execute({ ...zeroes, flags }, { fd }), ioError('EINVAL'));
  assert.equal(execute({ kind: REQUEST_KIND_BLK_FLUSH }, { fd }), ioError('EINVAL'));
  closeSync(fd);
});

test('a read-only disk reads and flushes, and refuses every write', () => {
  const ranges: [number, number][] = [[0x1000, 512]];
  const readOnly = { readOnly: true };
  assert.equal(execute({ kind: REQUEST_KIND_BLK_IN, ranges }, readOnly), ok(512));
  assert.equal(execute({ kind: REQUEST_KIND_BLK_FLUSH }, readOnly), ok(0));
  const refusals = [
    execute({ kind: REQUEST_KIND_BLK_OUT, ranges }, readOnly),
    execute({ kind: REQUEST_KIND_BLK_DISCARD, length: 512 }, readOnly),
    execute({ kind: REQUEST_KIND_BLK_WRITE_ZEROES, length: 512 }, readOnly),
  ];
  for (const refusal of refusals) assert.equal(refusal, ioError('EROFS'));
  assert.equal(diskBytes(0, DISK_BYTES), ORIGINAL);
});

for (const flags of [0, REQUEST_FLAG_UNMAP, REQUEST_FLAG_SYNC]) {
  test(`write zeroes (flags ${flags}) zeroes just its range and keeps the size`, () => {
    const kind = REQUEST_KIND_BLK_WRITE_ZEROES;
    assert.equal(execute({ kind, flags, offset: 8192, length: 4608 }), ok(0));
    const expected = ORIGINAL.slice().fill(0, 8192, 8192 + 4608);
    assert.equal(diskBytes(0, DISK_BYTES), expected);
  });
}

test('discard gives blocks back and keeps the size', () => {
  const kind = REQUEST_KIND_BLK_DISCARD;
  const blocks = statSync(diskPath).blocks;
  assert.equal(execute({ kind, offset: 0, length: DISK_BYTES }), ok(0));
  assert.is(statSync(diskPath).size, DISK_BYTES);
  // A file system without holes keeps the bytes, which is as good a discard.
  if (statSync(diskPath).blocks < blocks) assert.is(diskBytes(0, 1)[0], 0);
});

test('where the file cannot have holes, zeroes are written and a discard does nothing', () => {
  // A memory device refuses fallocate like file systems without holes do, and swallows writes.
  const fd = openSync('/dev/null', 'r+');
  const length = 16384;
  assert.equal(execute({ kind: REQUEST_KIND_BLK_DISCARD, length }, { fd }), ok(0));
  assert.equal(execute({ kind: REQUEST_KIND_BLK_WRITE_ZEROES, length }, { fd }), ok(0));
  closeSync(fd);
  const full = openSync('/dev/full', 'r+');
  const zeroes = execute({ kind: REQUEST_KIND_BLK_WRITE_ZEROES, length }, { fd: full });
  assert.equal(zeroes, ioError('ENOSPC'), 'the fallback did write');
  closeSync(full);
});

test('a full disk is an I/O error with its errno', () => {
  const fd = openSync('/dev/full', 'r+');
  const result = execute({ kind: REQUEST_KIND_BLK_OUT, ranges: [[0x1000, 512]] }, { fd });
  assert.equal(result, ioError('ENOSPC'));
  closeSync(fd);
});

test('a transfer that stops half way is continued, and its end is reported with what moved', () => {
  ftruncateSync(disk.fd, 1024 + 100);
  const ranges: [number, number][] = [
    [0x1000, 600],
    [0x2000, 424 + 512],
  ];
  // The first call moves 1124 of 1536 bytes, the second one finds the end of the file.
  assert.equal(execute({ kind: REQUEST_KIND_BLK_IN, ranges }), ioError('EIO', 1124));
  assert.equal(ram(0x2000, 524), ORIGINAL.slice(600, 1124));
});

test('a write past the file size limit reports how far it came', () => {
  // A child, since the limit holds for the whole process; SIGXFSZ is ignored as Node does.
  const script = `
    import { openSync } from 'node:fs';
    import { shim } from './host/shim.ts';
    import { record } from './test/bare-metal.ts';
    const memory = shim().createMemory(1048576);
    const fd = openSync(${JSON.stringify(diskPath)}, 'r+');
    const disk = { fd, capacityBytes: 1048576, readOnly: false };
    const request = record({ kind: 2, offset: 65536, ranges: [[0, 4096], [8192, 4096]] });
    console.log(JSON.stringify(memory.executeBlock(disk, request)));
  `;
  const limit = (DISK_BYTES + 5120) / 512; // sh counts in units of 512 bytes
  const command = `ulimit -f ${limit}; exec "$0" --import tsx --input-type=module -e "$1"`;
  const options = { encoding: 'utf8', cwd: new URL('..', import.meta.url) } as const;
  const child = spawnSync('sh', ['-c', command, process.execPath, script], options);
  assert.equal(JSON.parse(child.stdout), ioError('EFBIG', 5120), child.stderr);
});

test('a descriptor that is not open is an I/O error, not a crash', () => {
  const result = execute({ kind: REQUEST_KIND_BLK_IN, ranges: [[0, 512]] }, { fd: 1 << 20 });
  assert.equal(result, ioError('EBADF'));
});

// --- Hostile records ----------------------------------------------------------------------------

const IN = REQUEST_KIND_BLK_IN;
const OUT = REQUEST_KIND_BLK_OUT;
const GOOD: [number, number][] = [[0x1000, 512]];

const hostile: Record<string, RecordFields> = {
  'more ranges than the ABI allows': { kind: IN, rangeCount: RANGE_COUNT_MAX + 1, ranges: GOOD },
  'a range count of 2^32 - 1': { kind: IN, rangeCount: 0xffffffff, ranges: GOOD },
  'a range count beyond the record': { kind: IN, rangeCount: 2, ranges: GOOD },
  'bytes behind a range length': { kind: IN, padding: 1, ranges: GOOD },
  'a range outside RAM': { kind: IN, ranges: [[MEMORY_BYTES, 512]] },
  'a range that ends outside RAM': { kind: IN, ranges: [[MEMORY_BYTES - 511, 512]] },
  'a range in the hole': { kind: IN, ranges: [[0xd0000000, 512]] },
  'a range above 4 GiB without RAM there': { kind: IN, ranges: [[4 * GIB, 512]] },
  'a range that wraps around 2^64': { kind: IN, ranges: [[-256n, 512]] },
  'a range at 2^63': { kind: IN, ranges: [[1n << 63n, 512]] },
  'an empty range outside RAM': { kind: IN, ranges: [...GOOD, [2 * GIB, 0]] },
  'the second of two ranges outside RAM': { kind: OUT, ranges: [...GOOD, [2 * GIB, 512]] },
  'a length below the sum of its ranges': { kind: IN, length: 0, ranges: GOOD },
  'a length above the sum of its ranges': { kind: IN, length: 1024, ranges: GOOD },
  'a length without ranges': { kind: OUT, length: 512 },
  'an end one sector past the disk': { kind: IN, offset: DISK_BYTES, ranges: GOOD },
  'an offset that wraps with its length': {
    kind: IN,
    offset: -512n & ((1n << 64n) - 1n),
    ranges: GOOD,
  },
  'an offset that is negative as off_t': { kind: OUT, offset: 1n << 63n, ranges: GOOD },
  'an offset inside a sector': { kind: IN, offset: 1, ranges: GOOD },
  'a length of half a sector': { kind: OUT, ranges: [[0x1000, 256]] },
  'a discard past the disk': { kind: REQUEST_KIND_BLK_DISCARD, offset: 512, length: DISK_BYTES },
  'a discard with ranges': { kind: REQUEST_KIND_BLK_DISCARD, ranges: GOOD },
  'zeroes past the disk': { kind: REQUEST_KIND_BLK_WRITE_ZEROES, offset: DISK_BYTES, length: 512 },
  'zeroes of nearly 2^64 bytes': {
    kind: REQUEST_KIND_BLK_WRITE_ZEROES,
    offset: 512,
    length: (1n << 64n) - 512n,
  },
  'a flush with ranges': { kind: REQUEST_KIND_BLK_FLUSH, ranges: GOOD },
  'an unknown flag': { kind: OUT, flags: 0x80000000, ranges: GOOD },
  'a flag of another kind': { kind: IN, flags: REQUEST_FLAG_UNMAP, ranges: GOOD },
};

for (const [what, fields] of Object.entries(hostile)) {
  test(`${what} is refused, and neither disk nor RAM changes`, () => {
    assert.equal(execute(fields), HOSTILE);
    assert.equal(diskBytes(0, DISK_BYTES), ORIGINAL);
    assert.ok(ram(0, MEMORY_BYTES).every((byte) => byte === 0));
  });
}

for (const kind of [0, REQUEST_KIND_ENTROPY, REQUEST_KIND_CONSOLE_OUT, 99, 0xffffffff]) {
  test(`kind ${kind} is none that a disk takes`, () => {
    const expected = { result: RESULT_UNSUPPORTED, bytes: 0, errno: 'EPROTO' };
    assert.equal(execute({ kind }), expected);
  });
}

test('a record shorter than its header is refused', () => {
  for (const length of [0, 1, 31]) {
    const cut = record({ kind: IN, ranges: GOOD }).subarray(0, length);
    assert.equal(memory.executeBlock(disk, cut), HOSTILE);
  }
});

test('a range across the hole is refused, though the mapping is one piece', () => {
  const big = shim().createMemory(4 * GIB);
  const at = (address: number, length: number) =>
    big.executeBlock(disk, record({ kind: IN, ranges: [[address, length]] }));
  assert.equal(at(3 * GIB - 512, 1024), HOSTILE);
  assert.equal(at(3 * GIB - 512, 512), ok(512));
  assert.equal(at(4 * GIB, 512), ok(512));
  assert.equal(at(4 * GIB - 512, 1024), HOSTILE);
  assert.equal(at(5 * GIB - 512, 512), ok(512));
  assert.equal(at(5 * GIB - 511, 512), HOSTILE);
  big.close();
});

// --- Entropy ------------------------------------------------------------------------------------

function entropy(fields: Omit<RecordFields, 'kind'>): BlockResult {
  return memory.executeEntropy(record({ kind: REQUEST_KIND_ENTROPY, ...fields }));
}

test('entropy fills its ranges with bytes that differ each time', () => {
  const ranges: [number, number][] = [
    [0x1000, 64],
    [0x3000, 64],
  ];
  assert.equal(entropy({ ranges }), ok(128));
  const first = [...ram(0x1000, 64), ...ram(0x3000, 64)];
  assert.equal(entropy({ ranges }), ok(128));
  assert.not.equal([...ram(0x1000, 64), ...ram(0x3000, 64)], first);
  assert.is(ram(0x1040, 1)[0], 0);
});

test('one entropy request gives no more than its bound', () => {
  const ranges: [number, number][] = [
    [0x1000, ENTROPY_BYTES_MAX - 16],
    [0x40000, 4096],
  ];
  assert.equal(entropy({ ranges }), ok(ENTROPY_BYTES_MAX));
  assert.ok(ram(0x40000, 16).some((byte) => byte !== 0));
  assert.ok(ram(0x40010, 4080).every((byte) => byte === 0));
});

test('an entropy record that breaks the rules changes nothing', () => {
  assert.equal(entropy({ ranges: [[MEMORY_BYTES - 8, 16]] }), HOSTILE);
  assert.equal(entropy({ flags: 1, ranges: [[0, 16]] }), HOSTILE);
  const wrongKind = record({ kind: IN, ranges: [[0, 16]] });
  assert.equal(memory.executeEntropy(wrongKind), HOSTILE);
  assert.ok(ram(0, MEMORY_BYTES).every((byte) => byte === 0));
});

// --- Loading ------------------------------------------------------------------------------------

test('a file range is loaded, and its early end is EIO', () => {
  memory.loadFile(disk.fd, 100, 1000, 0x4001);
  assert.equal(ram(0x4001, 1000), ORIGINAL.slice(100, 1100));
  const load = (offset: number, length: number, address: number) => () =>
    memory.loadFile(disk.fd, offset, length, address);
  const fails = (code: string) => (error: Error & { code?: string }) => error.code === code;
  assert.throws(load(DISK_BYTES - 10, 11, 0), fails('EIO'));
  assert.throws(load(0, 512, MEMORY_BYTES - 511), fails('ERANGE'));
  assert.throws(() => memory.loadFile(1 << 20, 0, 1, 0), fails('EBADF'));
});

test.run();
