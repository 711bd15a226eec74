// The seam to the core: host/core.ts and host/cage.ts, guest memory accessors and the Cage class.
import binaryen from 'assemblyscript/binaryen';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  CAGE_MEMORY_BYTES,
  INBOX_BYTES,
  INCIDENT_FEATURES,
  INVALID_KIND,
  KIND_I8042,
  KIND_SERIAL,
  RANGE_COUNT_MAX,
  REQUEST,
  REQUEST_BYTES_MAX,
  REQUEST_KIND,
  REQUEST_KIND_CONSOLE_OUT,
  REQUEST_LENGTH,
  REQUEST_RANGE_COUNT,
  REQUEST_RANGES,
  STATE_BYTES,
  VALID,
} from '../assembly/abi.ts';
import { Cage as AnyCage, linkCore, recordBytes } from '../host/cage.ts';
import { Cage } from '../host/core.ts';
import { FaradayError } from '../host/errors.ts';
import { GuestMemory } from '../host/guest-memory.ts';
import { INCIDENT_NAMES } from '../host/incident-names.ts';
import { BLK_T_IN, blkHeader, blkStatus } from '../testing/block.ts';
import { Driver, REG } from '../testing/driver.ts';
import { DATA, guestMemory } from '../testing/queue.ts';
import { kick } from '../testing/requests.ts';
import { blkDevice, portDevice } from './fixtures.ts';

const GIB = 2 ** 30;

/** RAM past the hole, as address space only; null where the host cannot give it. */
function bigBuffer(): ArrayBuffer | null {
  try {
    return new ArrayBuffer(3 * GIB + 0x100000);
  } catch {
    return null;
  }
}

const BIG = bigBuffer();
const bigTest = BIG ? test : (name: string) => test.skip(`${name} (3 GiB cannot be mapped)`);

type Accessors = Record<string, (...args: (number | bigint)[]) => number>;

/** The accessors as a cage with 64 bytes of memory would import them. */
function accessors(memory: GuestMemory): { cage: DataView; guest: Accessors } {
  const cage = new DataView(new ArrayBuffer(64));
  return { cage, guest: memory.importsFor(() => cage) as unknown as Accessors };
}

// --- Guest memory -------------------------------------------------------------------------------

test('bytes are copied in and out, whatever their number and alignment', () => {
  const memory = guestMemory(4096);
  const { cage, guest } = accessors(memory);
  for (let length = 0; length <= 21; length += 1) {
    for (let index = 0; index < 64; index += 1) {
      cage.setUint8(index, 0);
      memory.view.setUint8(index, index + 1);
    }
    assert.is(guest.read(3n, 7, length), 0);
    for (let index = 0; index < 64; index += 1) {
      const inside = index >= 7 && index < 7 + length;
      assert.is(cage.getUint8(index), inside ? index - 7 + 4 : 0);
    }
    assert.is(guest.write(101n, 7, length), 0);
    assert.is(memory.view.getUint8(101 + length), 0);
    for (let index = 0; index < length; index += 1) {
      assert.is(memory.view.getUint8(101 + index), index + 4);
      memory.view.setUint8(101 + index, 0);
    }
  }
});

test('guest ranges that leave RAM are refused, by a byte or by 2^63', () => {
  const { guest } = accessors(guestMemory(4096));
  assert.is(guest.read(4088n, 0, 8), 0);
  const outside = [4089n, 4096n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n - 1n, -1n, -8n, -(2n ** 63n)];
  for (const address of outside) {
    assert.is.not(guest.read(address, 0, 8), 0, `${address}`);
    assert.is.not(guest.write(address, 0, 8), 0, `${address}`);
    assert.is.not(guest.store16(address, 0), 0, `${address}`);
    assert.is(guest.load16(address), -1, `${address}`);
  }
});

test('cage ranges that leave the instance are refused, signed or not', () => {
  const { guest } = accessors(guestMemory(4096));
  assert.is(guest.read(0n, 56, 8), 0);
  for (const offset of [57, 64, -1, -8, 2 ** 31, -(2 ** 31)]) {
    assert.is.not(guest.read(0n, offset, 8), 0);
    assert.is.not(guest.write(0n, offset, 8), 0);
  }
  assert.is.not(guest.read(0n, 0, -1), 0); // a length of 2^32 - 1
});

test('16-bit accesses are little endian and refused where they are not aligned', () => {
  const memory = guestMemory(4096);
  const { guest } = accessors(memory);
  assert.is(guest.store16(4094n, 0xfffe), 0);
  assert.is(memory.view.getUint8(4094), 0xfe);
  assert.is(guest.load16(4094n), 0xfffe);
  assert.is(guest.load16(4093n), -1);
  assert.is.not(guest.store16(1n, 0), 0);
});

