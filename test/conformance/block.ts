// Virtio 1.2 §5.2: the block device.
import * as assert from 'uvu/assert';
import {
  REQUEST_FLAG_SYNC,
  REQUEST_FLAG_UNMAP,
  REQUEST_KIND_BLK_DISCARD,
  REQUEST_KIND_BLK_FLUSH,
  REQUEST_KIND_BLK_WRITE_ZEROES,
} from '../../assembly/abi.ts';
import type { BlkConfig } from '../../host/device-config.ts';
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
  blkSegment,
} from '../../testing/block.ts';
import { REG } from '../../testing/driver.ts';
import type { GuestBuffer as Buffer } from '../../testing/queue.ts';
import { blkDevice, CAPACITY_SECTORS } from '../fixtures.ts';
import {
  answered,
  CONFIG_WRITEBACK,
  disk,
  diskAt,
  F_BLK_CONFIG_WCE,
  F_BLK_FLUSH,
  F_BLK_RO,
  F_BLK_WRITE_ZEROES,
  into,
  type Live,
  outOf,
  submit,
} from './setup.ts';
import { legacy, OWN_READING, type Section } from './statement.ts';

const BLK_T_GET_LIFETIME = 10;
const BLK_T_SECURE_ERASE = 14;
const SEGMENT = 0x42000;
const CONFIGS: Partial<BlkConfig>[] = [{}, { readOnly: true }, { writeback: false }];
const SIZE_STAYS = 'a disk keeps its size while it is attached';
const NO_ERASE = 'VIRTIO_BLK_F_SECURE_ERASE is not offered';

/** One discard or write zeroes command; its segments one behind the other. */
function command(device: Live, type: number, sector: bigint, sectors: number, flags = 0) {
  return submit(device, type, [blkSegment(device.memory, SEGMENT, sector, sectors, flags)]);
}

/** Whether a write has to be on stable storage when it completes. */
function synced(device: Live): boolean {
  const write = submit(device, BLK_T_OUT, [outOf(512)]).requests[0].flags & REQUEST_FLAG_SYNC;
  const zeroes = command(device, BLK_T_WRITE_ZEROES, 0n, 8).requests[0].flags & REQUEST_FLAG_SYNC;
  assert.is(write, zeroes);
  return write !== 0;
}

/** A disk whose driver accepted these features, beside what zeroes need. */
const diskWith = (features: bigint, config: Partial<BlkConfig> = {}) =>
  disk(config, features | F_BLK_WRITE_ZEROES);

const driverInitialisation: Section = {
  number: '5.2.5.1',
  title: 'Device initialisation',
  side: 'driver',
  rows: [
    {
      level: 'SHOULD NOT',
      says: 'Accepts no FLUSH if it cannot flush.',
      unseen: OWN_READING,
    },
    {
      level: 'MAY',
      says: 'Without CONFIG_WCE and FLUSH, takes it that there is no write cache.',
      answer: 'it is right',
      test() {
        for (const writeback of [true, false]) {
          assert.is(synced(diskWith(0n, { writeback })), true);
        }
      },
    },
    {
      level: 'SHOULD',
      says: 'With FLUSH alone, takes it that there is a write cache.',
      answer: 'there is the one that the host chose',
      test() {
        assert.is(synced(diskWith(F_BLK_FLUSH, { writeback: true })), false);
        assert.is(synced(diskWith(F_BLK_FLUSH, { writeback: false })), true);
      },
    },
    {
      level: 'MUST NOT',
      says: 'Reads no `writeback` before FEATURES_OK.',
      answer: 'it reads the mode that the host chose',
      test() {
        for (const writeback of [true, false]) {
          const { driver } = diskAt(2, { writeback });
          assert.is(driver.get(CONFIG_WRITEBACK, 1), writeback ? 1 : 0);
        }
      },
    },
  ],
};

const deviceInitialisation: Section = {
  number: '5.2.5.2',
  title: 'Device initialisation',
  side: 'device',
  rows: [
    {
      level: 'SHOULD',
      says: 'Always offers FLUSH.',
      test() {
        for (const config of CONFIGS) {
          assert.is(blkDevice(config).driver.offeredFeatures() & F_BLK_FLUSH, F_BLK_FLUSH);
        }
      },
    },
    {
      level: 'MUST',
      says: 'Offers FLUSH if it offers CONFIG_WCE.',
      test() {
        const both = F_BLK_FLUSH | F_BLK_CONFIG_WCE;
        for (const config of CONFIGS) {
          assert.is(blkDevice(config).driver.offeredFeatures() & both, both);
        }
      },
    },
    {
      level: 'MUST',
      says: 'With CONFIG_WCE accepted and FLUSH not, `writeback` is 0 at first.',
      test() {
        const device = diskWith(F_BLK_CONFIG_WCE, { writeback: true });
        assert.is(device.driver.get(CONFIG_WRITEBACK, 1), 0);
        assert.is(synced(device), true);
        const both = diskWith(F_BLK_CONFIG_WCE | F_BLK_FLUSH, { writeback: true });
        assert.is(both.driver.get(CONFIG_WRITEBACK, 1), 1);
      },
    },
    {
      level: 'MUST',
      says: 'The padding of the configuration space is 0.',
      test() {
        const { driver } = blkDevice({ queueCount: 8 });
        for (const at of [33, 57, 58, 59]) assert.is(driver.get(REG.Config + at, 1), 0);
      },
    },
  ],
};

