// Guest memory of real cells: both sides of the hole in large guests, and the pages it is made of.
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { HugePages } from '../host/boot/image.ts';
import { GIB, le, longMode, longModeTables, TABLES } from './bare-metal.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  residentKib,
  runFolder,
  runSpawned,
  startFolder,
  startSpawned,
} from './cell-guest.ts';
import type { Code } from './machine-code.ts';

const MIB = 2 ** 20;
const POOL = '/proc/sys/vm/nr_hugepages';
const POLICY = '/sys/kernel/mm/transparent_hugepage/enabled';
const MEMORY_BYTES = 64 * MIB;

/** mov rax, address; mov byte [rax], value */
const put = (code: Code, address: number, value: number) =>
  code.raw(0x48, 0xb8, ...le(address, 8), 0xc6, 0x00, value);

/** mov rax, address; mov al, [rax]; then to COM1 */
const sendAt = (code: Code, address: number) =>
  code.raw(0x48, 0xb8, ...le(address, 8), 0x8a, 0x00).sendAl();

for (const memoryBytes of [3 * GIB, 3 * GIB + 256 * MIB, 8 * GIB]) {
  const isPastHole = memoryBytes > 3 * GIB;
  const end = isPastHole ? memoryBytes + GIB : memoryBytes;
  const size = `${memoryBytes / MIB} MiB`;

  cellTest(`a guest of ${size} has memory on both sides of the hole and none in it`, async () => {
    const inside = [MIB, 3 * GIB - 1];
    if (isPastHole) inside.push(4 * GIB, 4 * GIB + MIB, end - 1);
    const outside = [3 * GIB, 3 * GIB + 128 * MIB, 4 * GIB - 64 * MIB, Math.max(end, 4 * GIB)];
    const write = (code: Code) => {
      for (const [i, address] of inside.entries()) put(code, address, 0x41 + i);
      for (const address of outside) put(code, address, 0x7a); // nobody takes it
      for (const address of [...inside, ...outside]) sendAt(code, address);
      code.powerOff();
    };
    const tables = { name: 'tables', address: TABLES, bytes: longModeTables(10) };
    const image = bareImage(write, { memoryBytes, segments: [tables] }, longMode());
    const ended = await runSpawned(image);
    const letters = inside.map((_, i) => 0x41 + i);
    assert.equal([...ended.output], [...letters, ...outside.map(() => 0xff)]);
    assert.is(ended.status, 0);
  });
}

// --- Pages --------------------------------------------------------------------------------------

