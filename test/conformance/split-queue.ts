// Virtio 1.2 §2.6.1 virtqueue reset, §2.7.1 to §2.7.6: what a split queue holds. The notifications
// of a queue are in ring-notifications.ts.
import * as assert from 'uvu/assert';
import { REQUEST_KIND_BLK_IN, REQUEST_KIND_BLK_OUT } from '../../assembly/abi.ts';
import {
  BLK_S_OK,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  blkHeader,
  blkStatus,
  STATUS_UNTOUCHED,
} from '../../testing/block.ts';
import { F_INDIRECT_DESC, REG } from '../../testing/driver.ts';
import {
  type GuestBuffer as Buffer,
  DATA,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  QUEUE_AREA,
  QUEUE_BASE,
} from '../../testing/queue.ts';
import { kick } from '../../testing/requests.ts';
import { blkDevice } from '../fixtures.ts';
import {
  type Answer,
  broken,
  disk,
  into,
  type Live,
  offer,
  outOf,
  PAYLOAD,
  refused,
  ring,
  STATUS_BYTE,
  submit,
  submitChain,
  TABLE,
  watched,
} from './setup.ts';
import { IN_ORDER, legacy, RING_RESET, type Section } from './statement.ts';

const queueReset: Section[] = [
  {
    number: '2.6.1.1.1',
    title: 'Virtqueue reset',
    side: 'device',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Serves and notifies for no queue that was reset alone.',
        notApplicable: RING_RESET,
      },
      {
        level: 'MUST',
        says: 'Puts all state of such a queue back.',
        notApplicable: RING_RESET,
      },
    ],
  },
  {
    number: '2.6.1.1.2',
    title: 'Virtqueue reset',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Makes sure that the queue was reset.',
        notApplicable: RING_RESET,
      },
      {
        level: 'MAY',
        says: 'Then gives free what belonged to the queue.',
        notApplicable: RING_RESET,
      },
    ],
  },
  {
    number: '2.6.1.2.1',
    title: 'Virtqueue re-enable',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Goes by the configuration that the queue was given anew.',
        notApplicable: RING_RESET,
      },
    ],
  },
  {
    number: '2.6.1.2.2',
    title: 'Virtqueue re-enable',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Configures the queue as at the first time.',
        notApplicable: RING_RESET,
      },
    ],
  },
];

const alignment: Section = {
  number: '2.7.1',
  title: 'Split virtqueues',
  side: 'driver',
  rows: [
    {
      level: 'MUST',
      says: 'Aligns the descriptor table to 16 bytes, the available ring to 2, the used ring to 4.',
      answer: 'QueueReady stays 0',
      test() {
        const parts: [register: number, alignment: number][] = [
          [REG.QueueDescLow, 16],
          [REG.QueueDriverLow, 2],
          [REG.QueueDeviceLow, 4],
        ];
        const { driver } = blkDevice();
        const queue = driver.bringUp();
        for (const [register, bytes] of parts) {
          for (const shift of [1, bytes / 2, bytes]) {
            driver.negotiate();
            driver.configureQueue(queue);
            driver.set(register, 0x30000 + shift);
            const aligned = shift % bytes === 0;
            assert.is(driver.set(REG.QueueReady, 1) === 0, aligned);
            assert.is(driver.get(REG.QueueReady), aligned ? 1 : 0);
          }
        }
      },
    },
  ],
};

/** One read and one write of 512 bytes that arrive in the pieces given. */
function understood(device: Live, chain: Buffer[], kind: number, length: number): void {
  const answer = submitChain(device, chain);
  assert.is(answer.status, BLK_S_OK);
  assert.is(answer.length, length);
  const [{ kind: seen, offset, ranges }] = answer.requests;
  assert.is(seen, kind);
  assert.is(offset, 5n * 512n);
  const first = kind === REQUEST_KIND_BLK_IN ? PAYLOAD : DATA + 16;
  let at = BigInt(first);
  for (const range of ranges) {
    assert.is(range.address, at);
    at += BigInt(range.length);
  }
  assert.is(at, BigInt(first + 512));
}

function cutAnywhere(): void {
  const device = disk();
  blkHeader(device.memory, DATA, BLK_T_IN, 5n);
  for (let cut = 1; cut < 513; cut += 1) {
    const header = [
      outOf(cut % 15 || 15, DATA),
      outOf(16 - (cut % 15 || 15), DATA + (cut % 15 || 15)),
    ];
    const data = [into(cut, PAYLOAD), into(513 - cut, PAYLOAD + cut)];
    understood(device, [...header, ...data], REQUEST_KIND_BLK_IN, 513);
  }
  blkHeader(device.memory, DATA, BLK_T_OUT, 5n);
  for (let cut = 1; cut < 528; cut += 1) {
    const data = [outOf(cut, DATA), outOf(528 - cut, DATA + cut)];
    understood(device, [...data, into(1, STATUS_BYTE + 0x400)], REQUEST_KIND_BLK_OUT, 1);
  }
}

