// Eleven bugs to plant in the core, of the classes by which guests have broken out of their virtual
// machine monitor, and for each a guest that exploits it. docs/compromised-cage.md: what they show.
//
// Each is what a tired author might write: a check left out, or a value taken for granted. None of
// them troubles an honest driver, so that the other devices of the same core go on working. What
// `good` and `bad` say of the attacked device is everything: what is not named there is 0.
import * as abi from '../assembly/abi.ts';
import { encodeBlkConfig } from '../host/device-config.ts';
import {
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  blkHeader,
  blkStatus,
} from '../testing/block.ts';
import {
  DEVICE_NEEDS_RESET,
  F_INDIRECT_DESC,
  F_VERSION_1,
  REG,
  RUNNING,
} from '../testing/driver.ts';
import {
  DATA,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  type DriverQueue,
  type GuestBuffer as Part,
  QUEUE_AREA,
} from '../testing/queue.ts';
import { type Guest, QUEUE_SIZE, SECTORS } from './cage-script.ts';
import type { Edit } from './planted-core.ts';

export interface PlantedBug {
  id: string;
  name: string;
  edit: Edit;
  readOnly?: true; // the attacked disk
  attack(guest: Guest): void;
  good: Record<string, unknown>; // of the core as it is
  bad: Record<string, unknown>; // of the core with the bug
}

const REQUESTS = 'assembly/virtio-blk-request.ts';
const TRANSPORT = 'assembly/virtio-mmio.ts';
const VIRTQ = 'assembly/virtq.ts';

// Places in a cage: assembly/layout.ts.
const HEADER = 0x6060;
const CONFIG = abi.STATE + 0x80;
const VIRTIO = abi.STATE + 0x100;
const QUEUES = abi.STATE + 0x400;
const QUEUE_BYTES = 64;
const QUEUE_SIZE_FIELD = QUEUES + 24;
const BLK_HEADER_BYTES = 16;

// Places in guest RAM.
const STATUS = DATA + 0x800;
const BUFFER = DATA + 0x1000;
const OTHER_USE = 0x70000; // memory that the driver uses for something else by now

export const DISK_BYTE = 0x11; // what the attacked disk is full of
const FROM_DISK = '11111111';
const OLD = 0xaa; // what the guest has in memory that no device should write
const UNTOUCHED = 'aaaaaaaa';
const NEEDS_RESET = String(RUNNING | DEVICE_NEEDS_RESET);
const NEW_NEEDS_RESET = String(DEVICE_NEEDS_RESET); // of an instance that replaces a trapped one

// The counters lie in the cage as well: endlessChain() runs over them on its way to the end.
const OVERRUN = {
  ...{ width: BUFFER, status: 1, queueConfig: BUFFER, availIndex: 1, chain: BUFFER },
  ...{ request: 1, overrun: BUFFER, 'counter 14': 1 },
};

const old = (length: number) => new Uint8Array(length).fill(OLD);

/** A header, data, and a status byte. */
function blkChain(guest: Guest, type: number, sector: bigint, data: Part[]): Part[] {
  const header = blkHeader(guest.memory, DATA, type, sector);
  return [header, ...data, blkStatus(guest.memory, STATUS)];
}

function request(guest: Guest, queue: DriverQueue, type: number, sector: bigint, length: number) {
  const data = { address: BUFFER, length, write: type === BLK_T_IN };
  guest.request(queue, blkChain(guest, type, sector, [data]));
}

/** After a trap: the device must serve its driver again once that has reset it. */
function recover(guest: Guest): void {
  const queue = guest.bringUp();
  request(guest, queue, BLK_T_IN, 0n, 512);
  guest.look('status after reset', STATUS, 1);
}

/** A descriptor that is its own successor. */
function endlessChain(queue: DriverQueue): void {
  queue.setDescriptor(0, { address: BUFFER, length: 1 }, DESC_F_NEXT, 0);
  queue.offer(0);
}

