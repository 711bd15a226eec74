// Devices for tests, in the configuration most tests want.
import {
  KIND_VIRTIO_BLK,
  KIND_VIRTIO_NET,
  KIND_VIRTIO_RNG,
  STATE,
  STATE_BYTES,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import {
  type BlkConfig,
  encodeBlkConfig,
  encodeNetConfig,
  encodeRngConfig,
  type NetConfig,
} from '../host/device-config.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { Driver } from '../testing/driver.ts';
import { guestMemory } from '../testing/queue.ts';

export const CAPACITY_SECTORS = 2048;

export interface Fixture {
  cage: Cage;
  memory: GuestMemory;
  driver: Driver;
}

/** A disk of 1 MiB and the driver of a guest with 1 MiB of RAM. */
export function blkDevice(config: Partial<BlkConfig> = {}, memory = guestMemory()): Fixture {
  const complete = { capacityBytes: CAPACITY_SECTORS * 512, readOnly: false, id: 'disk0' };
  const bytes = encodeBlkConfig({ ...complete, ...config });
  const cage = new Cage(KIND_VIRTIO_BLK, memory, bytes);
  return { cage, memory, driver: new Driver(cage, memory) };
}

export function rngDevice(queueSize = 16, memory = guestMemory()): Fixture {
  const cage = new Cage(KIND_VIRTIO_RNG, memory, encodeRngConfig({ queueSize }));
  return { cage, memory, driver: new Driver(cage, memory) };
}

export const MAC = '02:00:00:aa:bb:cc';

/** A network device with all offloads. */
export function netDevice(config: Partial<NetConfig> = {}, memory = guestMemory()): Fixture {
  const cage = new Cage(KIND_VIRTIO_NET, memory, encodeNetConfig({ mac: MAC, ...config }));
  return { cage, memory, driver: new Driver(cage, memory) };
}

/** A device behind ports, which has no use for guest memory. */
export function portDevice(kind: number): Cage {
  return new Cage(kind, guestMemory(0));
}

/** Reads a register and returns its value, for tests that do not look at the effects. */
export function readValue(cage: Cage, offset: number, width = 1): number {
  cage.read(offset, width);
  return cage.value();
}

/** A copy of `state` with the u32 at core address `address` replaced. */
export function patched(state: Uint8Array, address: number, value: number): Uint8Array {
  const copy = state.slice();
  new DataView(copy.buffer, 0, STATE_BYTES).setUint32(address - STATE, value, true);
  return copy;
}
