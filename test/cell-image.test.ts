// Machine images that are damaged or made by somebody with bad intentions: the cell refuses each in
// one line, or starts it where the value is merely odd. It never dies of one and never hangs.
import { mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { crc32 } from '../host/boot/crc32.ts';
import * as format from '../host/boot/image-format.ts';
import { run } from '../tools/command.ts';
import { testDisk } from './cell-disk.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  type Ended,
  scratchPath,
  sleep,
  startFolder,
} from './cell-guest.ts';

const PATIENCE_MS = 400; // before a guest with odd registers is taken for one that runs on
const ONE_LINE = /^faraday-cell: [\x20-\x7e]+\n$/;

const disk = testDisk();
disk.close();
const good = readFileSync(
  join(
    composeFolder(
      bareImage((code) => code.say('fine').powerOff(), {
        memoryBytes: 4 * 2 ** 20,
        virtio: [disk.device, { kind: 'virtio-rng', slot: { address: 0xd0001000, pin: 6 } }],
      }),
    ),
    'machine',
  ),
);
const folder = scratchPath('damaged');
mkdirSync(folder);
const place = join(folder, 'machine');

async function start(): Promise<Ended> {
  const cell = startFolder(folder);
  const ended = cell.ended();
  if ((await Promise.race([ended, sleep(PATIENCE_MS)])) === undefined) cell.child.kill('SIGTERM');
  return await ended;
}

function load(bytes: Uint8Array): Promise<Ended> {
  rmSync(place, { force: true });
  writeFileSync(place, bytes);
  return start();
}

/** `good` with a change, and the checksum of what it then is. */
function changed(change: (bytes: Buffer) => void): Buffer {
  const bytes = Buffer.from(good);
  change(bytes);
  const checked = bytes.subarray(format.CHECKED_START, format.TABLES_END);
  bytes.writeUInt32LE(crc32(checked), format.HEADER_CHECKSUM);
  return bytes;
}

function assertRefused(ended: Ended, what: string): void {
  assert.is(ended.signal, null, what);
  assert.is(ended.status, 2, `${what}: ${ended.errors}`);
  assert.match(ended.errors, ONE_LINE, what);
  assert.is(ended.output.length, 0, what);
}

cellTest('the image that all others are made of starts', async () => {
  const ended = await load(good);
  assert.equal([ended.status, ended.errors, ended.output.toString()], [0, '', 'fine']);
});

cellTest('a bit that flips anywhere in the tables is found', async () => {
  for (let at = 0; at < format.TABLES_END; at += at < 2900 ? 13 : 501) {
    const bytes = Buffer.from(good);
    bytes[at]! ^= 1 << (at % 8);
    assertRefused(await load(bytes), `byte ${at}`);
  }
});

cellTest('an image that is cut anywhere, or goes on behind its end, is refused', async () => {
  const edges = [format.HEADER_BYTES, format.DEVICES, format.TABLES_END, format.PAYLOAD];
  const lengths = [0, 1, 3, 4, 15, 16, good.length - 4096, good.length - 1, good.length + 1];
  for (const edge of edges) lengths.push(edge - 1, edge, edge + 1);
  lengths.push(good.length + 4096, 2 ** 40);
  for (const length of lengths) {
    rmSync(place, { force: true });
    writeFileSync(place, good);
    truncateSync(place, length);
    assertRefused(await start(), `${length} bytes`);
  }
});

cellTest('what is no regular file is refused at once', async () => {
  const makers: [string, () => unknown][] = [
    ['nothing', () => {}],
    ['a folder', () => mkdirSync(place)],
    ['a FIFO', () => run('mkfifo', [place])],
    ['a loop', () => symlinkSync('machine', place)],
    ['/dev/null', () => symlinkSync('/dev/null', place)],
    ['/dev/zero', () => symlinkSync('/dev/zero', place)],
    ['a socket of another kind', () => symlinkSync('/proc/self/fd/2', place)],
  ];
  for (const [what, make] of makers) {
    rmSync(place, { recursive: true, force: true });
    await make();
    assertRefused(await start(), what);
  }
  rmSync(place, { recursive: true, force: true });
});

// --- Values -------------------------------------------------------------------------------------

/** Offset and width of every field, by name; of a segment, a disk and another device too. */
function fields(): [name: string, offset: number, bytes: number][] {
  const found: [string, number, number][] = [];
  const wide = /MEMORY_BYTES|FILE_BYTES|_ADDRESS|_LENGTH|_OFFSET|CAPACITY|_BASE/;
  const add = (prefix: RegExp, base: number, label: string) => {
    for (const [name, value] of Object.entries(format)) {
      const isField = prefix.test(name) && !/STRIDE|_MAX|FLAG_|_BYTES_MAX|COUNT_MAX/.test(name);
      if (isField) found.push([`${label}${name}`, base + value, wide.test(name) ? 8 : 4]);
    }
  };
  add(/^HEADER_(?!BYTES|CHECKSUM|REGISTERS|CODE|DATA|TASK)/, 0, '');
  add(/^SEGMENT_/, format.SEGMENTS, '');
  add(/^DEVICE_(?!CONFIG$|NAME)/, format.DEVICES, 'disk ');
  add(/^DEVICE_(?!CONFIG$|NAME)/, format.DEVICES + format.DEVICE_STRIDE, 'rng ');
  for (let i = 0; i < 32; i++) {
    const at = format.DEVICES + format.DEVICE_CONFIG + 4 * i;
    if (i < 17) found.push([`disk configuration ${4 * i}`, at, 4]);
  }
  return found;
}

