// A bare-metal driver of virtio-net for cells: memory of its queues as segments of the image, and
// the code that brings the device up and uses them. Virtio 1.2 §2.7, §3.1.1, §4.2.2, §5.1.6.
import * as assert from 'uvu/assert';
import { NET_HEADER_BYTES } from '../assembly/abi.ts';
import type { BytesSegment, MachineImage, NetDevice } from '../host/boot/image.ts';
import { ACKNOWLEDGE, DRIVER, FEATURES_OK, REG, RUNNING } from '../testing/driver.ts';
import { DESC_F_NEXT, DESC_F_WRITE } from '../testing/queue.ts';
import { le } from './bare-metal.ts';
import { bareImage } from './cell-guest.ts';
import type { Code } from './machine-code.ts';
import { NET_MAC } from './machine-image.ts';

export const WINDOW = 0xd0000000;
export const QUEUE_SIZE = 256;
export const RX = 0; // queues of the first pair
export const TX = 1;
export const F_MRG_RXBUF = 1 << 15;
export const F_STATUS = 1 << 16;
export const F_CTRL_VQ = 1 << 17;
export const F_MQ = 1 << 22;
export const CONFIG_STATUS = WINDOW + REG.Config + 6;

const MEMORY_BYTES = 4 * 2 ** 20;
const RINGS = 0x100000; // 0x4000 for each queue: descriptors, available ring, used ring
export const ZEROS = 0xf0000; // a header of a frame that wants nothing done
export const BUFFERS = 0x200000; // of the driver, to receive into
export const FRAMES = 0x380000; // of tests that send what lies in an image

export const macBytes = (mac: string): Buffer => Buffer.from(mac.replaceAll(':', ''), 'hex');

// --- The device ---------------------------------------------------------------------------------

/** A bare-metal guest with this device. */
export function netImage(
  device: NetDevice,
  segments: BytesSegment[],
  write: (code: Code) => void,
): MachineImage {
  return bareImage(write, { memoryBytes: MEMORY_BYTES, virtio: [device], segments });
}

// --- Its rings ----------------------------------------------------------------------------------

export function ringsOf(queue: number) {
  const descriptors = RINGS + 0x4000 * queue;
  return { descriptors, available: descriptors + 0x1000, used: descriptors + 0x2000 };
}

/** One element of a chain. */
export interface Part {
  address: number;
  length: number;
}

/** The table and the ring of a queue that offers these chains in their order. */
export function chains(queue: number, all: Part[][]): BytesSegment[] {
  const table = Buffer.alloc(QUEUE_SIZE * 16);
  const ring = Buffer.alloc(4 + 2 * QUEUE_SIZE);
  let index = 0;
  for (const [i, parts] of all.entries()) {
    ring.writeUInt16LE(index, 4 + 2 * i);
    for (const [n, { address, length }] of parts.entries()) {
      const more = n + 1 < parts.length;
      const flags = (more ? DESC_F_NEXT : 0) | (queue % 2 === RX ? DESC_F_WRITE : 0);
      table.writeBigUInt64LE(BigInt(address), 16 * index);
      table.writeUInt32LE(length, 16 * index + 8);
      table.writeUInt16LE(flags, 16 * index + 12);
      table.writeUInt16LE(more ? index + 1 : 0, 16 * index + 14);
      index++;
    }
  }
  assert.ok(index <= QUEUE_SIZE, `${index} descriptors`);
  const { descriptors, available } = ringsOf(queue);
  return [
    { name: `descriptors ${queue}`, address: descriptors, bytes: table },
    { name: `available ${queue}`, address: available, bytes: ring },
  ];
}

/** Cuts memory into parts of at most `bytes`. */
export function cut(address: number, length: number, bytes: number): Part[] {
  return Array.from({ length: Math.ceil(length / bytes) }, (_, i) => {
    return { address: address + i * bytes, length: Math.min(bytes, length - i * bytes) };
  });
}

/** `count` buffers of `bytes` each, one behind the other, each of so many descriptors. */
export function buffers(count: number, bytes: number, parts = 1): BytesSegment[] {
  const all = Array.from({ length: count }, (_, i) =>
    cut(BUFFERS + i * bytes, bytes, bytes / parts),
  );
  return chains(RX, all);
}