bigTest('RAM past 3 GiB is found from 4 GiB on, and nothing spans the hole', () => {
  const memory = new GuestMemory(BIG as ArrayBuffer);
  const { guest } = accessors(memory);
  assert.is(memory.offsetOf(3 * GIB - 8, 8), 3 * GIB - 8);
  assert.is(memory.offsetOf(3 * GIB - 8, 9), -1);
  assert.is(memory.offsetOf(3 * GIB, 1), -1);
  assert.is(memory.offsetOf(4 * GIB - 1, 1), -1);
  assert.is(memory.offsetOf(4 * GIB - 1, 2), -1);
  assert.is(memory.offsetOf(4 * GIB, 0x100000), 3 * GIB);
  assert.is(memory.offsetOf(4 * GIB, 0x100001), -1);
  assert.is(guest.store16(BigInt(4 * GIB), 0x1234), 0);
  assert.is(memory.view.getUint16(3 * GIB, true), 0x1234);
});

test('RAM of at most 3 GiB ends there', () => {
  const memory = guestMemory(4096);
  assert.is(memory.offsetOf(4096, 0), 4096);
  assert.is(memory.offsetOf(4096, 1), -1);
  assert.is(memory.offsetOf(4 * GIB, 1), -1);
});

test('RAM in overlapping windows reads as one row of bytes', () => {
  // Bytes 0 to 255, as windows of 96 bytes that begin 64 apart.
  const windows = [0, 64, 128, 192].map((from) => {
    const length = from === 192 ? 64 : 96;
    return Uint8Array.from({ length }, (_, index) => from + index).buffer;
  });
  const { cage, guest } = accessors(new GuestMemory(windows, 64));
  for (let address = 0; address + 16 <= 256; address += 1) {
    assert.is(guest.read(BigInt(address), 0, 16), 0);
    for (let index = 0; index < 16; index += 1) assert.is(cage.getUint8(index), address + index);
    if (address % 2 === 0) assert.is(guest.load16(BigInt(address)), address * 257 + 256);
  }
  assert.is(guest.load16(254n), 0xfffe);
  assert.is.not(guest.read(241n, 0, 16), 0);
  assert.is(guest.load16(256n), -1);
  assert.is(guest.store16(200n, 0xabcd), 0);
  assert.is(new DataView(windows[3]).getUint16(8, true), 0xabcd);
});

test('a last window longer than the stride is one window', () => {
  const windows = [new ArrayBuffer(96), new ArrayBuffer(90)];
  const { guest } = accessors(new GuestMemory(windows, 64));
  assert.is(guest.store16(152n, 0x1234), 0);
  assert.is(new DataView(windows[1]).getUint16(88, true), 0x1234);
  assert.is(guest.load16(154n), -1);
});

test('the observer sees every access, refused ones too', () => {
  const memory = guestMemory(4096);
  const { guest } = accessors(memory);
  const seen: unknown[] = [];
  memory.observer = (...access) => seen.push(access);
  guest.read(8n, 0, 16);
  guest.write(5000n, 0, 4);
  guest.load16(2n);
  guest.store16(3n, 1);
  guest.fence();
  assert.equal(seen, [
    ['read', 8, 16, true],
    ['write', 5000, 4, false],
    ['load16', 2, 2, true],
    ['store16', 3, 2, false],
    ['fence', 0, 0, true],
  ]);
});

bigTest('a guest with more than 3 GiB has its rings and requests above 4 GiB', () => {
  const memory = new GuestMemory(BIG as ArrayBuffer);
  const { cage } = blkDevice({}, memory);
  // The driver writes through offsets, the device reads through addresses, 1 GiB higher.
  const driver = new Driver(cage, memory);
  const queue = driver.bringUp();
  const HIGH = 4 * GIB;
  const offset = (address: number) => memory.offsetOf(address, 1);
  driver.negotiate();
  driver.configureQueue(queue);
  queue.descTable = offset(HIGH + 0x10000);
  queue.availRing = offset(HIGH + 0x20000);
  queue.usedRing = offset(HIGH + 0x30000);
  for (const [low, address] of [
    [REG.QueueDescLow, HIGH + 0x10000],
    [REG.QueueDriverLow, HIGH + 0x20000],
    [REG.QueueDeviceLow, HIGH + 0x30000],
  ]) {
    driver.set(low, address % 2 ** 32);
    driver.set(low + 4, Math.floor(address / 2 ** 32));
  }
  driver.set(REG.QueueReady, 1);
  driver.addStatus(4);
  const at = HIGH + 0x40000;
  const header = { ...blkHeader(memory, offset(at), BLK_T_IN), address: at };
  const status = { ...blkStatus(memory, offset(at + 16)), address: at + 16 };
  queue.offer(queue.chain([header, { address: at + 512, length: 512, write: true }, status]));
  const { requests } = kick(cage, 0);
  assert.is(requests[0].ranges[0].address, BigInt(at + 512));
  assert.equal(queue.takeUsed(), { id: 0, length: 513 });
});

