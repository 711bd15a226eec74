// The memory map as both entry protocols hand it over: what is RAM, what is taken.
// Ranges not named (the legacy video area, the hole at 3 GiB) are free for devices.
import {
  ACPI_TABLES,
  ACPI_TABLES_END,
  EBDA_END,
  HIGH_RAM_START,
  HOLE_END,
  HOLE_START,
  LOW_RAM_END,
  lowRamEnd,
  MP_TABLE,
} from './layout.ts';

export const E820_RAM = 1;
export const E820_RESERVED = 2;

/** One range of guest-physical memory; `type` is E820_RAM or E820_RESERVED. */
export interface E820Entry {
  address: number;
  lengthBytes: number;
  type: number;
}

/** The map of a guest with `memoryBytes` of RAM, by rising address. */
export function e820Map(memoryBytes: number): E820Entry[] {
  const range = (address: number, end: number, type: number): E820Entry => {
    return { address, lengthBytes: end - address, type };
  };
  const map = [
    range(0, LOW_RAM_END, E820_RAM),
    range(MP_TABLE, EBDA_END, E820_RESERVED),
    range(ACPI_TABLES, ACPI_TABLES_END, E820_RESERVED),
    range(HIGH_RAM_START, lowRamEnd(memoryBytes), E820_RAM),
  ];
  if (memoryBytes > HOLE_START) {
    map.push(range(HOLE_END, HOLE_END + memoryBytes - HOLE_START, E820_RAM));
  }
  return map;
}