/** Frames that lie in the image, behind their header, to be sent in this order. */
export function outgoing(frames: Buffer[], partBytes = 2 ** 20, queue = TX): BytesSegment[] {
  const header = Buffer.alloc(NET_HEADER_BYTES);
  const bytes = Buffer.concat(frames.flatMap((frame) => [header, frame]));
  let at = FRAMES;
  const all = frames.map(({ length }) => {
    const parts = cut(at, NET_HEADER_BYTES + length, partBytes);
    at += NET_HEADER_BYTES + length;
    return parts;
  });
  return [{ name: 'frames', address: FRAMES, bytes }, ...chains(queue, all)];
}

export const CONTROL = 4; // the queue behind two pairs
const COMMAND = 0xf1000;
const ACK = 0xf1100;

/**
 * VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET (Virtio 1.2 §5.1.6.5.6.1), for one pair and for two by turns, as
 * many as the ring has places.
 */
export function pairCommands(): BytesSegment[] {
  const bytes = Buffer.from([4, 0, 1, 0, 0, 0, 0, 0, 4, 0, 2, 0]);
  const table = Buffer.alloc(4 * 16);
  const set = (index: number, address: number, length: number, flags: number, next: number) => {
    table.writeBigUInt64LE(BigInt(address), 16 * index);
    table.writeUInt32LE(length, 16 * index + 8);
    table.writeUInt16LE(flags, 16 * index + 12);
    table.writeUInt16LE(next, 16 * index + 14);
  };
  for (const i of [0, 1]) {
    set(2 * i, COMMAND + 8 * i, 4, DESC_F_NEXT, 2 * i + 1);
    set(2 * i + 1, ACK + i, 1, DESC_F_WRITE, 0);
  }
  const ring = Buffer.alloc(4 + 2 * QUEUE_SIZE);
  for (let i = 1; i < QUEUE_SIZE; i += 2) ring.writeUInt16LE(2, 4 + 2 * i);
  const { descriptors, available } = ringsOf(CONTROL);
  return [
    { name: 'commands', address: COMMAND, bytes },
    { name: 'control descriptors', address: descriptors, bytes: table },
    { name: 'control ring', address: available, bytes: ring },
  ];
}

// --- What its driver does -----------------------------------------------------------------------

/** Resets the device and brings it up with the first `queues` queues. */
export function bringUp(code: Code, features = 0, queues = 2): Code {
  const write = (register: number, value: number) => code.store(WINDOW + register, value);
  write(REG.Status, 0);
  write(REG.Status, ACKNOWLEDGE);
  write(REG.Status, ACKNOWLEDGE | DRIVER);
  write(REG.DriverFeaturesSel, 1);
  write(REG.DriverFeatures, 1); // VIRTIO_F_VERSION_1, bit 32
  write(REG.DriverFeaturesSel, 0);
  write(REG.DriverFeatures, features);
  write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  for (let queue = 0; queue < queues; queue++) startQueue(code, queue);
  return write(REG.Status, RUNNING);
}

export function startQueue(code: Code, queue: number): Code {
  const { descriptors, available, used } = ringsOf(queue);
  const write = (register: number, value: number) => code.store(WINDOW + register, value);
  write(REG.QueueSel, queue);
  write(REG.QueueNum, QUEUE_SIZE);
  write(REG.QueueDescLow, descriptors);
  write(REG.QueueDriverLow, available);
  write(REG.QueueDeviceLow, used);
  return write(REG.QueueReady, 1);
}

export const notify = (code: Code, queue: number): Code =>
  code.store(WINDOW + REG.QueueNotify, queue);

/** Makes chains available up to number `count`, and rings. */
export const offer = (code: Code, queue: number, count: number): Code =>
  notify(code.store16(ringsOf(queue).available + 2, count), queue);

let labels = 0;

/** Waits until `count` chains have been used. */
export function awaitUsed(code: Code, queue: number, count: number): Code {
  const name = `used ${labels++}`;
  code.label(name).raw(0x66, 0xa1, ...le(ringsOf(queue).used + 2, 4)); // mov ax, [used index]
  return code.raw(0x66, 0x3d, ...le(count, 2)).jumpIfNotZero(name); // cmp ax, imm16
}

