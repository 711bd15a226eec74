// The block device: assembly/virtio-blk.ts and virtio-blk-request.ts on the release core
// (virtio 1.2 §5.2).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  BLK_CONFIG_BLK_SIZE,
  BLK_CONFIG_CAPACITY,
  BLK_CONFIG_DISCARD_ALIGNMENT,
  BLK_CONFIG_FLAGS,
  BLK_CONFIG_MAX_DISCARD_SECTORS,
  BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
  BLK_CONFIG_PHYSICAL_BLOCK_EXP,
  BLK_CONFIG_QUEUE_COUNT,
  BLK_CONFIG_QUEUE_SIZE,
  BLK_CONFIG_SEG_MAX,
  BLK_CONFIG_SIZE_MAX,
  EFFECT_INCIDENT,
  EFFECT_REQUEST,
  KIND_VIRTIO_BLK,
  REQUEST_FLAG_SYNC,
  REQUEST_FLAG_UNMAP,
  REQUEST_KIND_BLK_DISCARD,
  REQUEST_KIND_BLK_FLUSH,
  REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT,
  REQUEST_KIND_BLK_WRITE_ZEROES,
  RESULT_IOERR,
  RESULT_UNSUPPORTED,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { type BlkConfig, encodeBlkConfig } from '../host/device-config.ts';
import type { IncidentName } from '../host/incident-names.ts';
import {
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_DISCARD,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_WRITE_ZEROES,
  blkHeader,
  blkSegment,
  blkStatus,
  STATUS_UNTOUCHED,
} from '../testing/block.ts';
import { ACKNOWLEDGE, DRIVER, F_INDIRECT_DESC, FEATURES_OK, REG } from '../testing/driver.ts';
import {
  type GuestBuffer as Buffer,
  DATA,
  DESC_F_NEXT,
  type DriverQueue,
  guestMemory,
} from '../testing/queue.ts';
import { kick, parseRecord, type RequestRecord } from '../testing/requests.ts';
import { blkDevice, CAPACITY_SECTORS, type Fixture } from './fixtures.ts';

const HEADER = DATA;
const STATUS = DATA + 0x20;
const SEGMENT = DATA + 0x40;
const PAYLOAD = DATA + 0x1000;
const RAM_END = 0x100000;

const F_SIZE_MAX = 1n << 1n;
const F_SEG_MAX = 1n << 2n;
const F_RO = 1n << 5n;
const F_BLK_SIZE = 1n << 6n;
const F_FLUSH = 1n << 9n;
const F_TOPOLOGY = 1n << 10n;
const F_CONFIG_WCE = 1n << 11n;
const F_MQ = 1n << 12n;
const F_DISCARD = 1n << 13n;
const F_WRITE_ZEROES = 1n << 14n;
const CONFIG_WRITEBACK = REG.Config + 32;

interface Disk extends Fixture {
  queue: DriverQueue;
}

function disk(config: Partial<BlkConfig> = {}, features?: bigint): Disk {
  const device = blkDevice(config);
  const queue = device.driver.bringUp({
    features,
    queueSize: Math.min(config.queueSize ?? 64, 64),
  });
  return { ...device, queue };
}

interface Outcome {
  status: number;
  used: { id: number; length: number } | null;
  requests: RequestRecord[];
  effects: number;
  room: number; // writable bytes before the status
}

/** Offers header, data and status as one chain and lets the host succeed. */
function submit(device: Disk, type: number, sector: bigint, data: Buffer[]): Outcome {
  const header = blkHeader(device.memory, HEADER, type, sector);
  return submitChain(device, [header, ...data, blkStatus(device.memory, STATUS)]);
}

