// Network devices in machine images, and the descriptors that come with them: whatever is wrong is
// refused before the guest starts, and named.
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { crc32 } from '../host/boot/crc32.ts';
import type { NetDevice } from '../host/boot/image.ts';
import { imageBeside } from '../host/boot/image-bytes.ts';
import * as format from '../host/boot/image-format.ts';
import { cellProgram } from '../host/cell-program.ts';
import { writeImage } from '../host/write-image.ts';
import { kvmMissing } from './bare-metal.ts';
import { cellTest, type Ended, RunningCell, scratchPath } from './cell-guest.ts';
import { netImage } from './cell-net.ts';
import { StreamPeer } from './cell-net-peer.ts';
import { netDevice } from './machine-image.ts';

/** The image of a guest with this device, to be spoilt. */
function bytesOf(change: Partial<NetDevice>): Buffer {
  const path = scratchPath('image');
  const fd = openSync(path, 'wx+');
  // Descriptors are counted; which they are is up to who starts the cell.
  const device = netDevice([0], { stream: true, ...change });
  writeImage(fd, imageBeside(netImage(device, [], (code) => code.say('fine').powerOff())));
  closeSync(fd);
  return readFileSync(path);
}

async function load(bytes: Buffer, files: number[]): Promise<Ended> {
  const path = scratchPath('image');
  const checked = bytes.subarray(format.CHECKED_START, format.TABLES_END);
  bytes.writeUInt32LE(crc32(checked), format.HEADER_CHECKSUM);
  writeFileSync(path, bytes);
  const own = [openSync(path, 'r'), openSync('/dev/kvm', 'r+')];
  const stdio = ['ignore', 'pipe', 'pipe', 'pipe', ...own, ...files] as const;
  const child = spawn(cellProgram(), ['--spawned'], { stdio: [...stdio], env: {}, cwd: '/' });
  for (const fd of own) closeSync(fd);
  return await new RunningCell(child, false).ended();
}

async function withSocket<T>(body: (fd: number) => Promise<T>): Promise<T> {
  const peer = await StreamPeer.create();
  try {
    return await body(peer.fd);
  } finally {
    peer.handedOver().close();
  }
}

function assertRefused(ended: Ended, call: string, about: RegExp, what: string): void {
  assert.equal([ended.signal, ended.output.length], [null, 0], what);
  assert.is(ended.status, 2, what);
  assert.equal([ended.failure?.call, ended.failure?.errno], [call, 'EINVAL'], what);
  assert.match(ended.failure!.about, about, what);
}

const at = (offset: number): number => format.DEVICES + offset;
const config = (offset: number): number => at(format.DEVICE_CONFIG + offset);
const limit = (index: number, field: number): number =>
  at(format.DEVICE_LIMITS + index * format.LIMIT_STRIDE + 8 * field);
const u32 = (offset: number, value: number) => (bytes: Buffer) => {
  bytes.writeUInt32LE(value, offset);
};
const u16 = (offset: number, value: number) => (bytes: Buffer) => {
  bytes.writeUInt16LE(value, offset);
};
const u64 =
  (...pairs: [offset: number, value: bigint][]) =>
  (bytes: Buffer) => {
    for (const [offset, value] of pairs) bytes.writeBigUInt64LE(value, offset);
  };

const { DEVICE_FLAG_MAC_FILTER, DEVICE_FLAG_STREAM, DEVICE_FLAG_VHOST } = format;
const FLAGS = /^flags of a network device is /;
const QUEUES = /^queue count of a (network )?device is /;
const FILE = /^file of a network device is /;
const LIMIT = /^limit of a network device is /;
const REFILL = /^refill time of a network device is /;
const CONTRADICTS = /^the configuration of device net:net contradicts its entry$/;
const CONFIGURATION = /configuration/;

