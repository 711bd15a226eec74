// Makes an extracted kernel smaller: what no guest loads goes, and so do zeros at a segment's
// end, since fresh guest RAM is zero anyway. That is a quarter of Debian's cloud kernel and two
// fifths of its generic one, which nobody has to read at each start.
// System V ABI, ELF-64 Object File Format 1.5: file header and program header.
import { EHDR_BYTES, PHDR, PHDR_BYTES, PT_LOAD, PT_NOTE, parseElfKernel } from '../boot/elf.ts';
import { fileError, type InputFile } from '../boot/file.ts';
import { MIB, PAGE_BYTES } from '../boot/layout.ts';

/** More than this is no kernel: what is read of one stays below. */
export const KERNEL_BYTES_MAX = 512 * MIB;

const E_PHOFF = 32;
const E_SHOFF = 40;
const E_PHNUM = 56;
const E_SHENTSIZE = 58; // then e_shnum and e_shstrndx

function withoutTrailingZeros(bytes: Buffer): Buffer {
  // Whole pages by comparison: byte by byte would take a tenth of a second.
  const zeros = Buffer.alloc(PAGE_BYTES);
  let end = bytes.length;
  while (end > PAGE_BYTES && bytes.subarray(end - PAGE_BYTES, end).equals(zeros)) {
    end -= PAGE_BYTES;
  }
  return bytes.subarray(0, end);
}

/**
 * The same kernel in fewer bytes: headers, segments, notes. Throws FaradayError('bad-kernel'),
 * as parseElfKernel() does.
 */
export function shrinkElf(file: InputFile): Buffer {
  const { headers } = parseElfKernel(file);
  const kept = headers.filter(({ type }) => type === PT_LOAD || type === PT_NOTE);
  const total = kept.reduce((sum, { fileBytes }) => sum + fileBytes, 0);
  if (total > KERNEL_BYTES_MAX) {
    const limit = `${KERNEL_BYTES_MAX / MIB} MiB`;
    throw fileError(file, `loads more than ${limit}; the file is damaged or no kernel`);
  }
  const head = Buffer.alloc(EHDR_BYTES + kept.length * PHDR_BYTES);
  head.set(file.read(0, EHDR_BYTES));
  head.writeBigUInt64LE(BigInt(EHDR_BYTES), E_PHOFF);
  head.writeBigUInt64LE(0n, E_SHOFF);
  head.writeUInt16LE(kept.length, E_PHNUM);
  head.fill(0, E_SHENTSIZE, EHDR_BYTES);
  const parts: Buffer[] = [head];
  let end = head.length;
  kept.forEach((header, index) => {
    const whole = file.read(header.offset, header.fileBytes);
    const body = header.type === PT_LOAD ? withoutTrailingZeros(whole) : whole;
    // Page-aligned, so that a segment can be mapped instead of read.
    const offset = Math.ceil(end / PAGE_BYTES) * PAGE_BYTES;
    const at = EHDR_BYTES + index * PHDR_BYTES;
    head.set(file.read(header.place, PHDR_BYTES), at);
    head.writeBigUInt64LE(BigInt(offset), at + PHDR.offset);
    head.writeBigUInt64LE(BigInt(body.length), at + PHDR.filesz);
    parts.push(Buffer.alloc(offset - end), body);
    end = offset + body.length;
  });
  return Buffer.concat(parts);
}
