// host/boot/acpi.ts and aml.ts: tables byte by byte where they are small, and through iasl, ACPI's
// reference compiler, which takes each apart and puts it together again.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { acpiSegment, dsdt, fadt, madt, rsdp, xsdt } from '../host/boot/acpi.ts';
import * as aml from '../host/boot/aml.ts';
import { virtioSlots } from '../host/boot/compose.ts';
import { ACPI_TABLES, ACPI_TABLES_END, VIRTIO_PINS } from '../host/boot/layout.ts';
import type { FaradayError } from '../host/errors.ts';

const HEADER_BYTES = 36;
const CPU_COUNTS = [1, 2, 32];
const DEVICE_COUNTS = [0, 1, 16];

const folder = mkdtempSync(join(tmpdir(), 'faraday-acpi-'));
test.after(() => rmSync(folder, { recursive: true }));

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;
const hex = (bytes: Uint8Array | number[]): string => Buffer.from(bytes).toString('hex');

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert.is((error as FaradayError).code, 'bad-usage');
    return (error as FaradayError).message;
  }
  throw new Error('it was accepted');
}

// --- AML ----------------------------------------------------------------------------------------

test('integers take the shortest form', () => {
  assert.is(hex(aml.integer(0)), '00');
  assert.is(hex(aml.integer(1)), '01');
  assert.is(hex(aml.integer(2)), '0a02');
  assert.is(hex(aml.integer(0x100)), '0b0001');
  assert.is(hex(aml.integer(0xd0000000)), '0c000000d0');
});

test('an EISA id is packed as the specification packs PNP0501', () => {
  assert.is(hex(aml.eisaId('PNP0501')), '0c41d00501');
});

test('a package length counts itself, in one to three bytes', () => {
  const scopeOf = (bytes: number): string => hex(aml.scope('A', Array(bytes).fill(0)).slice(0, 4));
  assert.is(scopeOf(58), '103f415f'); // 63 in all: the last that fits one byte
  assert.is(scopeOf(59), '10410441'); // 65: low nibble 1, then 4
  assert.is(scopeOf(4089), '104fff41'); // 4095: the last that fits two bytes
  assert.is(scopeOf(4090), '10810001'); // 4097: low nibble 1, then 0x100
});

test('resource descriptors are byte-exact', () => {
  assert.is(hex(aml.memory32Fixed(0xd0000000, 0x1000)), '86090001000000d000100000');
  assert.is(hex(aml.interrupt(5)), '890600030105000000');
  assert.is(hex(aml.ioPorts(0x3f8, 8)), '4701f803f8030108');
  assert.is(hex(aml.resourceTemplate(aml.interrupt(5))), '110e0a0b8906000301050000007900');
});

test('a name is padded to four characters', () => {
  assert.is(hex(aml.name('AB', aml.integer(1))), '0841425f5f01');
});

// --- Tables -------------------------------------------------------------------------------------

test('the RSDP has both checksums and points to the XSDT', () => {
  const bytes = rsdp(0xe1230);
  assert.is(bytes.length, 36);
  assert.is(bytes.toString('latin1', 0, 8), 'RSD PTR ');
  assert.is(sum(bytes.subarray(0, 20)), 0);
  assert.is(sum(bytes), 0);
  assert.is(bytes[15], 2);
  assert.is(bytes.readUInt32LE(16), 0); // no RSDT
  assert.is(bytes.readUInt32LE(20), 36);
  assert.is(bytes.readBigUInt64LE(24), 0xe1230n);
});

test('every table states its length and adds up to zero', () => {
  for (const bytes of [xsdt([1, 2]), fadt(0xe0040), madt(3), dsdt(virtioSlots(2))]) {
    assert.is(bytes.readUInt32LE(4), bytes.length);
    assert.is(sum(bytes), 0);
  }
});

test('the FADT is hardware-reduced, with sleep and reset registers and no keyboard', () => {
  const bytes = fadt(0xe0040);
  assert.is(bytes.length, 276);
  assert.is(bytes.readUInt32LE(112) & (1 << 20), 1 << 20); // HW_REDUCED_ACPI
  assert.is(bytes.readUInt32LE(112) & (1 << 10), 1 << 10); // RESET_REG_SUP
  assert.is(bytes.readUInt16LE(109), 0b1100); // no VGA, no MSI; legacy devices and 8042 unset
  assert.is(hex(bytes.subarray(116, 129)), `01080001${'0206000000000000'}42`); // RESET_REG, value
  assert.is(hex(bytes.subarray(244, 256)), '010800010006000000000000'); // SLEEP_CONTROL_REG
  assert.is(hex(bytes.subarray(256, 268)), '010800010106000000000000'); // SLEEP_STATUS_REG
  assert.is(bytes.readBigUInt64LE(140), 0xe0040n); // X_DSDT
  assert.is(bytes.readUInt32LE(36), 0); // FACS: a hardware-reduced machine has none
});

