// host/boot/elf.ts: what is taken from a kernel, and everything that may be wrong with one.
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checkKernelFits, chooseEntry, kernelSegments, readElfKernel } from '../host/boot/elf.ts';
import { FaradayError } from '../host/errors.ts';
import {
  EHDR_BYTES,
  elf,
  type FakeElf,
  type FakeHeader,
  KERNEL_BASE,
  note,
  PHDR_BYTES,
  PT_NOTE,
  PVH_ENTRY,
  pvhNote,
  vmlinux,
} from './fake-kernel.ts';

const MIB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'faraday-elf-'));
const path = join(folder, 'kernel');
test.after(() => rmSync(folder, { recursive: true }));

function read(bytes: Buffer) {
  writeFileSync(path, bytes);
  return readElfKernel(path);
}

/** The message of the error, checked to be one line that names the file. */
function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert.instance(error, FaradayError);
    const { code, message } = error as FaradayError;
    assert.is(code, 'bad-kernel');
    assert.ok(message.startsWith(`kernel ${folder}`), message);
    assert.not.match(message, /\n/);
    return message;
  }
  throw new Error('the kernel was accepted');
}

const refused = (bytes: Buffer): string => refusal(() => read(bytes));

const text: FakeHeader = { address: KERNEL_BASE, body: Buffer.alloc(256, 0x90) };
const one = (header: FakeHeader, options: FakeElf = {}): Buffer => {
  return elf({ ...options, headers: [{ ...text, ...header }] });
};
const noted = (body: Buffer, more: FakeHeader = {}): Buffer => {
  return elf({ headers: [text, { type: PT_NOTE, body, ...more }] });
};

test('a kernel gives its segments by address, both entries and its end', () => {
  const kernel = read(vmlinux());
  assert.is(kernel.linux64Entry, KERNEL_BASE);
  assert.is(kernel.pvhEntry, PVH_ENTRY);
  assert.equal(
    kernel.segments.map(({ address, memoryBytes }) => [address, memoryBytes]),
    [
      [KERNEL_BASE, 0x3000],
      [KERNEL_BASE + 0x200000, 0x5000],
    ],
  );
  assert.is(kernel.endAddress, KERNEL_BASE + 0x205000);
});

test('segments out of order in the file come by rising address', () => {
  const low = { ...text, address: KERNEL_BASE - 0x10000 };
  const kernel = read(elf({ headers: [text, low] }));
  assert.equal(
    kernel.segments.map(({ address }) => address),
    [KERNEL_BASE - 0x10000, KERNEL_BASE],
  );
});

test('a machine image gets only what the file holds: the rest is fresh zeros', () => {
  const kernel = read(vmlinux());
  const [first, second] = kernelSegments(kernel);
  assert.is(first.fileOffset, EHDR_BYTES + 3 * PHDR_BYTES);
  assert.is(second.fileOffset, first.fileOffset + first.lengthBytes);
  assert.is(second.lengthBytes, 64);
  assert.is(second.path, path);
});

test('a segment of zeros alone takes room but no bytes', () => {
  const bss = { address: KERNEL_BASE + 0x1000, memoryBytes: 0x1000 };
  const kernel = read(elf({ headers: [text, bss] }));
  assert.is(kernel.segments.length, 2);
  assert.is(kernelSegments(kernel).length, 1);
  assert.is(kernel.endAddress, KERNEL_BASE + 0x2000);
});

test('empty program headers and those of other types are passed over', () => {
  const empty = { address: 0, memoryBytes: 0 };
  const stack = { type: 0x6474e551, address: 0, memoryBytes: 0 };
  assert.is(read(elf({ headers: [empty, text, stack] })).segments.length, 1);
});

// --- The file -----------------------------------------------------------------------------------

test('a missing kernel is refused', () => {
  const message = refusal(() => readElfKernel(join(folder, 'missing')));
  assert.match(message, /no such file/);
});

test('a folder is refused', () => {
  assert.match(
    refusal(() => readElfKernel(folder)),
    /is a directory/,
  );
});

test('a FIFO is refused at once, without waiting for a writer', () => {
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  assert.match(
    refusal(() => readElfKernel(fifo)),
    /not a regular file/,
  );
});

if (process.getuid?.() === 0) {
  test.skip('a kernel without rights is refused (skipped: root may read everything)', () => {});
} else {
  test('a kernel without rights is refused', () => {
    const secret = join(folder, 'secret');
    writeFileSync(secret, vmlinux());
    chmodSync(secret, 0);
    assert.match(
      refusal(() => readElfKernel(secret)),
      /no right to read it/,
    );
  });
}

