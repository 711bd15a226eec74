// The registers of a virtio device behind the MMIO transport, by name, with what their values say.
// Virtio 1.2 §4.2.2 (registers), §5.1.4 and §5.2.4 (configuration of network and block devices). It
// follows what the driver selects and where it puts its queues, since both decide what later
// accesses mean.
import { KIND_VIRTIO_BLK, KIND_VIRTIO_NET, QUEUE_COUNT_MAX } from '../../assembly/abi.ts';
import { REG } from '../mmio-registers.ts';
import { bitNames, featureNames, hexNumber, INTERRUPT_NAMES, STATUS_NAMES } from './names.ts';
import type { RegisterAccess } from './port-registers.ts';

/** A queue as its driver set it up; addresses are guest-physical. */
export interface QueueSetup {
  size: number;
  descTable: bigint;
  availRing: bigint;
  usedRing: bigint;
  ready: boolean;
}

/** What the driver did before, as far as it decides what an access means. */
export interface VirtioContext {
  kind: number; // KIND_*
  deviceFeaturesSel: number;
  driverFeaturesSel: number;
  queueSel: number;
  queues: Map<number, QueueSetup>;
}

export function freshVirtio(kind: number): VirtioContext {
  const queues = new Map<number, QueueSetup>();
  return { kind, deviceFeaturesSel: 0, driverFeaturesSel: 0, queueSel: 0, queues };
}

/** A copy that later accesses do not change. */
export function copyVirtio(context: VirtioContext): VirtioContext {
  const queues = new Map([...context.queues].map(([index, queue]) => [index, { ...queue }]));
  return { ...context, queues };
}

const REGISTERS = new Map<number, string>(
  Object.entries(REG).map(([name, offset]) => [offset, name]),
);

// struct virtio_blk_config, from the highest field on.
const BLK_CONFIG: [offset: number, name: string][] = [
  [60, ''],
  [56, 'write_zeroes_may_unmap'],
  [52, 'max_write_zeroes_seg'],
  [48, 'max_write_zeroes_sectors'],
  [44, 'discard_sector_alignment'],
  [40, 'max_discard_seg'],
  [36, 'max_discard_sectors'],
  [34, 'num_queues'],
  [32, 'writeback'],
  [28, 'opt_io_size'],
  [26, 'min_io_size'],
  [25, 'alignment_offset'],
  [24, 'physical_block_exp'],
  [20, 'blk_size'],
  [16, 'geometry'],
  [12, 'seg_max'],
  [8, 'size_max'],
  [0, 'capacity'],
];

// struct virtio_net_config, likewise.
const NET_CONFIG: typeof BLK_CONFIG = [
  [12, ''],
  [10, 'mtu'],
  [8, 'max_virtqueue_pairs'],
  [6, 'status'],
  [0, 'mac'],
];

const CONFIG_SPACES: Record<number, typeof BLK_CONFIG> = {
  [KIND_VIRTIO_BLK]: BLK_CONFIG,
  [KIND_VIRTIO_NET]: NET_CONFIG,
};

function configName(kind: number, offset: number): string {
  const field = CONFIG_SPACES[kind]?.find(([from]) => offset >= from);
  if (!field?.[1]) return `config+${offset}`;
  const [from, name] = field;
  return `config.${name}${offset === from ? '' : `+${offset - from}`}`;
}

const DEVICE_IDS: Record<number, string> = { 1: 'network', 2: 'block', 4: 'entropy' };
const list = (names: string[]): string => names.join(' ') || 'none';

function features(context: VirtioContext, selector: number, value: number): string {
  if (selector > 1) return `page ${selector}`;
  return list(featureNames(context.kind, BigInt(value) << BigInt(32 * selector)));
}

function ascii(value: number): string {
  const bytes = [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
  return `'${String.fromCharCode(...bytes.filter((byte) => byte >= 0x20 && byte < 0x7f))}'`;
}

function meaningOf(
  context: VirtioContext,
  register: string,
  value: number,
  write: boolean,
): string {
  const { queueSel } = context;
  switch (register) {
    case 'MagicValue':
    case 'VendorID':
      return ascii(value);
    case 'DeviceID':
      return DEVICE_IDS[value] ?? '';
    case 'DeviceFeatures':
      return features(context, context.deviceFeaturesSel, value);
    case 'DriverFeatures':
      return features(context, context.driverFeaturesSel, value);
    case 'QueueNotify':
      return `queue ${value}`;
    case 'InterruptStatus':
    case 'InterruptACK':
      return list(bitNames(value, INTERRUPT_NAMES));
    case 'Status':
      return write && value === 0 ? 'reset' : list(bitNames(value, STATUS_NAMES));
    default:
      return register.startsWith('Queue') && register !== 'QueueSel' ? `queue ${queueSel}` : '';
  }
}

const emptyQueue = (): QueueSetup => ({
  size: 0,
  descTable: 0n,
  availRing: 0n,
  usedRing: 0n,
  ready: false,
});

const LOW = 0xffffffffn;
const withLow = (address: bigint, low: number): bigint => (address & ~LOW) | BigInt(low);
const withHigh = (address: bigint, high: number): bigint => (address & LOW) | (BigInt(high) << 32n);

const QUEUE_WRITES: Record<string, (queue: QueueSetup, value: number) => void> = {
  QueueNum: (queue, value) => {
    queue.size = value;
  },
  QueueReady: (queue, value) => {
    queue.ready = value === 1;
  },
  QueueDescLow: (queue, value) => {
    queue.descTable = withLow(queue.descTable, value);
  },
  QueueDescHigh: (queue, value) => {
    queue.descTable = withHigh(queue.descTable, value);
  },
  QueueDriverLow: (queue, value) => {
    queue.availRing = withLow(queue.availRing, value);
  },
  QueueDriverHigh: (queue, value) => {
    queue.availRing = withHigh(queue.availRing, value);
  },
  QueueDeviceLow: (queue, value) => {
    queue.usedRing = withLow(queue.usedRing, value);
  },
  QueueDeviceHigh: (queue, value) => {
    queue.usedRing = withHigh(queue.usedRing, value);
  },
};

/** Follows a write that the device took. */
function follow(context: VirtioContext, register: string, value: number): void {
  if (register === 'DeviceFeaturesSel') context.deviceFeaturesSel = value;
  else if (register === 'DriverFeaturesSel') context.driverFeaturesSel = value;
  else if (register === 'QueueSel') context.queueSel = value;
  else if (register === 'Status' && value === 0) {
    Object.assign(context, freshVirtio(context.kind));
  } else if (Object.hasOwn(QUEUE_WRITES, register) && context.queueSel < QUEUE_COUNT_MAX) {
    const queue = context.queues.get(context.queueSel) ?? emptyQueue();
    QUEUE_WRITES[register](queue, value);
    context.queues.set(context.queueSel, queue);
  }
}

/** Names an access, and follows a write unless the device refused it (`taken` false). */
export function virtioRegister(
  context: VirtioContext,
  write: boolean,
  offset: number,
  value: number,
  taken: boolean,
): RegisterAccess {
  if (offset >= REG.Config) {
    return { register: configName(context.kind, offset - REG.Config), meaning: '' };
  }
  const register = REGISTERS.get(offset);
  if (register === undefined) return { register: hexNumber(offset), meaning: 'no such register' };
  const meaning = meaningOf(context, register, value, write);
  if (write && taken) follow(context, register, value);
  return { register, meaning };
}
