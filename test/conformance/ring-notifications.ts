// Virtio 1.2 §2.7.7 to §2.7.14: notifications of a split queue, their suppression, the used ring.
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_IRQ, RESULT_IOERR } from '../../assembly/abi.ts';
import type { GuestMemory } from '../../host/guest-memory.ts';
import { BLK_T_FLUSH, BLK_T_GET_ID, BLK_T_IN, BLK_T_OUT, blkHeader } from '../../testing/block.ts';
import { F_EVENT_IDX, REG } from '../../testing/driver.ts';
import { type GuestBuffer as Buffer, DATA } from '../../testing/queue.ts';
import {
  type Executor,
  everythingSucceeds,
  kick,
  parseRecord,
  type RequestRecord,
} from '../../testing/requests.ts';
import {
  disk,
  into,
  type Live,
  offer,
  outOf,
  PAYLOAD,
  ring,
  STATUS_BYTE,
  watched,
} from './setup.ts';
import { BARRIER, OWN_READING, type Section } from './statement.ts';

const availFlags = (device: Live, flags: number) =>
  device.memory.view.setUint16(device.queue.availRing, flags, true);
const usedFlags = (device: Live) => device.memory.view.getUint16(device.queue.usedRing, true);

/** Whether the driver is told when the next buffer is used. */
function tells(device: Live): boolean {
  offer(device);
  const { effects } = kick(device.cage, 0);
  const pending = (device.driver.get(REG.InterruptStatus) & 1) === 1;
  device.driver.set(REG.InterruptACK, 1);
  device.queue.takeUsed();
  assert.is(pending, (effects & EFFECT_IRQ) !== 0);
  return pending;
}

const usedSuppression: Section[] = [
  {
    number: '2.7.7.1',
    title: 'Used buffer notification suppression',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, sets `flags` of the available ring to 0 or 1.',
        answer: 'the other bits mean nothing',
        test() {
          const device = ring(0n);
          availFlags(device, 0xfffe);
          assert.is(tells(device), true);
          availFlags(device, 0xffff);
          assert.is(tells(device), false);
        },
      },
      {
        level: 'MAY',
        says: 'Without EVENT_IDX, sets it to 1 where it needs no notification.',
        answer: 'it gets none',
        test() {
          const device = ring(0n);
          availFlags(device, 1);
          assert.equal([tells(device), tells(device), tells(device)], [false, false, false]);
        },
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, sets `flags` to 0.',
        answer: 'the whole field means nothing',
        test() {
          const device = ring(F_EVENT_IDX);
          availFlags(device, 0xffff);
          device.queue.setUsedEvent(0);
          assert.is(tells(device), true);
        },
      },
      {
        level: 'MAY',
        says: 'With EVENT_IDX, says by `used_event` how far it needs no notification.',
        answer: 'it gets one when that entry is written',
        test() {
          const device = ring(F_EVENT_IDX);
          device.queue.setUsedEvent(2);
          const told = [tells(device), tells(device), tells(device), tells(device)];
          assert.equal(told, [false, false, true, false]);
        },
      },
      {
        level: 'MUST',
        says: 'Copes with notifications that tell nothing new.',
        unseen: OWN_READING,
      },
    ],
  },
  {
    number: '2.7.7.2',
    title: 'Used buffer notification suppression',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, ignores `used_event`.',
        test() {
          const device = ring(0n);
          device.queue.setUsedEvent(0x7777);
          const usedEvent = device.queue.availRing + 4 + 2 * device.queue.size;
          const accesses = watched(device.memory, () => assert.is(tells(device), true));
          assert.not.ok(accesses.some(({ address }) => address === usedEvent));
        },
      },
      {
        level: 'SHOULD NOT',
        says: 'Without EVENT_IDX, sends nothing after a used buffer while `flags` is 1.',
        test() {
          const device = ring(0n);
          for (const flags of [1, 0, 1, 1, 0]) {
            availFlags(device, flags);
            assert.is(tells(device), flags === 0);
          }
        },
      },
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, notifies after each used buffer while `flags` is 0.',
        test() {
          const device = ring(0n);
          for (let count = 0; count < 3 * device.queue.size; count += 1) {
            assert.is(tells(device), true);
          }
        },
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, ignores the lower bit of `flags`.',
        test() {
          for (const flags of [0, 1]) {
            const device = ring(F_EVENT_IDX);
            availFlags(device, flags);
            device.queue.setUsedEvent(1);
            assert.equal([tells(device), tells(device)], [false, true]);
          }
        },
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, notifies when the entry at `used_event` is written.',
        test() {
          const device = ring(F_EVENT_IDX);
          for (let index = 0; index < 3 * device.queue.size; index += 1) {
            device.queue.setUsedEvent(index);
            assert.is(tells(device), true);
          }
        },
      },
      {
        level: 'SHOULD NOT',
        says: 'With EVENT_IDX, sends nothing otherwise.',
        test() {
          for (const away of [1, -1, 0x8000, 16]) {
            const device = ring(F_EVENT_IDX);
            for (let index = 0; index < 20; index += 1) {
              device.queue.setUsedEvent((index + away) & 0xffff);
              assert.is(tells(device), false);
            }
          }
        },
      },
    ],
  },
];