const driverRequests: Section['rows'] = [
  {
    level: 'SHOULD',
    says: 'Looks at `capacity` again after a configuration change notification.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST NOT',
    says: 'Asks for nothing beyond `capacity`.',
    answer: 'an I/O error',
    test() {
      const device = disk();
      const end = BigInt(CAPACITY_SECTORS);
      assert.is(submit(device, BLK_T_IN, [into(512)], end - 1n).status, BLK_S_OK);
      for (const sector of [end - 1n, end, 2n ** 64n - 1n, 2n ** 55n]) {
        answered(submit(device, BLK_T_IN, [into(1024)], sector), BLK_S_IOERR);
        answered(submit(device, BLK_T_OUT, [outOf(1024)], sector), BLK_S_IOERR);
        answered(command(device, BLK_T_DISCARD, sector, 2), BLK_S_IOERR);
        answered(command(device, BLK_T_WRITE_ZEROES, sector, 2), BLK_S_IOERR);
      }
    },
  },
  {
    level: 'SHOULD',
    says: 'Accepts RO where it is offered.',
    answer: 'its writes fail all the same',
    test() {
      const device = disk({ readOnly: true }, 0n);
      answered(submit(device, BLK_T_OUT, [outOf(512)]), BLK_S_IOERR);
    },
  },
  {
    level: 'MUST',
    says: 'Sets `sector` to 0 in a flush.',
    answer: 'it means nothing there',
    test() {
      const { status, requests } = submit(disk(), BLK_T_FLUSH, [], 2n ** 60n);
      assert.is(status, BLK_S_OK);
      assert.is(requests[0].kind, REQUEST_KIND_BLK_FLUSH);
    },
  },
  {
    level: 'SHOULD NOT',
    says: 'Has no data in a flush.',
    answer: 'the data is neither read nor written',
    test() {
      for (const data of [outOf(512), into(512)]) {
        const { status, requests } = submit(disk(), BLK_T_FLUSH, [data]);
        assert.is(status, BLK_S_OK);
        assert.equal(requests[0].ranges, []);
      }
    },
  },
  {
    level: 'MUST',
    says: 'Reads and writes whole sectors of 512 bytes.',
    answer: 'an I/O error',
    test() {
      const device = disk();
      for (const length of [1, 511, 513, 1000]) {
        answered(submit(device, BLK_T_IN, [into(length)]), BLK_S_IOERR);
        answered(submit(device, BLK_T_OUT, [outOf(length)]), BLK_S_IOERR);
      }
      answered(submit(device, BLK_T_IN), BLK_S_IOERR); // and at least one
    },
  },
  {
    level: 'MUST',
    says: 'Has whole segments in a discard or write zeroes command.',
    answer: 'an I/O error',
    test() {
      const device = disk();
      for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES]) {
        for (const length of [0, 1, 15, 17]) {
          answered(submit(device, type, [outOf(length, SEGMENT)]), BLK_S_IOERR);
        }
      }
    },
  },
  {
    level: 'MUST',
    says: 'Has whole segments in a secure erase command.',
    answer: 'the command is unsupported, whatever is in it',
    test() {
      for (const length of [0, 15, 16]) {
        answered(submit(disk(), BLK_T_SECURE_ERASE, [outOf(length, SEGMENT)]), BLK_S_UNSUPP);
      }
    },
  },
  {
    level: 'MUST',
    says: 'Has 20 bytes of data when it asks for the identity.',
    answer: 'fewer are an I/O error; of more, the first 20 are filled',
    test() {
      const device = disk({ id: 'ABCDEFGHIJKLMNOPQRST' });
      const { memory } = device;
      answered(submit(device, BLK_T_GET_ID, [into(19)]), BLK_S_IOERR);
      memory.view.setUint8(0x41000 + 20, 0xee);
      answered(submit(device, BLK_T_GET_ID, [into(21)]), BLK_S_OK);
      const bytes = new Uint8Array(memory.view.buffer, 0x41000, 21);
      assert.is(String.fromCharCode(...bytes), 'ABCDEFGHIJKLMNOPQRST\u00ee');
    },
  },
];

