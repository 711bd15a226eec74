// Entry by Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, protocol 2.15, section
// '64-bit Boot Protocol', and zero-page.rst). Long mode, the first 4 GiB mapped onto themselves,
// rsi -> boot_params. Left out: screen_info, EFI, setup_data.
//
// boot_params: +0x070 acpi_rsdp_addr u64    +0x0c0 ext_ramdisk_image u32  +0x0c4 ext_ramdisk_size
//   +0x0c8 ext_cmd_line_ptr u32             +0x1e8 e820_entries u8        +0x1f1 setup header
//   +0x2d0 e820_table: addr u64, size u64, type u32
import type { E820Entry } from './e820.ts';
import type { Segment, VcpuRegisters } from './image.ts';
import type { PlacedInitrd } from './initrd.ts';
import {
  ACPI_TABLES,
  BOOT_PARAMS,
  BOOT_STACK_TOP,
  COMMAND_LINE,
  COMMAND_LINE_BYTES_MAX,
  PAGE_BYTES,
  PAGE_TABLES,
} from './layout.ts';
import { CODE_64, gdtSegment, startRegisters } from './registers.ts';

const ACPI_RSDP_ADDR = 0x070;
const EXT_RAMDISK_IMAGE = 0x0c0;
const EXT_RAMDISK_SIZE = 0x0c4;
const E820_ENTRIES = 0x1e8;
const BOOT_FLAG = 0x1fe;
const HEADER = 0x202;
const VERSION = 0x206;
const TYPE_OF_LOADER = 0x210;
const LOADFLAGS = 0x211;
const RAMDISK_IMAGE = 0x218;
const RAMDISK_SIZE = 0x21c;
const CMD_LINE_PTR = 0x228;
const KERNEL_ALIGNMENT = 0x230;
const CMDLINE_SIZE = 0x238;
const E820_TABLE = 0x2d0;
const E820_ENTRY_BYTES = 20;

const LOADER_UNDEFINED = 0xff; // a boot loader without an assigned number
const LOADED_HIGH = 1;
const PROTOCOL_2_15 = 0x020f;

const PAGE_PRESENT_WRITABLE = 0x03n;
const PAGE_LARGE = 0x80n;
const LARGE_PAGE_BYTES = 0x200000n;
const DIRECTORY_COUNT = 4; // 1 GiB each
const TABLE_ENTRIES = 512;

const CR0_PE = 1n;
const CR0_ET = 1n << 4n; // hard-wired to 1
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

function bootParams(map: readonly E820Entry[], initrd: PlacedInitrd | null): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES);
  bytes.writeBigUInt64LE(BigInt(ACPI_TABLES), ACPI_RSDP_ADDR);
  bytes.writeUInt16LE(0xaa55, BOOT_FLAG);
  bytes.write('HdrS', HEADER, 'latin1');
  bytes.writeUInt16LE(PROTOCOL_2_15, VERSION);
  bytes.writeUInt8(LOADER_UNDEFINED, TYPE_OF_LOADER);
  bytes.writeUInt8(LOADED_HIGH, LOADFLAGS);
  bytes.writeUInt32LE(COMMAND_LINE, CMD_LINE_PTR);
  bytes.writeUInt32LE(Number(LARGE_PAGE_BYTES), KERNEL_ALIGNMENT);
  bytes.writeUInt32LE(COMMAND_LINE_BYTES_MAX - 1, CMDLINE_SIZE);
  if (initrd) {
    const address = BigInt(initrd.address);
    const size = BigInt(initrd.lengthBytes);
    bytes.writeUInt32LE(Number(address & 0xffffffffn), RAMDISK_IMAGE);
    bytes.writeUInt32LE(Number(size & 0xffffffffn), RAMDISK_SIZE);
    bytes.writeUInt32LE(Number(address >> 32n), EXT_RAMDISK_IMAGE);
    bytes.writeUInt32LE(Number(size >> 32n), EXT_RAMDISK_SIZE);
  }
  bytes.writeUInt8(map.length, E820_ENTRIES);
  map.forEach((entry, index) => {
    const at = E820_TABLE + index * E820_ENTRY_BYTES;
    bytes.writeBigUInt64LE(BigInt(entry.address), at);
    bytes.writeBigUInt64LE(BigInt(entry.lengthBytes), at + 8);
    bytes.writeUInt32LE(entry.type, at + 16);
  });
  return bytes;
}

/** PML4, PDPT and four directories of 2 MiB pages: virtual is physical for the first 4 GiB. */
function pageTables(): Buffer {
  const bytes = Buffer.alloc((2 + DIRECTORY_COUNT) * PAGE_BYTES);
  const tableAddress = (index: number): bigint => BigInt(PAGE_TABLES + index * PAGE_BYTES);
  bytes.writeBigUInt64LE(tableAddress(1) | PAGE_PRESENT_WRITABLE, 0);
  for (let directory = 0; directory < DIRECTORY_COUNT; directory++) {
    const entry = tableAddress(2 + directory) | PAGE_PRESENT_WRITABLE;
    bytes.writeBigUInt64LE(entry, PAGE_BYTES + directory * 8);
  }
  for (let page = 0; page < DIRECTORY_COUNT * TABLE_ENTRIES; page++) {
    const entry = (BigInt(page) * LARGE_PAGE_BYTES) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
    bytes.writeBigUInt64LE(entry, 2 * PAGE_BYTES + page * 8);
  }
  return bytes;
}

/** The boot data of a 64-bit start; the command line is placed by compose.ts. */
export function linux64Segments(map: readonly E820Entry[], initrd: PlacedInitrd | null): Segment[] {
  return [
    gdtSegment(CODE_64),
    { name: 'boot parameters', address: BOOT_PARAMS, bytes: bootParams(map, initrd) },
    { name: 'page tables', address: PAGE_TABLES, bytes: pageTables() },
  ];
}

export function linux64Registers(entry: number): VcpuRegisters {
  return {
    ...startRegisters(CODE_64, entry),
    rsp: BigInt(BOOT_STACK_TOP),
    rsi: BigInt(BOOT_PARAMS),
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: BigInt(PAGE_TABLES),
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
  };
}
