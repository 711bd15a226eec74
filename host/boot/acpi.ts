// ACPI tables of the hardware-reduced kind: RSDP, XSDT, FADT, MADT, DSDT.
// ACPI 6.4, sections 5.2.5 (RSDP), 5.2.6 (header), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.12 (MADT),
// 4.8.3.7 (sleep registers), 7.4.2 (\_S5). Left out: FACS and the fixed hardware, which the
// hardware-reduced model does without; processor devices; x2APIC entries.
//
// Header (36): signature  +4 length u32  +8 revision u8  +9 checksum u8  +10 OEM id (6)
//              +16 OEM table id (8)  +24 OEM revision u32  +28 creator id (4)  +32 revision u32
import {
  ACPI_RESET_VALUE,
  ACPI_S5_SLEEP_TYPE,
  PORT_ACPI_PM,
  PORT_PVPANIC,
  PORT_RTC,
  PORT_SERIAL,
} from '../../assembly/abi.ts';
import { FaradayError } from '../errors.ts';
import * as aml from './aml.ts';
import type { BytesSegment, VirtioSlot } from './image.ts';
import {
  ACPI_TABLES,
  ACPI_TABLES_END,
  IOAPIC_ADDRESS,
  LOCAL_APIC_ADDRESS,
  SERIAL_PIN,
  VIRTIO_MMIO_BYTES,
} from './layout.ts';

const HEADER_BYTES = 36;
const RSDP_BYTES = 36;
const OEM_ID = 'FARADY';
const OEM_TABLE_ID = 'FARADAY ';

// An xAPIC id has 8 bits, of which 0xff means all.
export const ACPI_CPU_COUNT_MAX = 255;

// --- FADT ---------------------------------------------------------------------------------------

const FADT_BYTES = 276;
const FADT_REVISION = 6;
const FADT_MINOR_REVISION = 4;
const FADT_IAPC_BOOT_ARCH = 109;
const FADT_FLAGS = 112;
const FADT_RESET_REG = 116;
const FADT_RESET_VALUE = 128;
const FADT_MINOR = 131;
const FADT_X_DSDT = 140;
const FADT_SLEEP_CONTROL_REG = 244;
const FADT_SLEEP_STATUS_REG = 256;
const FADT_HYPERVISOR_VENDOR = 268;

// Not set: LEGACY_DEVICES and 8042. The keyboard controller is there only to reset the machine;
// a kernel told of it spends thousands of exits looking for a keyboard.
const IAPC_VGA_NOT_PRESENT = 1 << 2;
const IAPC_MSI_NOT_SUPPORTED = 1 << 3;

const FADT_WBINVD = 1 << 0; // required to be set
const FADT_PWR_BUTTON = 1 << 4; // no power button in fixed hardware
const FADT_SLP_BUTTON = 1 << 5; // no sleep button there either
const FADT_RESET_REG_SUP = 1 << 10;
const FADT_HEADLESS = 1 << 12;
const FADT_HW_REDUCED_ACPI = 1 << 20;

const SPACE_SYSTEM_IO = 1;
const ACCESS_BYTE = 1;

// --- MADT ---------------------------------------------------------------------------------------

const MADT_LOCAL_APIC = 0;
const MADT_IOAPIC = 1;
const MADT_LOCAL_APIC_NMI = 4;
const LOCAL_APIC_ENABLED = 1;
const ALL_PROCESSORS = 0xff;

const u16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const u32 = (value: number): number[] => [...u16(value), ...u16(value >>> 16)];

function putChecksum(bytes: Buffer, at: number): void {
  bytes[at] = 0;
  let sum = 0;
  for (let index = 0; index < bytes.length; index++) sum += bytes[index];
  bytes[at] = -sum & 0xff;
}

function table(signature: string, revision: number, body: Uint8Array | number[]): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + body.length);
  bytes.write(signature, 0, 'latin1');
  bytes.writeUInt32LE(bytes.length, 4);
  bytes.writeUInt8(revision, 8);
  bytes.write(OEM_ID, 10, 'latin1');
  bytes.write(OEM_TABLE_ID, 16, 'latin1');
  bytes.writeUInt32LE(1, 24);
  bytes.write('FRDY', 28, 'latin1');
  bytes.writeUInt32LE(1, 32);
  bytes.set(body, HEADER_BYTES);
  putChecksum(bytes, 9);
  return bytes;
}

/** RSDP, revision 2: only the 64-bit pointer to the XSDT; there is no RSDT. */
export function rsdp(xsdtAddress: number): Buffer {
  const bytes = Buffer.alloc(RSDP_BYTES);
  bytes.write('RSD PTR ', 0, 'latin1');
  bytes.write(OEM_ID, 9, 'latin1');
  bytes.writeUInt8(2, 15);
  bytes.writeUInt32LE(RSDP_BYTES, 20);
  bytes.writeBigUInt64LE(BigInt(xsdtAddress), 24);
  putChecksum(bytes.subarray(0, 20), 8); // the revision 0 part has its own sum
  putChecksum(bytes, 32);
  return bytes;
}

export function xsdt(addresses: readonly number[]): Buffer {
  const body = Buffer.alloc(addresses.length * 8);
  addresses.forEach((address, index) => {
    body.writeBigUInt64LE(BigInt(address), index * 8);
  });
  return table('XSDT', 1, body);
}

function genericAddress(port: number): number[] {
  return [SPACE_SYSTEM_IO, 8, 0, ACCESS_BYTE, ...u32(port), ...u32(0)];
}

