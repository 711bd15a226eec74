// Writes cpio archives as the kernel unpacks them: the initial RAM file system.
// Documentation/driver-api/early-userspace/buffer-format.rst, 'newc' format, magic 070701.
// The same entries always give the same bytes: no times, no owners. Left out: hard links.

const MAGIC = '070701';
const ALIGNMENT = 4;
const TRAILER = 'TRAILER!!!';
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;

/** One entry; paths are relative ('dev/console'), permissions are the low 12 bits. */
export type CpioEntry =
  | { kind: 'folder'; path: string; permissions?: number }
  | { kind: 'file'; path: string; bytes: Uint8Array; permissions?: number }
  | { kind: 'link'; path: string; target: string }
  | { kind: 'character'; path: string; major: number; minor: number; permissions?: number };

const field = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');

function modeOf(entry: CpioEntry): number {
  switch (entry.kind) {
    case 'folder':
      return S_IFDIR | (entry.permissions ?? 0o755);
    case 'file':
      return S_IFREG | (entry.permissions ?? 0o644);
    case 'link':
      return S_IFLNK | 0o777;
    case 'character':
      return S_IFCHR | (entry.permissions ?? 0o600);
  }
}

function bodyOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.bytes;
  if (entry.kind === 'link') return Buffer.from(entry.target);
  return Buffer.alloc(0);
}

function padding(lengthBytes: number): Buffer {
  return Buffer.alloc((ALIGNMENT - (lengthBytes % ALIGNMENT)) % ALIGNMENT);
}

function record(path: string, inode: number, mode: number, body: Uint8Array, device: number[]) {
  const name = Buffer.from(`${path}\0`);
  const linkCount = 1;
  // inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), name size, checksum
  const numbers = [inode, mode, 0, 0, linkCount, 0, body.length, 0, 0, ...device, name.length, 0];
  const head = Buffer.concat([Buffer.from(MAGIC + numbers.map(field).join('')), name]);
  return [head, padding(head.length), body, padding(body.length)];
}

/** The archive of `entries`, in their order: a folder must come before what is in it. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => {
    const device = entry.kind === 'character' ? [entry.major, entry.minor] : [0, 0];
    return record(entry.path, index + 1, modeOf(entry), bodyOf(entry), device);
  });
  return Buffer.concat([...parts, ...record(TRAILER, 0, 0, Buffer.alloc(0), [0, 0])]);
}