const UNWRITTEN = 0xa5;

/** Lets a host write as many bytes as it says, from the first range on. */
function writes(memory: GuestMemory, request: RequestRecord, bytes: number): void {
  let left = bytes;
  for (const range of request.ranges) {
    const taken = Math.min(left, range.length);
    new Uint8Array(memory.view.buffer, Number(range.address), taken).fill(0x5a);
    left -= taken;
  }
}

/** The used length is no more than what was written, counted from the first writable byte on. */
function lengthIsWritten(device: Live, type: number, data: Buffer[], execute: Executor): void {
  const { memory, queue, cage } = device;
  const writable = [...data, into(1, STATUS_BYTE)].filter((buffer) => buffer.write);
  const bytesOf = (buffer: Buffer) =>
    new Uint8Array(memory.view.buffer, Number(buffer.address), buffer.length);
  for (const buffer of writable) bytesOf(buffer).fill(UNWRITTEN);
  offer(device, [blkHeader(memory, DATA, type), ...data, into(1, STATUS_BYTE)]);
  kick(cage, 0, (request) => {
    const answer = execute(request);
    writes(memory, request, answer.bytes);
    return answer;
  });
  const length = queue.takeUsed()?.length ?? -1;
  const bytes = writable.flatMap((buffer) => [...bytesOf(buffer)]);
  assert.ok(length >= 0 && length <= bytes.length);
  assert.not.ok(bytes.slice(0, length).includes(UNWRITTEN), `type ${type}: ${length} bytes`);
  assert.is.not(bytes[bytes.length - 1], UNWRITTEN, 'the status byte');
}

const usedRing: Section[] = [
  {
    number: '2.7.8.2',
    title: 'Used ring',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Sets the length of an entry before the index that shows it.',
        test() {
          const device = ring(0n);
          offer(device);
          const accesses = watched(device.memory, () => kick(device.cage, 0));
          const at = (address: number) =>
            accesses.findIndex((access) => access.address === address);
          const { usedRing } = device.queue;
          assert.ok(at(usedRing + 4) >= 0 && at(usedRing + 4) < at(usedRing + 2));
          assert.equal(accesses[at(usedRing + 4)].lengthBytes, 8); // id and length at once
        },
      },
      {
        level: 'MUST',
        says: 'Before that has written at least so many bytes, from the first writable one on.',
        test() {
          const half: Executor = () => ({ result: RESULT_IOERR, bytes: 300 });
          const none: Executor = () => ({ result: RESULT_IOERR, bytes: 0 });
          const all = everythingSucceeds;
          const cases: [type: number, data: Buffer[], execute: Executor][] = [
            [BLK_T_IN, [into(500), into(12, PAYLOAD + 0x800)], all],
            [BLK_T_IN, [into(500), into(12, PAYLOAD + 0x800)], half],
            [BLK_T_IN, [into(512)], none],
            [BLK_T_IN, [into(100)], all], // no whole sector: the core answers
            [BLK_T_OUT, [outOf(512)], all],
            [BLK_T_OUT, [outOf(512)], none],
            [BLK_T_OUT, [outOf(512), into(16)], all], // data both ways
            [BLK_T_FLUSH, [], all],
            [BLK_T_FLUSH, [into(64)], all], // data where none belongs
            [BLK_T_GET_ID, [into(20)], all],
            [BLK_T_GET_ID, [into(12), into(40, PAYLOAD + 0x800)], all],
            [BLK_T_GET_ID, [into(4)], all],
            [99, [into(64)], all],
          ];
          for (const [type, data, execute] of cases) lengthIsWritten(disk(), type, data, execute);
        },
      },
      {
        level: 'MAY',
        says: 'Writes more than the length says.',
        test() {
          // A read that fails half way: the status byte lies behind bytes that nobody wrote.
          const device = disk();
          offer(device, [
            blkHeader(device.memory, DATA, BLK_T_IN),
            into(512),
            into(1, STATUS_BYTE),
          ]);
          kick(device.cage, 0, () => ({ result: RESULT_IOERR, bytes: 300 }));
          assert.is(device.queue.takeUsed()?.length, 300);
          assert.is(device.memory.view.getUint8(STATUS_BYTE), RESULT_IOERR);
        },
      },
    ],
  },
  {
    number: '2.7.8.3',
    title: 'Used ring',
    side: 'driver',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Assumes nothing about bytes past the length.',
        unseen: OWN_READING,
      },
      { level: 'SHOULD', says: 'Ignores those bytes.', unseen: OWN_READING },
    ],
  },
];