function registers(): [name: string, offset: number, bytes: number][] {
  const found: [string, number, number][] = [];
  for (let i = 0; i < 10; i++) found.push([`register ${i}`, format.HEADER_REGISTERS + 8 * i, 8]);
  for (const [name, base] of Object.entries({
    code: format.HEADER_CODE,
    task: format.HEADER_TASK,
  })) {
    for (let at = 0; at < 24; at += 4) found.push([`${name} +${at}`, base + at, 4]);
  }
  return found;
}

/** Values at which checks go wrong. */
function extremes(original: bigint, bytes: number): bigint[] {
  const bits = BigInt(8 * bytes);
  const top = 1n << (bits - 1n);
  const all = [0n, 1n, original - 1n, original + 1n, original * 2n, top - 1n, top, 2n * top - 1n];
  const shifted = all.map((value) => BigInt.asUintN(Number(bits), value));
  return [...new Set([...shifted, BigInt.asUintN(Number(bits), -4096n)])].filter(
    (value) => value !== original,
  );
}

/** Refused as an input, beyond this host, crashed, or started: never dead and never more lines. */
function assertOrderly(ended: Ended, what: string): void {
  const where = `${what}: status ${ended.status}, ${ended.errors}`;
  assert.is(ended.signal, null, where);
  assert.ok([0, 2, 3, 4, 143].includes(ended.status!), where);
  const silent = ended.status === 0 || ended.status === 143;
  assert.match(ended.errors, silent ? /^$/ : ONE_LINE, where);
  // Only memory can be beyond a host. All else that KVM refuses is the image's fault.
  if (ended.status === 3) assert.match(ended.errors, /mmap|madvise|MEMORY_REGION|VCPU/, where);
}

for (const [part, list] of [
  ['tables', fields()],
  ['registers', registers()],
] as const) {
  cellTest(`every extreme value in the ${part} is refused or harmless`, async () => {
    const statuses = new Map<number | null, number>();
    for (const [name, offset, bytes] of list) {
      const wide = bytes === 8;
      const original = wide ? good.readBigUInt64LE(offset) : BigInt(good.readUInt32LE(offset));
      for (const value of extremes(original, bytes)) {
        const image = changed((to) => {
          if (wide) to.writeBigUInt64LE(value, offset);
          else to.writeUInt32LE(Number(value), offset);
        });
        const ended = await load(image);
        assertOrderly(ended, `${name} = 0x${value.toString(16)}`);
        statuses.set(ended.status, (statuses.get(ended.status) ?? 0) + 1);
      }
    }
    assert.ok(statuses.get(2)! > 20); // checks there are
  });
}

const DISK = format.DEVICES;
const RNG = format.DEVICES + format.DEVICE_STRIDE;

const REFUSED: [what: string, change: (bytes: Buffer) => void][] = [
  ['two devices at one address', (b) => b.writeUInt32LE(0xd0000000, RNG + format.DEVICE_ADDRESS)],
  ['two devices on one pin', (b) => b.writeUInt32LE(5, RNG + format.DEVICE_PIN)],
  ['a pin of COM1', (b) => b.writeUInt32LE(4, RNG + format.DEVICE_PIN)],
  ['a window off its page', (b) => b.writeUInt32LE(0xd0001800, RNG + format.DEVICE_ADDRESS)],
  ['a window in RAM', (b) => b.writeUInt32LE(0x100000, RNG + format.DEVICE_ADDRESS)],
  ['a segment in the hole', (b) => b.writeUInt32LE(0xd0000000, format.SEGMENTS)],
  ['an unknown kind', (b) => b.writeUInt32LE(99, DISK + format.DEVICE_KIND)],
  ['a kind of a port device', (b) => b.writeUInt32LE(1, DISK + format.DEVICE_KIND)],
  ['a name without an end', (b) => b.fill(0x61, DISK + format.DEVICE_NAME, DISK + 80)],
  ['bytes behind a device', (b) => b.fill(1, DISK + 250, DISK + 256)],
  ['bytes behind the header', (b) => b.fill(1, 250, 256)],
  ['a disk that is larger now', (b) => growDisk(b)],
  ['a path that is none', (b) => setPath(b, '/nowhere/at/all')],
  ['a path to a folder', (b) => setPath(b, '/tmp')],
  ['a path to /dev/null', (b) => setPath(b, '/dev/null')],
  ['a path with a NUL in it', (b) => setPath(b, '/tmp\0/x')],
  ['a path of several lines', (b) => setPath(b, '/no\nwhere\x1b[2J')],
  [
    'a name of several lines',
    (b) => {
      b.write('a\n\x1b[2Jb', DISK + format.DEVICE_NAME);
      setPath(b, '/nowhere');
    },
  ],
];

function growDisk(bytes: Buffer): void {
  bytes.writeBigUInt64LE(2n ** 21n, DISK + format.DEVICE_CAPACITY_BYTES);
  bytes.writeBigUInt64LE(2n ** 12n, DISK + format.DEVICE_CONFIG);
}

function setPath(bytes: Buffer, path: string): void {
  const at = Number(bytes.readBigUInt64LE(DISK + format.DEVICE_PATH_OFFSET));
  bytes.write(path, at, 'latin1');
  bytes.writeUInt32LE(path.length, DISK + format.DEVICE_PATH_BYTES);
}

for (const [what, change] of REFUSED) {
  cellTest(`${what} is refused in one line`, async () => {
    assertRefused(await load(changed(change)), what);
  });
}

test.run();