// --- Cage ---------------------------------------------------------------------------------------

test('a device of no known kind is refused', () => {
  for (const kind of [0, 7, 15, 18, -1]) {
    const make = () => new Cage(kind, guestMemory(0));
    assert.throws(make, (error: FaradayError) => error instanceof FaradayError);
  }
});

/** A module with the core's face, whose init() copies 8 guest bytes to `destination`. */
function copyingModule(destination: number, pages: number): Uint8Array<ArrayBuffer> {
  const module = binaryen.parseText(`(module
    (import "guest" "read" (func $read (param i64 i32 i32) (result i32)))
    (memory (export "memory") ${pages} ${pages})
    (func (export "init") (param i32) (result i32)
      (call $read (i64.const 0) (i32.const ${destination}) (i32.const 8))))`);
  return new Uint8Array(module.emitBinary());
}

test('memory behind the cage, as an instrumented core has it, is none of the cage', () => {
  const link = (destination: number, pages: number) =>
    linkCore(new WebAssembly.Module(copyingModule(destination, pages)), guestMemory(4096));
  assert.is(link(CAGE_MEMORY_BYTES - 8, 3).init(0), VALID);
  assert.is.not(link(CAGE_MEMORY_BYTES - 7, 3).init(0), VALID);
  const core = link(0, 3);
  const cage = new AnyCage(0, core);
  const behind = new Uint8Array(core.memory.buffer, CAGE_MEMORY_BYTES);
  behind.fill(1);
  cage.restart();
  assert.ok(
    behind.every((byte) => byte === 1),
    'a restart keeps what was counted',
  );
});

test('cages do not share anything', () => {
  const [first, second] = [portDevice(KIND_I8042), portDevice(KIND_I8042)];
  first.write(4, 1, 0xaa);
  first.read(4, 1);
  second.read(4, 1);
  assert.is.not(first.value(), second.value());
});

test('a restarted cage is as new', () => {
  const { cage, driver } = blkDevice();
  const before = cage.stateBytes();
  driver.bringUp();
  assert.not.equal(cage.stateBytes(), before);
  cage.restart();
  assert.equal(cage.stateBytes(), before);
});

test('a record is as long as its ranges', () => {
  const { cage, driver, memory } = blkDevice();
  const queue = driver.bringUp();
  const data = { address: DATA + 0x1000, length: 512, write: true };
  queue.offer(queue.chain([blkHeader(memory, DATA, BLK_T_IN), data, data, blkStatus(memory, 64)]));
  cage.notify(0);
  assert.is(cage.record().byteLength, 32 + 2 * 16);
});

test('a record that claims more than its place holds is reported as a trap is', () => {
  const memory = new DataView(new ArrayBuffer(CAGE_MEMORY_BYTES));
  memory.setUint32(REQUEST + REQUEST_RANGE_COUNT, RANGE_COUNT_MAX, true);
  assert.is(recordBytes(memory), REQUEST_BYTES_MAX);
  const trap = (error: Error) => error instanceof WebAssembly.RuntimeError;
  for (const count of [RANGE_COUNT_MAX + 1, 0xffffffff]) {
    memory.setUint32(REQUEST + REQUEST_RANGE_COUNT, count, true);
    assert.throws(() => recordBytes(memory), trap);
  }
  memory.setUint32(REQUEST + REQUEST_KIND, REQUEST_KIND_CONSOLE_OUT, true);
  memory.setBigUint64(REQUEST + REQUEST_LENGTH, 3n, true);
  assert.is(recordBytes(memory), REQUEST_RANGES + 3);
  memory.setBigUint64(REQUEST + REQUEST_LENGTH, 2n ** 64n - 1n, true);
  assert.throws(() => recordBytes(memory), trap);
});

test('input longer than the inbox is cut, not written past it', () => {
  const uart = portDevice(KIND_SERIAL);
  const before = uart.stateBytes();
  uart.input(new Uint8Array(INBOX_BYTES + 0x8000).fill(0x41));
  assert.is(uart.value(), 1);
  assert.is(uart.stateBytes().length, before.length);
  assert.is(uart.check(), VALID);
});

test('counters have a name each', () => {
  assert.is(INCIDENT_NAMES.length, INCIDENT_FEATURES + 1);
  assert.is(new Set(INCIDENT_NAMES).size, INCIDENT_NAMES.length);
  const uart = portDevice(KIND_SERIAL);
  uart.read(100, 1);
  assert.is(uart.counters().register, 1);
});

test('a state of another length, or of another device, is refused', () => {
  const uart = portDevice(KIND_SERIAL);
  const state = uart.stateBytes();
  assert.throws(() => uart.restore(new Uint8Array(STATE_BYTES - 1)), /instead of/);
  assert.is(uart.restore(portDevice(KIND_I8042).stateBytes()), INVALID_KIND);
  assert.is(uart.restore(state), VALID);
});

test.run();