/** Buffers offered without a notification wait, and the next notification serves them all. */
function unnotified(features: bigint): void {
  const device = ring(features);
  offer(device);
  assert.is(kick(device.cage, 0).requests.length, 1);
  const waiting = 4;
  const accesses = watched(device.memory, () => {
    for (let count = 0; count < waiting; count += 1) offer(device);
  });
  assert.equal(accesses, []);
  assert.is(kick(device.cage, 0).requests.length, waiting);
}

/** `flags` of the used ring through some traffic. */
function flagsStay(features: bigint): void {
  const device = ring(features);
  for (let count = 0; count < 20; count += 1) {
    const accesses = watched(device.memory, () => tells(device));
    assert.is(usedFlags(device), 0);
    const touched = accesses.some(({ address }) => address === device.queue.usedRing);
    assert.is(touched, false);
  }
}

const availableSuppression: Section[] = [
  {
    number: '2.7.10.1',
    title: 'Available buffer notification suppression',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Starts with 0 in `flags` of the used ring.',
        answer: 'the device neither reads the field nor writes it',
        test() {
          const device = ring(0n);
          device.memory.view.setUint16(device.queue.usedRing, 0xbeef, true);
          assert.is(tells(device), true);
          assert.is(usedFlags(device), 0xbeef);
        },
      },
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, ignores `avail_event`.',
        unseen: OWN_READING,
      },
      {
        level: 'SHOULD NOT',
        says: 'Without EVENT_IDX, sends nothing while `flags` is 1.',
        notApplicable: 'the device never sets it',
      },
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, notifies after adding buffers while `flags` is 0.',
        answer: 'buffers wait until the next notification',
        test: () => unnotified(0n),
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, ignores the lower bit of `flags`.',
        unseen: OWN_READING,
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, notifies when it adds the entry at `avail_event`.',
        answer: 'buffers wait until the next notification',
        test: () => unnotified(F_EVENT_IDX),
      },
      {
        level: 'SHOULD NOT',
        says: 'With EVENT_IDX, sends nothing otherwise.',
        answer: 'the notification is taken all the same',
        test() {
          const device = ring(F_EVENT_IDX);
          offer(device);
          kick(device.cage, 0);
          device.memory.view.setUint16(device.queue.usedRing + 4 + 8 * 16, 0x4000, true);
          offer(device); // not at avail_event any more
          assert.is(kick(device.cage, 0).requests.length, 1);
        },
      },
    ],
  },
  {
    number: '2.7.10.2',
    title: 'Available buffer notification suppression',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Without EVENT_IDX, has `flags` of the used ring at 0 or 1.',
        test: () => flagsStay(0n),
      },
      {
        level: 'MAY',
        says: 'Without EVENT_IDX, sets it to 1 where it needs no notification.',
        notApplicable: 'the device never does',
      },
      {
        level: 'MUST',
        says: 'With EVENT_IDX, has `flags` at 0.',
        test: () => flagsStay(F_EVENT_IDX),
      },
      {
        level: 'MAY',
        says: 'With EVENT_IDX, says by `avail_event` how far it needs no notification.',
        test() {
          const device = ring(F_EVENT_IDX);
          for (let count = 1; count <= 40; count += 1) {
            tells(device);
            assert.is(device.queue.availEvent(), count);
          }
        },
      },
      {
        level: 'MUST',
        says: 'Copes with notifications that tell nothing new.',
        test() {
          for (const features of [0n, F_EVENT_IDX]) {
            const device = ring(features);
            for (let count = 0; count < 5; count += 1) assert.is(device.cage.notify(0), 0);
            offer(device);
            assert.is(kick(device.cage, 0).requests.length, 1);
            assert.is(device.driver.set(REG.QueueNotify, 0), 0);
            assert.is(kick(device.cage, 0).effects & (EFFECT_IRQ | EFFECT_INCIDENT), 0);
          }
        },
      },
    ],
  },
];

