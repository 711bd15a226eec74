// A bare-metal driver of virtio-blk for cells: the queue's memory as segments of the image, and the
// code that brings the device up and keeps its queue going.
// Virtio 1.2 §2.7, §3.1.1, §4.2.2, §5.2.6.
import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import type { BytesSegment, DiskDevice } from '../host/boot/image.ts';
import { ACKNOWLEDGE, DRIVER, FEATURES_OK, REG, RUNNING } from '../testing/driver.ts';
import { DESC_F_NEXT, DESC_F_WRITE } from '../testing/queue.ts';
import { randomFrom } from '../testing/random.ts';
import { le } from './bare-metal.ts';
import { scratchPath } from './cell-guest.ts';
import type { Code } from './machine-code.ts';
import { diskDevice } from './machine-image.ts';

export const WINDOW = 0xd0000000;
export const DESCRIPTORS = 0x50000;
export const AVAILABLE = 0x51000;
export const USED = 0x52000;
export const DATA = 0x60000;
// struct virtio_blk_req: a read of sector 0, or what `headerType` says
export const HEADER = 0x53000;
const STATUS = 0x53100;
const SEEN = 0x53200; // u32 for each of busyRings(): used so far
const MORE_RINGS = 0x70000; // two pages for each ring of ringAt()
export const QUEUE_SIZE = 256;
export const HEADS = 128; // requests that a guest keeps going at once
export const HEADS_MAX = QUEUE_SIZE - 2; // beside one descriptor of data and one of the status
const SECTOR_BYTES = 512;
const BLK_F_MQ = 1 << 12;
const PART_BYTES = 8 * 2 ** 20; // of the disk of a large read
const BEGUN = 0xa5; // the first byte of every part of it but the last
export const FINISHED = 0x5a; // and of that

interface QueuePlan {
  dataBytes?: number; // of one part
  parts?: number; // descriptors of data in a request, all of the same memory
  headerType?: number; // VIRTIO_BLK_T_*
  heads?: number; // HEADS
}

/** Header, data and status for `heads` requests that share data and status. */
export function queueSegments(plan: QueuePlan = {}): BytesSegment[] {
  const { dataBytes = SECTOR_BYTES, parts = 1, headerType = 0, heads = HEADS } = plan;
  const table = Buffer.alloc(QUEUE_SIZE * 16);
  const set = (index: number, at: number, length: number, flags: number, next: number) => {
    table.writeBigUInt64LE(BigInt(at), index * 16);
    table.writeUInt32LE(length, index * 16 + 8);
    table.writeUInt16LE(flags, index * 16 + 12);
    table.writeUInt16LE(next, index * 16 + 14);
  };
  for (let head = 0; head < heads; head++) set(head, HEADER, 16, DESC_F_NEXT, heads);
  const dataFlags = DESC_F_NEXT | (headerType === 0 ? DESC_F_WRITE : 0);
  const end = heads + parts;
  for (let part = heads; part < end; part++) set(part, DATA, dataBytes, dataFlags, part + 1);
  set(end, STATUS, 1, DESC_F_WRITE, 0);
  const ring = Buffer.alloc(4 + QUEUE_SIZE * 2);
  for (let i = 0; i < QUEUE_SIZE; i++) ring.writeUInt16LE(i % heads, 4 + 2 * i);
  const header = Buffer.alloc(16);
  header.writeUInt32LE(headerType, 0);
  return [
    { name: 'descriptors', address: DESCRIPTORS, bytes: table },
    { name: 'available', address: AVAILABLE, bytes: ring },
    { name: 'header', address: HEADER, bytes: header },
  ];
}

/** A queue of a device, where its rings lie, and how many requests are on their way in it. */
export interface Ring {
  window: number;
  queue: number;
  queueSize: number;
  descriptors: number;
  available: number;
  used: number;
  depth: number;
}

const FIRST_RING: Ring = {
  window: WINDOW,
  queue: 0,
  queueSize: QUEUE_SIZE,
  descriptors: DESCRIPTORS,
  available: AVAILABLE,
  used: USED,
  depth: HEADS,
};

