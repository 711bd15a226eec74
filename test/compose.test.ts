// host/boot/compose.ts and what it puts together: memory map, command line, initrd, both entry
// protocols, virtio slots.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { commandLine, withVirtioDevices } from '../host/boot/cmdline.ts';
import { type ComposeConfig, composeMachine, virtioSlots } from '../host/boot/compose.ts';
import { e820Map } from '../host/boot/e820.ts';
import type { MachineImage, Segment, VirtioDevice } from '../host/boot/image.ts';
import { type ErrorCode, FaradayError } from '../host/errors.ts';
import { elf, KERNEL_BASE, PVH_ENTRY, vmlinux } from './fake-kernel.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const folder = mkdtempSync(join(tmpdir(), 'faraday-compose-'));
const kernelPath = join(folder, 'vmlinux');
writeFileSync(kernelPath, vmlinux());
const kernelEnd = KERNEL_BASE + 0x205000;
test.after(() => rmSync(folder, { recursive: true }));

function rngDevices(count: number): VirtioDevice[] {
  return virtioSlots(count).map((slot) => ({ kind: 'virtio-rng', slot }));
}

function compose(options: Partial<ComposeConfig> = {}): MachineImage {
  return composeMachine({
    kernelPath,
    cmdline: 'console=ttyS0',
    memoryBytes: 128 * MIB,
    cpuCount: 1,
    bootTimer: false,
    virtio: rngDevices(2),
    ...options,
  });
}

function refused(code: ErrorCode, work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert.instance(error, FaradayError);
    const failure = error as FaradayError;
    assert.is(failure.code, code);
    assert.not.match(failure.message, /\n/);
    return failure.message;
  }
  throw new Error('it was accepted');
}

function lengthOf(segment: Segment): number {
  return 'bytes' in segment ? segment.bytes.length : segment.lengthBytes;
}

function bytesOf(image: MachineImage, name: string): Buffer {
  const segment = image.segments.find((candidate) => candidate.name === name);
  assert.ok(segment, `segment ${name}`);
  assert.ok('bytes' in segment);
  return Buffer.from(segment.bytes);
}