test('the MADT of two CPUs, entry by entry', () => {
  const entries = [
    '0008000001000000', // local APIC 0, enabled
    '0008010101000000', // local APIC 1, enabled
    '010c00000000c0fe00000000', // IOAPIC 0 at 0xFEC00000 from GSI 0
    '0406ff000001', // NMI on LINT1 of all
  ];
  const bytes = madt(2);
  assert.is(hex(bytes.subarray(36)), `0000e0fe00000000${entries.join('')}`);
});

test('the XSDT lists FADT and MADT, and everything is where its pointer says', () => {
  const { address, bytes } = acpiSegment(2, virtioSlots(3));
  assert.is(address, ACPI_TABLES);
  const table = (at: number): Uint8Array => {
    const start = at - ACPI_TABLES;
    const view = Buffer.from(bytes);
    return view.subarray(start, start + view.readUInt32LE(start + 4));
  };
  const pointer = (from: Uint8Array, at: number): number => {
    return Number(Buffer.from(from).readBigUInt64LE(at));
  };
  const root = table(pointer(bytes, 24));
  const found = [pointer(root, HEADER_BYTES), pointer(root, HEADER_BYTES + 8)].map(table);
  assert.is(hex(found[0]), hex(fadt(pointer(found[0], 140))));
  assert.is(hex(found[1]), hex(madt(2)));
  assert.is(hex(table(pointer(found[0], 140))), hex(dsdt(virtioSlots(3))));
});

test('the largest machine fits below 1 MiB', () => {
  const { address, bytes } = acpiSegment(255, virtioSlots(VIRTIO_PINS.length));
  assert.ok(address + bytes.length <= ACPI_TABLES_END);
});

test('a number of CPUs that ACPI cannot list is refused', () => {
  for (const count of [0, -1, 256, 1.5, Number.NaN]) {
    assert.match(
      refusal(() => acpiSegment(count, [])),
      /--cpus .* give 1 to 255/,
    );
  }
});

// --- iasl ---------------------------------------------------------------------------------------

/** Takes a table apart and puts it together again: the source text, and the new table. */
function throughIasl(table: Buffer, name: string): { text: string; again: Buffer } {
  const base = join(folder, name);
  writeFileSync(`${base}.dat`, table);
  const output = execFileSync('iasl', ['-d', `${base}.dat`], { stdio: 'pipe' }).toString();
  assert.not.match(output, /error|warning|invalid|incorrect/i);
  const text = readFileSync(`${base}.dsl`, 'utf8');
  assert.not.match(text, /\*\*\*\*|invalid|incorrect|unknown/i);
  const compile = ['-p', `${base}-again`, `${base}.dsl`];
  const compiled = execFileSync('iasl', compile, { stdio: 'pipe' }).toString();
  assert.match(compiled, /0 Errors, 0 Warnings, 0 Remarks/);
  return { text, again: readFileSync(`${base}-again.aml`) };
}

// The header differs: iasl puts its own name there as the table's creator.
function assertSameBody(table: Buffer, again: Buffer): void {
  assert.is(hex(again.subarray(HEADER_BYTES)), hex(table.subarray(HEADER_BYTES)));
}

if (spawnSync('iasl', ['-v']).error) {
  test.skip('iasl finds no fault in the tables (skipped: no iasl, apt install acpica-tools)');
} else {
  for (const count of DEVICE_COUNTS) {
    test(`iasl finds no fault in the DSDT of ${count} virtio devices`, () => {
      const table = dsdt(virtioSlots(count));
      const { text, again } = throughIasl(table, `dsdt${count}`);
      assertSameBody(table, again);
      assert.is(text.split('"LNRO0005"').length - 1, count);
      assert.match(text, /Device \(COM1\)[^}]*PNP0501/);
      assert.match(text, /PNP0B00/);
      assert.match(text, /"QEMU0001"/);
      assert.match(text, /Name \(_S5, Package/);
    });
  }

  for (const count of CPU_COUNTS) {
    test(`iasl finds no fault in the MADT of ${count} CPUs`, () => {
      const table = madt(count);
      const { text, again } = throughIasl(table, `madt${count}`);
      assertSameBody(table, again);
      assert.is(text.split('[Processor Local APIC]').length - 1, count);
    });
  }

  test('iasl finds no fault in FADT and XSDT', () => {
    const tables = { fadt: fadt(0xe0040), xsdt: xsdt([0xe1000, 0xe2000]) };
    for (const [name, table] of Object.entries(tables)) {
      assertSameBody(table, throughIasl(table, name).again);
    }
  });

  test('each virtio device has its window and its pin in the DSDT', () => {
    const slots = virtioSlots(16);
    const { text } = throughIasl(dsdt(slots), 'slots');
    const devices = text.split(/Device \(VR/).slice(1);
    slots.forEach(({ address, pin }, index) => {
      const window = address.toString(16).toUpperCase();
      const line = pin.toString(16).toUpperCase().padStart(8, '0');
      assert.ok(devices[index].includes(`0x${window}`), `window of device ${index}`);
      assert.ok(devices[index].includes(`0x${line},`), `pin of device ${index}`);
      assert.ok(devices[index].includes('Edge, ActiveHigh, Exclusive'));
    });
  });
}

test.run();