/** A ring with memory of its own that shares the descriptors of queueSegments(). */
export function ringAt(index: number, change: Partial<Ring>): Ring {
  const available = MORE_RINGS + index * 0x2000;
  return { ...FIRST_RING, available, used: available + 0x1000, ...change };
}

/** Resets the device at WINDOW and brings it up with queue 0 alone. */
export const bringUp = (code: Code, features = 0): Code =>
  bringUpRings(code, [FIRST_RING], features);

/** Resets the device of these rings and brings it up with them and the low half of `features`. */
function bringUpRings(code: Code, rings: Ring[], features = 0): Code {
  const { window } = rings[0]!;
  const write = (register: number, value: number) => code.store(window + register, value);
  write(REG.Status, 0);
  write(REG.Status, ACKNOWLEDGE);
  write(REG.Status, ACKNOWLEDGE | DRIVER);
  write(REG.DriverFeaturesSel, 1);
  write(REG.DriverFeatures, 1); // VIRTIO_F_VERSION_1, bit 32
  write(REG.DriverFeaturesSel, 0);
  write(REG.DriverFeatures, rings.length > 1 ? features | BLK_F_MQ : features);
  write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  for (const { queue, queueSize, descriptors, available, used } of rings) {
    write(REG.QueueSel, queue);
    write(REG.QueueNum, queueSize);
    write(REG.QueueDescLow, descriptors);
    write(REG.QueueDriverLow, available);
    write(REG.QueueDeviceLow, used);
    write(REG.QueueReady, 1);
  }
  return write(REG.Status, RUNNING);
}

export const ring = (code: Code): Code => code.store(WINDOW + REG.QueueNotify, 0);

/** Makes `count` requests available to a device that has seen none, and rings. */
export const offer = (code: Code, count: number): Code => ring(code.store16(AVAILABLE + 2, count));

/** Waits until `count` requests have been used. */
export function awaitUsed(code: Code, count: number, name: string): Code {
  code.label(name).load(USED);
  return code.raw(0x3d, ...le(count * 0x10000, 4)).jumpIfNotZero(name); // cmp eax, imm32
}

/**
 * Gives back whatever was used, at once and for ever, as a driver with endless work does; rings
 * only where nothing came. HEADS requests are on their way when it begins.
 */
export function keepGoing(code: Code): Code {
  code.raw(0x31, 0xdb); // xor ebx, ebx: used so far
  code.label('keep').raw(0x66, 0xa1, ...le(USED + 2, 4)); // mov ax, [used index]
  code.raw(0x66, 0x39, 0xd8).jumpIfNotZero('again'); // cmp ax, bx
  ring(code).jump('keep').label('again');
  code.raw(0x0f, 0xb6, 0xcb); // movzx ecx, bl: the queue has 256 places
  code.raw(0x8b, 0x04, 0xcd, ...le(USED + 4, 4)); // mov eax, [used ring + 8 * ecx]
  code.raw(0x0f, 0xb6, 0x0d, ...le(AVAILABLE + 2, 4)); // movzx ecx, byte [available index]
  code.raw(0x66, 0x89, 0x04, 0x4d, ...le(AVAILABLE + 4, 4)); // mov [ring + 2 * ecx], ax
  code.raw(0x66, 0xff, 0x05, ...le(AVAILABLE + 2, 4)); // inc word [available index]
  return code.raw(0x66, 0x43).jump('keep'); // inc bx
}

