// The bzImage: a boot sector, setup code, and the kernel's ELF file in compressed form.
// Documentation/arch/x86/boot.rst, protocol 2.08 and later (payload_offset), 2.12 (xloadflags).
// Only the headers are read here; host/kernel/extract.ts takes the payload out.
//
// Setup header: +0x1f1 setup_sects u8     +0x1fe boot_flag u16    +0x202 'HdrS'
//   +0x206 version u16                    +0x20e kernel_version u16 (offset of a string - 0x200)
//   +0x236 xloadflags u16                 +0x248 payload_offset u32  +0x24c payload_length u32
import { fileError, type InputFile, readExactly } from './file.ts';

const SECTOR_BYTES = 512;
const SETUP_SECTS = 0x1f1;
const VERSION = 0x206;
const KERNEL_VERSION = 0x20e;
const XLOADFLAGS = 0x236;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const HEADER_END = 0x250;

const PROTOCOL_WITH_PAYLOAD = 0x0208;
const PROTOCOL_WITH_XLOADFLAGS = 0x020c;
const XLF_KERNEL_64 = 1;
const DEFAULT_SETUP_SECTS = 4; // what a setup_sects of 0 means
const VERSION_STRING_MAX = 256;
const SIZE_BYTES = 4; // the payload's last bytes: its length when decompressed

/** How a payload is packed; 'none' is a plain ELF file. */
export type Compression = 'gzip' | 'xz' | 'zstd' | 'lz4' | 'lzma' | 'bzip2' | 'lzo' | 'none';

const MAGICS: [Compression, string][] = [
  ['gzip', '\x1f\x8b'],
  ['xz', '\xfd7zXZ\0'],
  ['zstd', '\x28\xb5\x2f\xfd'],
  ['lz4', '\x02\x21\x4c\x18'], // the legacy frame
  ['bzip2', 'BZh'],
  ['lzo', '\x89LZO'],
  ['lzma', '\x5d\0\0'],
  ['none', '\x7fELF'],
];

export interface BzImage {
  version: string | null; // the kernel's release, such as '6.1.0-9-amd64'
  compression: Compression;
  packedOffset: number; // where the packed bytes stand in the file
  packedBytes: number;
  unpackedBytes: number; // as the image itself says
}

/** Tells a compression by its first bytes, null for none that Linux uses. */
export function sniffCompression(head: Buffer): Compression | null {
  const found = MAGICS.find(([, magic]) => {
    return head.subarray(0, magic.length).equals(Buffer.from(magic, 'latin1'));
  });
  return found?.[0] ?? null;
}

function releaseString(file: InputFile, header: Buffer): string | null {
  const pointer = header.readUInt16LE(KERNEL_VERSION);
  if (pointer === 0) return null;
  const text = file.read(pointer + 0x200, VERSION_STRING_MAX).toString('latin1');
  return /^[\x21-\x7e]+/.exec(text)?.[0] ?? null;
}

function checkProtocol(file: InputFile, header: Buffer): void {
  const version = header.readUInt16LE(VERSION);
  if (version < PROTOCOL_WITH_PAYLOAD) {
    const dotted = `${version >> 8}.${String(version & 0xff).padStart(2, '0')}`;
    throw fileError(file, `its boot protocol ${dotted} is older than 2.08; use a newer kernel`);
  }
  const flags = header.readUInt16LE(XLOADFLAGS);
  if (version >= PROTOCOL_WITH_XLOADFLAGS && !(flags & XLF_KERNEL_64)) {
    throw fileError(file, 'is a 32-bit bzImage; Faraday runs 64-bit x86 kernels only');
  }
}

/** Reads the setup header of a bzImage. Throws FaradayError('bad-kernel'). */
export function readBzImage(file: InputFile): BzImage {
  const header = readExactly(file, 0, HEADER_END, 'the bzImage setup header');
  checkProtocol(file, header);
  const setupSectors = header[SETUP_SECTS] || DEFAULT_SETUP_SECTS;
  const start = (setupSectors + 1) * SECTOR_BYTES + header.readUInt32LE(PAYLOAD_OFFSET);
  const length = header.readUInt32LE(PAYLOAD_LENGTH);
  if (length <= 2 * SIZE_BYTES) {
    throw fileError(file, `its payload has ${length} bytes; the file is damaged`);
  }
  const end = start + length;
  if (end > file.sizeBytes) {
    const finding = `truncated: the payload ends at byte ${end}, the file has ${file.sizeBytes}`;
    throw fileError(file, `${finding}; copy or download it again`);
  }
  const compression = sniffCompression(file.read(start, 8));
  if (compression === null) {
    throw fileError(file, 'its payload is corrupt: no known compression; download it again');
  }
  // gzip ends with that length by itself; after the other formats the kernel's build adds it.
  const trailer = compression === 'gzip' || compression === 'none' ? 0 : SIZE_BYTES;
  const unpackedBytes =
    compression === 'none'
      ? length
      : readExactly(file, end - SIZE_BYTES, SIZE_BYTES, 'the payload').readUInt32LE(0);
  return {
    version: releaseString(file, header),
    compression,
    packedOffset: start,
    packedBytes: length - trailer,
    unpackedBytes,
  };
}
