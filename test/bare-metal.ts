// Tiny guests without an operating system: bytes of machine code, start registers, page tables, and
// request records as a cage would write them.
import { accessSync, closeSync, constants, openSync } from 'node:fs';
import { test } from 'uvu';
import {
  RANGE_LENGTH,
  RANGE_STRIDE,
  REQUEST_FLAGS,
  REQUEST_KIND,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_RANGE_COUNT,
  REQUEST_RANGES,
} from '../assembly/abi.ts';
import type { SegmentRegister, VcpuRegisters } from '../host/boot/image.ts';
import {
  EXIT_RECORD_ADDRESS,
  EXIT_RECORD_DATA,
  EXIT_RECORD_WIDTH,
  type NativeError,
  shim,
  type Vm,
} from '../host/shim.ts';

export const GIB = 2 ** 30;
export const CODE = 0x1000; // where every guest's code begins
export const STACK = 0x8000;
export const TABLES = 0x10000; // page tables of long-mode guests

const CR0_PE = 0x1n;
const CR0_ET = 0x10n;
const CR0_PG = 0x80000000n;
const CR4_PAE = 0x20n;
const EFER_LME_LMA = 0x500n;

/** Why no guest can run here, or undefined. */
export function kvmMissing(): string | undefined {
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
    accessSync(new URL('../build/faraday.node', import.meta.url));
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const missing = kvmMissing();
if (missing) process.stderr.write(`SKIPPING every test that runs a guest: ${missing}\n`);

/** A test that needs /dev/kvm; skipped with the reason in its name where there is none. */
export function kvmTest(name: string, body: () => void | Promise<void>): void {
  if (missing) test.skip(`${name} (skipped: ${missing})`, body);
  else test(name, body);
}

// --- Machine code -------------------------------------------------------------------------------

/** Little-endian bytes of a number. */
export function le(value: number | bigint, bytes: number): number[] {
  const wide = BigInt.asUintN(64, BigInt(value));
  return Array.from({ length: bytes }, (_, i) => Number((wide >> BigInt(8 * i)) & 0xffn));
}

/** Joins instructions, each an array of bytes. */
export function assemble(...instructions: number[][]): Uint8Array {
  return Uint8Array.from(instructions.flat());
}

/** hlt; jmp back to it: an idle guest. */
export const IDLE = [0xf4, 0xeb, 0xfd];

// --- Start registers ----------------------------------------------------------------------------

function segment(fields: Partial<SegmentRegister>): SegmentRegister {
  const plain = { base: 0n, limit: 0xffff, selector: 0, type: 3, present: 1, dpl: 0, db: 0 };
  return { ...plain, s: 1, l: 0, g: 0, ...fields };
}

/** Real mode, all segments at 0. */
export function realMode(fields: Partial<VcpuRegisters> = {}): VcpuRegisters {
  return {
    rip: BigInt(CODE),
    rsp: BigInt(STACK),
    rbx: 0n,
    rsi: 0n,
    cr0: CR0_ET,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    gdtBase: 0n,
    gdtLimit: 0xffff,
    idtBase: 0n,
    idtLimit: 0x3ff,
    code: segment({ type: 11 }),
    data: segment({}),
    task: segment({ type: 11, s: 0 }),
    ...fields,
  };
}

/** 32-bit protected mode, flat, no paging. */
export function protectedMode(fields: Partial<VcpuRegisters> = {}): VcpuRegisters {
  return realMode({
    cr0: CR0_PE | CR0_ET,
    code: segment({ type: 11, selector: 8, limit: 0xffffffff, db: 1, g: 1 }),
    data: segment({ selector: 16, limit: 0xffffffff, db: 1, g: 1 }),
    task: segment({ type: 11, s: 0, selector: 24, limit: 0x67 }),
    ...fields,
  });
}

/** 64-bit mode on the page tables which longModeTables() makes. */
export function longMode(fields: Partial<VcpuRegisters> = {}): VcpuRegisters {
  return protectedMode({
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: BigInt(TABLES),
    cr4: CR4_PAE,
    efer: EFER_LME_LMA,
    code: segment({ type: 11, selector: 8, limit: 0xffffffff, l: 1, g: 1 }),
    ...fields,
  });
}

/**
 * Identity mapping of the first `gibibytes` in 2 MiB pages, to be loaded at TABLES: one PML4, one
 * page directory pointer table, a page directory for each GiB.
 */
export function longModeTables(gibibytes: number): Uint8Array {
  const PRESENT_WRITABLE = 3n;
  const LARGE = 0x80n;
  const bytes = new Uint8Array((2 + gibibytes) * 4096);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(TABLES + 4096) | PRESENT_WRITABLE, true);
  for (let directory = 0; directory < gibibytes; directory++) {
    const at = (2 + directory) * 4096;
    view.setBigUint64(4096 + directory * 8, BigInt(TABLES + at) | PRESENT_WRITABLE, true);
    for (let i = 0; i < 512; i++) {
      const page = (BigInt(directory) << 30n) | (BigInt(i) << 21n);
      view.setBigUint64(at + i * 8, page | LARGE | PRESENT_WRITABLE, true);
    }
  }
  return bytes;
}