function submitChain(device: Disk, chain: Buffer[]): Outcome {
  device.memory.view.setUint8(STATUS, STATUS_UNTOUCHED);
  device.queue.offer(device.queue.chain(chain));
  const { requests, effects } = kick(device.cage, 0);
  const used = device.queue.takeUsed();
  const writable = chain.reduce((sum, { length, write }) => sum + (write ? length : 0), 0);
  const status = device.memory.view.getUint8(STATUS);
  return { status, used, requests, effects, room: writable - 1 };
}

/**
 * The request never reached the host, and the driver got this status. The used length counts the
 * status byte only where nothing lies before it that was not written (§2.7.8.2).
 */
function answered(outcome: Outcome, status: number): void {
  assert.is(outcome.requests.length, 0);
  assert.is(outcome.status, status);
  assert.is(outcome.used?.length, outcome.room === 0 ? 1 : 0);
  assert.is(outcome.effects & EFFECT_INCIDENT, EFFECT_INCIDENT);
}

const into = (length: number, address: number | bigint = PAYLOAD): Buffer => ({
  address,
  length,
  write: true,
});
const outOf = (length: number, address: number | bigint = PAYLOAD): Buffer => ({ address, length });

// --- Good requests ------------------------------------------------------------------------------

test('IN becomes a read of the disk into the data buffers', () => {
  const device = disk();
  const outcome = submit(device, BLK_T_IN, 5n, [into(512), into(1024, PAYLOAD + 0x1000)]);
  const [request] = outcome.requests;
  assert.is(request.kind, REQUEST_KIND_BLK_IN);
  assert.is(request.offset, 5n * 512n);
  assert.is(request.length, 1536n);
  assert.equal(request.ranges, [
    { address: BigInt(PAYLOAD), length: 512 },
    { address: BigInt(PAYLOAD + 0x1000), length: 1024 },
  ]);
  assert.is(outcome.status, BLK_S_OK);
  assert.equal(outcome.used, { id: 0, length: 1537 });
});

test('OUT becomes a write from the data buffers, and gives back one byte', () => {
  const device = disk();
  const outcome = submit(device, BLK_T_OUT, 7n, [outOf(512)]);
  const [request] = outcome.requests;
  assert.is(request.kind, REQUEST_KIND_BLK_OUT);
  assert.is(request.offset, 7n * 512n);
  assert.equal(request.ranges, [{ address: BigInt(PAYLOAD), length: 512 }]);
  assert.is(outcome.status, BLK_S_OK);
  assert.equal(outcome.used, { id: 0, length: 1 });
});

test('FLUSH becomes a flush', () => {
  const outcome = submit(disk(), BLK_T_FLUSH, 0n, []);
  assert.is(outcome.requests[0].kind, REQUEST_KIND_BLK_FLUSH);
  assert.is(outcome.requests[0].ranges.length, 0);
  assert.is(outcome.status, BLK_S_OK);
});

test('GET_ID is answered by the core, padded with zeros', () => {
  const device = disk({ id: 'root' });
  const outcome = submit(device, BLK_T_GET_ID, 0n, [into(20)]);
  assert.is(outcome.requests.length, 0);
  assert.is(outcome.status, BLK_S_OK);
  assert.equal(outcome.used, { id: 0, length: 21 });
  const id = new Uint8Array(device.memory.view.buffer, PAYLOAD, 20);
  assert.is(new TextDecoder().decode(id), `root${'\0'.repeat(16)}`);
});

test('GET_ID fills a buffer cut in pieces and leaves the rest of a larger one alone', () => {
  const device = disk({ id: 'abcdefghijklmnopqrstuvwxyz' });
  device.memory.view.setUint8(PAYLOAD + 0x100 + 13, 0xee);
  const outcome = submit(device, BLK_T_GET_ID, 0n, [into(7), into(30, PAYLOAD + 0x100)]);
  assert.is(outcome.status, BLK_S_OK);
  const bytes = (at: number, length: number) =>
    new TextDecoder().decode(new Uint8Array(device.memory.view.buffer, at, length));
  assert.is(bytes(PAYLOAD, 7) + bytes(PAYLOAD + 0x100, 13), 'abcdefghijklmnopqrst');
  assert.is(device.memory.view.getUint8(PAYLOAD + 0x100 + 13), 0xee);
});