/** Bytes that, copied to HEADER and on, make the read-only disk of a cage a writable one. */
function stateToInject(): Uint8Array {
  const sectors = 17; // as many as reach past the transport's state
  const image = new Uint8Array(BLK_HEADER_BYTES + sectors * 512);
  const view = new DataView(image.buffer);
  const at = (address: number) => address - HEADER;
  const common = { capacityBytes: SECTORS * 512, queueSize: QUEUE_SIZE };
  view.setUint32(0, BLK_T_OUT, true);
  view.setUint32(at(abi.STATE_KIND), abi.KIND_VIRTIO_BLK, true);
  image.set(encodeBlkConfig({ ...common, id: 'mine', readOnly: false }), at(CONFIG));
  view.setBigUint64(at(VIRTIO), F_INDIRECT_DESC | F_VERSION_1, true);
  view.setUint32(at(VIRTIO) + 20, RUNNING, true);
  return image;
}

/** One write whose data are `length` bytes of guest memory from BUFFER + 16 on. */
function longWrite(guest: Guest, queue: DriverQueue, length: number): void {
  const data = { address: BUFFER + BLK_HEADER_BYTES, length };
  guest.request(queue, [
    { address: BUFFER, length: BLK_HEADER_BYTES },
    data,
    blkStatus(guest.memory, STATUS),
  ]);
}