/** Waits until the link is down, as the configuration space says. */
export function awaitLinkDown(code: Code): Code {
  const name = `link ${labels++}`;
  code.label(name).raw(0x66, 0xa1, ...le(CONFIG_STATUS, 4)); // mov ax, [status]
  return code.raw(0xa8, 1).jumpIfNotZero(name); // test al, VIRTIO_NET_S_LINK_UP
}

/**
 * Sends every frame that fits into one buffer back, for ever. All buffers of buffers() are on offer
 * when it begins, and chain i of both queues is descriptor i, at the same memory.
 */
export function echo(code: Code): Code {
  const rx = ringsOf(RX);
  const tx = ringsOf(TX);
  code.raw(0x31, 0xdb); // xor ebx, ebx: frames so far
  code.label('echo').raw(0x66, 0xa1, ...le(rx.used + 2, 4)); // mov ax, [used index]
  code.raw(0x66, 0x39, 0xd8).jumpIfZero('echo'); // cmp ax, bx
  code.raw(0x0f, 0xb6, 0xf3); // movzx esi, bl: the place in all four rings
  code.raw(0x8b, 0x0c, 0xf5, ...le(rx.used + 4, 4)); // mov ecx, [used ring + 8 * esi]: chain
  code.raw(0x8b, 0x14, 0xf5, ...le(rx.used + 8, 4)); // mov edx, [used ring + 8 * esi + 4]: bytes
  code.raw(0x89, 0xcf, 0xc1, 0xe7, 4); // mov edi, ecx; shl edi, 4
  code.raw(0x89, 0x97, ...le(tx.descriptors + 8, 4)); // mov [length of that chain], edx
  code.raw(0x66, 0x89, 0x0c, 0x75, ...le(tx.available + 4, 4)); // mov [ring + 2 * esi], cx
  code.raw(0x66, 0x43); // inc bx
  code.raw(0x66, 0x89, 0x1d, ...le(tx.available + 2, 4)); // mov [available index], bx
  notify(code, TX);
  code.label('echoed').raw(0x66, 0xa1, ...le(tx.used + 2, 4));
  code.raw(0x66, 0x39, 0xd8).jumpIfNotZero('echoed');
  // The buffers on offer wrap round: this one is offered again at the end.
  code.raw(0x66, 0xa1, ...le(rx.available + 2, 4), 0x0f, 0xb6, 0xf0); // mov ax, []; movzx esi, al
  code.raw(0x66, 0x89, 0x0c, 0x75, ...le(rx.available + 4, 4)); // mov [ring + 2 * esi], cx
  code.raw(0x66, 0xff, 0x05, ...le(rx.available + 2, 4)); // inc word [available index]
  return notify(code, RX).jump('echo');
}

export const ECHO_BUFFERS = 128;
export const ECHO_BYTES = 2048;

/** The rings that echo() works on. */
export function echoSegments(): BytesSegment[] {
  const one = (i: number): Part => ({ address: BUFFERS + i * ECHO_BYTES, length: ECHO_BYTES });
  const all = Array.from({ length: ECHO_BUFFERS }, (_, i) => [one(i)]);
  return [...chains(RX, all), ...chains(TX, all)];
}

/** Brings the device up and echoes. */
export const echoing = (code: Code, features = F_MRG_RXBUF): Code =>
  echo(offer(bringUp(code, features), RX, ECHO_BUFFERS).say('up'));

// --- Frames -------------------------------------------------------------------------------------

/** A frame of so many bytes of a pattern that `seed` gives, from our address to another. */
export function frame(lengthBytes: number, seed = 1, source = NET_MAC): Buffer {
  const bytes = Buffer.alloc(Math.max(14, lengthBytes));
  for (let i = 14; i < bytes.length; i++) bytes[i] = (i * 7 + (i >> 8) * 13 + seed * 31) & 0xff;
  bytes.set(macBytes('02:00:00:00:00:02'), 0);
  bytes.set(macBytes(source), 6);
  bytes.writeUInt16BE(0x88b5, 12); // for experiments, IEEE 802
  if (bytes.length >= 18) bytes.writeUInt32BE(seed, 14);
  return bytes;
}