test('DISCARD becomes a discard of the sectors named', () => {
  const device = disk();
  const segment = blkSegment(device.memory, SEGMENT, 16n, 8);
  const outcome = submit(device, BLK_T_DISCARD, 0n, [segment]);
  assert.is(outcome.requests[0].kind, REQUEST_KIND_BLK_DISCARD);
  assert.is(outcome.requests[0].offset, 16n * 512n);
  assert.is(outcome.requests[0].length, 8n * 512n);
  assert.is(outcome.requests[0].ranges.length, 0);
  assert.is(outcome.status, BLK_S_OK);
});

test('WRITE_ZEROES passes its unmap flag on', () => {
  const device = disk();
  for (const [flags, expected] of [
    [0, 0],
    [1, REQUEST_FLAG_UNMAP],
  ]) {
    const segment = blkSegment(device.memory, SEGMENT, 0n, CAPACITY_SECTORS, flags);
    const outcome = submit(device, BLK_T_WRITE_ZEROES, 0n, [segment]);
    assert.is(outcome.requests[0].kind, REQUEST_KIND_BLK_WRITE_ZEROES);
    assert.is(outcome.requests[0].flags, expected);
    assert.is(outcome.requests[0].length, BigInt(CAPACITY_SECTORS * 512));
  }
});

test('the last sector can be read and written', () => {
  const device = disk();
  const last = BigInt(CAPACITY_SECTORS - 1);
  assert.is(submit(device, BLK_T_IN, last, [into(512)]).status, BLK_S_OK);
  assert.is(submit(device, BLK_T_OUT, last, [outOf(512)]).status, BLK_S_OK);
});

// --- Any layout (§2.7.4.3) ----------------------------------------------------------------------

test('a header cut into pieces, data in the same buffer, is understood', () => {
  const device = disk();
  blkHeader(device.memory, HEADER, BLK_T_OUT, 3n);
  const outcome = submitChain(device, [
    outOf(1, HEADER),
    outOf(0, HEADER),
    outOf(10, HEADER + 1),
    outOf(5 + 500, HEADER + 11),
    outOf(12, PAYLOAD),
    blkStatus(device.memory, STATUS + 0x1000),
  ]);
  assert.is(outcome.requests[0].offset, 3n * 512n);
  assert.equal(outcome.requests[0].ranges, [
    { address: BigInt(HEADER + 16), length: 500 },
    { address: BigInt(PAYLOAD), length: 12 },
  ]);
});

test('header and data in one descriptor, data and status in one, are understood', () => {
  const device = disk();
  blkHeader(device.memory, HEADER, BLK_T_IN, 1n);
  device.memory.view.setUint8(PAYLOAD + 512, STATUS_UNTOUCHED);
  const outcome = submitChain(device, [outOf(16, HEADER), into(513)]);
  assert.equal(outcome.requests[0].ranges, [{ address: BigInt(PAYLOAD), length: 512 }]);
  assert.is(device.memory.view.getUint8(PAYLOAD + 512), BLK_S_OK);
  assert.is(outcome.used?.length, 513);
});

test('the status byte is the last byte of the last writable descriptor', () => {
  const device = disk();
  blkHeader(device.memory, HEADER, BLK_T_IN);
  const outcome = submitChain(device, [outOf(16, HEADER), into(500), into(13, STATUS)]);
  assert.equal(
    outcome.requests[0].ranges.map((range) => range.length),
    [500, 12],
  );
  assert.is(device.memory.view.getUint8(STATUS + 12), BLK_S_OK);
  assert.is(device.memory.view.getUint8(STATUS), STATUS_UNTOUCHED);
});