export function fadt(dsdtAddress: number): Buffer {
  const bytes = Buffer.alloc(FADT_BYTES);
  const flags = FADT_WBINVD | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_HEADLESS;
  bytes.writeUInt16LE(IAPC_VGA_NOT_PRESENT | IAPC_MSI_NOT_SUPPORTED, FADT_IAPC_BOOT_ARCH);
  bytes.writeUInt32LE(flags | FADT_RESET_REG_SUP | FADT_HW_REDUCED_ACPI, FADT_FLAGS);
  bytes.set(genericAddress(PORT_ACPI_PM + 2), FADT_RESET_REG);
  bytes.writeUInt8(ACPI_RESET_VALUE, FADT_RESET_VALUE);
  bytes.writeUInt8(FADT_MINOR_REVISION, FADT_MINOR);
  bytes.writeBigUInt64LE(BigInt(dsdtAddress), FADT_X_DSDT);
  bytes.set(genericAddress(PORT_ACPI_PM), FADT_SLEEP_CONTROL_REG);
  bytes.set(genericAddress(PORT_ACPI_PM + 1), FADT_SLEEP_STATUS_REG);
  bytes.write('FARADAY', FADT_HYPERVISOR_VENDOR, 'latin1');
  return table('FACP', FADT_REVISION, bytes.subarray(HEADER_BYTES));
}

// No interrupt source overrides: KVM routes GSI n to IOAPIC pin n.
export function madt(cpuCount: number): Buffer {
  const body = [...u32(LOCAL_APIC_ADDRESS), ...u32(0)];
  for (let id = 0; id < cpuCount; id++) {
    body.push(MADT_LOCAL_APIC, 8, id, id, ...u32(LOCAL_APIC_ENABLED));
  }
  const ioapicId = 0;
  const gsiBase = 0;
  body.push(MADT_IOAPIC, 12, ioapicId, 0, ...u32(IOAPIC_ADDRESS), ...u32(gsiBase));
  body.push(MADT_LOCAL_APIC_NMI, 6, ALL_PROCESSORS, ...u16(0), 1); // LINT1
  return table('APIC', 5, body);
}

function virtioDevice(slot: VirtioSlot, index: number): aml.Aml {
  const hexIndex = index.toString(16).toUpperCase().padStart(2, '0');
  return aml.device(
    `VR${hexIndex}`,
    aml.name('_HID', aml.string('LNRO0005')),
    aml.name('_UID', aml.integer(index)),
    aml.name(
      '_CRS',
      aml.resourceTemplate(
        aml.memory32Fixed(slot.address, VIRTIO_MMIO_BYTES),
        aml.interrupt(slot.pin),
      ),
    ),
  );
}

function portDevices(): aml.Aml[] {
  const serial = aml.resourceTemplate(aml.ioPorts(PORT_SERIAL, 8), aml.interrupt(SERIAL_PIN));
  // The clock raises no interrupt, so none is promised: Linux then offers no alarms.
  const rtc = aml.resourceTemplate(aml.ioPorts(PORT_RTC, 2));
  const pvpanic = aml.resourceTemplate(aml.ioPorts(PORT_PVPANIC, 1));
  return [
    aml.device(
      'COM1',
      aml.name('_HID', aml.eisaId('PNP0501')),
      aml.name('_UID', aml.integer(0)),
      aml.name('_CRS', serial),
    ),
    aml.device('RTC_', aml.name('_HID', aml.eisaId('PNP0B00')), aml.name('_CRS', rtc)),
    aml.device('PVPN', aml.name('_HID', aml.string('QEMU0001')), aml.name('_CRS', pvpanic)),
  ];
}

export function dsdt(slots: readonly VirtioSlot[]): Buffer {
  const s5 = [ACPI_S5_SLEEP_TYPE, 0, 0, 0].map(aml.integer);
  const body = aml.join(
    aml.scope('_SB_', ...portDevices(), ...slots.map(virtioDevice)),
    aml.name('_S5_', aml.packageOf(...s5)),
  );
  return table('DSDT', 2, body);
}

/** All tables in one piece, the RSDP at its start. Throws FaradayError('bad-usage'). */
export function acpiSegment(cpuCount: number, slots: readonly VirtioSlot[]): BytesSegment {
  if (!Number.isInteger(cpuCount) || cpuCount < 1 || cpuCount > ACPI_CPU_COUNT_MAX) {
    const fix = `give 1 to ${ACPI_CPU_COUNT_MAX}`;
    throw new FaradayError('bad-usage', `--cpus ${cpuCount}: not a number of CPUs; ${fix}`);
  }
  const parts: { address: number; bytes: Buffer }[] = [];
  let next = ACPI_TABLES + RSDP_BYTES;
  const place = (bytes: Buffer): number => {
    const address = Math.ceil(next / 16) * 16;
    parts.push({ address, bytes });
    next = address + bytes.length;
    return address;
  };
  const fadtAddress = place(fadt(place(dsdt(slots))));
  const xsdtAddress = place(xsdt([fadtAddress, place(madt(cpuCount))]));
  parts.push({ address: ACPI_TABLES, bytes: rsdp(xsdtAddress) });
  if (next > ACPI_TABLES_END) throw new RangeError('the ACPI tables outgrow their area');
  const bytes = Buffer.alloc(next - ACPI_TABLES);
  for (const part of parts) bytes.set(part.bytes, part.address - ACPI_TABLES);
  return { name: 'acpi tables', address: ACPI_TABLES, bytes };
}