const supplying: Section[] = [
  {
    number: '2.7.13',
    title: 'Supplying buffers to the device',
    side: 'driver',
    rows: [
      {
        level: 'MAY',
        says: 'Places several buffers before it shows them all by one index.',
        answer: 'they are served in one go',
        test() {
          const device = ring();
          for (let slot = 0; slot < 16; slot += 1) {
            const head = device.queue.chain([into(slot + 1)]);
            device.memory.view.setUint16(device.queue.availRing + 4 + 2 * slot, head, true);
          }
          device.queue.setAvailIndex(16);
          const lengths = kick(device.cage, 0).requests.map(({ length }) => Number(length));
          assert.equal(lengths, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        },
      },
    ],
  },
  {
    number: '2.7.13.3',
    title: 'Updating the available index',
    side: 'device',
    rows: [
      {
        level: 'MAY',
        says: 'Takes a buffer as soon as the index shows it.',
        test() {
          const device = ring(F_EVENT_IDX);
          offer(device);
          device.cage.notify(0);
          const first = parseRecord(device.cage.record());
          offer(device, [into(9)]); // no notification
          device.cage.complete(first.tag, 0, 64);
          device.cage.next(0);
          assert.is(parseRecord(device.cage.record()).length, 9n);
        },
      },
    ],
  },
  {
    number: '2.7.13.3.1',
    title: 'Updating the available index',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Has a memory barrier before it updates the index.',
        unseen: BARRIER,
      },
    ],
  },
  {
    number: '2.7.13.4',
    title: 'Notifying the device',
    side: 'device',
    rows: [
      {
        level: 'MAY',
        says: 'Suppresses notifications that it does not need.',
        test() {
          // While the device has not drained the ring, `avail_event` stays behind the driver.
          const device = ring(F_EVENT_IDX);
          for (let count = 0; count < 3; count += 1) offer(device);
          device.cage.notify(0);
          assert.is(device.queue.availEvent(), 0);
          while (device.cage.next(0) !== 0);
          assert.is(device.queue.availEvent(), 3);
        },
      },
    ],
  },
  {
    number: '2.7.13.4.1',
    title: 'Notifying the device',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Has a memory barrier before it reads `flags` or `avail_event`.',
        unseen: BARRIER,
      },
    ],
  },
  {
    number: '2.7.14',
    title: 'Receiving used buffers',
    side: 'driver',
    rows: [
      {
        level: 'MAY',
        says: 'Turns notifications off while it empties the used ring, and looks again after.',
        answer: 'what is used meanwhile stands in the ring without a notification',
        test() {
          const device = ring(0n);
          device.queue.suppressInterrupts(true);
          const head = offer(device);
          assert.is(kick(device.cage, 0).effects & EFFECT_IRQ, 0);
          device.queue.suppressInterrupts(false);
          assert.is(device.queue.takeUsed()?.id, head);
          assert.is(tells(device), true);
        },
      },
    ],
  },
];

export const RING_NOTIFICATIONS: Section[] = [
  ...usedSuppression,
  ...usedRing,
  ...availableSuppression,
  ...supplying,
];
