// The guest's side of virtio-mmio, for tests, benches and fuzzing alike. Virtio 1.2 §3.1.1
// (initialisation), §2.1 (status), §4.2 (registers). It plays a correct driver and never asserts.
import type { Cage } from '../host/cage.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { REG } from '../host/mmio-registers.ts';
import { DriverQueue } from './queue.ts';

export { REG };

/** Bits of the device status (§2.1). */
export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const DEVICE_NEEDS_RESET = 0x40;
export const FAILED = 0x80;
/** The status of a device that its driver has brought up. */
export const RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/** Feature bits of every device here (§6): VIRTIO_F_*, VIRTIO_RING_F_*. */
export const F_INDIRECT_DESC = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;

/** How a driver sets its device up. */
export interface BringUpOptions {
  /** Queues to enable, from number 0 on; 1 by default. */
  queueCount?: number;
  /** Descriptors in each, a power of two up to the device's QueueNumMax; 16 by default. */
  queueSize?: number;
  /** Bits to accept on top of F_VERSION_1; by default all that the device offers. */
  features?: bigint;
}

/**
 * A virtio-mmio driver and the device it drives. It does what it is told in any order, so that a
 * test may do things wrong; a device that trapped throws a WebAssembly.RuntimeError.
 */
export class Driver {
  /** The device. */
  readonly cage: Cage;
  /** The memory that both reach, where queues are put. */
  readonly memory: GuestMemory;
  /** What bringUp() enabled, by number. */
  queues: DriverQueue[] = [];

  constructor(cage: Cage, memory: GuestMemory) {
    this.cage = cage;
    this.memory = memory;
  }

  /** Reads a register (REG) of `width` bytes; returns its low 32 bits, zero-extended. */
  get(register: number, width = 4): number {
    this.cage.read(register, width);
    return this.cage.value();
  }

  /** Writes a register of `width` bytes. Returns the effects (abi.EFFECT_*, effectNames()). */
  set(register: number, value: number, width = 4): number {
    return this.cage.write(register, width, value);
  }

  /** Adds bits to the status, as drivers do; returns what it reads afterwards. */
  addStatus(bits: number): number {
    this.set(REG.Status, this.get(REG.Status) | bits);
    return this.get(REG.Status);
  }

  /** All 64 feature bits that the device offers (§2.2). */
  offeredFeatures(): bigint {
    this.set(REG.DeviceFeaturesSel, 0);
    const low = BigInt(this.get(REG.DeviceFeatures));
    this.set(REG.DeviceFeaturesSel, 1);
    return low | (BigInt(this.get(REG.DeviceFeatures)) << 32n);
  }

  /** Writes the driver's 64 feature bits; FEATURES_OK, which seals them, is another step. */
  acceptFeatures(features: bigint): void {
    this.set(REG.DriverFeaturesSel, 0);
    this.set(REG.DriverFeatures, Number(features & 0xffffffffn));
    this.set(REG.DriverFeaturesSel, 1);
    this.set(REG.DriverFeatures, Number(features >> 32n));
  }

  /**
   * §3.1.1, steps 1 to 6: reset to FEATURES_OK, with F_VERSION_1 and `features` or all that are
   * offered. Returns the status, which lacks FEATURES_OK where the device refused.
   */
  negotiate(features?: bigint): number {
    this.set(REG.Status, 0);
    this.addStatus(ACKNOWLEDGE);
    this.addStatus(DRIVER);
    const accepted = features === undefined ? this.offeredFeatures() : features | F_VERSION_1;
    this.acceptFeatures(accepted);
    return this.addStatus(FEATURES_OK);
  }

  /** Writes a queue's size and addresses (§4.2.3.2), but not QueueReady. */
  configureQueue(queue: DriverQueue): void {
    this.set(REG.QueueSel, queue.index);
    this.set(REG.QueueNum, queue.size);
    this.set(REG.QueueDescLow, queue.descTable);
    this.set(REG.QueueDescHigh, 0);
    this.set(REG.QueueDriverLow, queue.availRing);
    this.set(REG.QueueDriverHigh, 0);
    this.set(REG.QueueDeviceLow, queue.usedRing);
    this.set(REG.QueueDeviceHigh, 0);
  }

  /** The whole of §3.1.1, up to DRIVER_OK; returns queue 0. It does not look at the status. */
  bringUp(options: BringUpOptions = {}): DriverQueue {
    this.negotiate(options.features);
    this.queues = [];
    for (let index = 0; index < (options.queueCount ?? 1); index += 1) {
      const queue = new DriverQueue(this.memory, index, options.queueSize ?? 16);
      this.memory.view.setUint32(queue.availRing, 0, true);
      this.memory.view.setUint32(queue.usedRing, 0, true);
      this.configureQueue(queue);
      this.set(REG.QueueReady, 1);
      this.queues.push(queue);
    }
    this.addStatus(DRIVER_OK);
    return this.queues[0] as DriverQueue;
  }
}
