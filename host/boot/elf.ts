// The kernel as an ELF file: where its parts go and where it is entered.
// System V ABI, ELF-64 Object File Format 1.5: file header, program header, note section.
// Xen's PVH ABI: the note that holds the 32-bit entry point. Left out: sections and symbols.
//
// Elf64_Ehdr: +4 class u8  +5 data u8  +16 type u16  +18 machine u16  +24 entry u64
//             +32 phoff u64  +54 phentsize u16  +56 phnum u16
// Elf64_Phdr: +0 type u32  +8 offset u64  +24 paddr u64  +32 filesz u64  +40 memsz u64  +48 align
import { FaradayError } from '../errors.ts';
import { fileError, type InputFile, readExactly, withInput } from './file.ts';
import type { EntryMode, FileSegment } from './image.ts';
import { HIGH_RAM_START, lowRamEnd, MIB } from './layout.ts';
import { ELF_MAGIC, notAKernel } from './sniff.ts';

export const EHDR_BYTES = 64;
export const PHDR_BYTES = 56;
// Offsets in a program header.
export const PHDR = { type: 0, offset: 8, paddr: 24, filesz: 32, memsz: 40, align: 48 };
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const EM_X86_64 = 62;
export const PT_LOAD = 1;
const PT_INTERP = 3;
export const PT_NOTE = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

// Linux has five program headers and half a KiB of notes: these bounds only stop nonsense.
const PHDR_COUNT_MAX = 64;
const NOTE_BYTES_MAX = 0x10000;

const TYPE_NAMES: Record<number, string> = {
  1: 'a relocatable object (a kernel module?)',
  3: 'a shared object or a program',
  4: 'a core dump',
};
const MACHINE_NAMES: Record<number, string> = {
  3: 'i386',
  8: 'MIPS',
  20: '32-bit PowerPC',
  21: 'PowerPC',
  22: 's390',
  40: '32-bit ARM',
  183: 'arm64',
  243: 'RISC-V',
  258: 'LoongArch',
};

/** One loadable part: `fileBytes` from the file, then zeros up to `memoryBytes`. */
export interface ElfSegment {
  address: number;
  memoryBytes: number;
  fileOffset: number;
  fileBytes: number;
}

/** What Faraday needs to know of a kernel. Addresses are guest-physical. */
export interface ElfKernel {
  path: string;
  linux64Entry: number;
  pvhEntry: number | null; // null: the kernel has no PVH note
  headers: ProgramHeader[]; // as they are, for shrink.ts
  segments: ElfSegment[]; // by rising address
  endAddress: number; // first byte after the last segment, its zeros included
}

/** A program header; `place` is its own offset in the file. */
export interface ProgramHeader {
  place: number;
  type: number;
  offset: number;
  address: number;
  fileBytes: number;
  memoryBytes: number;
  align: number;
}

// Values past 2^53 lose digits here, but stay far too big to pass any check below.
function u64(bytes: Buffer, offset: number): number {
  return Number(bytes.readBigUInt64LE(offset));
}

const hex = (value: number): string => `0x${value.toString(16)}`;

function checkHeader(file: InputFile, header: Buffer): void {
  if (header[4] !== ELFCLASS64) {
    throw fileError(file, 'is a 32-bit ELF file; Faraday runs 64-bit x86 kernels only');
  }
  if (header[5] !== ELFDATA2LSB) {
    throw fileError(file, 'is a big-endian ELF file; Faraday runs 64-bit x86 kernels only');
  }
  const machine = header.readUInt16LE(18);
  if (machine !== EM_X86_64) {
    const name = MACHINE_NAMES[machine] ?? `machine ${machine}`;
    throw fileError(file, `is built for ${name}; Faraday runs 64-bit x86 kernels only`);
  }
  const type = header.readUInt16LE(16);
  if (type !== ET_EXEC) {
    const name = TYPE_NAMES[type] ?? `an ELF file of type ${type}`;
    throw fileError(file, `is ${name}, not a kernel; name a vmlinux or a bzImage`);
  }
}