/** Gives back what a ring has used, all of it, and rings where there was any. */
function giveBack(code: Code, ring: Ring, seen: number): Code {
  const name = `ring at ${ring.available}`;
  const mask = ring.queueSize - 1;
  code.raw(0x31, 0xdb); // xor ebx, ebx: nothing yet
  code.label(name).raw(0x66, 0xa1, ...le(ring.used + 2, 4)); // mov ax, [used index]
  code.raw(0x66, 0x3b, 0x05, ...le(seen, 4)).jumpIfZero(`${name}, all`); // cmp ax, [seen]
  code.raw(0x0f, 0xb6, 0x0d, ...le(seen, 4), 0x81, 0xe1, ...le(mask, 4)); // ecx: its place
  code.raw(0x8b, 0x04, 0xcd, ...le(ring.used + 4, 4)); // mov eax, [used ring + 8 * ecx]
  code.raw(0x0f, 0xb6, 0x0d, ...le(ring.available + 2, 4), 0x81, 0xe1, ...le(mask, 4));
  code.raw(0x66, 0x89, 0x04, 0x4d, ...le(ring.available + 4, 4)); // mov [ring + 2 * ecx], ax
  code.raw(0x66, 0xff, 0x05, ...le(ring.available + 2, 4)); // inc word [available index]
  code.raw(0xff, 0x05, ...le(seen, 4), 0xb3, 1).jump(name); // inc dword [seen]; mov bl, 1
  code.label(`${name}, all`).raw(0x84, 0xdb).jumpIfZero(`${name}, none`); // test bl, bl
  code.store(ring.window + REG.QueueNotify, ring.queue);
  return code.label(`${name}, none`);
}

/**
 * Brings all these rings' devices up, fills each with `depth` requests and keeps them so, until the
 * ones in `awaited` have each had `count` back.
 */
export function busyRings(code: Code, rings: Ring[], awaited: Ring[], count: number): Code {
  const seen = (ring: Ring) => SEEN + 4 * rings.indexOf(ring);
  for (const window of new Set(rings.map((ring) => ring.window))) {
    const own = rings.filter((ring) => ring.window === window);
    bringUpRings(code, own);
  }
  for (const { window, queue, available, depth } of rings) {
    for (let i = 0; i < depth; i++) code.store16(available + 4 + 2 * i, i);
    code.store16(available + 2, depth).store(window + REG.QueueNotify, queue);
  }
  code.label('round');
  for (const ring of rings) giveBack(code, ring, seen(ring));
  for (const ring of awaited) {
    code
      .load(seen(ring))
      .raw(0x3d, ...le(count, 4))
      .jumpIfBelow('round'); // cmp eax, imm32
  }
  return code;
}

export interface TestDisk {
  device: DiskDevice;
  bytes: Buffer; // what is in it
  path: string;
  close(): void;
}

/** A disk of random bytes behind an open file. */
export function testDisk(change: Partial<DiskDevice> = {}): TestDisk {
  const path = scratchPath('disk');
  const lengthBytes = 2 ** 20;
  const random = randomFrom(3);
  const bytes = Buffer.from(Array.from({ length: lengthBytes }, () => random(256)));
  writeFileSync(path, bytes);
  const fd = openSync(path, change.readOnly ? 'r' : 'r+');
  const slot = { address: WINDOW, pin: 5 };
  const device = diskDevice(fd, { path, slot, capacityBytes: lengthBytes, ...change });
  return { device, bytes, path, close: () => closeSync(fd) };
}

/**
 * A disk that one request reads in `parts` of 8 MiB, each to the same memory: a hole but for the
 * first byte of each, by which the guest sees how far it is.
 */
export function largeRead(ioUring: boolean, parts: number) {
  const bytes = parts * PART_BYTES;
  const disk = testDisk({ ioUring, capacityBytes: bytes });
  truncateSync(disk.path, bytes);
  const file = openSync(disk.path, 'r+');
  for (let part = 1; part <= parts; part++) {
    const first = Uint8Array.of(part < parts ? BEGUN : FINISHED);
    writeSync(file, first, 0, 1, (part - 1) * PART_BYTES);
  }
  closeSync(file);
  const segments = queueSegments({ dataBytes: PART_BYTES, parts });
  return { disk, bytes, machine: { virtio: [disk.device], memoryBytes: 2 * PART_BYTES, segments } };
}

/** mov al, [the first byte of what is read] */
export const loadFirst = (code: Code): Code => code.raw(0xa0, ...le(DATA, 4));

/** Starts that read, and waits until some of it has arrived. */
export function beginRead(code: Code): Code {
  loadFirst(offer(bringUp(code), 1).label('begun'));
  return code.raw(0x84, 0xc0).jumpIfZero('begun'); // test al, al
}
