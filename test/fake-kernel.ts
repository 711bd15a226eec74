// Makes kernels, bzImages and modules of a few KiB for tests: right in form, empty in substance,
// and with a handle on every field that a test may want to spoil.
import { execFileSync } from 'node:child_process';
import { gzipSync } from 'node:zlib';
import type { Compression } from '../host/boot/bzimage.ts';

export const EHDR_BYTES = 64;
export const PHDR_BYTES = 56;
export const PT_LOAD = 1;
export const PT_NOTE = 4;
export const KERNEL_BASE = 0x1000000;
export const PVH_ENTRY = KERNEL_BASE + 0x40;
export const RELEASE = '6.1.0-test';

export interface FakeHeader {
  type?: number;
  address?: number | bigint;
  body?: Buffer;
  offset?: number | bigint; // default: where the body is put
  fileBytes?: number | bigint; // default: the body's length
  memoryBytes?: number | bigint; // default: the body's length
  align?: number;
}

export interface FakeElf {
  elfClass?: number;
  data?: number;
  type?: number;
  machine?: number;
  entry?: number | bigint;
  phoff?: number | bigint;
  phentsize?: number;
  phnum?: number;
  headers?: FakeHeader[];
}

/** An ELF note, padded as `padding` says. */
export function note(name: string, type: number, desc: Buffer, padding = 4): Buffer {
  const nameBytes = Buffer.from(name, 'latin1');
  const head = Buffer.alloc(12);
  head.writeUInt32LE(nameBytes.length, 0);
  head.writeUInt32LE(desc.length, 4);
  head.writeUInt32LE(type, 8);
  const padded = (bytes: Buffer): Buffer => {
    const missing = (padding - (bytes.length % padding)) % padding;
    return Buffer.concat([bytes, Buffer.alloc(missing)]);
  };
  return Buffer.concat([padded(Buffer.concat([head, nameBytes])), padded(desc)]);
}

export function pvhNote(entry = PVH_ENTRY): Buffer {
  const desc = Buffer.alloc(4);
  desc.writeUInt32LE(entry);
  return note('Xen\0', 18, desc);
}

/** An ELF file; what is not given makes a valid x86-64 kernel header. */
export function elf(options: FakeElf = {}): Buffer {
  const headers = options.headers ?? [];
  const start = EHDR_BYTES + headers.length * PHDR_BYTES;
  const table = Buffer.alloc(start);
  table.write('\x7fELF', 0, 'latin1');
  table.set([options.elfClass ?? 2, options.data ?? 1, 1], 4);
  table.writeUInt16LE(options.type ?? 2, 16);
  table.writeUInt16LE(options.machine ?? 62, 18);
  table.writeBigUInt64LE(BigInt(options.entry ?? KERNEL_BASE), 24);
  table.writeBigUInt64LE(BigInt(options.phoff ?? EHDR_BYTES), 32);
  table.writeUInt16LE(options.phentsize ?? PHDR_BYTES, 54);
  table.writeUInt16LE(options.phnum ?? headers.length, 56);
  const parts: Buffer[] = [table];
  let end = start;
  headers.forEach((header, index) => {
    const body = header.body ?? Buffer.alloc(0);
    const at = EHDR_BYTES + index * PHDR_BYTES;
    table.writeUInt32LE(header.type ?? PT_LOAD, at);
    table.writeBigUInt64LE(BigInt(header.offset ?? end), at + 8);
    table.writeBigUInt64LE(BigInt(header.address ?? 0), at + 24);
    table.writeBigUInt64LE(BigInt(header.fileBytes ?? body.length), at + 32);
    table.writeBigUInt64LE(BigInt(header.memoryBytes ?? body.length), at + 40);
    table.writeBigUInt64LE(BigInt(header.align ?? 4), at + 48);
    parts.push(body);
    end += body.length;
  });
  return Buffer.concat(parts);
}

/** A vmlinux with a text and a data segment, a PVH note, a banner, and `strings` inside. */
export function vmlinux(strings: string[] = [], release = RELEASE): Buffer {
  const banner = Buffer.from(`Linux version ${release} (someone@somewhere) #1\0`);
  const traces = Buffer.from(strings.map((text) => `\0${text}\0`).join(''), 'latin1');
  const text = Buffer.concat([Buffer.alloc(0x100, 0x90), banner, traces, Buffer.from('end')]);
  return elf({
    headers: [
      { address: KERNEL_BASE, body: text, memoryBytes: 0x3000 },
      { address: KERNEL_BASE + 0x200000, body: Buffer.alloc(64, 7), memoryBytes: 0x5000 },
      { type: PT_NOTE, body: pvhNote() },
    ],
  });
}