test('a request in an indirect table is understood', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_IN, 2n);
  const chain = [header, into(512), blkStatus(device.memory, STATUS)];
  device.queue.offer(device.queue.indirectChain(chain, 0x80000));
  assert.is(kick(device.cage, 0).requests[0].offset, 1024n);
  assert.is(device.memory.view.getUint8(STATUS), BLK_S_OK);
});

// --- Malformed requests: an error status --------------------------------------------------------

test('data of a wrong direction is an error', () => {
  const device = disk();
  answered(submit(device, BLK_T_IN, 0n, [outOf(512)]), BLK_S_IOERR);
  answered(submit(device, BLK_T_OUT, 0n, [into(512)]), BLK_S_IOERR);
  answered(submit(device, BLK_T_GET_ID, 0n, [outOf(20)]), BLK_S_IOERR);
  const segment = blkSegment(device.memory, SEGMENT, 0n, 1);
  answered(submit(device, BLK_T_DISCARD, 0n, [{ ...segment, write: true }]), BLK_S_IOERR);
  assert.is(device.cage.counters().request, 4);
});

test('data both ways is an error', () => {
  const device = disk();
  answered(submit(device, BLK_T_IN, 0n, [outOf(512), into(512)]), BLK_S_IOERR);
  answered(submit(device, BLK_T_OUT, 0n, [outOf(512), into(512)]), BLK_S_IOERR);
});

test('a short header is an error', () => {
  const device = disk();
  blkHeader(device.memory, HEADER, BLK_T_FLUSH);
  for (const length of [0, 1, 15]) {
    const status = blkStatus(device.memory, STATUS);
    answered(submitChain(device, [outOf(length, HEADER), status]), BLK_S_IOERR);
  }
  answered(submitChain(device, [blkStatus(device.memory, STATUS)]), BLK_S_IOERR);
});

test('no data, and data that is not a number of sectors, are errors', () => {
  const device = disk();
  for (const length of [0, 1, 511, 513, 1023]) {
    answered(submit(device, BLK_T_IN, 0n, [into(length)]), BLK_S_IOERR);
    answered(submit(device, BLK_T_OUT, 0n, [outOf(length)]), BLK_S_IOERR);
  }
});

test('sectors past the end, and sums that overflow, are errors', () => {
  const device = disk();
  const end = BigInt(CAPACITY_SECTORS);
  for (const sector of [end, end + 1n, 1n << 55n, (1n << 64n) - 1n]) {
    answered(submit(device, BLK_T_IN, sector, [into(512)]), BLK_S_IOERR);
    answered(submit(device, BLK_T_OUT, sector, [outOf(512)]), BLK_S_IOERR);
  }
  answered(submit(device, BLK_T_IN, end - 1n, [into(1024)]), BLK_S_IOERR);
});

test('an unknown type is unsupported', () => {
  const device = disk();
  for (const type of [2, 3, 5, 9, 14, 0x80000000, 0xffffffff]) {
    answered(submit(device, type, 0n, [into(512)]), BLK_S_UNSUPP);
  }
});

test('a GET_ID buffer too small for the identity is an error', () => {
  const device = disk();
  answered(submit(device, BLK_T_GET_ID, 0n, [into(19)]), BLK_S_IOERR);
  answered(submit(device, BLK_T_GET_ID, 0n, []), BLK_S_IOERR);
});

test('a command that is not exactly one segment is an error', () => {
  const device = disk();
  for (const length of [0, 8, 15, 17, 32]) {
    blkSegment(device.memory, SEGMENT, 0n, 1);
    for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES]) {
      answered(submit(device, type, 0n, [outOf(length, SEGMENT)]), BLK_S_IOERR);
    }
  }
});

