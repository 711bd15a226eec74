// The MP table: processors and interrupt routing for kernels which read no ACPI tables.
// Intel MultiProcessor Specification 1.4, sections 4.1 to 4.3. Left out: the extended table,
// default configurations, more buses than ISA.
//
// Floating pointer (16): '_MP_'  +4 table u32  +8 length u8  +9 revision u8  +10 checksum u8
// Table header (44):     'PCMP'  +4 length u16  +6 revision u8  +7 checksum u8  +8 OEM id (8)
//                        +16 product id (12)  +34 entry count u16  +36 local APIC u32
import type { BytesSegment } from './image.ts';
import {
  IOAPIC_ADDRESS,
  IOAPIC_PIN_COUNT,
  LOCAL_APIC_ADDRESS,
  MP_TABLE,
  MP_TABLE_BYTES_MAX,
} from './layout.ts';

const SPEC_REVISION_1_4 = 4;
const POINTER_BYTES = 16;
const HEADER_BYTES = 44;
const PROCESSOR_BYTES = 20;
const ENTRY_BYTES = 8; // every kind but the processor

const ENTRY_PROCESSOR = 0;
const ENTRY_BUS = 1;
const ENTRY_IOAPIC = 2;
const ENTRY_IO_INTERRUPT = 3;
const ENTRY_LOCAL_INTERRUPT = 4;

const CPU_ENABLED = 1;
const CPU_BOOTSTRAP = 2;
const IOAPIC_ENABLED = 1;
const APIC_VERSION = 0x14; // KVM's local APIC
const IOAPIC_VERSION = 0x11; // and its IOAPIC
const CPU_STEPPING = 0x600;
const CPU_FEATURES = 0x201; // APIC and FPU
const INTERRUPT_INT = 0;
const INTERRUPT_NMI = 1;
const INTERRUPT_EXTINT = 3;
const ISA_BUS = 0;
const IOAPIC_ID = 0; // KVM's IOAPIC answers with id 0
const ALL_APICS = 0xff;

// Everything but the processors: bus, IOAPIC, one entry a pin, two local interrupts.
const OTHER_ENTRIES = 2 + IOAPIC_PIN_COUNT + 2;
const FIXED_BYTES = POINTER_BYTES + HEADER_BYTES + OTHER_ENTRIES * ENTRY_BYTES;

/** Processors which fit; a kernel without ACPI sees no more, one with ACPI all of them. */
export const MP_CPU_COUNT_MAX = Math.floor((MP_TABLE_BYTES_MAX - FIXED_BYTES) / PROCESSOR_BYTES);

function putChecksum(bytes: Buffer, at: number): void {
  let sum = 0;
  for (let index = 0; index < bytes.length; index++) sum += bytes[index];
  bytes[at] = -sum & 0xff;
}

function processor(apicId: number): Buffer {
  const bytes = Buffer.alloc(PROCESSOR_BYTES);
  const flags = apicId === 0 ? CPU_ENABLED | CPU_BOOTSTRAP : CPU_ENABLED;
  bytes.set([ENTRY_PROCESSOR, apicId, APIC_VERSION, flags]);
  bytes.writeUInt32LE(CPU_STEPPING, 4);
  bytes.writeUInt32LE(CPU_FEATURES, 8);
  return bytes;
}

function isaBus(): Buffer {
  return Buffer.from([ENTRY_BUS, ISA_BUS, ...Buffer.from('ISA   ', 'latin1')]);
}

function ioapic(): Buffer {
  const bytes = Buffer.from([ENTRY_IOAPIC, IOAPIC_ID, IOAPIC_VERSION, IOAPIC_ENABLED, 0, 0, 0, 0]);
  bytes.writeUInt32LE(IOAPIC_ADDRESS, 4);
  return bytes;
}

// Flags of zero mean 'as the bus does': edge, active high on ISA. Every pin is an ISA interrupt
// of its own number, those past 15 too: that is how the kernel learns that they exist.
function ioInterrupt(pin: number): Buffer {
  return Buffer.from([ENTRY_IO_INTERRUPT, INTERRUPT_INT, 0, 0, ISA_BUS, pin, IOAPIC_ID, pin]);
}

function localInterrupt(type: number, apic: number, lint: number): Buffer {
  return Buffer.from([ENTRY_LOCAL_INTERRUPT, type, 0, 0, ISA_BUS, 0, apic, lint]);
}

function configurationTable(cpuCount: number): Buffer {
  const processors = Math.min(cpuCount, MP_CPU_COUNT_MAX);
  const entries = [
    ...Array.from({ length: processors }, (_, id) => processor(id)),
    isaBus(),
    ioapic(),
    ...Array.from({ length: IOAPIC_PIN_COUNT }, (_, pin) => ioInterrupt(pin)),
    localInterrupt(INTERRUPT_EXTINT, 0, 0),
    localInterrupt(INTERRUPT_NMI, ALL_APICS, 1),
  ];
  const table = Buffer.concat([Buffer.alloc(HEADER_BYTES), ...entries]);
  table.write('PCMP', 0, 'latin1');
  table.writeUInt16LE(table.length, 4);
  table.writeUInt8(SPEC_REVISION_1_4, 6);
  table.write('FARADAY MICROVM     ', 8, 'latin1');
  table.writeUInt16LE(entries.length, 34);
  table.writeUInt32LE(LOCAL_APIC_ADDRESS, 36);
  putChecksum(table, 7);
  return table;
}

/** The floating pointer and, right behind it, the table for `cpuCount` processors. */
export function mpTableSegment(cpuCount: number): BytesSegment {
  const pointer = Buffer.alloc(POINTER_BYTES);
  pointer.write('_MP_', 0, 'latin1');
  pointer.writeUInt32LE(MP_TABLE + POINTER_BYTES, 4);
  pointer.writeUInt8(POINTER_BYTES / 16, 8);
  pointer.writeUInt8(SPEC_REVISION_1_4, 9);
  putChecksum(pointer, 10);
  const bytes = Buffer.concat([pointer, configurationTable(cpuCount)]);
  return { name: 'mp table', address: MP_TABLE, bytes };
}
