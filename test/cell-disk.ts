// A bare-metal driver of virtio-blk for cells: the queue's memory as segments of the image, and the
// code that brings the device up and keeps its queue going.
// Virtio 1.2 §2.7, §3.1.1, §4.2.2, §5.2.6.
import { closeSync, openSync, writeFileSync } from 'node:fs';
import type { BytesSegment, DiskDevice } from '../host/boot/image.ts';
import { le } from './bare-metal.ts';
import { scratchPath } from './cell-guest.ts';
import {
  ACKNOWLEDGE,
  DESC_F_NEXT,
  DESC_F_WRITE,
  DRIVER,
  FEATURES_OK,
  REG,
  RUNNING,
} from './driver.ts';
import type { Code } from './machine-code.ts';
import { diskDevice } from './machine-image.ts';
import { randomFrom } from './random.ts';

export const WINDOW = 0xd0000000;
export const DESCRIPTORS = 0x50000;
export const AVAILABLE = 0x51000;
export const USED = 0x52000;
export const DATA = 0x60000;
const HEADER = 0x53000; // struct virtio_blk_req: a read of sector 0, or what `headerType` says
const STATUS = 0x53100;
export const QUEUE_SIZE = 256;
export const HEADS = 128; // requests that a guest keeps going at once
const SECTOR_BYTES = 512;

interface QueuePlan {
  dataBytes?: number; // of one part
  parts?: number; // descriptors of data in a request, all of the same memory
  headerType?: number; // VIRTIO_BLK_T_*
}

/** Header, data and status for HEADS requests that share data and status. */
export function queueSegments(plan: QueuePlan = {}): BytesSegment[] {
  const { dataBytes = SECTOR_BYTES, parts = 1, headerType = 0 } = plan;
  const table = Buffer.alloc(QUEUE_SIZE * 16);
  const set = (index: number, at: number, length: number, flags: number, next: number) => {
    table.writeBigUInt64LE(BigInt(at), index * 16);
    table.writeUInt32LE(length, index * 16 + 8);
    table.writeUInt16LE(flags, index * 16 + 12);
    table.writeUInt16LE(next, index * 16 + 14);
  };
  for (let head = 0; head < HEADS; head++) set(head, HEADER, 16, DESC_F_NEXT, HEADS);
  const dataFlags = DESC_F_NEXT | (headerType === 0 ? DESC_F_WRITE : 0);
  const end = HEADS + parts;
  for (let part = HEADS; part < end; part++) set(part, DATA, dataBytes, dataFlags, part + 1);
  set(end, STATUS, 1, DESC_F_WRITE, 0);
  const ring = Buffer.alloc(4 + QUEUE_SIZE * 2);
  for (let i = 0; i < QUEUE_SIZE; i++) ring.writeUInt16LE(i % HEADS, 4 + 2 * i);
  const header = Buffer.alloc(16);
  header.writeUInt32LE(headerType, 0);
  return [
    { name: 'descriptors', address: DESCRIPTORS, bytes: table },
    { name: 'available', address: AVAILABLE, bytes: ring },
    { name: 'header', address: HEADER, bytes: header },
  ];
}

/** Resets the device at WINDOW and brings it up with queue 0 alone. */
export function bringUp(code: Code): Code {
  const write = (register: number, value: number) => code.store(WINDOW + register, value);
  write(REG.Status, 0);
  write(REG.Status, ACKNOWLEDGE);
  write(REG.Status, ACKNOWLEDGE | DRIVER);
  write(REG.DriverFeaturesSel, 1);
  write(REG.DriverFeatures, 1); // VIRTIO_F_VERSION_1, bit 32
  write(REG.DriverFeaturesSel, 0);
  write(REG.DriverFeatures, 0);
  write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  write(REG.QueueSel, 0);
  write(REG.QueueNum, QUEUE_SIZE);
  write(REG.QueueDescLow, DESCRIPTORS);
  write(REG.QueueDriverLow, AVAILABLE);
  write(REG.QueueDeviceLow, USED);
  write(REG.QueueReady, 1);
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
