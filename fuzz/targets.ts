// What there is to fuzz among the devices: each target is a kind of device in a few configurations
// (variants), brought up as far as its programs expect it.
import * as abi from '../assembly/abi.ts';
import {
  encodeBlkConfig,
  encodeNetConfig,
  encodeRngConfig,
  NET_OFFLOADS_ALL,
} from '../host/device-config.ts';
import {
  ACKNOWLEDGE,
  DRIVER,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  FEATURES_OK,
  REG,
  RUNNING,
} from '../testing/driver.ts';
import {
  AVAIL_RING,
  PAIR_AREA,
  QUEUE_AREA,
  TARGET_BLK,
  TARGET_NET,
  TARGET_PORT,
  TARGET_RING,
  TARGET_RNG,
  TARGET_STATE,
  TARGET_TRANSPORT,
  USED_RING,
} from './machine/shared.ts';

export interface Queues {
  count: number;
  size: number;
  features: bigint; // beside VERSION_1
  asleep?: boolean; // all is set up but DRIVER_OK
}

export interface Variant {
  kind: number; // KIND_*
  config: Uint8Array;
  /** How far the driver has come when a program starts: queues, or null for a device at reset. */
  queues: Queues | null;
}

export interface DeviceTarget {
  name: string;
  describe: string;
  generator: number; // TARGET_*: which actions its programs are made of
  variants: Variant[];
}

const INDIRECT = F_INDIRECT_DESC;
const EVENT = F_EVENT_IDX;
const ALL = INDIRECT | EVENT;
// virtio-blk: SIZE_MAX, SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, DISCARD, WRITE_ZEROES.
const LIMITS = (1n << 1n) | (1n << 2n);
const FLUSH = 1n << 9n;
const WCE = 1n << 11n;
const COMMANDS = (1n << 13n) | (1n << 14n);

const DISK = { capacityBytes: 2048 * 512, readOnly: false, id: 'disk' };
const SMALL = { ...DISK, queueCount: 2, queueSize: 64 };

function blk(
  config: Partial<Parameters<typeof encodeBlkConfig>[0]>,
  size: number | null,
  features = 0n,
  count = 2,
): Variant {
  return {
    kind: abi.KIND_VIRTIO_BLK,
    config: encodeBlkConfig({ ...SMALL, ...config }),
    queues: size === null ? null : { count, size, features },
  };
}

function asleep(variant: Variant): Variant {
  return { ...variant, queues: { ...(variant.queues as Queues), asleep: true } };
}

function rng(size: number | null, features = 0n): Variant {
  return {
    kind: abi.KIND_VIRTIO_RNG,
    config: encodeRngConfig({ queueSize: 64 }),
    queues: size === null ? null : { count: 1, size, features },
  };
}

const MRG_RXBUF = 1n << 15n;
const CONTROL = (1n << 17n) | (1n << 18n) | (1n << 19n) | (1n << 20n) | (1n << 21n); // CTRL_*
const MQ = 1n << 22n;
const MAC_ADDR = 1n << 23n;
const GUEST_OFFLOADS = 1n << 2n;
const SOME_SEGMENTS = (1n << 0n) | (1n << 11n) | (1n << 56n); // CSUM, HOST_TSO4, HOST_USO
const EVERYTHING = NET_OFFLOADS_ALL | MRG_RXBUF | CONTROL | GUEST_OFFLOADS;

function net(
  config: Partial<Parameters<typeof encodeNetConfig>[0]>,
  count: number,
  size: number | null,
  features = 0n,
): Variant {
  const mac = '02:00:00:00:00:01';
  return {
    kind: abi.KIND_VIRTIO_NET,
    config: encodeNetConfig({ mac, queueSize: 64, ...config }),
    queues: size === null ? null : { count, size, features },
  };
}

function port(name: string, kind: number, describe: string): DeviceTarget {
  const variants = [{ kind, config: new Uint8Array(0), queues: null }];
  return { name, describe, generator: TARGET_PORT, variants };
}