export const PLANTED_BUGS: PlantedBug[] = [
  {
    id: 'index',
    name: 'out-of-bounds index from a guest value',
    edit: {
      file: TRANSPORT,
      from: '  if (self.queueSel >= deviceQueueCount()) return incident(INCIDENT_QUEUE_CONFIG);\n',
      to: '',
    },
    attack(guest) {
      // A queue number that wraps to the device's configuration: its capacity is rewritten.
      guest.driver.negotiate(0n);
      guest.write(REG.QueueSel, (CONFIG - QUEUES) / QUEUE_BYTES);
      guest.write(REG.QueueDescLow, 0x7fffffff);
      request(guest, guest.start(), BLK_T_IN, 0x100000n, 512);
      guest.look('status', STATUS, 1);
      // One that lies far outside.
      guest.driver.negotiate(0n);
      guest.write(REG.QueueSel, 0x100000);
      guest.write(REG.QueueDescLow, 1);
      recover(guest);
    },
    good: { incidents: { queueConfig: 2, request: 1 }, status: '01', 'status after reset': '00' },
    bad: { traps: 1, errors: 1, lastError: 'EPROTO', status: '01', 'status after reset': '00' },
  },
  {
    id: 'overflow',
    name: 'heap-style overflow',
    edit: {
      file: REQUESTS,
      from: '  if (!chainRead(0, HEADER, HEADER_BYTES)) {',
      to: '  if (!chainRead(0, HEADER, <u32>chain.readableBytes)) {',
    },
    readOnly: true,
    attack(guest) {
      const queue = guest.bringUp();
      guest.write(REG.DeviceID, 1); // an incident, to be made forgotten
      const image = stateToInject();
      guest.fill(BUFFER, image);
      longWrite(guest, queue, image.length - BLK_HEADER_BYTES);
      guest.look('status', STATUS, 1);
      // Past the end of the cage.
      longWrite(guest, queue, abi.CAGE_MEMORY_BYTES - HEADER);
      guest.look('status of the longer one', STATUS, 1);
    },
    // The incidents lie in the cage, where the guest resets them; the errors are the shim's.
    good: {
      incidents: { register: 1, request: 2 },
      status: '01',
      'status of the longer one': '01',
    },
    bad: {
      errors: 1,
      lastError: 'EROFS',
      incidents: { memory: 1 },
      status: '01',
      'status of the longer one': '01',
    },
  },
  {
    id: 'reset',
    name: 'use after reset',
    edit: {
      file: TRANSPORT,
      from: '  memory.fill(QUEUES, 0, <usize>QUEUE_COUNT_MAX * QUEUE_STRIDE);\n',
      to: '',
    },
    attack(guest) {
      const before = guest.bringUp();
      const data = { address: OTHER_USE, length: 20, write: true };
      before.offer(before.chain(blkChain(guest, BLK_T_GET_ID, 0n, [data])));
      guest.driver.negotiate(0n);
      guest.fill(OTHER_USE, old(20));
      const after = guest.newQueue();
      after.descTable += QUEUE_AREA;
      after.availRing += QUEUE_AREA;
      after.usedRing += QUEUE_AREA;
      guest.start(after);
      guest.serve();
      guest.look('reused memory', OTHER_USE, 4);
    },
    good: { 'reused memory': UNTOUCHED },
    bad: { incidents: { frozen: 7 }, 'reused memory': '76696374' }, // 'vict': the device's identity
  },
  {
    id: 'chain',
    name: 'unchecked chain length',
    edit: { file: VIRTQ, from: '    if (count == limit) return INCIDENT_CHAIN;\n', to: '' },
    attack(guest) {
      endlessChain(guest.bringUp());
      guest.serve();
      guest.lookAtStatus();
      recover(guest);
    },
    good: { incidents: { chain: 1 }, deviceStatus: String(RUNNING), 'status after reset': '00' },
    bad: {
      traps: 1,
      deviceStatus: NEW_NEEDS_RESET,
      incidents: OVERRUN,
      'status after reset': '00',
    },
  },
  {
    id: 'size',
    name: 'integer overflow in a size',
    edit: {
      file: REQUESTS,
      from: '  return sector <= capacity && sectorCount <= capacity - sector;',
      to: '  return sector + sectorCount <= capacity;',
    },
    attack(guest) {
      const queue = guest.bringUp();
      for (const type of [BLK_T_IN, BLK_T_OUT]) {
        request(guest, queue, type, 2n ** 64n - 1n, 1024);
        guest.look(`status of ${type}`, STATUS, 1);
      }
    },
    good: { incidents: { request: 2 }, 'status of 0': '01', 'status of 1': '01' },
    bad: { errors: 2, lastError: 'EPROTO', 'status of 0': '01', 'status of 1': '01' },
  },
  {
    id: 'loop',
    name: 'loop without bound',
    edit: {
      file: VIRTQ,
      from: '      if (indirect || flags & VIRTQ_DESC_F_NEXT) return INCIDENT_CHAIN;',
      to: '      if (flags & VIRTQ_DESC_F_NEXT) return INCIDENT_CHAIN;',
    },
    attack(guest) {
      // An indirect table that holds nothing but itself.
      const queue = guest.bringUp();
      const table = { address: BUFFER, length: 16 };
      queue.setDescriptor(0, table, DESC_F_INDIRECT, 0, BUFFER);
      queue.setDescriptor(0, table, DESC_F_INDIRECT, 0);
      queue.offer(0);
      guest.serve();
      guest.lookAtStatus();
      recover(guest);
    },
    good: { incidents: { chain: 1 }, deviceStatus: String(RUNNING), 'status after reset': '00' },
    bad: { traps: 1, deviceStatus: NEW_NEEDS_RESET, 'status after reset': '00' },
  },
  {
    id: 'frozen',
    name: 'queue rewritten after activation',
    edit: {
      file: TRANSPORT,
      from: '  if (self.status != S_FEATURES_OK || queue.ready) return ',
      to: '  if (self.status == S_INIT) return ',
    },
    attack(guest) {
      const queue = guest.bringUp();
      guest.fill(OTHER_USE, old(12));
      guest.write(REG.QueueNum, 3); // no power of two
      guest.write(REG.QueueDeviceLow, OTHER_USE);
      const data = { address: BUFFER, length: 20, write: true };
      guest.request(queue, blkChain(guest, BLK_T_GET_ID, 0n, [data]));
      guest.look('moved used ring', OTHER_USE + 4, 4);
      guest.write(REG.QueueDriverHigh, 0xffffffff);
      guest.request(queue, blkChain(guest, BLK_T_GET_ID, 0n, [data]));
      guest.lookAtStatus();
      // A queue of no descriptors says for ever that work is left: turns of the I/O thread, after
      // each of which it sleeps a millisecond.
      guest.bringUp();
      guest.write(REG.QueueNum, 0);
      guest.serve();
    },
    good: {
      incidents: { frozen: 4 },
      'moved used ring': UNTOUCHED,
      deviceStatus: String(RUNNING),
    },
    bad: {
      incidents: { memory: 1 },
      'moved used ring': '00000000', // the head that was given back
      deviceStatus: NEEDS_RESET,
      waiting: true,
    },
  },
  {
    id: 'stale',
    name: 'stale request after reset',
    edit: {
      file: TRANSPORT,
      from: [
        '  forgetQueues(deviceQueueCount()); // as many as its driver agreed on',
        '  memory.fill(VIRTIO, 0, offsetof<Virtio>());',
        '  memory.fill(QUEUES, 0, <usize>QUEUE_COUNT_MAX * QUEUE_STRIDE);',
        '  deviceReset();',
        '  answer(ALL_QUEUES);',
        '  return EFFECT_CANCEL | setupChanged();',
      ].join('\n'),
      to: [
        '  memory.fill(VIRTIO, 0, offsetof<Virtio>());',
        '  memory.fill(QUEUES, 0, <usize>QUEUE_COUNT_MAX * QUEUE_STRIDE);',
        '  deviceReset();',
        '  return 0;',
      ].join('\n'),
    },
    attack(guest) {
      const read = { address: OTHER_USE, length: 512, write: true };
      const start = () => {
        const queue = guest.bringUp();
        queue.offer(queue.chain(blkChain(guest, BLK_T_IN, 5n, [read])));
        guest.hold();
        return guest.bringUp();
      };
      // The driver has reset the device and uses the memory otherwise; then the read is done.
      const queue = start();
      guest.fill(OTHER_USE, old(512));
      guest.fill(STATUS, old(1));
      guest.finish();
      guest.look('reused memory', OTHER_USE, 4);
      guest.look('reused status', STATUS, 1);
      guest.look('used index', queue.usedRing + 2, 2);
      // The same, and a new request of the same head.
      request(guest, start(), BLK_T_IN, 0n, 512);
      guest.lookAtStatus();
    },
    good: {
      'reused memory': UNTOUCHED,
      'reused status': 'aa',
      'used index': '0000',
      deviceStatus: String(RUNNING),
    },
    bad: {
      incidents: { head: 1 },
      'reused memory': FROM_DISK,
      'reused status': '00',
      'used index': '0100',
      deviceStatus: NEEDS_RESET,
    },
  },
  {
    id: 'direction',
    name: 'wrong-direction write',
    edit: {
      file: REQUESTS,
      from: '  const rangeCount = emitRanges(chain.readableCount, 0, length);',
      to: '  const rangeCount = emitRanges(1, 0, length); // the header is one descriptor',
    },
    attack(guest) {
      // It is two here, and the device may only read the second.
      const queue = guest.bringUp();
      blkHeader(guest.memory, OTHER_USE, BLK_T_IN, 3n);
      guest.request(queue, [
        { address: OTHER_USE, length: 8 },
        { address: OTHER_USE + 8, length: 8 },
        { address: BUFFER, length: 512, write: true },
        blkStatus(guest.memory, STATUS),
      ]);
      guest.look('memory to be read', OTHER_USE + 8, 4);
      guest.look('status', STATUS, 1);
    },
    good: { 'memory to be read': '03000000', status: '00' },
    bad: { 'memory to be read': FROM_DISK, status: '00' },
  },
  {
    id: 'status',
    name: 'status write past the buffer',
    edit: {
      file: REQUESTS,
      from: [
        '  return chain.writableCount != 0 &&',
        '    segment(chain.readableCount + chain.writableCount - 1).length != 0;',
      ].join('\n'),
      to: '  return chain.writableCount != 0;',
    },
    attack(guest) {
      // A status buffer of no bytes: its last byte is the one before it.
      const queue = guest.bringUp();
      guest.fill(OTHER_USE, old(4));
      for (const address of [OTHER_USE + 4, 0]) {
        const header = blkHeader(guest.memory, DATA, BLK_T_FLUSH);
        guest.request(queue, [header, { address, length: 0, write: true }]);
      }
      guest.look('memory before the buffer', OTHER_USE, 4);
    },
    good: { incidents: { request: 2 }, 'memory before the buffer': UNTOUCHED },
    bad: { incidents: { memory: 1 }, 'memory before the buffer': 'aaaaaa00' },
  },
  {
    id: 'restore',
    name: 'confused state on restore',
    edit: {
      file: TRANSPORT,
      from: '  return queue.ready == 1 && featuresOk && virtqPlausible(queue, sizeMax);',
      to: '  return queue.ready == 1 && featuresOk;',
    },
    attack(guest) {
      const queue = guest.bringUp();
      guest.restore(QUEUE_SIZE_FIELD, Uint8Array.of(0xff, 0xff));
      endlessChain(queue);
      guest.serve();
      guest.lookAtStatus();
    },
    good: { stateRefused: true, deviceStatus: '' }, // it does not run
    bad: { traps: 1, deviceStatus: NEW_NEEDS_RESET, incidents: OVERRUN },
  },
];
