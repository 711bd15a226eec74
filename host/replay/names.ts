// The names of bits and numbers that a person reads in a trace or a state: effects, device status,
// features, requests. No specification of its own: virtio 1.2 §2.1, §5.1.3, §5.2.3, §6, and
// docs/abi.md.
import * as abi from '../../assembly/abi.ts';

/** Bits by their names, from the lowest on. */
export type BitNames = readonly (readonly [bit: number, name: string])[];

/** The names of the bits that are set; one without a name is told by its mask. */
export function bitNames(value: number, names: BitNames): string[] {
  const found: string[] = [];
  let rest = value >>> 0;
  for (const [bit, name] of names) {
    if ((rest & bit) === 0) continue;
    found.push(name);
    rest = (rest & ~bit) >>> 0;
  }
  if (rest !== 0) found.push(hexNumber(rest));
  return found;
}

export function hexNumber(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

export const EFFECT_NAMES: BitNames = [
  [abi.EFFECT_IRQ, 'irq'],
  [abi.EFFECT_REQUEST, 'request'],
  [abi.EFFECT_MORE, 'more'],
  [abi.EFFECT_OUTPUT, 'output'],
  [abi.EFFECT_INPUT_SPACE, 'input-space'],
  [abi.EFFECT_POWER_OFF, 'power-off'],
  [abi.EFFECT_REBOOT, 'reboot'],
  [abi.EFFECT_MARKER, 'marker'],
  [abi.EFFECT_PANIC, 'panic'],
  [abi.EFFECT_CANCEL, 'cancel'],
  [abi.EFFECT_INCIDENT, 'incident'],
  [abi.EFFECT_SETUP, 'setup'],
];

export const STATUS_NAMES: BitNames = [
  [1, 'ACKNOWLEDGE'],
  [2, 'DRIVER'],
  [8, 'FEATURES_OK'],
  [4, 'DRIVER_OK'],
  [0x40, 'DEVICE_NEEDS_RESET'],
  [0x80, 'FAILED'],
];

export const INTERRUPT_NAMES: BitNames = [
  [1, 'used buffer'],
  [2, 'configuration change'],
];

const COMMON_FEATURES: Record<number, string> = {
  28: 'INDIRECT_DESC',
  29: 'EVENT_IDX',
  32: 'VERSION_1',
  33: 'ACCESS_PLATFORM',
  34: 'RING_PACKED',
  35: 'IN_ORDER',
  36: 'ORDER_PLATFORM',
  37: 'SR_IOV',
  38: 'NOTIFICATION_DATA',
  39: 'NOTIF_CONFIG_DATA',
  40: 'RING_RESET',
};

const BLK_FEATURES: Record<number, string> = {
  1: 'SIZE_MAX',
  2: 'SEG_MAX',
  4: 'GEOMETRY',
  5: 'RO',
  6: 'BLK_SIZE',
  9: 'FLUSH',
  10: 'TOPOLOGY',
  11: 'CONFIG_WCE',
  12: 'MQ',
  13: 'DISCARD',
  14: 'WRITE_ZEROES',
  15: 'LIFETIME',
  16: 'SECURE_ERASE',
};

const NET_FEATURES: Record<number, string> = {
  0: 'CSUM',
  1: 'GUEST_CSUM',
  2: 'CTRL_GUEST_OFFLOADS',
  3: 'MTU',
  5: 'MAC',
  7: 'GUEST_TSO4',
  8: 'GUEST_TSO6',
  9: 'GUEST_ECN',
  10: 'GUEST_UFO',
  11: 'HOST_TSO4',
  12: 'HOST_TSO6',
  13: 'HOST_ECN',
  14: 'HOST_UFO',
  15: 'MRG_RXBUF',
  16: 'STATUS',
  17: 'CTRL_VQ',
  18: 'CTRL_RX',
  19: 'CTRL_VLAN',
  20: 'CTRL_RX_EXTRA',
  21: 'GUEST_ANNOUNCE',
  22: 'MQ',
  23: 'CTRL_MAC_ADDR',
  53: 'NOTF_COAL',
  54: 'GUEST_USO4',
  55: 'GUEST_USO6',
  56: 'HOST_USO',
  57: 'HASH_REPORT',
  59: 'GUEST_HDRLEN',
  60: 'RSS',
  61: 'RSC_EXT',
  62: 'STANDBY',
  63: 'SPEED_DUPLEX',
};

const DEVICE_FEATURES: Record<number, Record<number, string>> = {
  [abi.KIND_VIRTIO_BLK]: BLK_FEATURES,
  [abi.KIND_VIRTIO_NET]: NET_FEATURES,
};

/** The names of feature bits of a device kind, the lowest first. */
export function featureNames(kind: number, features: bigint): string[] {
  const own = DEVICE_FEATURES[kind] ?? {};
  const found: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((features >> BigInt(bit)) & 1n) === 0n) continue;
    found.push(COMMON_FEATURES[bit] ?? own[bit] ?? `bit ${bit}`);
  }
  return found;
}