const framing: Section[] = [
  {
    number: '2.7.4.1',
    title: 'Message framing',
    side: 'device',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Assumes nothing about how a request is cut into descriptors.',
        test: cutAnywhere,
      },
      {
        level: 'MAY',
        says: 'Limits the descriptors of a chain, within reason: here to the queue size.',
        test() {
          const device = ring(F_INDIRECT_DESC, 8);
          const buffers = Array.from({ length: 8 }, () => into(4));
          offer(device, buffers);
          assert.is(kick(device.cage, 0).requests[0].ranges.length, 8);
          device.queue.takeUsed();
          device.queue.setDescriptor(7, into(4), DESC_F_NEXT, 0); // and round again
          device.queue.offer(0);
          refused(device, 0);
        },
      },
    ],
  },
  {
    number: '2.7.4.2',
    title: 'Message framing',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Places what the device writes behind what it reads.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = disk();
          const status = blkStatus(device.memory, STATUS_BYTE);
          const header = blkHeader(device.memory, DATA, BLK_T_IN);
          const late: Buffer[][] = [
            [header, into(512), outOf(0), status],
            [header, into(512), outOf(512), status],
            [status, header],
          ];
          for (const chain of late) {
            const head = offer(device, chain);
            assert.equal(kick(device.cage, 0).requests, []);
            assert.equal(device.queue.takeUsed(), { id: head, length: 0 });
            assert.is(device.memory.view.getUint8(STATUS_BYTE), STATUS_UNTOUCHED);
          }
          assert.is(submit(device, BLK_T_IN, [into(512)]).status, BLK_S_OK);
        },
      },
      {
        level: 'SHOULD NOT',
        says: 'Uses no excessive number of descriptors.',
        answer: 'a chain longer than any queue can be comes back with length 0',
        test() {
          const device = ring();
          const buffers = Array.from({ length: 257 }, () => into(1));
          device.queue.offer(device.queue.indirectChain(buffers, TABLE));
          refused(device, 0);
        },
      },
    ],
  },
  legacy('2.7.4.3', 'Message framing'),
];

/** Every kind of traffic between disk and guest once, watched. */
function traffic(look: (device: Live, run: () => Answer, chain: Buffer[]) => void): void {
  const requests: [type: number, data: Buffer[]][] = [
    [BLK_T_IN, [into(512), into(1024, PAYLOAD + 0x800)]],
    [BLK_T_OUT, [outOf(512), outOf(512, PAYLOAD + 0x800)]],
    [BLK_T_GET_ID, [into(12), into(8, PAYLOAD + 0x800)]],
    [BLK_T_FLUSH, []],
    [BLK_T_IN, [outOf(512)]], // of the wrong direction: an error
    [BLK_T_OUT, [into(512)]],
    [99, [outOf(16), into(16)]],
  ];
  for (const [type, data] of requests) {
    const device = disk();
    look(device, () => submit(device, type, data), [...data, into(1, STATUS_BYTE)]);
  }
}

/** Whether the bytes lie in one of the buffers that the device may write, or may read. */
function within(buffers: Buffer[], write: boolean, address: number, length: number): boolean {
  return buffers.some((buffer) => {
    const start = Number(buffer.address);
    const same = (buffer.write ?? false) === write;
    return same && address >= start && address + length <= start + buffer.length;
  });
}

const descriptors: Section[] = [
  {
    number: '2.7.5.1',
    title: 'Descriptor table',
    side: 'device',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Writes to no buffer that is for reading.',
        test() {
          traffic((device, run, chain) => {
            let answer: Answer | undefined;
            const accesses = watched(device.memory, () => {
              answer = run();
            });
            const usedRing = into(6 + 8 * device.queue.size, device.queue.usedRing);
            for (const { kind, address, lengthBytes } of accesses) {
              if (kind !== 'write' && kind !== 'store16') continue;
              assert.ok(within([...chain, usedRing], true, address, lengthBytes), `${address}`);
            }
            for (const { kind, ranges } of answer?.requests ?? []) {
              if (kind !== REQUEST_KIND_BLK_IN) continue;
              for (const range of ranges) {
                assert.ok(within(chain, true, Number(range.address), range.length));
              }
            }
          });
        },
      },
      {
        level: 'SHOULD NOT',
        says: 'Reads no buffer that is for writing.',
        test() {
          traffic((device, run, chain) => {
            let answer: Answer | undefined;
            const accesses = watched(device.memory, () => {
              answer = run();
            });
            const header = outOf(16, DATA);
            const rings = outOf(QUEUE_AREA, QUEUE_BASE);
            for (const { kind, address, lengthBytes } of accesses) {
              if (kind !== 'read' && kind !== 'load16') continue;
              assert.ok(within([...chain, header, rings], false, address, lengthBytes));
            }
            for (const { kind, ranges } of answer?.requests ?? []) {
              if (kind !== REQUEST_KIND_BLK_OUT) continue;
              for (const range of ranges) {
                assert.ok(within(chain, false, Number(range.address), range.length));
              }
            }
          });
        },
      },
    ],
  },
  {
    number: '2.7.5.2',
    title: 'Descriptor table',
    side: 'driver',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Adds no chain of more than 2^32 bytes, so none that loops.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = ring();
          refused(device, offer(device, [into(0xffffffff), into(2)]));
          device.queue.setDescriptor(9, into(0), DESC_F_NEXT, 9); // a loop of no bytes at all
          device.queue.offer(9);
          refused(device, 9);
        },
      },
      {
        level: 'MUST',
        says: 'With IN_ORDER, chains neighbours.',
        notApplicable: IN_ORDER,
      },
    ],
  },
];