test('flags that the command does not know are unsupported, unmap in a discard too', () => {
  const device = disk();
  const segment = (flags: number) => [blkSegment(device.memory, SEGMENT, 0n, 8, flags)];
  answered(submit(device, BLK_T_DISCARD, 0n, segment(1)), BLK_S_UNSUPP);
  answered(submit(device, BLK_T_DISCARD, 0n, segment(0x80000000)), BLK_S_UNSUPP);
  answered(submit(device, BLK_T_WRITE_ZEROES, 0n, segment(2)), BLK_S_UNSUPP);
});

test('commands past the end, of no sectors or of too many, are errors', () => {
  const device = disk({ maxDiscardSectors: 64, maxWriteZeroesSectors: 64 });
  const end = BigInt(CAPACITY_SECTORS);
  const wrong: [bigint, number][] = [
    [end, 1],
    [end - 1n, 2],
    [(1n << 64n) - 1n, 2],
    [0n, 0],
    [0n, 65],
  ];
  for (const [sector, count] of wrong) {
    for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES]) {
      const segment = blkSegment(device.memory, SEGMENT, sector, count);
      answered(submit(device, type, 0n, [segment]), BLK_S_IOERR);
    }
  }
});

test('commands that were not negotiated are unsupported', () => {
  const device = disk({}, F_INDIRECT_DESC);
  for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES]) {
    const segment = blkSegment(device.memory, SEGMENT, 0n, 8);
    answered(submit(device, type, 0n, [segment]), BLK_S_UNSUPP);
  }
});

test('a read-only disk reads, and fails every kind of write', () => {
  const device = disk({ readOnly: true });
  assert.is(submit(device, BLK_T_IN, 0n, [into(512)]).status, BLK_S_OK);
  answered(submit(device, BLK_T_OUT, 0n, [outOf(512)]), BLK_S_IOERR);
  const segment = blkSegment(device.memory, SEGMENT, 0n, 8);
  answered(submit(device, BLK_T_DISCARD, 0n, [segment]), BLK_S_UNSUPP);
  answered(submit(device, BLK_T_WRITE_ZEROES, 0n, [segment]), BLK_S_UNSUPP);
});

test('segments past the negotiated limits are errors, and fine if not negotiated', () => {
  const limits = { segMax: 2, sizeMax: 1024, queueSize: 16 };
  const three = [into(512), into(512), into(512)];
  const strict = disk(limits, F_SEG_MAX | F_SIZE_MAX);
  answered(submit(strict, BLK_T_IN, 0n, three), BLK_S_IOERR);
  answered(submit(strict, BLK_T_OUT, 0n, [outOf(1536)]), BLK_S_IOERR);
  assert.is(submit(strict, BLK_T_IN, 0n, [into(1024), into(512)]).status, BLK_S_OK);
  const loose = disk(limits, 0n);
  assert.is(submit(loose, BLK_T_IN, 0n, three).status, BLK_S_OK);
  assert.is(submit(loose, BLK_T_OUT, 0n, [outOf(1536)]).status, BLK_S_OK);
});

// --- Malformed requests: no status byte ---------------------------------------------------------

test('a chain without a status byte comes back with length 0', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_FLUSH);
  const chains: [Buffer[], IncidentName][] = [
    [[header], 'request'],
    [[header, outOf(512)], 'request'],
    [[header, into(512), into(0, STATUS)], 'request'], // status length 0
    [[header, into(1, RAM_END)], 'memory'],
    [[outOf(16, RAM_END), into(1, RAM_END)], 'memory'],
  ];
  for (const [chain, name] of chains) {
    const before = device.cage.counters()[name];
    const outcome = submitChain(device, chain);
    assert.is(outcome.used?.length, 0);
    assert.ok(device.cage.counters()[name] > before);
  }
});

test('an identity buffer outside RAM is an error', () => {
  const outcome = submit(disk(), BLK_T_GET_ID, 0n, [into(20, RAM_END - 4)]);
  assert.is(outcome.status, BLK_S_IOERR);
});

