// Entry by PVH: Xen's x86/HVM direct boot ABI (xen/include/public/arch-x86/hvm/start_info.h,
// version 1). 32-bit protected mode without paging, ebx -> hvm_start_info. Left out: a command
// line per module.
//
// hvm_start_info:    +0 magic u32   +4 version u32  +8 flags u32    +12 nr_modules u32
//                    +16 modlist u64  +24 cmdline u64  +32 rsdp u64
//                    +40 memmap u64   +48 memmap_entries u32  +52 reserved u32
// hvm_modlist_entry: +0 paddr u64   +8 size u64     +16 cmdline u64  +24 reserved u64
// hvm_memmap_entry:  +0 addr u64    +8 size u64     +16 type u32     +20 reserved u32
import type { E820Entry } from './e820.ts';
import type { Segment, VcpuRegisters } from './image.ts';
import type { PlacedInitrd } from './initrd.ts';
import {
  ACPI_TABLES,
  COMMAND_LINE,
  PVH_MEMORY_MAP,
  PVH_MODULE_LIST,
  PVH_START_INFO,
} from './layout.ts';
import { CODE_32, gdtSegment, startRegisters } from './registers.ts';

const XEN_HVM_START_MAGIC_VALUE = 0x336ec578;
const START_INFO_BYTES = 56;
const MODLIST_ENTRY_BYTES = 32;
const MEMMAP_ENTRY_BYTES = 24;
const CR0_PE = 1n;
const CR0_ET = 1n << 4n; // hard-wired to 1

function startInfo(mapEntries: number, modules: number): Buffer {
  const bytes = Buffer.alloc(START_INFO_BYTES);
  bytes.writeUInt32LE(XEN_HVM_START_MAGIC_VALUE, 0);
  bytes.writeUInt32LE(1, 4);
  bytes.writeUInt32LE(modules, 12);
  bytes.writeBigUInt64LE(BigInt(modules > 0 ? PVH_MODULE_LIST : 0), 16);
  bytes.writeBigUInt64LE(BigInt(COMMAND_LINE), 24);
  bytes.writeBigUInt64LE(BigInt(ACPI_TABLES), 32);
  bytes.writeBigUInt64LE(BigInt(PVH_MEMORY_MAP), 40);
  bytes.writeUInt32LE(mapEntries, 48);
  return bytes;
}

// The types in the map are those of e820.
function memoryMap(map: readonly E820Entry[]): Buffer {
  const bytes = Buffer.alloc(map.length * MEMMAP_ENTRY_BYTES);
  map.forEach((entry, index) => {
    const at = index * MEMMAP_ENTRY_BYTES;
    bytes.writeBigUInt64LE(BigInt(entry.address), at);
    bytes.writeBigUInt64LE(BigInt(entry.lengthBytes), at + 8);
    bytes.writeUInt32LE(entry.type, at + 16);
  });
  return bytes;
}

/** The boot data of a PVH start; the command line is placed by compose.ts. */
export function pvhSegments(map: readonly E820Entry[], initrd: PlacedInitrd | null): Segment[] {
  const info = startInfo(map.length, initrd ? 1 : 0);
  const segments: Segment[] = [
    gdtSegment(CODE_32),
    { name: 'pvh start info', address: PVH_START_INFO, bytes: info },
    { name: 'pvh memory map', address: PVH_MEMORY_MAP, bytes: memoryMap(map) },
  ];
  if (initrd) {
    const bytes = Buffer.alloc(MODLIST_ENTRY_BYTES);
    bytes.writeBigUInt64LE(BigInt(initrd.address), 0);
    bytes.writeBigUInt64LE(BigInt(initrd.lengthBytes), 8);
    segments.push({ name: 'pvh module list', address: PVH_MODULE_LIST, bytes });
  }
  return segments;
}

export function pvhRegisters(entry: number): VcpuRegisters {
  const registers = startRegisters(CODE_32, entry);
  return { ...registers, rbx: BigInt(PVH_START_INFO), cr0: CR0_PE | CR0_ET };
}
