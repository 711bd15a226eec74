// Facts every virtio device shares: status bits, common feature bits, ids, transport state.
// Virtio 1.2 §2.1 (device status), §2.2 (feature bits), §5 (device ids), §6 (reserved features).
// Left out: legacy devices, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_RESET.
//
// Virtio (at VIRTIO):
//   +0 driverFeatures u64       +8 deviceFeaturesSel u32   +12 driverFeaturesSel u32
//   +16 queueSel u32            +20 status u32             +24 interruptStatus u32
//   +28 configGeneration u32    +32 featuresBeyond u32 (a bit past 63 was accepted)
//   +36 writeback u32 (virtio-blk's only writable configuration field)
import {
  EFFECT_IRQ, EFFECT_SETUP, KIND_VIRTIO_NET, STATE_DRIVER_FEATURES, STATE_STATUS,
} from "./abi";
import { DEVICE_KIND, VIRTIO } from "./layout";
import { incident } from "./registers";

export const VIRTIO_ID_NET: u32 = 1;
export const VIRTIO_ID_BLOCK: u32 = 2;
export const VIRTIO_ID_RNG: u32 = 4;

export const VIRTIO_CONFIG_S_ACKNOWLEDGE: u32 = 1;
export const VIRTIO_CONFIG_S_DRIVER: u32 = 2;
export const VIRTIO_CONFIG_S_DRIVER_OK: u32 = 4;
export const VIRTIO_CONFIG_S_FEATURES_OK: u32 = 8;
export const VIRTIO_CONFIG_S_NEEDS_RESET: u32 = 0x40;
export const VIRTIO_CONFIG_S_FAILED: u32 = 0x80;

// Feature bits as masks.
export const VIRTIO_RING_F_INDIRECT_DESC: u64 = 1 << 28;
export const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;
export const VIRTIO_F_VERSION_1: u64 = 1 << 32;
export const VIRTIO_COMMON_FEATURES: u64 =
  VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX | VIRTIO_F_VERSION_1;

export const VIRTIO_MMIO_INT_VRING: u32 = 1 << 0;
export const VIRTIO_MMIO_INT_CONFIG: u32 = 1 << 1;

@unmanaged export class Virtio {
  driverFeatures: u64;
  deviceFeaturesSel: u32;
  driverFeaturesSel: u32;
  queueSel: u32;
  status: u32;
  interruptStatus: u32;
  configGeneration: u32;
  featuresBeyond: u32;
  writeback: u32;
}
if (offsetof<Virtio>("status") != 20) ERROR("Virtio moved: snapshots would break");
if (VIRTIO + offsetof<Virtio>("status") != STATE_STATUS) ERROR("the host looks elsewhere");
if (VIRTIO + offsetof<Virtio>("driverFeatures") != STATE_DRIVER_FEATURES) ERROR("likewise");
if (offsetof<Virtio>() != 40) ERROR("Virtio changed size: snapshots would break");

// @ts-ignore: decorator
@inline export function virtio(): Virtio {
  return changetype<Virtio>(VIRTIO);
}

/** Features count only once the device agreed to them with FEATURES_OK. */
// @ts-ignore: decorator
@inline export function negotiated(feature: u64): bool {
  return (virtio().driverFeatures & feature) != 0;
}

/** The device may touch its queues only with DRIVER_OK, and not once it or its driver gave up. */
// @ts-ignore: decorator
@inline export function virtioRunning(): bool {
  const stops = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
  return (virtio().status & (VIRTIO_CONFIG_S_DRIVER_OK | stops)) == VIRTIO_CONFIG_S_DRIVER_OK;
}

/**
 * Marks the device as in need of a reset, and tells its driver by a configuration change interrupt,
 * as a driver past DRIVER_OK must be told (§2.1.2).
 */
export function virtioNeedsReset(): u32 {
  const self = virtio();
  self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
  self.interruptStatus |= VIRTIO_MMIO_INT_CONFIG;
  return EFFECT_IRQ | setupChanged();
}

/** Its queues started or stopped: of a network device the host has more to do than to serve. */
export function setupChanged(): u32 {
  return load<u32>(DEVICE_KIND) == KIND_VIRTIO_NET ? EFFECT_SETUP : 0;
}

/** Tells a driver that listens already of a change of the configuration space (§2.5.1). */
export function virtioConfigChanged(): u32 {
  const self = virtio();
  self.configGeneration++;
  if (!virtioRunning()) return 0;
  self.interruptStatus |= VIRTIO_MMIO_INT_CONFIG;
  return EFFECT_IRQ;
}

/**
 * The driver broke a ring beyond repair: the device stops until its driver resets it. Rings are
 * served only past DRIVER_OK.
 */
export function virtioBroken(incidentIndex: u32): u32 {
  return incident(incidentIndex) | virtioNeedsReset();
}