test('a status byte at address 0 is as good as any', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_FLUSH);
  assert.is(submitChain(device, [header, blkStatus(device.memory, 0)]).used?.length, 1);
  assert.is(device.memory.view.getUint8(0), BLK_S_OK);
});

// --- Completion ---------------------------------------------------------------------------------

test('the host tells the driver of an error, and an unknown result is one', () => {
  const device = disk();
  const results: [number, number][] = [
    [RESULT_IOERR, BLK_S_IOERR],
    [RESULT_UNSUPPORTED, BLK_S_UNSUPP],
    [77, BLK_S_IOERR],
  ];
  for (const [result, status] of results) {
    const header = blkHeader(device.memory, HEADER, BLK_T_IN);
    const chain = [header, into(512), blkStatus(device.memory, STATUS)];
    device.queue.offer(device.queue.chain(chain));
    kick(device.cage, 0, () => ({ result, bytes: 0 }));
    assert.is(device.memory.view.getUint8(STATUS), status);
    assert.is(device.queue.takeUsed()?.length, 0);
  }
});

test('a host that claims more bytes than the buffer holds is cut short', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_IN);
  device.queue.offer(device.queue.chain([header, into(512), blkStatus(device.memory, STATUS)]));
  kick(device.cage, 0, () => ({ result: 0, bytes: 0xffffffff }));
  assert.is(device.queue.takeUsed()?.length, 513);
});

test('the used length ends before the first byte that was not written', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_IN);
  for (const bytes of [0, 1, 300, 511]) {
    const chain = [header, into(512), blkStatus(device.memory, STATUS)];
    device.queue.offer(device.queue.chain(chain));
    kick(device.cage, 0, () => ({ result: RESULT_IOERR, bytes }));
    assert.is(device.queue.takeUsed()?.length, bytes);
    assert.is(device.memory.view.getUint8(STATUS), BLK_S_IOERR);
  }
  assert.is(submit(device, BLK_T_FLUSH, 0n, [into(64)]).used?.length, 0);
  assert.is(submit(device, BLK_T_GET_ID, 0n, [into(64)]).used?.length, 20);
  assert.is(submit(device, BLK_T_GET_ID, 0n, [into(20)]).used?.length, 21);
});

test('a completion of an unknown tag, or a second one, is counted and does nothing', () => {
  const device = disk();
  const header = blkHeader(device.memory, HEADER, BLK_T_FLUSH);
  device.queue.offer(device.queue.chain([header, blkStatus(device.memory, STATUS)]));
  device.cage.notify(0);
  const { tag } = parseRecord(device.cage.record());
  for (const wrong of [tag + 1, tag ^ 0x10000, tag ^ 0x100000, tag | 0xf0000, 0xffffffff]) {
    assert.is(device.cage.complete(wrong, 0, 0), EFFECT_INCIDENT);
  }
  device.cage.complete(tag, 0, 0);
  assert.is(device.cage.complete(tag, 0, 0), EFFECT_INCIDENT);
  assert.equal(device.queue.takeUsed(), { id: 0, length: 1 });
  assert.is(device.queue.takeUsed(), null);
  assert.is(device.cage.counters().tag, 6);
});

// --- Features and configuration -----------------------------------------------------------------

test('features follow the configuration', () => {
  const always = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
  const device = (config: Partial<BlkConfig>) =>
    blkDevice(config).driver.offeredFeatures() & 0xffffffn;
  assert.is(device({}), always | F_DISCARD | F_WRITE_ZEROES);
  assert.is(device({ discard: false, writeZeroes: false }), always);
  assert.is(device({ readOnly: true }), always | F_RO);
  assert.is(device({ sizeMax: 65536 }), always | F_DISCARD | F_WRITE_ZEROES | F_SIZE_MAX);
  assert.is(device({ queueCount: 4 }), always | F_DISCARD | F_WRITE_ZEROES | F_MQ);
});