const SPOILS: [what: string, spoil: (bytes: Buffer) => void, about: RegExp][] = [
  ['an unknown flag', u32(at(format.DEVICE_FLAGS), 0x80000000), FLAGS],
  ["a disk's flag", u32(at(format.DEVICE_FLAGS), DEVICE_FLAG_STREAM | 1), FLAGS],
  [
    'vhost on a stream',
    u32(at(format.DEVICE_FLAGS), DEVICE_FLAG_STREAM | DEVICE_FLAG_VHOST),
    FLAGS,
  ],
  ['a stream of two pairs', u32(at(format.DEVICE_QUEUE_COUNT), 5), FLAGS],
  ['no queue', u32(at(format.DEVICE_QUEUE_COUNT), 0), QUEUES],
  ['a control queue alone', u32(at(format.DEVICE_QUEUE_COUNT), 1), QUEUES],
  ['half a pair', u32(at(format.DEVICE_QUEUE_COUNT), 2), QUEUES],
  ['nine pairs', u32(at(format.DEVICE_QUEUE_COUNT), 19), QUEUES],
  ['no file', u32(at(format.DEVICE_FILE), 0), FILE],
  ['a file that is not there', u32(at(format.DEVICE_FILE), 2), FILE],
  ['a file at the end of numbers', u32(at(format.DEVICE_FILE), 0xffffffff), FILE],
  ['a huge limit', u64([limit(0, 0), 2n ** 53n + 1n], [limit(0, 2), 1n]), LIMIT],
  ['a huge burst', u64([limit(3, 0), 1n], [limit(3, 1), 2n ** 64n - 1n], [limit(3, 2), 1n]), LIMIT],
  ['no refill time', u64([limit(1, 0), 1n]), REFILL],
  ['a huge refill time', u64([limit(2, 0), 1n], [limit(2, 2), 2n ** 32n + 1n]), REFILL],
  ['bytes behind its configuration', u16(config(abi.NET_CONFIG_BYTES), 1), CONFIGURATION],
  ['a longer configuration', u32(at(format.DEVICE_CONFIG_BYTES), 32), CONFIGURATION],
  ['a shorter one', u32(at(format.DEVICE_CONFIG_BYTES), 16), CONFIGURATION],
  ['other pairs inside', u16(config(abi.NET_CONFIG_QUEUE_PAIRS), 2), CONTRADICTS],
  ['no pairs inside', u16(config(abi.NET_CONFIG_QUEUE_PAIRS), 0), CONFIGURATION],
  ['vhost inside', u32(config(abi.NET_CONFIG_FLAGS), abi.NET_FLAG_VHOST), CONTRADICTS],
  [
    'a fixed address inside',
    u32(config(abi.NET_CONFIG_FLAGS), abi.NET_FLAG_FIXED_MAC),
    CONTRADICTS,
  ],
  [
    'a filter outside',
    u32(at(format.DEVICE_FLAGS), DEVICE_FLAG_STREAM | DEVICE_FLAG_MAC_FILTER),
    CONTRADICTS,
  ],
  ['a multicast address', u16(config(abi.NET_CONFIG_MAC), 1), CONFIGURATION],
  ['an MTU of 67', u16(config(abi.NET_CONFIG_MTU), 67), CONFIGURATION],
  ['queues of 255', u16(config(abi.NET_CONFIG_QUEUE_SIZE), 255), CONFIGURATION],
  ['queues of 512', u16(config(abi.NET_CONFIG_QUEUE_SIZE), 512), CONFIGURATION],
  ['offloads that are none', u64([config(abi.NET_CONFIG_OFFLOADS), 1n << 40n]), CONFIGURATION],
];

const good = kvmMissing() ? Buffer.alloc(0) : bytesOf({});

cellTest('the image that all others are made of starts', async () => {
  const ended = await withSocket((fd) => load(good, [fd]));
  assert.equal([ended.status, ended.failure, ended.output.toString()], [0, null, 'fine']);
});

cellTest(
  'a network device with a field that cannot be is refused, and the field named',
  async () => {
    await withSocket(async (fd) => {
      for (const [what, spoil, about] of SPOILS) {
        const bytes = Buffer.from(good);
        spoil(bytes);
        assertRefused(await load(bytes, [fd]), 'image', about, what);
      }
    });
  },
);

cellTest('a descriptor of another kind, or one that waits, is refused', async () => {
  const tap = bytesOf({ stream: false });
  const file = openSync(scratchPath('file'), 'wx+');
  const blocking = openSync('/dev/null', 'r+');
  const noSocket = /^net: its descriptor is no socket$/;
  const noTap = /^net: its descriptor is no tap$/;
  const waits = /^net: its descriptor would wait$/;
  await withSocket(async (socket) => {
    assertRefused(await load(good, [file]), 'net', noSocket, 'a file');
    assertRefused(await load(good, [blocking]), 'net', noSocket, '/dev/null');
    assertRefused(await load(tap, [socket]), 'net', noTap, 'a socket for a tap');
    assertRefused(await load(tap, [file]), 'net', noTap, 'a file for a tap');
    assertRefused(await load(tap, [blocking]), 'net', waits, 'one that waits');
  });
  closeSync(file);
  closeSync(blocking);
});

cellTest('a device without one of its descriptors does not start', async () => {
  const ended = await load(Buffer.from(good), []);
  assert.equal([ended.signal, ended.output.length], [null, 0]);
  assert.ok(ended.status === 2 || ended.status === 3, `${ended.status}`);
  assert.ok(ended.failure);
});

test.run();