/** A command of two segments, where the device takes one. */
function tooMany(type: number): void {
  const device = disk();
  blkSegment(device.memory, SEGMENT, 0n, 8);
  blkSegment(device.memory, SEGMENT + 16, 8n, 8);
  const data: Buffer = outOf(32, SEGMENT);
  answered(submit(device, type, [data]), BLK_S_IOERR);
}

const driverCommands: Section['rows'] = [
  {
    level: 'MUST NOT',
    says: 'Has no more segments than `max_discard_seg` in a discard.',
    answer: 'an I/O error, and nothing is discarded',
    test: () => tooMany(BLK_T_DISCARD),
  },
  {
    level: 'MUST NOT',
    says: 'Has no more segments than `max_secure_erase_seg` in a secure erase.',
    notApplicable: NO_ERASE,
  },
  {
    level: 'MUST NOT',
    says: 'Has no more segments than `max_write_zeroes_seg` in a write zeroes.',
    answer: 'an I/O error, and nothing is zeroed',
    test: () => tooMany(BLK_T_WRITE_ZEROES),
  },
  {
    level: 'MAY',
    says: 'With CONFIG_WCE, turns the write cache off and on by `writeback`.',
    answer: 'the writes after it follow',
    test() {
      const device = diskWith(F_BLK_CONFIG_WCE | F_BLK_FLUSH);
      for (const mode of [0, 1, 0]) {
        assert.is(device.driver.set(CONFIG_WRITEBACK, mode, 1), 0);
        assert.is(device.driver.get(CONFIG_WRITEBACK, 1), mode);
        assert.is(synced(device), mode === 0);
      }
    },
  },
  {
    level: 'MUST NOT',
    says: 'Does not take what it wrote before as stable because it wrote 0 to `writeback`.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST',
    says: 'Leaves `unmap` at 0 in a discard.',
    answer: 'the command is unsupported',
    test() {
      answered(command(disk(), BLK_T_DISCARD, 0n, 8, 1), BLK_S_UNSUPP);
    },
  },
  {
    level: 'MUST NOT',
    says: 'Assumes nothing about what a discarded sector reads.',
    unseen: OWN_READING,
  },
  {
    level: 'MUST NOT',
    says: 'Assumes nothing about single segments of a command that failed.',
    unseen: OWN_READING,
  },
];

const driverOperation: Section = {
  number: '5.2.6.1',
  title: 'Device operation',
  side: 'driver',
  rows: [...driverRequests, ...driverCommands],
};

const deviceCommands: Section['rows'] = [
  { level: 'MAY', says: 'Changes `capacity` in operation.', notApplicable: SIZE_STAYS },
  {
    level: 'SHOULD',
    says: 'Then sends a configuration change notification.',
    notApplicable: SIZE_STAYS,
  },
  {
    level: 'MUST',
    says: 'Offering RO, answers a write with an I/O error.',
    test() {
      for (const features of [0n, F_BLK_RO]) {
        const device = disk({ readOnly: true }, features);
        answered(submit(device, BLK_T_OUT, [outOf(512)]), BLK_S_IOERR);
        assert.is(submit(device, BLK_T_IN, [into(512)]).status, BLK_S_OK);
      }
    },
  },
  {
    level: 'MUST NOT',
    says: 'Offering RO, writes no data.',
    test() {
      const device = disk({ readOnly: true });
      const kinds = [BLK_T_OUT, BLK_T_DISCARD, BLK_T_WRITE_ZEROES, BLK_T_SECURE_ERASE];
      for (const type of kinds) {
        assert.equal(submit(device, type, [outOf(512)]).requests, []);
        assert.equal(command(device, type, 0n, 8).requests, []);
      }
    },
    also: 'shim-block.test.ts: a read-only disk reads and flushes, and refuses every write',
  },
  {
    level: 'MUST',
    says: 'Answers a discard, secure erase or write zeroes with an unknown flag as unsupported.',
    test() {
      for (const config of CONFIGS) {
        const device = disk(config);
        for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES, BLK_T_SECURE_ERASE]) {
          for (let bit = 1; bit < 32; bit += 1) {
            answered(command(device, type, 0n, 8, 2 ** bit), BLK_S_UNSUPP);
          }
        }
      }
    },
  },
  {
    level: 'MUST',
    says: 'Answers a discard with `unmap` as unsupported.',
    test() {
      for (const config of CONFIGS) {
        answered(command(disk(config), BLK_T_DISCARD, 0n, 8, 1), BLK_S_UNSUPP);
      }
    },
  },
  {
    level: 'MAY',
    says: 'Deallocates what is discarded.',
    test() {
      const { requests, status } = command(disk(), BLK_T_DISCARD, 16n, 8);
      const [{ kind, offset, length }] = requests;
      assert.equal([kind, offset, length], [REQUEST_KIND_BLK_DISCARD, 16n * 512n, 8n * 512n]);
      assert.is(status, BLK_S_OK);
    },
    also: 'shim-block.test.ts: discard gives blocks back and keeps the size',
  },
  {
    level: 'MAY',
    says: 'Deallocates what is zeroed, with `unmap`.',
    test() {
      for (const unmap of [0, 1]) {
        const [{ flags }] = command(disk(), BLK_T_WRITE_ZEROES, 0n, 8, unmap).requests;
        assert.is((flags & REQUEST_FLAG_UNMAP) !== 0, unmap === 1);
      }
    },
  },
  {
    level: 'MUST',
    says: 'What was zeroed reads as zeroes, with `unmap` and without.',
    test() {
      for (const unmap of [0, 1]) {
        const [{ kind, offset, length }] = command(
          disk(),
          BLK_T_WRITE_ZEROES,
          7n,
          9,
          unmap,
        ).requests;
        const zeroes = [REQUEST_KIND_BLK_WRITE_ZEROES, 7n * 512n, 9n * 512n];
        assert.equal([kind, offset, length], zeroes);
      }
    },
    also: 'shim-block.test.ts: zeroes just its range and keeps the size',
  },
  {
    level: 'SHOULD',
    says: 'Clears `write_zeroes_may_unmap` exactly where zeroing can deallocate nothing.',
    gap: 'it reads 1 with every disk that can be zeroed, also where its file cannot have holes',
  },
  {
    level: 'MAY',
    says: 'Changes that field in operation.',
    notApplicable: 'it never changes',
  },
  {
    level: 'SHOULD',
    says: 'Sends a configuration change notification when that field changes.',
    notApplicable: 'it never changes',
  },
];