/** KiB of the cell's mapping that holds guest RAM, by a field of smaps. */
function guestMapping(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/smaps`, 'utf8');
  const parts = text.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  // Advice splits the mapping: everything of at least half its size counts.
  const large = parts.filter((part) => {
    return Number(/^Size:\s+(\d+) kB/m.exec(part)?.[1] ?? 0) >= MEMORY_BYTES / 2048;
  });
  return large.reduce((sum, part) => {
    return sum + Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(part)![1]);
  }, 0);
}

const waiting = (hugePages: HugePages, prefault: boolean) =>
  bareImage((code) => code.say('up').idle(), { memoryBytes: MEMORY_BYTES, hugePages, prefault });

cellTest('--prefault takes all of the memory at the start, without it none is taken', async () => {
  for (const prefault of [true, false]) {
    const cell = startSpawned(waiting('off', prefault));
    await cell.untilSaid('up');
    const resident = guestMapping(cell.child.pid!, 'Rss');
    if (prefault) assert.is(resident, MEMORY_BYTES / 1024);
    else assert.ok(resident < 1024, `${resident} KiB`);
    assert.ok(residentKib(cell.child.pid!) >= resident);
    assert.is((await cell.stop()).status, 143);
  }
});

const KERNEL = 2 * MIB;
const KERNEL_BYTES = 3 * MIB + 4096; // no multiple of 2 MiB

/** A folder whose guest has a kernel and says its first and last byte. */
function composeKernel(hugePages: HugePages, prefault: boolean): string {
  const bytes = Buffer.alloc(KERNEL_BYTES, 'x');
  bytes.write('first');
  bytes.write('l', KERNEL_BYTES - 1);
  const at = (code: Code, address: number) => code.raw(0xa0, ...le(address, 4)).sendAl();
  const image = bareImage((code) => at(at(code, KERNEL), KERNEL + KERNEL_BYTES - 1).idle(), {
    memoryBytes: MEMORY_BYTES,
    hugePages,
    prefault,
    segments: [{ name: 'kernel', address: KERNEL, bytes }],
  });
  return composeFolder(image);
}

async function assertLoaded(folder: string, field: string, expected: number): Promise<void> {
  const cell = startFolder(folder);
  await cell.untilSaid('fl');
  assert.is(guestMapping(cell.child.pid!, field), expected);
  cell.child.kill('SIGTERM');
  assert.is((await cell.ended()).status, 143);
}

cellTest('--prefault takes all of the memory, that of a kernel in the image too', async () => {
  await assertLoaded(composeKernel('off', true), 'Rss', MEMORY_BYTES / 1024);
});

const policy = /\[(\w+)\]/.exec(readFileSync(POLICY, 'utf8'))?.[1];

cellTest(`large pages are taken when allowed (this host: ${policy}), never when off`, async () => {
  for (const hugePages of ['off', 'transparent'] as const) {
    const cell = startSpawned(waiting(hugePages, true));
    await cell.untilSaid('up');
    const huge = guestMapping(cell.child.pid!, 'AnonHugePages');
    if (hugePages === 'off') assert.is(huge, 0);
    else if (policy !== 'never') assert.ok(huge > 0);
    assert.is((await cell.stop()).status, 143);
  }
});

cellTest('a pool of huge pages that is too small is one line that says so', async () => {
  const image = bareImage((code) => code.say('up').idle(), {
    memoryBytes: 2 ** 40,
    hugePages: '2M',
  });
  const alone = await runFolder(composeFolder(image));
  assert.is(alone.status, 3);
  const finding =
    /^faraday-cell: mmap \(ENOMEM\): the host has no 524288 free pages of 2 MiB; .*\n$/;
  assert.match(alone.errors, finding);
  const spawned = await runSpawned(image);
  assert.is(spawned.failure?.call, 'mmap');
});

/** Gives the host a pool of `pages` more, or says why not. */
function grow(pages: number): string | undefined {
  const before = Number(readFileSync(POOL, 'utf8'));
  try {
    writeFileSync(POOL, String(before + pages));
    const now = Number(readFileSync(POOL, 'utf8'));
    test.after(() => writeFileSync(POOL, String(before)));
    return now < before + pages ? 'no free memory in pieces of 2 MiB' : undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const noPool = grow(MEMORY_BYTES / (2 * MIB));
if (noPool) {
  process.stderr.write(`SKIPPING guests on the host's pool of huge pages: ${noPool}\n`);
  test.skip(`a guest runs on the host's pool of huge pages: ${noPool}`, () => {});
  test.skip(`a kernel of odd length is loaded into the pool of huge pages: ${noPool}`, () => {});
} else {
  cellTest('a kernel of odd length is loaded into the pool of huge pages', async () => {
    for (const prefault of [false, true]) {
      await assertLoaded(composeKernel('2M', prefault), 'KernelPageSize', 2048);
    }
  });

  cellTest("a guest runs on the host's pool of huge pages", async () => {
    for (const prefault of [false, true]) {
      const cell = startSpawned(waiting('2M', prefault));
      await cell.untilSaid('up');
      assert.is(guestMapping(cell.child.pid!, 'KernelPageSize'), 2048);
      assert.is((await cell.stop()).status, 143);
    }
  });
}

test.run();
