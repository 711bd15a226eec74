// The registers of the reference's virtio-mmio devices, as a table: virtio 1.2 §4.2.2. What they do
// is in reference-transport.ts. Left out: the legacy layout, shared memory, queue reset.
import { INCIDENT_REGISTER, INCIDENT_WIDTH, VIRTIO_VENDOR_ID } from '../assembly/abi.ts';
import type { VirtioModel } from './reference-transport.ts';

const FEATURES_OK = 8;
const CONFIG = 0x100; // where the configuration space begins
const ALL_ONES = 0xffffffff;

/** Where virtio-blk's `writeback` lies in its configuration space (§5.2.4). */
export const WRITEBACK = 32;

/** What the registers hold, beside the queues' own. */
export interface Registers {
  status: number;
  interruptStatus: number;
  deviceFeaturesSel: number;
  driverFeaturesSel: number;
  featuresLow: number; // as the driver wrote them
  featuresHigh: number;
  featuresBeyond: boolean; // a bit past 63 was once asked for
  queueSel: number;
  configGeneration: number;
  writeback: number; // virtio-blk's only writable field
}

export const powerOn = (): Registers => ({
  status: 0,
  interruptStatus: 0,
  deviceFeaturesSel: 0,
  driverFeaturesSel: 0,
  featuresLow: 0,
  featuresHigh: 0,
  featuresBeyond: false,
  queueSel: 0,
  configGeneration: 0,
  writeback: 0,
});

const withLow = (address: bigint, low: number): bigint => ((address >> 32n) << 32n) + BigInt(low);
const withHigh = (address: bigint, high: number): bigint =>
  (BigInt(high) << 32n) + (address & 0xffffffffn);

// §4.2.2, table of registers: those that can be read, and those that can be written.
const READABLE = new Map<number, (device: VirtioModel) => number>([
  [0x000, () => 0x74726976], // MagicValue
  [0x004, () => 2], // Version
  [0x008, ({ type }) => type.id], // DeviceID
  [0x00c, () => VIRTIO_VENDOR_ID], // VendorID
  [0x010, ({ now, offered }) => offered[now.deviceFeaturesSel] ?? 0], // DeviceFeatures
  [0x034, (device) => (device.selected() ? device.type.queueSize : 0)], // QueueNumMax
  [0x044, (device) => (device.selected()?.ready ? 1 : 0)], // QueueReady
  [0x060, (device) => device.interrupts()], // InterruptStatus
  [0x070, ({ now }) => now.status], // Status
  [0x0b0, () => ALL_ONES], // SHMLenLow: there is no shared memory region
  [0x0b4, () => ALL_ONES], // SHMLenHigh
  [0x0b8, () => ALL_ONES], // SHMBaseLow
  [0x0bc, () => ALL_ONES], // SHMBaseHigh
  [0x0fc, ({ now }) => now.configGeneration], // ConfigGeneration
]);

type Write = (device: VirtioModel, value: number) => void;

/** A register that takes any value at any time. */
const plain =
  (name: 'deviceFeaturesSel' | 'driverFeaturesSel' | 'queueSel'): Write =>
  (device, value) => {
    device.now[name] = value;
  };

/** One half of an address of the selected queue. */
const half =
  (name: 'descriptors' | 'available' | 'used', replace: typeof withLow): Write =>
  (device, value) =>
    device.changeRing((ring) => {
      ring[name] = replace(ring[name], value);
      return true;
    });

const WRITABLE = new Map<number, Write>([
  [0x014, plain('deviceFeaturesSel')],
  [0x020, (device, value) => device.writeFeatures(value)], // DriverFeatures
  [0x024, plain('driverFeaturesSel')],
  [0x030, plain('queueSel')],
  [0x038, (device, value) => device.writeSize(value)], // QueueNum
  [0x044, (device, value) => device.writeReady(value)], // QueueReady
  [0x050, (device, value) => device.notify(value)], // QueueNotify
  [0x064, (device, value) => device.acknowledge(value)], // InterruptACK
  [0x070, (device, value) => device.writeStatus(value)], // Status
  [0x080, half('descriptors', withLow)], // QueueDescLow
  [0x084, half('descriptors', withHigh)], // QueueDescHigh
  [0x090, half('available', withLow)], // QueueDriverLow
  [0x094, half('available', withHigh)], // QueueDriverHigh
  [0x0a0, half('used', withLow)], // QueueDeviceLow
  [0x0a4, half('used', withHigh)], // QueueDeviceHigh
  [0x0ac, () => {}], // SHMSel
]);

// Registers are read and written as aligned words, fields of the configuration in their own width,
// and no access to a field is wider than four bytes (§4.2.2.2).
function allowed(offset: number, width: number): boolean {
  const widths = offset < CONFIG ? [4] : [1, 2, 4];
  return widths.includes(width) && offset % width === 0;
}

/** A read of `width` bytes, answered in the device's ledger. */
export function readRegister(device: VirtioModel, offset: number, width: number): void {
  const value = allowed(offset, width) ? valueAt(device, offset, width) : undefined;
  if (value !== undefined) device.ledger.value = value;
  else device.ledger.refuseRead(allowed(offset, width) ? INCIDENT_REGISTER : INCIDENT_WIDTH, width);
}

function valueAt(device: VirtioModel, offset: number, width: number): number | undefined {
  if (offset < CONFIG) return READABLE.get(offset)?.(device);
  const from = offset - CONFIG;
  const configSpace = device.type.network?.configSpace(device) ?? device.type.configSpace;
  if (from + width > configSpace.length) return undefined;
  let value = 0;
  for (let i = from + width - 1; i >= from; i -= 1) {
    value = 256 * value + (i === WRITEBACK ? device.now.writeback : configSpace[i]);
  }
  return value;
}

/** A write of `width` bytes, answered in the device's ledger. */
export function writeRegister(
  device: VirtioModel,
  offset: number,
  width: number,
  value: number,
): void {
  if (!allowed(offset, width)) {
    device.ledger.blame(INCIDENT_WIDTH);
  } else if (offset >= CONFIG) {
    // No field is written before the features are agreed on (§3.1.1, step 4).
    const agreed = (device.now.status & FEATURES_OK) !== 0;
    const taken = agreed && device.type.writeConfig(device, offset - CONFIG, width, value);
    if (!taken) device.ledger.blame(INCIDENT_REGISTER);
  } else {
    const register = WRITABLE.get(offset);
    if (register) register(device, value);
    else device.ledger.blame(INCIDENT_REGISTER);
  }
}
