// Kernels as files: the ELF reader, what is kept of an ELF file, and the headers of a bzImage.
import { gunzipSync, gzipSync } from 'node:zlib';
import { type BzImage, readBzImage } from '../../../host/boot/bzimage.ts';
import {
  checkKernelFits,
  chooseEntry,
  type ElfKernel,
  kernelSegments,
  parseElfKernel,
} from '../../../host/boot/elf.ts';
import { type InputFile, inputOf } from '../../../host/boot/file.ts';
import { notAKernel, SNIFF_BYTES, sniffKernel } from '../../../host/boot/sniff.ts';
import { FaradayError } from '../../../host/errors.ts';
import { inspectKernel } from '../../../host/kernel/inspect.ts';
import { shrinkElf } from '../../../host/kernel/shrink.ts';
import {
  bzImage,
  elf,
  KERNEL_BASE,
  note,
  PT_NOTE,
  pack,
  pvhNote,
  vmlinux,
} from '../../../test/fake-kernel.ts';
import type { Random } from '../../../testing/random.ts';
import { spoilField } from '../mutate.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';

const MEMORY_BYTES = 64 * 2 ** 20;
const UNPACKED_BYTES_MAX = 2 ** 20; // larger ones cost time and show nothing more

const kernelFile = (bytes: Uint8Array): InputFile => {
  return inputOf(Buffer.from(bytes), 'FILE', 'kernel', 'bad-kernel');
};

// --- ELF ----------------------------------------------------------------------------------------

/** What a guest would see of a kernel. */
function loaded({ linux64Entry, pvhEntry, segments, endAddress }: ElfKernel): string {
  const places = segments.map(({ address, memoryBytes }) => [address, memoryBytes]);
  return JSON.stringify([linux64Entry, pvhEntry, places, endAddress]);
}

function checkSegments(kernel: ElfKernel, fileBytes: number): void {
  let end = 0;
  for (const { address, memoryBytes, fileOffset, fileBytes: length } of kernel.segments) {
    must(address >= end, 'segments overlap');
    must(length <= memoryBytes, 'a segment holds more than it has room for');
    must(fileOffset + length <= fileBytes, 'a segment leaves the file');
    end = address + memoryBytes;
  }
  must(kernel.endAddress === end, 'the end is not that of the last segment');
}

function runElf(input: Uint8Array): void {
  const file = kernelFile(input);
  const kernel = parseElfKernel(file);
  checkSegments(kernel, input.length);
  const small = shrinkElf(file);
  let again: ElfKernel;
  try {
    again = parseElfKernel(kernelFile(small));
  } catch (error) {
    throw new Error(`what is kept of a kernel is none: ${(error as Error).message}`);
  }
  checkSegments(again, small.length);
  must(loaded(again) === loaded(kernel), 'what is kept of a kernel loads in another way');
  must(shrinkElf(kernelFile(small)).equals(small), 'what was made small can be made smaller');
  inspectKernel(Buffer.from(input), null);
  checkKernelFits(kernel, MEMORY_BYTES);
  chooseEntry(kernel, 'auto');
  kernelSegments(kernel);
  chooseEntry(kernel, 'pvh');
}

// Fields of the headers: offset and width.
const EHDR_FIELDS = [
  ...[4, 5].map((at) => [at, 1]),
  ...[16, 18, 54, 56].map((at) => [at, 2]),
  ...[24, 32].map((at) => [at, 8]),
];
const PHDR_FIELDS = [[0, 4], ...[8, 24, 32, 40, 48].map((at) => [at, 8])];

/** Spoils one field of a header, of a program header or of a note. */
export function mutateElf(bytes: Uint8Array, random: Random): Uint8Array {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 120 || random(4) === 0) {
    const [at, width] = EHDR_FIELDS[random(EHDR_FIELDS.length)];
    spoilField(bytes, at, width, random);
    return bytes;
  }
  const count = Math.max(1, Math.min(view.readUInt16LE(56), 8));
  const header = 64 + 56 * random(count);
  if (header + 56 > bytes.length) return bytes;
  const notes = Number(view.readBigUInt64LE(header + 8));
  if (random(3) === 0 && notes + 12 <= bytes.length) {
    spoilField(bytes, notes + 4 * random(3), 4, random);
    return bytes;
  }
  const [at, width] = PHDR_FIELDS[random(PHDR_FIELDS.length)];
  if (at === 0) view.writeUInt32LE([1, 3, 4, 2, 0x6474e551][random(5)], header);
  else spoilField(bytes, header + at, width, random);
  return bytes;
}