const TOOLS: Partial<Record<Compression, [string, ...string[]]>> = {
  xz: ['xz', '-c', '--check=crc32'],
  zstd: ['zstd', '-c', '-q'],
  lz4: ['lz4', '-l', '-c', '-q'],
  lzma: ['xz', '--format=lzma', '-c'],
  bzip2: ['bzip2', '-c'],
  lzo: ['lzop', '-c'],
};

/** Packs as the kernel's build does: the length follows, but for gzip, which ends with it. */
export function pack(kernel: Buffer, compression: Compression): Buffer {
  if (compression === 'none') return kernel;
  if (compression === 'gzip') return gzipSync(kernel);
  const [tool, ...args] = TOOLS[compression]!;
  const size = Buffer.alloc(4);
  size.writeUInt32LE(kernel.length);
  return Buffer.concat([execFileSync(tool, args, { input: kernel }), size]);
}

export interface FakeBzImage {
  setupSectors?: number;
  protocol?: number;
  loadFlags?: number;
  version?: string;
  payloadOffset?: number;
  payloadLength?: number;
}

export const PAYLOAD_OFFSET = 0x100;

/** A bzImage around `payload`. */
export function bzImage(payload: Buffer, options: FakeBzImage = {}): Buffer {
  const setupSectors = options.setupSectors ?? 2;
  const setup = Buffer.alloc(((setupSectors || 4) + 1) * 512);
  setup[0x1f1] = setupSectors;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(options.protocol ?? 0x020f, 0x206);
  setup.writeUInt16LE(options.loadFlags ?? 1, 0x236);
  setup.writeUInt32LE(options.payloadOffset ?? PAYLOAD_OFFSET, 0x248);
  setup.writeUInt32LE(options.payloadLength ?? payload.length, 0x24c);
  setup.writeUInt16LE(0x100, 0x20e); // the version string, at 0x300
  setup.write(`${options.version ?? RELEASE} (someone@somewhere)\0`, 0x300, 'latin1');
  return Buffer.concat([setup, Buffer.alloc(PAYLOAD_OFFSET), payload, Buffer.alloc(64)]);
}

export interface FakeModule {
  name: string;
  depends?: string[];
  softdep?: string[];
  aliases?: string[];
  release?: string;
}

/** A module's ELF file: a null section, .modinfo and the section names. */
export function kernelModule(options: FakeModule): Buffer {
  const pairs = [
    ...(options.aliases ?? []).map((alias) => `alias=${alias}`),
    ...(options.softdep ?? []).map((softdep) => `softdep=${softdep}`),
    `depends=${(options.depends ?? []).join(',')}`,
    `name=${options.name}`,
    `vermagic=${options.release ?? RELEASE} SMP preempt mod_unload `,
  ];
  const modinfo = Buffer.from(`${pairs.join('\0')}\0`);
  const names = Buffer.from('\0.modinfo\0.shstrtab\0');
  const sections = EHDR_BYTES + modinfo.length + names.length;
  const head = Buffer.alloc(EHDR_BYTES);
  head.write('\x7fELF', 0, 'latin1');
  head.set([2, 1, 1], 4);
  head.writeBigUInt64LE(BigInt(sections), 40);
  head.writeUInt16LE(64, 58);
  head.writeUInt16LE(3, 60);
  head.writeUInt16LE(2, 62);
  const section = (name: number, offset: number, length: number): Buffer => {
    const bytes = Buffer.alloc(64);
    bytes.writeUInt32LE(name, 0);
    bytes.writeBigUInt64LE(BigInt(offset), 24);
    bytes.writeBigUInt64LE(BigInt(length), 32);
    return bytes;
  };
  const table = [
    Buffer.alloc(64),
    section(1, EHDR_BYTES, modinfo.length),
    section(10, EHDR_BYTES + modinfo.length, names.length),
  ];
  return Buffer.concat([head, modinfo, names, ...table]);
}
