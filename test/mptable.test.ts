// host/boot/mptable.ts: the table as a kernel without ACPI reads it.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { MP_TABLE, MP_TABLE_BYTES_MAX } from '../host/boot/layout.ts';
import { MP_CPU_COUNT_MAX, mpTableSegment } from '../host/boot/mptable.ts';

const POINTER_BYTES = 16;
const HEADER_BYTES = 44;
const ENTRY_BYTES: Record<number, number> = { 0: 20, 1: 8, 2: 8, 3: 8, 4: 8 };

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

function tableOf(cpuCount: number): { pointer: Buffer; table: Buffer } {
  const bytes = Buffer.from(mpTableSegment(cpuCount).bytes);
  return { pointer: bytes.subarray(0, POINTER_BYTES), table: bytes.subarray(POINTER_BYTES) };
}

/** Walks the entries as a kernel does, and checks their number. */
function entriesOf(table: Buffer): Buffer[] {
  const entries: Buffer[] = [];
  for (let at = HEADER_BYTES; at < table.length; ) {
    const length = ENTRY_BYTES[table[at]];
    assert.ok(length, `entry type ${table[at]}`);
    entries.push(table.subarray(at, at + length));
    at += length;
  }
  assert.is(entries.length, table.readUInt16LE(34));
  return entries;
}

test('the floating pointer stands where kernels look and leads to the table', () => {
  assert.is(mpTableSegment(1).address, MP_TABLE);
  const { pointer } = tableOf(1);
  assert.is(pointer.toString('latin1', 0, 4), '_MP_');
  assert.is(pointer.readUInt32LE(4), MP_TABLE + POINTER_BYTES);
  assert.equal([...pointer.subarray(8, 10)], [1, 4]); // 16 bytes, specification 1.4
  assert.equal([...pointer.subarray(11)], [0, 0, 0, 0, 0]); // a table follows, no PIC mode
  assert.is(sum(pointer), 0);
});

test('the table states its length, adds up to zero and names the local APIC', () => {
  const { table } = tableOf(2);
  assert.is(table.toString('latin1', 0, 4), 'PCMP');
  assert.is(table.readUInt16LE(4), table.length);
  assert.is(table.readUInt32LE(36), 0xfee00000);
  assert.is(sum(table), 0);
});

for (const count of [1, 2, 32]) {
  test(`${count} CPUs are listed, the first as the one that boots`, () => {
    const processors = entriesOf(tableOf(count).table).filter(([type]) => type === 0);
    assert.equal(
      processors.map((entry) => [entry[1], entry[3]]),
      Array.from({ length: count }, (_, id) => [id, id === 0 ? 3 : 1]),
    );
  });
}

test('each pin of the IOAPIC is the ISA interrupt of its number', () => {
  const { table } = tableOf(1);
  const entries = entriesOf(table);
  const bus = entries.filter(([type]) => type === 1);
  assert.is(bus.length, 1);
  assert.is(bus[0].toString('latin1', 2), 'ISA   ');
  const ioapic = entries.filter(([type]) => type === 2);
  assert.is(ioapic[0].toString('hex'), '020011010000c0fe');
  const interrupts = entries.filter(([type]) => type === 3);
  assert.equal(
    interrupts.map((entry) => [...entry]),
    Array.from({ length: 24 }, (_, pin) => [3, 0, 0, 0, 0, pin, 0, pin]),
  );
});

test('LINT0 is the old interrupt controller, LINT1 of all is NMI', () => {
  const local = entriesOf(tableOf(1).table).filter(([type]) => type === 4);
  assert.equal(
    local.map((entry) => entry.toString('hex')),
    ['0403000000000000', '040100000000ff01'],
  );
});

test('the largest table fits its KiB: CPUs past the last that fits are left out', () => {
  assert.is(MP_CPU_COUNT_MAX, 37); // as docs/memory-map.md says
  const largest = mpTableSegment(255).bytes.length;
  assert.is(largest, mpTableSegment(MP_CPU_COUNT_MAX).bytes.length);
  assert.ok(largest <= MP_TABLE_BYTES_MAX);
  assert.ok(largest + 20 > MP_TABLE_BYTES_MAX);
});

test.run();