function addressOf(image: MachineImage, name: string): number {
  return image.segments.find((segment) => segment.name === name)!.address;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

// --- The whole ----------------------------------------------------------------------------------

for (const entry of ['pvh', 'linux64'] as const) {
  test(`no two segments of a ${entry} image overlap, and all lie in RAM or in low tables`, () => {
    const initrd = Buffer.alloc(10_000, 1);
    const image = compose({ entry, initrd, cpuCount: 32, virtio: rngDevices(16) });
    const ranges = image.segments
      .map((segment) => [segment.address, segment.address + lengthOf(segment), segment.name])
      .sort((one, other) => Number(one[0]) - Number(other[0])) as [number, number, string][];
    for (let index = 1; index < ranges.length; index++) {
      const [before, here] = [ranges[index - 1], ranges[index]];
      assert.ok(before[1] <= here[0], `${before[2]} runs into ${here[2]}`);
    }
    assert.ok(ranges[0][0] >= 0x1000);
    assert.ok(ranges[ranges.length - 1][1] <= 128 * MIB);
  });
}

test('the same configuration gives the same image', () => {
  assert.equal(compose({ initrd: Buffer.from('x') }), compose({ initrd: Buffer.from('x') }));
});

test('kernel and initrd stay ranges of their files', () => {
  const initrd = join(folder, 'initrd');
  writeFileSync(initrd, Buffer.alloc(5000, 3));
  const image = compose({ initrd });
  const files = image.segments.filter((segment) => 'path' in segment);
  assert.equal(
    files.map(({ name, path, lengthBytes }) => [name, path, lengthBytes]),
    [
      ['kernel', kernelPath, files[0].lengthBytes],
      ['kernel', kernelPath, 64],
      ['initrd', initrd, 5000],
    ],
  );
  const text = readFileSync(kernelPath).subarray(files[0].fileOffset);
  assert.is(text[0], 0x90);
});

test('the command line is placed with its NUL', () => {
  const image = compose({ cmdline: 'a=b' });
  assert.is(addressOf(image, 'command line'), 0x20000);
  assert.is(bytesOf(image, 'command line').toString('latin1'), 'a=b\0');
});

test('a kernel too large for the memory is refused', () => {
  const message = refused('bad-kernel', () => compose({ memoryBytes: 16 * MIB }));
  assert.match(message, /outside the guest's RAM of 16 MiB; raise --memory/);
});

// --- PVH ----------------------------------------------------------------------------------------

test('a PVH image: registers', () => {
  const { registers, entry } = compose();
  assert.is(entry, 'pvh');
  assert.is(registers.rip, BigInt(PVH_ENTRY));
  assert.is(registers.rbx, 0x2000n);
  assert.is(registers.cr0, 0x11n); // PE, and ET which is always 1
  assert.equal([registers.cr3, registers.cr4, registers.efer], [0n, 0n, 0n]);
  const { code, data, task } = registers;
  assert.equal([code.base, code.limit, code.type, code.db, code.l], [0n, 0xffffffff, 0xb, 1, 0]);
  assert.equal([data.base, data.limit, data.type, data.s], [0n, 0xffffffff, 3, 1]);
  assert.equal([task.base, task.limit, task.type, task.s], [0n, 0x67, 0xb, 0]);
});

test('a PVH image: start info, modules and memory map, byte for byte', () => {
  const image = compose({ initrd: Buffer.alloc(4097), memoryBytes: 128 * MIB });
  const info = bytesOf(image, 'pvh start info');
  assert.is(
    hex(info),
    '78c56e33' + // magic
      '01000000' + // version
      '00000000' + // flags
      '01000000' + // modules
      '0021000000000000' + // module list
      '0000020000000000' + // command line
      '00000e0000000000' + // RSDP
      '0030000000000000' + // memory map
      '04000000' + // its entries
      '00000000',
  );
  const modules = bytesOf(image, 'pvh module list');
  assert.is(modules.readBigUInt64LE(0), BigInt(addressOf(image, 'initrd')));
  assert.is(modules.readBigUInt64LE(8), 4097n);
  assert.is(hex(modules.subarray(16)), '00'.repeat(16));
  const map = bytesOf(image, 'pvh memory map');
  assert.is(map.length, 4 * 24);
  assert.is(hex(map.subarray(0, 24)), '000000000000000000fc0900000000000100000000000000');
  assert.is(hex(map.subarray(72)), '00001000000000000000f007000000000100000000000000');
});

test('without an initrd there is no module', () => {
  const image = compose();
  const info = bytesOf(image, 'pvh start info');
  assert.is(info.readUInt32LE(12), 0);
  assert.is(info.readBigUInt64LE(16), 0n);
  assert.not.ok(image.segments.some((segment) => segment.name === 'pvh module list'));
});

// --- 64-bit -------------------------------------------------------------------------------------

test('a 64-bit image: registers', () => {
  const { registers, entry } = compose({ entry: 'linux64' });
  assert.is(entry, 'linux64');
  assert.is(registers.rip, BigInt(KERNEL_BASE));
  assert.is(registers.rsi, 0x7000n);
  assert.is(registers.cr0, 0x80000011n); // PG, ET, PE
  assert.is(registers.cr3, 0x9000n);
  assert.is(registers.cr4, 0x20n); // PAE
  assert.is(registers.efer, 0x500n); // LME, LMA
  assert.equal([registers.code.selector, registers.code.l, registers.code.db], [0x10, 1, 0]);
  assert.is(registers.data.selector, 0x18);
});

test('a 64-bit image: the GDT holds what the registers say', () => {
  const gdt = bytesOf(compose({ entry: 'linux64' }), 'gdt');
  assert.is(gdt.readBigUInt64LE(0), 0n);
  assert.is(gdt.readBigUInt64LE(0x10), 0x00af9b000000ffffn);
  assert.is(gdt.readBigUInt64LE(0x18), 0x00cf93000000ffffn);
  assert.is(gdt.readBigUInt64LE(0x20), 0x00008b0000000067n);
  assert.is(bytesOf(compose(), 'gdt').readBigUInt64LE(0x10), 0x00cf9b000000ffffn);
});

test('a 64-bit image: boot_params at the offsets of the protocol', () => {
  const image = compose({ entry: 'linux64', initrd: Buffer.alloc(4097) });
  const params = bytesOf(image, 'boot parameters');
  assert.is(params.length, 4096);
  assert.is(params.readBigUInt64LE(0x70), 0xe0000n); // acpi_rsdp_addr
  assert.is(params.readUInt16LE(0x1fe), 0xaa55);
  assert.is(params.toString('latin1', 0x202, 0x206), 'HdrS');
  assert.is(params.readUInt16LE(0x206), 0x020f);
  assert.is(params[0x210], 0xff); // type_of_loader
  assert.is(params.readUInt32LE(0x218), addressOf(image, 'initrd'));
  assert.is(params.readUInt32LE(0x21c), 4097);
  assert.is(params.readUInt32LE(0xc0), 0); // ext_ramdisk_image
  assert.is(params.readUInt32LE(0x228), 0x20000); // cmd_line_ptr
  assert.is(params.readUInt32LE(0x238), 2047); // cmdline_size
  assert.is(params[0x1e8], 4); // e820_entries
  assert.is(hex(params.subarray(0x2d0, 0x2e4)), '000000000000000000fc09000000000001000000');
});

test('a 64-bit image: the page tables map the first 4 GiB onto themselves', () => {
  const tables = bytesOf(compose({ entry: 'linux64' }), 'page tables');
  assert.is(tables.length, 6 * 4096);
  const entry = (address: number): bigint => tables.readBigUInt64LE(address - 0x9000);
  for (let address = 0; address < 4 * GIB; address += 2 * MIB) {
    const pml4 = entry(0x9000);
    assert.is(pml4 & 0xfffn, 3n); // present, writable
    const pdpt = entry(Number(pml4 & ~0xfffn) + Math.floor(address / GIB) * 8);
    assert.is(pdpt & 0xfffn, 3n);
    const index = Math.floor(address / (2 * MIB)) % 512;
    const page = entry(Number(pdpt & ~0xfffn) + index * 8);
    assert.is(page, BigInt(address) | 0x83n); // and 2 MiB large
  }
});

// --- Memory map ---------------------------------------------------------------------------------

test('the memory map of a small guest', () => {
  assert.equal(
    e820Map(128 * MIB).map(({ address, lengthBytes, type }) => [address, lengthBytes, type]),
    [
      [0, 0x9fc00, 1],
      [0x9fc00, 0x400, 2], // MP table
      [0xe0000, 0x20000, 2], // ACPI tables
      [MIB, 127 * MIB, 1],
    ],
  );
});

test('RAM past 3 GiB goes above 4 GiB', () => {
  const highest = (memoryBytes: number): number[] => {
    const { address, lengthBytes } = e820Map(memoryBytes).at(-1)!;
    return [address, lengthBytes];
  };
  assert.equal(highest(3 * GIB), [MIB, 3 * GIB - MIB]);
  assert.equal(highest(3 * GIB + 4096), [4 * GIB, 4096]);
  assert.equal(highest(8 * GIB), [4 * GIB, 5 * GIB]);
});

test('all RAM of a guest is in its map, but for what the tables take', () => {
  for (const memoryBytes of [16 * MIB, 3 * GIB, 8 * GIB, 1024 * GIB]) {
    const ram = e820Map(memoryBytes).filter(({ type }) => type === 1);
    const total = ram.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    assert.is(total, memoryBytes - (MIB - 0x9fc00));
  }
});

// --- Initrd -------------------------------------------------------------------------------------

test('an initrd ends with the RAM, page aligned', () => {
  assert.is(addressOf(compose({ initrd: Buffer.alloc(1) }), 'initrd'), 128 * MIB - 4096);
  assert.is(addressOf(compose({ initrd: Buffer.alloc(4096) }), 'initrd'), 128 * MIB - 4096);
  assert.is(addressOf(compose({ initrd: Buffer.alloc(4097) }), 'initrd'), 128 * MIB - 8192);
});

test('an initrd stays below 3 GiB in a large guest', () => {
  const image = compose({ initrd: Buffer.alloc(1), memoryBytes: 8 * GIB });
  assert.is(addressOf(image, 'initrd'), 3 * GIB - 4096);
});

test('an initrd that just fits above the kernel is taken, one byte more is refused', () => {
  const memoryBytes = 64 * MIB;
  const room = memoryBytes - kernelEnd;
  assert.is(addressOf(compose({ initrd: Buffer.alloc(room), memoryBytes }), 'initrd'), kernelEnd);
  const message = refused('bad-initrd', () => {
    return compose({ initrd: Buffer.alloc(room + 1), memoryBytes });
  });
  assert.match(message, /do not fit: 46\.0 MiB are free of 64 MiB .*; raise --memory/);
});

test('a missing, empty or strange initrd is refused by its path', () => {
  const missing = join(folder, 'missing');
  assert.match(
    refused('bad-initrd', () => compose({ initrd: missing })),
    new RegExp(`^initrd ${missing}: no such file`),
  );
  assert.match(
    refused('bad-initrd', () => compose({ initrd: folder })),
    /is a directory/,
  );
  const empty = join(folder, 'empty');
  writeFileSync(empty, '');
  assert.match(
    refused('bad-initrd', () => compose({ initrd: empty })),
    /is empty/,
  );
});

// --- Command line -------------------------------------------------------------------------------

test('the default command line, then the root, then what the user appends', () => {
  const root = { device: '/dev/vda', readOnly: false, filesystem: 'ext4' };
  const text = commandLine({ root, append: 'init=/bin/sh quiet' });
  assert.match(text, /^console=ttyS0 panic=1 reboot=k /);
  assert.match(text, / root=\/dev\/vda rw rootfstype=ext4 init=\/bin\/sh quiet$/);
});

test('a read-only root says so, a root of unknown kind names none', () => {
  const text = commandLine({ root: { device: '/dev/vda', readOnly: true } });
  assert.match(text, / root=\/dev\/vda ro$/);
});

test('a replaced command line is exactly the users', () => {
  assert.is(
    commandLine({ replace: ' a  b ', root: { device: '/dev/vda', readOnly: true } }),
    ' a  b ',
  );
  assert.is(commandLine({ replace: '' }), '');
});

test('a NUL, a newline or another control character is refused by name', () => {
  for (const [character, name] of [
    ['\0', 'U\\+0000'],
    ['\n', 'U\\+000A'],
    ['\x7f', 'U\\+007F'],
  ]) {
    assert.match(
      refused('bad-usage', () => commandLine({ append: `a${character}b` })),
      new RegExp(`^--cmdline: holds the character ${name}`),
    );
    assert.match(
      refused('bad-usage', () => commandLine({ replace: `a${character}b` })),
      /^--cmdline-replace: /,
    );
    refused('bad-usage', () => compose({ cmdline: `a${character}b` }));
  }
});

test('2047 bytes are taken, 2048 refused, counted in UTF-8', () => {
  assert.is(commandLine({ replace: 'a'.repeat(2047) }).length, 2047);
  const message = refused('bad-usage', () => commandLine({ replace: 'a'.repeat(2048) }));
  assert.match(message, /is 2048 bytes long; the limit is 2047/);
  refused('bad-usage', () => commandLine({ replace: 'ä'.repeat(1024) }));
});

test('devices are on the command line only where the kernel cannot read ACPI', () => {
  const first = 'virtio_mmio.device=4K@0xd0000000:5';
  const text = (options: Partial<ComposeConfig>): string => {
    return bytesOf(compose(options), 'command line').toString();
  };
  assert.not.match(text({}), /virtio_mmio/);
  assert.not.match(text({ acpi: true }), /virtio_mmio/);
  assert.is(text({ acpi: false }), `console=ttyS0 ${first} virtio_mmio.device=4K@0xd0001000:6\0`);
  assert.ok(text({ cmdline: 'acpi=off' }).includes(first));
  assert.not.ok(text({ cmdline: 'xacpi=off acpi=offx' }).includes(first));
});

test('devices come before what is for init', () => {
  const [slot] = virtioSlots(1);
  const text = withVirtioDevices('a -- b -- c', [slot]);
  assert.is(text, 'a virtio_mmio.device=4K@0xd0000000:5 -- b -- c');
});

test('a command line that the devices make too long is refused', () => {
  const cmdline = `acpi=off ${'a'.repeat(2020)}`;
  refused('bad-usage', () => compose({ cmdline }));
});

// --- Slots --------------------------------------------------------------------------------------

test('virtio slots take windows in order, and pins that nobody else means', () => {
  assert.equal(virtioSlots(0), []);
  assert.equal(virtioSlots(2), [
    { address: 0xd0000000, pin: 5 },
    { address: 0xd0001000, pin: 6 },
  ]);
  const pins = virtioSlots(16).map((slot) => slot.pin);
  assert.equal(pins, [5, 6, 7, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]);
});

test('one device too many is refused with the limit', () => {
  const message = refused('bad-usage', () => virtioSlots(17));
  assert.match(message, /17 virtio devices, but interrupt pins for 16; remove 1/);
});

test('a kernel without a PVH note is entered in 64-bit mode', () => {
  const plain = join(folder, 'plain');
  writeFileSync(plain, elf({ headers: [{ address: KERNEL_BASE, body: Buffer.alloc(64) }] }));
  assert.is(compose({ kernelPath: plain }).entry, 'linux64');
  refused('bad-kernel', () => compose({ kernelPath: plain, entry: 'pvh' }));
});

test.run();