export const DEVICE_TARGETS: readonly DeviceTarget[] = [
  {
    name: 'transport',
    describe: 'virtio-mmio registers, status, features, queue set-up',
    generator: TARGET_TRANSPORT,
    variants: [
      blk({ sizeMax: 4096, queueCount: 8 }, null),
      blk({ readOnly: true, queueCount: 1, writeback: false }, null),
      rng(null),
      blk({}, 16, ALL | WCE | FLUSH),
      asleep(blk({}, 16, ALL | WCE)),
    ],
  },
  {
    name: 'ring',
    describe: 'split rings with indirect tables and the event index, under a disk',
    generator: TARGET_RING,
    variants: [
      blk({}, 16),
      blk({}, 16, INDIRECT),
      blk({}, 16, EVENT),
      blk({}, 4, ALL),
      blk({}, 64, ALL),
    ],
  },
  {
    name: 'block',
    describe: 'block requests of every kind',
    generator: TARGET_BLK,
    variants: [
      blk({}, 16, ALL | FLUSH | WCE | COMMANDS),
      blk({ sizeMax: 1024, segMax: 2 }, 16, INDIRECT | LIMITS | COMMANDS),
      blk({ readOnly: true }, 16, ALL),
      blk({ writeback: false, maxDiscardSectors: 8, maxWriteZeroesSectors: 4 }, 16, COMMANDS),
    ],
  },
  {
    name: 'rng',
    describe: 'the entropy device',
    generator: TARGET_RNG,
    variants: [rng(16), rng(16, ALL), rng(4, EVENT)],
  },
  {
    name: 'net',
    describe: 'frames both ways and the control queue of a network device',
    generator: TARGET_NET,
    variants: [
      net({ mtu: 1500 }, 3, 16, ALL | EVERYTHING | MAC_ADDR),
      net({ offloads: 0n }, 2, 16),
      net({ queuePairs: 2 }, 5, 8, EVENT | EVERYTHING | MAC_ADDR | MQ),
      net({ queuePairs: 2, vhost: true }, 5, 16, EVENT | EVERYTHING | MQ),
      net({ fixedMac: true }, 3, 4, INDIRECT | EVERYTHING),
      net({}, 2, 64, EVENT | MRG_RXBUF | SOME_SEGMENTS),
      net({ queuePairs: 3 }, 0, null),
    ],
  },
  {
    name: 'state',
    describe: 'saved states: one goes on as before, a changed one is refused or safe to run',
    generator: TARGET_STATE,
    variants: [
      blk({}, 16, ALL | FLUSH | WCE),
      blk({ queueCount: 1 }, null),
      rng(16, ALL),
      net({ queuePairs: 2, mtu: 1500 }, 5, 8, EVENT | EVERYTHING | MAC_ADDR | MQ),
      net({}, 2, 16, INDIRECT | MRG_RXBUF),
      net({ vhost: true }, 3, 16, EVERYTHING),
    ],
  },
  port('serial', abi.KIND_SERIAL, 'COM1, a 16550A'),
  port('i8042', abi.KIND_I8042, 'the keyboard controller'),
  port('rtc', abi.KIND_RTC, 'the clock and CMOS memory'),
  port('boot-timer', abi.KIND_BOOT_TIMER, 'the boot timer'),
  port('acpi-pm', abi.KIND_ACPI_PM, 'sleep and reset registers'),
  port('pvpanic', abi.KIND_PVPANIC, "the guest's word of its own panic"),
];

/** A driver's way to a variant's starting point (virtio 1.2 §3.1.1), as 32-bit register writes. */
export function bringUp(
  { count, size, features, asleep }: Queues,
  write: (register: number, value: number) => void,
): void {
  for (const status of [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER]) write(REG.Status, status);
  write(REG.DriverFeaturesSel, 0);
  write(REG.DriverFeatures, Number(features & 0xffffffffn));
  write(REG.DriverFeaturesSel, 1);
  write(REG.DriverFeatures, Number((features | F_VERSION_1) >> 32n));
  write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  for (let queue = 0; queue < count; queue++) {
    const { desc, avail, used } = placesOf(queue);
    write(REG.QueueSel, queue);
    write(REG.QueueNum, size);
    for (const [register, address] of [
      [REG.QueueDescLow, desc],
      [REG.QueueDriverLow, avail],
      [REG.QueueDeviceLow, used],
    ]) {
      write(register, address);
      write(register + 4, 0);
    }
    write(REG.QueueReady, 1);
  }
  if (!asleep) write(REG.Status, RUNNING);
}

/** The target of that name, which exists. */
export function deviceTarget(name: string): DeviceTarget {
  const found = DEVICE_TARGETS.find((target) => target.name === name);
  if (!found) throw new RangeError(`no device target '${name}'`);
  return found;
}

/** Where the machine's driver has a queue's parts (fuzz/machine/shared.ts). */
function placesOf(queue: number): { desc: number; avail: number; used: number } {
  const desc = (queue % 2) * QUEUE_AREA + Math.floor(queue / 2) * PAIR_AREA;
  return { desc, avail: desc + AVAIL_RING, used: desc + USED_RING };
}