const wide = note('Xen\0', 18, Buffer.from('4000000100000000', 'hex'), 8);
const text = { address: KERNEL_BASE, body: Buffer.alloc(64, 0x90), memoryBytes: 0x1000 };

const ikconfig = Buffer.concat([
  Buffer.from('IKCFG_ST'),
  gzipSync('CONFIG_VIRTIO_BLK=y\n'),
  Buffer.from('IKCFG_ED'),
]);

export const elfParser: Parser = {
  seeds: () => [
    elf({ headers: [{ ...text, body: Buffer.concat([text.body, ikconfig]) }] }),
    elf({
      headers: [
        { ...text, body: Buffer.concat([text.body, Buffer.alloc(0x1040)]), memoryBytes: 0x3000 },
      ],
    }),
    vmlinux(['virtio_blk', 'virtio-mmio']),
    elf({ headers: [text] }),
    elf({ headers: [text, { type: PT_NOTE, body: wide, align: 8 }] }),
    elf({
      headers: [text, { type: PT_NOTE, body: Buffer.concat([note('GNU\0', 1, wide), pvhNote()]) }],
    }),
    elf({ headers: [text, { type: 3, body: Buffer.from('/lib/ld.so') }] }),
    elf({ headers: [{ ...text, body: Buffer.alloc(0x1100, 1) }, { type: 0x6474e551 }] }),
  ],
  run: runElf,
  mutate: mutateElf,
};

// --- bzImage ------------------------------------------------------------------------------------

/** The payload, where taking it out needs no program: in a fuzz run nothing is started. */
function unpacked({ compression, unpackedBytes }: BzImage, packed: Buffer): Buffer | null {
  if (compression === 'none') return packed;
  if (compression !== 'gzip') return null;
  try {
    const maxOutputLength = Math.max(1, Math.min(unpackedBytes, UNPACKED_BYTES_MAX));
    return gunzipSync(packed, { maxOutputLength });
  } catch {
    return null;
  }
}

function runBzImage(input: Uint8Array): void {
  const file = kernelFile(input);
  const format = sniffKernel(file.read(0, SNIFF_BYTES));
  if (format === 'other') {
    const error = notAKernel(file);
    must(error instanceof FaradayError, 'no error for what is no kernel');
  }
  const image = readBzImage(file);
  const { packedOffset, packedBytes, version } = image;
  must(
    packedBytes > 0 && packedOffset + packedBytes <= input.length,
    'the payload leaves the file',
  );
  must(version === null || /^[\x21-\x7e]{1,256}$/.test(version), 'a release that cannot be shown');
  const kernel = unpacked(image, file.read(packedOffset, packedBytes));
  if (kernel) shrinkElf(kernelFile(kernel));
}

const SETUP_FIELDS = [
  [0x1f1, 1],
  ...[0x1fe, 0x206, 0x20e, 0x236].map((at) => [at, 2]),
  ...[0x202, 0x248, 0x24c].map((at) => [at, 4]),
];

function mutateBzImage(bytes: Uint8Array, random: Random): Uint8Array {
  const [at, width] = SETUP_FIELDS[random(SETUP_FIELDS.length)];
  if (at + width <= bytes.length) spoilField(bytes, at, width, random);
  return bytes;
}

const packedLike = (magic: string): Buffer => Buffer.from(`${magic}${'\0'.repeat(12)}`, 'latin1');

export const bzImageParser: Parser = {
  seeds: () => {
    const kernel = elf({ headers: [text] });
    const none = bzImage(pack(kernel, 'none'), { setupSectors: 1 });
    const magics = [
      '\xfd7zXZ\0',
      '\x28\xb5\x2f\xfd',
      '\x02\x21\x4c\x18',
      'BZh',
      '\x89LZO',
      '\x5d\0\0',
    ];
    return [
      none,
      bzImage(pack(kernel, 'gzip'), { setupSectors: 1 }),
      bzImage(pack(kernel, 'gzip'), { setupSectors: 0, protocol: 0x0208 }),
      ...magics.map((magic) => bzImage(packedLike(magic), { setupSectors: 1 })),
      Buffer.from('!<arch>\ndebian-binary'),
    ];
  },
  run: runBzImage,
  mutate: mutateBzImage,
};