const deviceCache: Section['rows'] = [
  {
    level: 'MUST',
    says: 'With neither CONFIG_WCE nor FLUSH accepted, a write is stable when it completes.',
    test() {
      assert.is(synced(diskWith(0n, { writeback: true })), true);
    },
    also: 'shim-block.test.ts: the sync flag syncs after the write, and a flush syncs alone',
  },
  {
    level: 'MUST',
    says: 'So it is while CONFIG_WCE is accepted and `writeback` is 0.',
    test() {
      const device = diskWith(F_BLK_CONFIG_WCE | F_BLK_FLUSH, { writeback: true });
      assert.is(synced(device), false);
      device.driver.set(CONFIG_WRITEBACK, 0, 1);
      assert.is(synced(device), true);
    },
    also: 'shim-block.test.ts: the sync flag syncs after the write, and a flush syncs alone',
  },
  {
    level: 'MUST',
    says: 'A flush makes stable what was written and completed before it.',
    test() {
      const device = disk();
      const { requests, status } = submit(device, BLK_T_FLUSH);
      assert.equal([requests.length, requests[0].kind], [1, REQUEST_KIND_BLK_FLUSH]);
      assert.is(status, BLK_S_OK);
      const failed = submit(device, BLK_T_FLUSH, [], 0n, () => ({ result: 1, bytes: 0 }));
      assert.is(failed.status, BLK_S_IOERR); // what is not stable is not said to be
    },
    also: 'shim-block.test.ts: the sync flag syncs after the write, and a flush syncs alone',
  },
  {
    level: 'MAY',
    says: 'Makes writes stable also where FLUSH was not offered.',
    notApplicable: 'FLUSH is always offered',
  },
  {
    level: 'SHOULD',
    says: 'Offers LIFETIME if its storage knows how worn it is.',
    notApplicable: 'disks are files',
  },
  {
    level: 'MUST NOT',
    says: 'Does not offer LIFETIME otherwise.',
    test() {
      for (const config of CONFIGS) {
        assert.is(blkDevice(config).driver.offeredFeatures() & (1n << 15n), 0n);
      }
      answered(submit(disk(), BLK_T_GET_LIFETIME, [into(6)]), BLK_S_UNSUPP);
    },
  },
  {
    level: 'MUST NOT',
    says: 'Answers it with no reserved value.',
    notApplicable: 'VIRTIO_BLK_F_LIFETIME is not offered',
  },
];

export const BLOCK: Section[] = [
  legacy('5.2.3.1', 'Feature bits'),
  legacy('5.2.4.1', 'Configuration layout'),
  driverInitialisation,
  deviceInitialisation,
  legacy('5.2.5.3', 'Device initialisation'),
  driverOperation,
  {
    number: '5.2.6.2',
    title: 'Device operation',
    side: 'device',
    rows: [...deviceCommands, ...deviceCache],
  },
  legacy('5.2.6.3', 'Device operation'),
];