function readProgramHeaders(file: InputFile, header: Buffer): ProgramHeader[] {
  const entryBytes = header.readUInt16LE(54);
  const count = header.readUInt16LE(56);
  if (entryBytes !== PHDR_BYTES || count === 0 || count > PHDR_COUNT_MAX) {
    const finding = `has ${count} program headers of ${entryBytes} bytes`;
    throw fileError(file, `${finding}; a kernel has 1 to ${PHDR_COUNT_MAX} of ${PHDR_BYTES}`);
  }
  const start = u64(header, 32);
  const table = readExactly(file, start, count * PHDR_BYTES, 'the program header table');
  return Array.from({ length: count }, (_, index) => {
    const at = index * PHDR_BYTES;
    return {
      place: start + at,
      type: table.readUInt32LE(at + PHDR.type),
      offset: u64(table, at + PHDR.offset),
      address: u64(table, at + PHDR.paddr),
      fileBytes: u64(table, at + PHDR.filesz),
      memoryBytes: u64(table, at + PHDR.memsz),
      align: u64(table, at + PHDR.align),
    };
  });
}

function checkLoad(file: InputFile, header: ProgramHeader): void {
  const name = `the segment at ${hex(header.address)}`;
  if (header.fileBytes > header.memoryBytes) {
    throw fileError(file, `${name} is larger in the file than in memory; the file is damaged`);
  }
  const end = header.offset + header.fileBytes;
  if (end > file.sizeBytes) {
    const finding = `truncated: ${name} ends at byte ${end}, the file has ${file.sizeBytes}`;
    throw fileError(file, `${finding}; copy or download it again`);
  }
  if (header.address < HIGH_RAM_START) {
    throw fileError(file, `${name} lies below 1 MiB, where the boot tables are; not a vmlinux?`);
  }
}

function loadSegments(file: InputFile, headers: ProgramHeader[]): ElfSegment[] {
  const loads = headers.filter((header) => header.type === PT_LOAD && header.memoryBytes > 0);
  if (loads.length === 0) throw fileError(file, 'has nothing to load; it is not a kernel');
  if (headers.some(({ type }) => type === PT_INTERP)) {
    throw fileError(file, 'is a program for Linux, not a kernel; name a vmlinux or a bzImage');
  }
  for (const header of loads) checkLoad(file, header);
  loads.sort((one, other) => one.address - other.address);
  for (let index = 1; index < loads.length; index++) {
    const before = loads[index - 1];
    const here = loads[index];
    if (before.address + before.memoryBytes > here.address) {
      const places = `${hex(before.address)} and ${hex(here.address)}`;
      throw fileError(file, `the segments at ${places} overlap; the file is damaged`);
    }
  }
  return loads.map(({ address, memoryBytes, offset, fileBytes }) => {
    return { address, memoryBytes, fileOffset: offset, fileBytes };
  });
}

/** Looks for Xen's PHYS32_ENTRY in one note segment; null where it holds none. */
function pvhEntryOf(file: InputFile, header: ProgramHeader): number | null {
  if (header.fileBytes > NOTE_BYTES_MAX) {
    throw fileError(file, `has ${header.fileBytes} bytes of notes; the file is damaged`);
  }
  const notes = readExactly(file, header.offset, header.fileBytes, 'the note segment');
  // Notes are padded to 4 bytes; a segment aligned to 8 holds notes padded to 8.
  const padding = header.align === 8 ? 8 : 4;
  const padded = (length: number): number => Math.ceil(length / padding) * padding;
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameBytes = notes.readUInt32LE(at);
    const descBytes = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const desc = at + padded(12 + nameBytes);
    if (desc + descBytes > notes.length) {
      throw fileError(file, 'has a note which runs past its segment; the file is damaged');
    }
    const name = notes.toString('latin1', at + 12, at + 12 + nameBytes);
    if (name === 'Xen\0' && type === XEN_ELFNOTE_PHYS32_ENTRY) {
      if (descBytes === 4) return notes.readUInt32LE(desc);
      if (descBytes === 8) return u64(notes, desc);
      throw fileError(file, `has a PVH entry of ${descBytes} bytes; the file is damaged`);
    }
    at = desc + padded(descBytes);
  }
  return null;
}

