// The guest-physical address plan: docs/memory-map.md shows the same numbers as a table.
// Ports and the numbers which the cages share live in assembly/abi.ts.

export const PAGE_BYTES = 0x1000;
export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

// --- Low memory: what the entry protocols hand to the kernel ------------------------------------
// Page 0 stays empty, so that a null pointer never means boot data.

export const GDT_ADDRESS = 0x1000;
export const PVH_START_INFO = 0x2000; // struct hvm_start_info
export const PVH_MODULE_LIST = 0x2100; // struct hvm_modlist_entry, one
export const PVH_MEMORY_MAP = 0x3000; // struct hvm_memmap_table_entry, one page at most
export const BOOT_PARAMS = 0x7000; // struct boot_params, the 'zero page'
export const BOOT_STACK_TOP = 0x9000; // grows down through the page at 0x8000
export const PAGE_TABLES = 0x9000; // PML4, PDPT, four page directories: the first 4 GiB
export const COMMAND_LINE = 0x20000;
export const COMMAND_LINE_BYTES_MAX = 2048; // COMMAND_LINE_SIZE of Linux on x86, with its NUL

// --- Firmware tables ----------------------------------------------------------------------------

export const LOW_RAM_END = 0x9fc00; // end of conventional memory
export const MP_TABLE = 0x9fc00; // the last KiB below 640 KiB, where MP-aware kernels look
export const MP_TABLE_BYTES_MAX = 0x400;
export const EBDA_END = 0xa0000;
export const ACPI_TABLES = 0xe0000; // the RSDP comes first: kernels scan from here on
export const ACPI_TABLES_END = 0x100000;

// --- Memory for the kernel ----------------------------------------------------------------------

export const HIGH_RAM_START = 0x100000; // 1 MiB: kernel and initrd lie above
export const HOLE_START = 3 * GIB;
export const HOLE_END = 4 * GIB;

// --- The hole at 3 GiB --------------------------------------------------------------------------

export const VIRTIO_MMIO_START = 0xd0000000;
export const VIRTIO_MMIO_BYTES = PAGE_BYTES; // one window each, next to each other
export const IOAPIC_ADDRESS = 0xfec00000;
export const LOCAL_APIC_ADDRESS = 0xfee00000;

// --- Interrupts: IOAPIC pins, which are the GSIs too --------------------------------------------

export const SERIAL_PIN = 4;
export const IOAPIC_PIN_COUNT = 24;
// Pins 8, 9 and 12 are left alone: by habit they mean the RTC, ACPI's SCI and the mouse.
export const VIRTIO_PINS: readonly number[] = [
  5, 6, 7, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/** Where RAM below the hole ends, in a guest of `memoryBytes`. */
export function lowRamEnd(memoryBytes: number): number {
  return Math.min(memoryBytes, HOLE_START);
}