test('the configuration space has every field at its place', () => {
  const { driver } = blkDevice({
    capacityBytes: 0x1_0000_0002 * 512,
    sizeMax: 4096,
    segMax: 100,
    blockSize: 4096,
    physicalBlockExp: 3,
    alignmentOffset: 2,
    minIoSize: 8,
    optIoSize: 16,
    queueCount: 3,
    maxDiscardSectors: 1000,
    discardAlignment: 4,
    maxWriteZeroesSectors: 2000,
  });
  const field = (offset: number, width: number) => driver.get(REG.Config + offset, width);
  const dwords = [0, 4, 8, 12, 20, 28, 36, 40, 44, 48, 52, 56].map((offset) => field(offset, 4));
  assert.equal(dwords, [2, 1, 4096, 100, 4096, 16, 1000, 1, 4, 2000, 1, 1]);
  assert.equal([field(24, 1), field(25, 1), field(26, 2)], [3, 2, 8]);
  assert.equal([field(32, 1), field(33, 1), field(34, 2)], [1, 0, 3]);
  assert.is(field(16, 4), 0); // geometry is not offered
});

test('every queue of a multi-queue disk works', () => {
  const { cage, driver, memory } = blkDevice({ queueCount: 8 });
  driver.bringUp({ queueCount: 8 });
  for (const queue of driver.queues) {
    const header = blkHeader(memory, HEADER, BLK_T_FLUSH);
    queue.offer(queue.chain([header, blkStatus(memory, STATUS)]));
    assert.is(kick(cage, queue.index).requests.length, 1);
    assert.equal(queue.takeUsed(), { id: 0, length: 1 });
  }
});

test('configurations that make no sense are refused', () => {
  const wrong: [number, 1 | 2 | 4 | 8, number][] = [
    [BLK_CONFIG_CAPACITY, 8, 2 ** 55],
    [BLK_CONFIG_FLAGS, 4, 16],
    [BLK_CONFIG_FLAGS, 4, 3], // read-only with discard
    [BLK_CONFIG_FLAGS, 4, 5], // read-only with write zeroes
    [BLK_CONFIG_BLK_SIZE, 4, 256],
    [BLK_CONFIG_BLK_SIZE, 4, 513],
    [BLK_CONFIG_BLK_SIZE, 4, 8192],
    [BLK_CONFIG_SIZE_MAX, 4, 511],
    [BLK_CONFIG_SEG_MAX, 4, 0],
    [BLK_CONFIG_SEG_MAX, 4, 255],
    [BLK_CONFIG_PHYSICAL_BLOCK_EXP, 1, 16],
    [BLK_CONFIG_QUEUE_COUNT, 2, 0],
    [BLK_CONFIG_QUEUE_COUNT, 2, 9],
    [BLK_CONFIG_QUEUE_SIZE, 2, 0],
    [BLK_CONFIG_QUEUE_SIZE, 2, 255],
    [BLK_CONFIG_QUEUE_SIZE, 2, 512],
    [BLK_CONFIG_MAX_DISCARD_SECTORS, 4, 0],
    [BLK_CONFIG_DISCARD_ALIGNMENT, 4, 0],
    [BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, 4, 0],
  ];
  for (const [offset, width, value] of wrong) {
    const bytes = encodeBlkConfig({ capacityBytes: 512, readOnly: false, id: '' });
    const view = new DataView(bytes.buffer);
    if (width === 8) view.setBigUint64(offset, BigInt(value), true);
    else if (width === 4) view.setUint32(offset, value, true);
    else if (width === 2) view.setUint16(offset, value, true);
    else view.setUint8(offset, value);
    assert.throws(
      () => new Cage(KIND_VIRTIO_BLK, guestMemory(), bytes),
      /answer 2/,
      `${offset} = ${value}`,
    );
  }
});

// --- Write cache (§5.2.5, §5.2.6.2) -------------------------------------------------------------