function findPvhEntry(file: InputFile, headers: ProgramHeader[]): number | null {
  for (const header of headers) {
    if (header.type !== PT_NOTE) continue;
    const entry = pvhEntryOf(file, header);
    if (entry !== null) return entry;
  }
  return null;
}

function checkEntry(file: InputFile, segments: ElfSegment[], name: string, entry: number): void {
  const inside = segments.some(({ address, fileBytes }) => {
    return entry >= address && entry < address + fileBytes;
  });
  if (inside) return;
  throw fileError(file, `its ${name} entry ${hex(entry)} lies in no segment; the file is damaged`);
}

/** Reads an ELF kernel's headers; see readElfKernel(). */
export function parseElfKernel(file: InputFile): ElfKernel {
  const magic = file.read(0, 4);
  if (!magic.equals(ELF_MAGIC)) throw notAKernel(file);
  const header = readExactly(file, 0, EHDR_BYTES, 'the ELF header');
  checkHeader(file, header);
  const headers = readProgramHeaders(file, header);
  const segments = loadSegments(file, headers);
  const linux64Entry = u64(header, 24);
  checkEntry(file, segments, '64-bit', linux64Entry);
  const pvhEntry = findPvhEntry(file, headers);
  if (pvhEntry !== null) checkEntry(file, segments, 'PVH', pvhEntry);
  const last = segments[segments.length - 1];
  const endAddress = last.address + last.memoryBytes;
  return { path: file.path, linux64Entry, pvhEntry, headers, segments, endAddress };
}

/**
 * Reads an ELF kernel's headers. The file is hostile: each thing wrong with it is a
 * FaradayError('bad-kernel') of its own.
 */
export function readElfKernel(path: string): ElfKernel {
  return withInput(path, 'kernel', 'bad-kernel', parseElfKernel);
}

/** Throws FaradayError('bad-kernel') where the kernel does not fit into the RAM below 3 GiB. */
export function checkKernelFits(kernel: ElfKernel, memoryBytes: number): void {
  const limit = lowRamEnd(memoryBytes);
  if (kernel.endAddress <= limit) return;
  const over = kernel.segments.find(({ address, memoryBytes: bytes }) => address + bytes > limit);
  const finding = `its segment at ${hex(over!.address)} ends at ${hex(kernel.endAddress)}`;
  const ram = `outside the guest's RAM of ${Math.floor(memoryBytes / MIB)} MiB`;
  // Nothing is loaded past the hole: more memory helps only below it.
  const fix = kernel.endAddress <= lowRamEnd(Infinity) ? 'raise --memory' : 'it is no vmlinux';
  throw new FaradayError('bad-kernel', `kernel ${kernel.path}: ${finding}, ${ram}; ${fix}`);
}

/** The protocol to enter by: what was asked for, or PVH where the kernel offers it. */
export function chooseEntry(kernel: ElfKernel, asked: 'auto' | EntryMode): EntryMode {
  if (asked === 'pvh' && kernel.pvhEntry === null) {
    const fix = 'build it with CONFIG_PVH or enter it as linux64';
    throw new FaradayError('bad-kernel', `kernel ${kernel.path}: has no PVH entry note; ${fix}`);
  }
  if (asked !== 'auto') return asked;
  return kernel.pvhEntry === null ? 'linux64' : 'pvh';
}

/** The kernel as segments of a machine image; what they leave out is zero in fresh guest RAM. */
export function kernelSegments(kernel: ElfKernel): FileSegment[] {
  return kernel.segments
    .filter(({ fileBytes }) => fileBytes > 0)
    .map(({ address, fileOffset, fileBytes }) => {
      return { name: 'kernel', address, path: kernel.path, fileOffset, lengthBytes: fileBytes };
    });
}