const KIND_NAMES: Record<number, string> = {
  [abi.KIND_SERIAL]: 'serial',
  [abi.KIND_I8042]: 'i8042',
  [abi.KIND_RTC]: 'rtc',
  [abi.KIND_BOOT_TIMER]: 'boot-timer',
  [abi.KIND_ACPI_PM]: 'acpi-pm',
  [abi.KIND_PVPANIC]: 'pvpanic',
  [abi.KIND_VIRTIO_BLK]: 'virtio-blk',
  [abi.KIND_VIRTIO_RNG]: 'virtio-rng',
  [abi.KIND_VIRTIO_NET]: 'virtio-net',
};

export function kindName(kind: number): string {
  return KIND_NAMES[kind] ?? `kind ${kind}`;
}

/** Kinds from here on are virtio devices behind the MMIO transport. */
export function isVirtio(kind: number): boolean {
  return kind >= abi.KIND_VIRTIO_BLK;
}

const REQUEST_NAMES: Record<number, string> = {
  [abi.REQUEST_KIND_BLK_IN]: 'BLK_IN',
  [abi.REQUEST_KIND_BLK_OUT]: 'BLK_OUT',
  [abi.REQUEST_KIND_BLK_FLUSH]: 'BLK_FLUSH',
  [abi.REQUEST_KIND_BLK_DISCARD]: 'BLK_DISCARD',
  [abi.REQUEST_KIND_BLK_WRITE_ZEROES]: 'BLK_WRITE_ZEROES',
  [abi.REQUEST_KIND_ENTROPY]: 'ENTROPY',
  [abi.REQUEST_KIND_CONSOLE_OUT]: 'CONSOLE_OUT',
  [abi.REQUEST_KIND_NET_TX]: 'NET_TX',
  [abi.REQUEST_KIND_NET_RX]: 'NET_RX',
  [abi.REQUEST_KIND_NET_RINGS]: 'NET_RINGS',
};

export function requestName(kind: number): string {
  return REQUEST_NAMES[kind] ?? `kind ${kind}`;
}

export const REQUEST_FLAG_NAMES: BitNames = [
  [abi.REQUEST_FLAG_UNMAP, 'UNMAP'],
  [abi.REQUEST_FLAG_SYNC, 'SYNC'],
];

const RESULT_NAMES: Record<number, string> = {
  [abi.RESULT_OK]: 'OK',
  [abi.RESULT_IOERR]: 'IOERR',
  [abi.RESULT_UNSUPPORTED]: 'UNSUPPORTED',
};

export function resultName(result: number): string {
  return RESULT_NAMES[result] ?? `result ${result}`;
}

/** A tag taken apart (docs/abi.md). */
export function parseTag(tag: number): { queue: number; head: number; generation: number } {
  return {
    queue: (tag >>> abi.TAG_QUEUE_SHIFT) & abi.TAG_QUEUE_MASK,
    head: tag & abi.TAG_HEAD_MASK,
    generation: (tag >>> abi.TAG_GENERATION_SHIFT) & abi.TAG_GENERATION_MASK,
  };
}

/** Bytes as text, with a dot for each that is no printable ASCII. */
export function printable(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.',
  ).join('');
}