const syncOf = (device: Disk) =>
  submit(device, BLK_T_OUT, 0n, [outOf(512)]).requests[0].flags & REQUEST_FLAG_SYNC;

test('the driver can turn the write cache off and on, and writes follow', () => {
  const device = disk();
  assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 1);
  assert.is(syncOf(device), 0);
  const generation = device.driver.get(REG.ConfigGeneration);
  assert.is(device.driver.set(CONFIG_WRITEBACK, 0, 1), 0);
  assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 0);
  assert.is.not(device.driver.get(REG.ConfigGeneration), generation);
  assert.is(syncOf(device), REQUEST_FLAG_SYNC);
  const segment = blkSegment(device.memory, SEGMENT, 0n, 8);
  const zeroes = submit(device, BLK_T_WRITE_ZEROES, 0n, [segment]);
  assert.is(zeroes.requests[0].flags, REQUEST_FLAG_SYNC);
  device.driver.set(CONFIG_WRITEBACK, 1, 1);
  assert.is(syncOf(device), 0);
});

test('a driver that can neither flush nor set the cache mode gets stable writes', () => {
  assert.is(syncOf(disk({}, 0n)), REQUEST_FLAG_SYNC);
  assert.is(syncOf(disk({}, F_FLUSH)), 0);
});

test('a driver that sets the cache mode but cannot flush starts without a cache', () => {
  const device = disk({}, F_CONFIG_WCE);
  assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 0);
  assert.is(device.driver.get(REG.ConfigGeneration), 1, 'that is a change of the configuration');
  assert.is(syncOf(device), REQUEST_FLAG_SYNC);
});

test('a disk configured without a cache starts without one, and a reset brings that back', () => {
  const device = disk({ writeback: false });
  assert.is(syncOf(device), REQUEST_FLAG_SYNC);
  device.driver.set(CONFIG_WRITEBACK, 1, 1);
  device.driver.set(REG.Status, 0);
  assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 0);
});

test('the cache mode takes one byte, 0 or 1, and only if negotiated', () => {
  const device = disk();
  assert.is(device.driver.set(CONFIG_WRITEBACK, 2, 1), EFFECT_INCIDENT);
  assert.is(device.driver.set(CONFIG_WRITEBACK, 0, 4), EFFECT_INCIDENT);
  assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 1);
  const plain = disk({}, F_FLUSH);
  assert.is(plain.driver.set(CONFIG_WRITEBACK, 0, 1), EFFECT_INCIDENT);
});

test('the cache mode cannot be written before FEATURES_OK', () => {
  const { driver } = blkDevice();
  driver.set(REG.Status, ACKNOWLEDGE);
  driver.set(REG.Status, ACKNOWLEDGE | DRIVER);
  driver.acceptFeatures(driver.offeredFeatures());
  assert.is(driver.set(CONFIG_WRITEBACK, 0, 1), EFFECT_INCIDENT);
  assert.is(driver.get(CONFIG_WRITEBACK, 1), 1);
  driver.addStatus(FEATURES_OK);
  assert.is(driver.set(CONFIG_WRITEBACK, 0, 1), 0);
});

test('a header changed after the kick changes nothing', () => {
  const device = disk();
  blkHeader(device.memory, HEADER, BLK_T_IN, 1n);
  device.queue.setDescriptor(0, outOf(16, HEADER), DESC_F_NEXT, 1);
  device.queue.setDescriptor(1, into(512), DESC_F_NEXT, 2);
  device.queue.setDescriptor(2, into(1, STATUS), 0, 0);
  device.queue.offer(0);
  assert.is(device.cage.notify(0) & EFFECT_REQUEST, EFFECT_REQUEST);
  blkHeader(device.memory, HEADER, BLK_T_OUT, 0xffffffffn);
  const record = parseRecord(device.cage.record());
  assert.is(record.kind, REQUEST_KIND_BLK_IN);
  assert.is(record.offset, 512n);
});

test.run();