test('an empty file is refused', () => {
  assert.match(refused(Buffer.alloc(0)), /is empty/);
});

test('a file cut short at any byte is refused', () => {
  const whole = vmlinux();
  for (let length = 0; length < whole.length; length++) {
    refused(whole.subarray(0, length));
  }
});

test('a file cut at each header boundary is called truncated, by part', () => {
  const whole = vmlinux();
  assert.match(refused(whole.subarray(0, 4)), /truncated: the ELF header needs 64 bytes/);
  assert.match(refused(whole.subarray(0, EHDR_BYTES - 1)), /truncated: the ELF header/);
  assert.match(refused(whole.subarray(0, EHDR_BYTES)), /truncated: the program header table/);
  const table = EHDR_BYTES + 3 * PHDR_BYTES;
  assert.match(refused(whole.subarray(0, table - 1)), /truncated: the program header table/);
  assert.match(refused(whole.subarray(0, table)), /truncated: the segment at 0x1000000/);
  assert.match(refused(whole.subarray(0, whole.length - 1)), /truncated: the note segment/);
});

// --- The ELF header -----------------------------------------------------------------------------

test('a 32-bit kernel is refused', () => {
  assert.match(refused(one({}, { elfClass: 1 })), /is a 32-bit ELF file/);
});

test('a big-endian kernel is refused', () => {
  assert.match(refused(one({}, { data: 2 })), /is a big-endian ELF file/);
});

test('a kernel of another architecture is refused by name', () => {
  assert.match(refused(one({}, { machine: 183 })), /is built for arm64/);
  assert.match(refused(one({}, { machine: 243 })), /is built for RISC-V/);
  assert.match(refused(one({}, { machine: 9999 })), /is built for machine 9999/);
});

test('an ELF file that is no kernel is refused by what it is', () => {
  assert.match(refused(one({}, { type: 1 })), /a relocatable object \(a kernel module\?\)/);
  assert.match(refused(one({}, { type: 3 })), /a shared object or a program/);
  assert.match(refused(one({}, { type: 4 })), /a core dump/);
  assert.match(refused(one({}, { type: 77 })), /an ELF file of type 77/);
});

test('program headers of a strange size or number are refused', () => {
  assert.match(refused(one({}, { phentsize: 32 })), /program headers of 32 bytes/);
  assert.match(refused(one({}, { phnum: 0 })), /has 0 program headers/);
  assert.match(refused(one({}, { phnum: 65 })), /has 65 program headers/);
  assert.match(refused(one({}, { phnum: 0xffff })), /has 65535 program headers/);
});

test('a program header table past the end of the file is refused', () => {
  assert.match(refused(one({}, { phoff: 1n << 63n })), /truncated: the program header table/);
  assert.match(refused(one({}, { phoff: 0xffffffffffffffffn })), /truncated/);
});

// --- Segments -----------------------------------------------------------------------------------

test('a kernel with nothing to load is refused', () => {
  assert.match(refused(elf({ headers: [{ type: PT_NOTE }] })), /has nothing to load/);
  assert.match(refused(one({ body: Buffer.alloc(0) })), /has nothing to load/);
});

test('a segment larger in the file than in memory is refused', () => {
  assert.match(refused(one({ memoryBytes: 255 })), /larger in the file than in memory/);
});

test('a segment past the end of the file is refused, with 64-bit arithmetic', () => {
  const huge = 0xffffffffffffff00n;
  assert.match(refused(one({ offset: huge })), /truncated: the segment/);
  const wrapping = { offset: huge, fileBytes: 0x200n, memoryBytes: 0x200n };
  assert.match(refused(one(wrapping)), /truncated: the segment/);
});

test('a segment below 1 MiB is refused', () => {
  assert.match(refused(one({ address: 0xfffff })), /lies below 1 MiB/);
});

test('a program for Linux is refused, even where its segments would fit', () => {
  const interpreter = { type: 3, body: Buffer.from('/lib64/ld-linux-x86-64.so.2\0') };
  assert.match(refused(elf({ headers: [text, interpreter] })), /is a program for Linux/);
});

test('overlapping segments are refused, by address', () => {
  const inside = { ...text, address: KERNEL_BASE + 255 };
  assert.match(refused(elf({ headers: [text, inside] })), /at 0x1000000 and 0x10000ff overlap/);
});

