// What a file looks like by its first bytes: the two kernel formats, and names for what people
// pass by mistake. Disk images are told by their file system's magic number.
import type { FaradayError } from '../errors.ts';
import { fileError, type InputFile } from './file.ts';

export const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1');
export const SNIFF_BYTES = 0x250; // as far as the end of a bzImage's setup header
export const DISK_SNIFF_BYTES = 68 * 1024; // btrfs has its magic farthest in

export type KernelFormat = 'elf' | 'bzimage' | 'other';
export type FilesystemType = 'ext4' | 'xfs' | 'btrfs' | 'squashfs' | 'erofs';

interface Magic {
  offset: number;
  bytes: Buffer;
  looks: string; // 'a gzip file; ...': what it is and what to do
}

const row = (offset: number, text: string, looks: string): Magic => {
  return { offset, bytes: Buffer.from(text, 'latin1'), looks };
};

const COMPRESSED = 'decompress it first';
const NAME_A_KERNEL = 'name a vmlinux or a bzImage';
const OTHER_MACHINE = 'Faraday runs 64-bit x86 kernels only';
const LOOKS: Magic[] = [
  row(0, '!<arch>\ndebian', 'a Debian package; run: faraday kernel import FILE'),
  row(0, '\x1f\x8b', `a gzip file; ${COMPRESSED}`),
  row(0, '\xfd7zXZ\0', `an xz file; ${COMPRESSED}`),
  row(0, '\x28\xb5\x2f\xfd', `a zstd file; ${COMPRESSED}`),
  row(0, '\x02\x21\x4c\x18', `an lz4 file; ${COMPRESSED}`),
  row(0, '\x04\x22\x4d\x18', `an lz4 file; ${COMPRESSED}`),
  row(0, 'BZh', `a bzip2 file; ${COMPRESSED}`),
  row(0, '\x89LZO', `an lzo file; ${COMPRESSED}`),
  row(56, 'ARM\x64', `an arm64 kernel image; ${OTHER_MACHINE}`),
  row(56, 'RSC\x05', `a RISC-V kernel image; ${OTHER_MACHINE}`),
  row(0, '\x27\x05\x19\x56', `a U-Boot image; ${OTHER_MACHINE}`),
  row(4, 'zimg', `an EFI zboot kernel image; ${OTHER_MACHINE}`),
  row(0, '070701', `a cpio archive; pass it as --initrd and ${NAME_A_KERNEL}`),
  row(0, 'QFI\xfb', `a qcow2 disk image; ${NAME_A_KERNEL}`),
  row(0, 'hsqs', `a squashfs image; pass it as --rootfs and ${NAME_A_KERNEL}`),
  row(0, '\0asm', `a WebAssembly module; ${NAME_A_KERNEL}`),
  row(0, 'PK\x03\x04', `a zip archive; ${NAME_A_KERNEL}`),
  row(0, '#!', `a script; ${NAME_A_KERNEL}`),
  row(0, 'MZ', `a Windows or EFI program; ${NAME_A_KERNEL}`),
  row(0x1fe, '\x55\xaa', `a disk image with a boot sector; ${NAME_A_KERNEL}`),
];

function has(bytes: Buffer, { offset, bytes: magic }: Pick<Magic, 'offset' | 'bytes'>): boolean {
  return bytes.subarray(offset, offset + magic.length).equals(magic);
}

/** Tells a kernel's format by its first SNIFF_BYTES bytes. */
export function sniffKernel(head: Buffer): KernelFormat {
  if (has(head, { offset: 0, bytes: ELF_MAGIC })) return 'elf';
  if (has(head, row(0x202, 'HdrS', '')) && has(head, row(0x1fe, '\x55\xaa', ''))) return 'bzimage';
  return 'other';
}

/** The error for a file which is no kernel: says what it looks like, and what to do. */
export function notAKernel(file: InputFile): FaradayError {
  if (file.sizeBytes === 0) return fileError(file, `is empty; ${NAME_A_KERNEL}`);
  const head = file.read(0, SNIFF_BYTES);
  const magic = LOOKS.find((candidate) => has(head, candidate));
  if (magic) return fileError(file, `looks like ${magic.looks}`);
  return fileError(file, `is in no format Faraday knows; ${NAME_A_KERNEL}`);
}

// Offsets from Linux: ext4_super_block.s_magic, xfs_dsb.sb_magicnum, btrfs_super_block.magic,
// squashfs_super_block.s_magic, erofs_super_block.magic. Longest magic first: two bytes of ext4
// prove less than eight of btrfs.
const FILESYSTEMS: [FilesystemType, number, string][] = [
  ['btrfs', 0x10040, '_BHRfS_M'],
  ['xfs', 0, 'XFSB'],
  ['squashfs', 0, 'hsqs'],
  ['erofs', 1024, '\xe2\xe1\xf5\xe0'],
  ['ext4', 0x438, '\x53\xef'],
];

/**
 * The file system in a disk image, from its first DISK_SNIFF_BYTES bytes; undefined for none of
 * those Faraday can import modules for. ext2 and ext3 count as ext4, whose driver mounts them.
 */
export function sniffFilesystem(head: Uint8Array): FilesystemType | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  const found = FILESYSTEMS.find(([, offset, magic]) => has(bytes, row(offset, magic, '')));
  return found?.[0];
}