// --- Running ------------------------------------------------------------------------------------

/** A machine with code at CODE and its registers set. */
export function boot(code: Uint8Array, registers: VcpuRegisters, memoryBytes = 2 ** 20): Vm {
  const vm = shim().createVm({ memoryBytes, cpuCount: 1 });
  vm.loadBytes(code, CODE);
  vm.setRegisters(registers);
  return vm;
}

export interface Exit {
  kind: number;
  address: number;
  width: number;
  data: bigint;
}

/** Runs to the next exit and reads its record. */
export function step(vm: Vm): Exit {
  const kind = vm.run();
  const view = new DataView(vm.exit);
  return {
    kind,
    address: Number(view.getBigUint64(EXIT_RECORD_ADDRESS, true)),
    width: view.getUint32(EXIT_RECORD_WIDTH, true),
    data: view.getBigUint64(EXIT_RECORD_DATA, true),
  };
}

/** Answers the read which step() returned. */
export function answer(vm: Vm, data: bigint): void {
  new DataView(vm.exit).setBigUint64(EXIT_RECORD_DATA, data, true);
}

/** 'KVM_RUN EFAULT' for the native error which `action` throws. */
export function failureOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    const { syscall, code, message } = error as NativeError;
    return code ? `${syscall} ${code}` : message;
  }
  return 'nothing thrown';
}

// --- Request records ----------------------------------------------------------------------------

export interface RecordFields {
  kind: number;
  offset?: number | bigint;
  length?: number | bigint; // default: the sum of the ranges
  flags?: number;
  rangeCount?: number; // default: as many as there are
  padding?: number; // behind each range's length; an honest cage writes 0
  ranges?: [address: number | bigint, length: number][];
}

/** A request record, honest unless a field says otherwise. */
export function record(fields: RecordFields): Uint8Array {
  const ranges = fields.ranges ?? [];
  const bytes = new Uint8Array(REQUEST_RANGES + ranges.length * RANGE_STRIDE);
  const view = new DataView(bytes.buffer);
  const sum = ranges.reduce((total, [, length]) => total + length, 0);
  view.setUint32(REQUEST_KIND, fields.kind, true);
  view.setBigUint64(REQUEST_OFFSET, BigInt(fields.offset ?? 0), true);
  view.setBigUint64(REQUEST_LENGTH, BigInt(fields.length ?? sum), true);
  view.setUint32(REQUEST_RANGE_COUNT, fields.rangeCount ?? ranges.length, true);
  view.setUint32(REQUEST_FLAGS, fields.flags ?? 0, true);
  for (const [i, [address, length]] of ranges.entries()) {
    const at = REQUEST_RANGES + i * RANGE_STRIDE;
    view.setBigUint64(at, BigInt.asUintN(64, BigInt(address)), true);
    view.setUint32(at + RANGE_LENGTH, length, true);
    view.setUint32(at + RANGE_LENGTH + 4, fields.padding ?? 0, true);
  }
  return bytes;
}