test('segments that overlap only by their zeros are refused too', () => {
  const wide = { ...text, memoryBytes: 0x1001 };
  const next = { ...text, address: KERNEL_BASE + 0x1000 };
  assert.match(refused(elf({ headers: [wide, next] })), /overlap/);
});

test('segments that touch are accepted', () => {
  const next = { ...text, address: KERNEL_BASE + 256 };
  assert.is(read(elf({ headers: [text, next] })).segments.length, 2);
});

test('a segment outside RAM is refused, with the memory named', () => {
  const kernel = read(one({ memoryBytes: 0x1000001 }));
  checkKernelFits(kernel, 33 * MIB);
  const message = refusal(() => checkKernelFits(kernel, 32 * MIB));
  assert.match(message, /outside the guest's RAM of 32 MiB; raise --memory/);
});

test('a segment past 3 GiB is refused however much memory there is', () => {
  const kernel = read(one({ memoryBytes: 3 * 2 ** 30 }));
  const message = refusal(() => checkKernelFits(kernel, 16 * 2 ** 30));
  assert.not.match(message, /raise --memory/);
});

test('a segment near the end of 64-bit addresses does not wrap into RAM', () => {
  const high = { ...text, address: 0xfffffffffffff000n, memoryBytes: 0x2000n };
  const kernel = read(elf({ headers: [text, high] }));
  assert.match(
    refusal(() => checkKernelFits(kernel, 64 * MIB)),
    /outside the guest's RAM/,
  );
});

// --- Entries and notes --------------------------------------------------------------------------

test('an entry outside every segment is refused', () => {
  assert.match(refused(one({}, { entry: KERNEL_BASE - 1 })), /its 64-bit entry 0xffffff lies in/);
  assert.match(refused(one({}, { entry: KERNEL_BASE + 256 })), /64-bit entry/);
  assert.match(refused(noted(pvhNote(0x100000))), /its PVH entry 0x100000 lies in no segment/);
});

test('an entry in the zeros of a segment is refused: there is no code', () => {
  assert.match(refused(one({ memoryBytes: 0x1000 }, { entry: KERNEL_BASE + 256 })), /64-bit entry/);
});

test('the PVH note is found behind others, whatever its padding', () => {
  const other = note('GNU\0', 3, Buffer.alloc(20));
  assert.is(read(noted(Buffer.concat([other, pvhNote()]))).pvhEntry, PVH_ENTRY);
  const wide = Buffer.alloc(8);
  wide.writeUInt32LE(PVH_ENTRY);
  const padded = [note('GNU\0', 5, Buffer.alloc(5), 8), note('Xen\0', 18, wide, 8)];
  assert.is(read(noted(Buffer.concat(padded), { align: 8 })).pvhEntry, PVH_ENTRY);
});

test("type 18 of another vendor, and Xen's other notes, are not the entry", () => {
  const desc = Buffer.alloc(4, 1);
  const others = [note('GNU\0', 18, desc), note('Xen\0', 17, desc), note('Xen', 18, desc)];
  assert.is(read(noted(Buffer.concat(others))).pvhEntry, null);
});

test('a note that runs past its segment is refused', () => {
  const broken = pvhNote();
  broken.writeUInt32LE(0xffffffff, 4);
  assert.match(refused(noted(broken)), /a note which runs past its segment/);
  broken.writeUInt32LE(4, 4);
  broken.writeUInt32LE(0xfffffff0, 0);
  assert.match(refused(noted(broken)), /a note which runs past its segment/);
});

test('a PVH note of a strange length is refused', () => {
  assert.match(refused(noted(note('Xen\0', 18, Buffer.alloc(12)))), /PVH entry of 12 bytes/);
});

test('an absurd amount of notes is refused unread', () => {
  assert.match(refused(noted(pvhNote(), { fileBytes: 1n << 40n })), /bytes of notes/);
});

test('PVH is chosen where the kernel offers it, and refused where it does not', () => {
  const withNote = read(noted(pvhNote()));
  const without = read(one({}));
  assert.is(chooseEntry(withNote, 'auto'), 'pvh');
  assert.is(chooseEntry(withNote, 'linux64'), 'linux64');
  assert.is(chooseEntry(without, 'auto'), 'linux64');
  assert.match(
    refusal(() => chooseEntry(without, 'pvh')),
    /has no PVH entry note/,
  );
});

test.run();
