// Segment descriptors and start registers: what is the same for both entry protocols.
// Intel SDM volume 3, section 3.4.5 (segment descriptors) and 3.5.2 (64-bit).
import type { BytesSegment, SegmentRegister, VcpuRegisters } from './image.ts';
import { GDT_ADDRESS } from './layout.ts';

// The selectors which Linux's 64-bit boot protocol asks for; PVH leaves them open.
export const BOOT_CS = 0x10;
export const BOOT_DS = 0x18;
export const BOOT_TSS = 0x20;
const GDT_BYTES = 0x30; // a null entry, a free one, code, data, and the TSS of two entries

const TYPE_CODE = 0xb; // execute, read, accessed
const TYPE_DATA = 0x3; // read, write, accessed
const TYPE_TSS_BUSY = 0xb;

function flat(selector: number, type: number, l: number): SegmentRegister {
  const db = l === 1 ? 0 : 1; // L and D together are reserved
  return { base: 0n, limit: 0xffffffff, selector, type, present: 1, dpl: 0, db, s: 1, l, g: 1 };
}

export const CODE_32 = flat(BOOT_CS, TYPE_CODE, 0);
export const CODE_64 = flat(BOOT_CS, TYPE_CODE, 1);
export const DATA = flat(BOOT_DS, TYPE_DATA, 0);
export const TASK: SegmentRegister = {
  base: 0n,
  limit: 0x67,
  selector: BOOT_TSS,
  type: TYPE_TSS_BUSY,
  present: 1,
  dpl: 0,
  db: 0,
  s: 0,
  l: 0,
  g: 0,
};

/** The 8 bytes of a descriptor for a segment based at 0. */
export function descriptor(segment: SegmentRegister): bigint {
  const limit = BigInt(segment.g ? segment.limit >>> 12 : segment.limit);
  const access =
    BigInt(segment.type) |
    (BigInt(segment.s) << 4n) |
    (BigInt(segment.dpl) << 5n) |
    (BigInt(segment.present) << 7n);
  const flags = (BigInt(segment.l) << 1n) | (BigInt(segment.db) << 2n) | (BigInt(segment.g) << 3n);
  return (limit & 0xffffn) | (access << 40n) | ((limit >> 16n) << 48n) | (flags << 52n);
}

/** The GDT in guest memory: the kernel reads it when it reloads a segment register. */
export function gdtSegment(code: SegmentRegister): BytesSegment {
  const bytes = Buffer.alloc(GDT_BYTES);
  bytes.writeBigUInt64LE(descriptor(code), BOOT_CS);
  bytes.writeBigUInt64LE(descriptor(DATA), BOOT_DS);
  bytes.writeBigUInt64LE(descriptor(TASK), BOOT_TSS);
  return { name: 'gdt', address: GDT_ADDRESS, bytes };
}

/** What both protocols share: flat segments, the GDT, no IDT. */
export function startRegisters(code: SegmentRegister, entry: number): VcpuRegisters {
  return {
    rip: BigInt(entry),
    rsp: 0n,
    rbx: 0n,
    rsi: 0n,
    cr0: 0n,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    gdtBase: BigInt(GDT_ADDRESS),
    gdtLimit: GDT_BYTES - 1,
    idtBase: 0n,
    idtLimit: 0,
    code,
    data: DATA,
    task: TASK,
  };
}