/** A descriptor that refers to a table of one buffer. */
function reference(device: Live, index: number, flags: number): void {
  device.queue.setDescriptor(0, into(32), 0, 0, TABLE);
  device.queue.setDescriptor(index, outOf(16, TABLE), DESC_F_INDIRECT | flags, 0);
}

const indirect: Section[] = [
  {
    number: '2.7.5.3.1',
    title: 'Indirect descriptors',
    side: 'driver',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Uses no indirect table unless INDIRECT_DESC was negotiated.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = ring(0n);
          reference(device, 4, 0);
          device.queue.offer(4);
          refused(device, 4);
        },
      },
      {
        level: 'MUST NOT',
        says: 'Refers to no further table from within a table.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = ring();
          reference(device, 4, 0);
          device.queue.setDescriptor(0, outOf(16, TABLE + 64), DESC_F_INDIRECT, 0, TABLE);
          device.queue.setDescriptor(0, into(32), 0, 0, TABLE + 64);
          device.queue.offer(4);
          refused(device, 4);
        },
      },
      {
        level: 'MUST NOT',
        says: 'Makes no chain longer than the queue size.',
        answer: 'a table may have 256 descriptors, whatever the size; a longer one gets length 0',
        test() {
          const device = ring();
          const buffers = (count: number) => Array.from({ length: count }, () => into(1));
          device.queue.offer(device.queue.indirectChain(buffers(256), TABLE));
          assert.is(kick(device.cage, 0).requests[0].ranges.length, 256);
          device.queue.takeUsed();
          device.queue.offer(device.queue.indirectChain(buffers(257), TABLE));
          refused(device, 1);
        },
      },
      {
        level: 'MUST NOT',
        says: 'Sets INDIRECT and NEXT in one descriptor.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = ring();
          reference(device, 4, DESC_F_NEXT);
          device.queue.offer(4);
          refused(device, 4);
        },
      },
      {
        level: 'MUST',
        says: 'With IN_ORDER, numbers the descriptors of a table one after the other.',
        notApplicable: IN_ORDER,
      },
    ],
  },
  {
    number: '2.7.5.3.2',
    title: 'Indirect descriptors',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Ignores the write flag of the descriptor that refers to a table.',
        test() {
          for (const flags of [0, DESC_F_WRITE]) {
            const device = ring();
            reference(device, 4, flags);
            device.queue.offer(4);
            const [{ ranges }] = kick(device.cage, 0).requests;
            assert.equal(ranges, [{ address: BigInt(PAYLOAD), length: 32 }]);
          }
        },
      },
      {
        level: 'MUST',
        says: 'Takes a table behind any number of plain descriptors, none included.',
        test() {
          for (let plain = 0; plain < 16; plain += 1) {
            const device = ring();
            for (let index = 0; index < plain; index += 1) {
              device.queue.setDescriptor(index, into(8), DESC_F_NEXT, index + 1);
            }
            reference(device, plain, 0);
            device.queue.offer(0);
            const [{ ranges, length }] = kick(device.cage, 0).requests;
            assert.is(ranges.length, plain + 1);
            assert.is(length, BigInt(plain * 8 + 32));
          }
        },
      },
    ],
  },
];

const availableRing: Section = {
  number: '2.7.6.1',
  title: 'Available ring',
  side: 'driver',
  rows: [
    {
      level: 'MUST NOT',
      says: 'Never takes the available index back.',
      answer:
        'the device needs a reset; an index taken back to a buffer not yet looked at is unseen',
      test() {
        const device = ring();
        offer(device);
        offer(device);
        kick(device.cage, 0);
        device.queue.setAvailIndex(1);
        broken(device);
      },
    },
  ],
};

/** What comes after the split queue in the specification, and is not here at all. */
export const AFTER_SPLIT_QUEUE: Section[] = [
  {
    number: '2.8',
    title: 'Packed virtqueues',
    side: 'both',
    rows: [
      {
        level: 'MUST',
        says: 'All that the section asks of devices and drivers.',
        notApplicable: 'VIRTIO_F_RING_PACKED is not offered',
      },
    ],
  },
  {
    number: '2.10.2',
    title: 'Shared memory regions',
    side: 'device',
    rows: [
      {
        level: 'MUST NOT',
        says: 'No region controls the device or carries its data.',
        notApplicable: 'no device here has a shared memory region',
      },
    ],
  },
];

export const SPLIT_QUEUE: Section[] = [
  ...queueReset,
  alignment,
  legacy('2.7.2', 'Virtqueue layout'),
  legacy('2.7.3', 'Virtqueue endianness'),
  ...framing,
  ...descriptors,
  ...indirect,
  availableRing,
];
