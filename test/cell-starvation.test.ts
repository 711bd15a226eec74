// Guests that never give a device, a doorbell or the I/O thread any rest: the other vCPU, the
// console, pause, resume and stop still get their turn.
import { truncateSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { VirtioDevice } from '../host/boot/image.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { REG } from '../testing/driver.ts';
import { DESC_F_WRITE } from '../testing/queue.ts';
import { le } from './bare-metal.ts';
import {
  awaitUsed,
  beginRead,
  bringUp,
  busyRings,
  DATA,
  FINISHED,
  HEADS,
  HEADS_MAX,
  keepGoing,
  largeRead,
  loadFirst,
  offer,
  queueSegments,
  type Ring,
  ring,
  ringAt,
  testDisk,
  USED,
  WINDOW,
} from './cell-disk.ts';
import { bareImage, causeOf, cellTest, type Ended, startSpawned } from './cell-guest.ts';
import { COM1, type Code } from './machine-code.ts';

const MIB = 2 ** 20;
const RTC = 0x70;
const BOOT_TIMER = 0x3f0;
const LOOKS = 5_000; // accesses of the quiet vCPU between two words

/** A disk's number out of the report: the last device. */
function diskCount(ended: Ended, field: number): number {
  const report = ended.report!;
  const last = report.getUint32(protocol.REPORT_DEVICE_COUNT, true) - 1;
  const at = protocol.REPORT_DEVICES + last * protocol.REPORT_DEVICE_STRIDE + field;
  return Number(report.getBigUint64(at, true));
}

/** Looks at the clock, answers what comes in, and writes the marker after the first round. */
function quietCpu(code: Code): Code {
  code
    .raw(0xbd, ...le(LOOKS, 4))
    .label('look')
    .in(RTC + 1);
  code.raw(0x4d).jumpIfNotZero('look').out(BOOT_TIMER, 123);
  return code.label('answer').receiveAl().sendAl().jump('answer');
}

interface Plan {
  wild: (code: Code) => Code; // ends nowhere
  ioUring?: boolean;
  queue?: Parameters<typeof queueSegments>[0];
  memoryBytes?: number;
  capacityBytes?: number; // of a disk that is one hole
}

async function assertServed(plan: Plan): Promise<Ended> {
  const { wild, ioUring = false, queue, memoryBytes = MIB, capacityBytes } = plan;
  const disk = testDisk({ ioUring, ...(capacityBytes && { capacityBytes }) });
  if (capacityBytes) truncateSync(disk.path, capacityBytes);
  const image = bareImage((code) => quietCpu(wild(code.startOthers(['quiet'])).label('quiet')), {
    cpuCount: 2,
    bootTimer: true,
    virtio: [disk.device],
    memoryBytes,
    segments: queueSegments(queue),
  });
  const cell = startSpawned(image, { input: 'pipe' });
  disk.close();
  await cell.untilTold('marker');
  for (const word of ['one', 'two']) {
    cell.input.write(word);
    await cell.untilSaid(word);
    await cell.pause();
    await cell.resume();
  }
  await cell.pause();
  await cell.resume();
  cell.input.write('three');
  await cell.untilSaid('three');
  const ended = await cell.stop();
  assert.is(ended.status, 143);
  assert.is(causeOf(ended), protocol.CAUSE_SIGNAL);
  assert.not.ok(cell.messages.some((message) => message.type === 'log'));
  return ended;
}

/** The same access over and over. */
const over = (access: (code: Code) => Code) => (code: Code) =>
  access(code.label('over')).jump('over');

const HAMMERS: [what: string, wild: (code: Code) => Code][] = [
  ['spins', over((code) => code)],
  ['reads the line status', over((code) => code.in(COM1 + 5))],
  ['sends without looking', over((code) => code.out(COM1 + 7, 1).out(COM1 + 1, 0))],
  ['sets the clock', over((code) => code.out(RTC, 4).in(RTC + 1))],
  ["reads a disk's registers", over((code) => code.load(WINDOW).load(WINDOW + REG.Config))],
  ['resets a disk', over((code) => code.store(WINDOW + REG.Status, 0))],
  ['reads where nobody is', over((code) => code.in(0x123).load(WINDOW + 0x8000))],
  ['rings for a queue that is not live', over(ring)],
  ['rings for a live queue', (code) => over(ring)(bringUp(code))],
  [
    'rings for queues that do not exist',
    over((code) => {
      for (const queue of [1, 7, 8, 0xffff, 0xffffffff])
        code.store(WINDOW + REG.QueueNotify, queue);
      return code.store16(WINDOW + REG.QueueNotify, 0);
    }),
  ],
];

for (const [what, wild] of HAMMERS) {
  cellTest(`a vCPU that ${what} without end holds nobody up`, async () => {
    await assertServed({ wild });
  });
}

// --- A disk that works --------------------------------------------------------------------------

const ENGINES = [
  ['sync', false],
  ['io_uring', true],
] as const;

const MOMENT = 3000; // rounds of two instructions

for (const [engine, ioUring] of ENGINES) {
  cellTest(`a bare-metal driver reads a sector by ${engine} and prints it`, async () => {
    const disk = testDisk({ ioUring });
    const image = bareImage(
      (code) => {
        awaitUsed(offer(bringUp(code), 1), 1, 'used');
        code.raw(0xbe, ...le(DATA, 4), 0xbd, ...le(512, 4)); // mov esi; mov ebp
        code.label('next').raw(0x8a, 0x06, 0x46).sendAl(); // mov al, [esi]; inc esi
        code.raw(0x4d).jumpIfNotZero('next').powerOff();
      },
      { virtio: [disk.device], segments: queueSegments() },
    );
    const ended = await startSpawned(image).ended();
    disk.close();
    assert.is(ended.status, 0);
    assert.ok(ended.output.equals(disk.bytes.subarray(0, 512)));
    assert.is(diskCount(ended, protocol.DEVICE_REQUESTS), 1);
    assert.is(diskCount(ended, protocol.DEVICE_BYTES_READ), 512);
  });

  for (const [kind, headerType] of [
    ['reads', 0],
    ['writes', 1],
  ] as const) {
    cellTest(`a ring of ${kind} that never ends by ${engine} holds nobody up`, async () => {
      const wild = (code: Code) => keepGoing(offer(bringUp(code), HEADS));
      const queue = { dataBytes: 0x10000, headerType };
      const ended = await assertServed({ wild, ioUring, queue });
      assert.ok(diskCount(ended, protocol.DEVICE_REQUESTS) > 2 * HEADS);
      assert.is(diskCount(ended, protocol.DEVICE_ERRORS), 0);
    });
  }

  cellTest(
    `a disk that is reset in mid-flight in a loop by ${engine} holds nobody up`,
    async () => {
      const wild = over((code) => {
        offer(bringUp(code.store(USED, 0)), HEADS);
        // A moment, so that the doorbell is heard: requests are under way then, or done.
        code
          .raw(0xb9, ...le(MOMENT, 4))
          .label('moment')
          .raw(0x49)
          .jumpIfNotZero('moment');
        return code.store(WINDOW + REG.Status, 0);
      });
      const ended = await assertServed({ wild, ioUring, queue: { dataBytes: 0x10000 } });
      assert.ok(diskCount(ended, protocol.DEVICE_REQUESTS) > 0);
    },
  );
}

for (const [engine, ioUring] of ENGINES) {
  cellTest(`requests of a GiB each by ${engine} hold nobody up`, async () => {
    const wild = (code: Code) => offer(bringUp(code), HEADS).label('spin').jump('spin');
    const queue = { dataBytes: 8 * MIB, parts: 126 };
    const sizes = { memoryBytes: 16 * MIB, capacityBytes: 1024 * MIB };
    await assertServed({ wild, ioUring, queue, ...sizes });
  });
}

for (const [engine, ioUring] of ENGINES) {
  cellTest(`a reset waits for a request of a GiB that is under way by ${engine}`, async () => {
    const { disk, bytes, machine } = largeRead(ioUring, 126);
    const image = bareImage((code) => {
      beginRead(code).store(WINDOW + REG.Status, 0);
      loadFirst(code).raw(0x3c, FINISHED).jumpIfNotZero('early'); // cmp al, imm8
      code.say('waited').powerOff().label('early').say('early').powerOff();
    }, machine);
    const cell = startSpawned(image);
    disk.close();
    const ended = await cell.ended();
    assert.is(ended.status, 0);
    assert.is(ended.output.toString(), 'waited');
    assert.is(diskCount(ended, protocol.DEVICE_BYTES_READ), bytes);
  });
}

// --- More work than io_uring has slots ----------------------------------------------------------

const BACK = 50; // requests that a quiet queue must have back beside the busy ones
const OTHER_WINDOW = WINDOW + 0x1000;
const RNG_WINDOW = WINDOW + 0x2000;
const RNG_DESCRIPTORS = 0x54000;
const WRITE = 1; // VIRTIO_BLK_T_OUT: unlike a read from memory, it stays in flight for a while

/** A queue of the disk at WINDOW that is full for ever. */
const busyQueue = (queue: number) => ringAt(queue, { queue, depth: HEADS_MAX });

async function assertAllGoOn(rings: Ring[], quiet: Ring[], virtio: VirtioDevice[]): Promise<void> {
  const entropy = Buffer.alloc(16); // one descriptor: 512 bytes to be filled
  entropy.writeUInt32LE(DATA + 0x1000, 0);
  entropy.writeUInt32LE(512, 8);
  entropy.writeUInt16LE(DESC_F_WRITE, 12);
  const segments = [
    ...queueSegments({ dataBytes: 4096, heads: HEADS_MAX, headerType: WRITE }),
    { name: 'entropy', address: RNG_DESCRIPTORS, bytes: entropy },
  ];
  const image = bareImage((code) => busyRings(code, rings, quiet, BACK).say('all').powerOff(), {
    virtio,
    segments,
  });
  const ended = await startSpawned(image).ended();
  assert.is(ended.status, 0);
  assert.is(ended.output.toString(), 'all');
}

cellTest('two full queues of a disk by io_uring leave the third its turn', async () => {
  const disk = testDisk({ ioUring: true, queueCount: 3 });
  const quiet = ringAt(2, { queue: 2, depth: 1 });
  await assertAllGoOn([busyQueue(0), busyQueue(1), quiet], [quiet], [disk.device]);
  disk.close();
});

for (const [engine, ioUring] of ENGINES) {
  cellTest(`beside a full disk by io_uring, one by ${engine} and an rng go on`, async () => {
    const busy = testDisk({ ioUring: true, queueCount: 2 });
    const slot = { address: OTHER_WINDOW, pin: 6 };
    const other = testDisk({ ioUring, slot, id: 'other' });
    const rng = { kind: 'virtio-rng' as const, slot: { address: RNG_WINDOW, pin: 7 } };
    const quiet = [
      ringAt(2, { window: OTHER_WINDOW, depth: 1 }),
      ringAt(3, { window: RNG_WINDOW, queueSize: 64, descriptors: RNG_DESCRIPTORS, depth: 1 }),
    ];
    const rings = [busyQueue(0), busyQueue(1), ...quiet];
    await assertAllGoOn(rings, quiet, [busy.device, other.device, rng]);
    busy.close();
    other.close();
  });
}

test.run();
