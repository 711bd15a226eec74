// Network device: features, configuration, state, what the host tells it.
// Virtio 1.2 §5.1.2 to §5.1.5. Frames are in virtio-net-frames.ts and virtio-net-receive.ts, the
// control queue in virtio-net-control.ts. Left out: VIRTIO_NET_F_SPEED_DUPLEX, STANDBY, RSS,
// HASH_REPORT, NOTF_COAL, RSC_EXT, GUEST_HDRLEN.
//
// Configuration (CONFIG): NET_CONFIG_* in abi.ts. VirtioNet (at NET), which the host reads too:
//   +0 offloads u64 (VIRTIO_NET_F_GUEST_* in force)  +8 queuePairs u16 (in use)
//   +10 linkDown u8 (of the host's side: outlives a reset)  +11 announce u8  +12 mac, 6 bytes
import {
  NET_CONFIG_FLAGS, NET_CONFIG_MAC, NET_CONFIG_MTU, NET_CONFIG_OFFLOADS, NET_CONFIG_QUEUE_PAIRS,
  NET_CONFIG_QUEUE_SIZE, NET_FLAG_FIXED_MAC, NET_FLAG_VHOST, NET_INPUT_ANNOUNCE, NET_INPUT_BYTES,
  NET_INPUT_LINK, NET_QUEUE_PAIRS_MAX, NET_STATE_MAC, INBOX, QUEUE_SIZE_MAX,
  REQUEST_KIND_NET_RX, REQUEST_KIND_NET_TX,
} from "./abi";
import { CONFIG, CONFIG_SPACE, NET } from "./layout";
import { answer } from "./registers";
import {
  VIRTIO_COMMON_FEATURES, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_MMIO_INT_VRING, negotiated, virtio, virtioConfigChanged, virtioRunning,
} from "./virtio";

export const VIRTIO_NET_F_CSUM: u64 = 1 << 0;
export const VIRTIO_NET_F_GUEST_CSUM: u64 = 1 << 1;
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
export const VIRTIO_NET_F_MTU: u64 = 1 << 3;
export const VIRTIO_NET_F_MAC: u64 = 1 << 5;
export const VIRTIO_NET_F_GUEST_TSO4: u64 = 1 << 7;
export const VIRTIO_NET_F_GUEST_TSO6: u64 = 1 << 8;
export const VIRTIO_NET_F_GUEST_ECN: u64 = 1 << 9;
export const VIRTIO_NET_F_GUEST_UFO: u64 = 1 << 10;
export const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;
export const VIRTIO_NET_F_HOST_TSO6: u64 = 1 << 12;
export const VIRTIO_NET_F_HOST_ECN: u64 = 1 << 13;
export const VIRTIO_NET_F_HOST_UFO: u64 = 1 << 14;
export const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
export const VIRTIO_NET_F_STATUS: u64 = 1 << 16;
export const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
export const VIRTIO_NET_F_CTRL_RX: u64 = 1 << 18;
export const VIRTIO_NET_F_CTRL_VLAN: u64 = 1 << 19;
export const VIRTIO_NET_F_CTRL_RX_EXTRA: u64 = 1 << 20;
export const VIRTIO_NET_F_GUEST_ANNOUNCE: u64 = 1 << 21;
export const VIRTIO_NET_F_MQ: u64 = 1 << 22;
export const VIRTIO_NET_F_CTRL_MAC_ADDR: u64 = 1 << 23;
export const VIRTIO_NET_F_GUEST_USO4: u64 = 1 << 54;
export const VIRTIO_NET_F_GUEST_USO6: u64 = 1 << 55;
export const VIRTIO_NET_F_HOST_USO: u64 = 1 << 56;

// Work on received frames that the driver can be left with, and on those it sends.
const GUEST_TSO: u64 = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6;
const GUEST_SEGMENTS: u64 = GUEST_TSO | VIRTIO_NET_F_GUEST_UFO | VIRTIO_NET_F_GUEST_USO4 |
  VIRTIO_NET_F_GUEST_USO6;
export const VIRTIO_NET_GUEST_OFFLOADS: u64 =
  GUEST_SEGMENTS | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_ECN;
const HOST_TSO: u64 = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6;
const HOST_SEGMENTS: u64 = HOST_TSO | VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_HOST_USO;
const OFFLOADS: u64 = VIRTIO_NET_GUEST_OFFLOADS | HOST_SEGMENTS | VIRTIO_NET_F_CSUM |
  VIRTIO_NET_F_HOST_ECN;

// What requires the control queue; CTRL_RX_EXTRA and CTRL_GUEST_OFFLOADS mean nothing without it.
const COMMANDS: u64 = VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_GUEST_ANNOUNCE |
  VIRTIO_NET_F_MQ | VIRTIO_NET_F_CTRL_MAC_ADDR;

// struct virtio_net_config (§5.1.4).
const CONFIG_MAC: usize = 0;
const CONFIG_STATUS: usize = 6;
const CONFIG_MAX_VIRTQUEUE_PAIRS: usize = 8;
const CONFIG_MTU: usize = 10;
export const NET_CONFIG_SPACE_BYTES: u32 = 12;

const VIRTIO_NET_S_LINK_UP: u16 = 1;
const VIRTIO_NET_S_ANNOUNCE: u16 = 2;

export const MAC_BYTES: u32 = 6;
const MULTICAST: u8 = 1; // in an address's first byte
const MTU_MIN: u32 = 68; // §5.1.4.1
const FLAGS_MASK: u32 = NET_FLAG_VHOST | NET_FLAG_FIXED_MAC;

@unmanaged export class VirtioNet {
  offloads: u64;
  queuePairs: u16;
  linkDown: u8;
  announce: u8;
  mac: u32; // the first four bytes of it
  macEnd: u16;
  zero: u16; // up to a whole word
}
export const VIRTIO_NET_BYTES: usize = 20;
if (offsetof<VirtioNet>("mac") != NET_STATE_MAC) ERROR("VirtioNet moved: the host reads it");
if (offsetof<VirtioNet>("zero") != 18) ERROR("VirtioNet moved: snapshots would break");

// @ts-ignore: decorator
@inline export function virtioNet(): VirtioNet {
  return changetype<VirtioNet>(NET);
}

// @ts-ignore: decorator
@inline function netFlag(flag: u32): bool {
  return (load<u32>(CONFIG, NET_CONFIG_FLAGS) & flag) != 0;
}

// --- Configuration ------------------------------------------------------------------------------

export function netQueuePairsMax(): u32 {
  return load<u16>(CONFIG, NET_CONFIG_QUEUE_PAIRS);
}

export function netQueueSize(): u32 {
  return load<u16>(CONFIG, NET_CONFIG_QUEUE_SIZE);
}

/** Checks the host's configuration, at init() and again on restore. */
export function netConfigValid(): bool {
  const pairs = netQueuePairsMax();
  const size = netQueueSize();
  const mtu: u32 = load<u16>(CONFIG, NET_CONFIG_MTU);
  if (pairs == 0 || pairs > <u32>NET_QUEUE_PAIRS_MAX) return false;
  if (size < 4 || size > <u32>QUEUE_SIZE_MAX || popcnt(size) != 1) return false;
  if (mtu != 0 && mtu < MTU_MIN) return false;
  if ((load<u32>(CONFIG, NET_CONFIG_FLAGS) & ~FLAGS_MASK) != 0) return false;
  if ((load<u64>(CONFIG, NET_CONFIG_OFFLOADS) & ~OFFLOADS) != 0) return false;
  return macValid(CONFIG + NET_CONFIG_MAC) && netFeaturesValid(netFeatures());
}

/** Whether an interface can have the address: it is no group's, and not all zero. */
export function macValid(address: usize): bool {
  if (load<u8>(address) & MULTICAST) return false;
  return (load<u32>(address) | <u32>load<u16>(address, 4)) != 0;
}

// --- Features -----------------------------------------------------------------------------------

export function netFeatures(): u64 {
  let features = VIRTIO_COMMON_FEATURES | load<u64>(CONFIG, NET_CONFIG_OFFLOADS) |
    VIRTIO_NET_F_MAC | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ |
    VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_VLAN |
    VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
  if (load<u16>(CONFIG, NET_CONFIG_MTU) != 0) features |= VIRTIO_NET_F_MTU;
  if (netQueuePairsMax() > 1) features |= VIRTIO_NET_F_MQ;
  if (!netFlag(NET_FLAG_FIXED_MAC)) features |= VIRTIO_NET_F_CTRL_MAC_ADDR;
  return features;
}

/** Whether each of the features has those that it requires (§5.1.3.1). */
export function netFeaturesValid(features: u64): bool {
  if (features & GUEST_SEGMENTS && !(features & VIRTIO_NET_F_GUEST_CSUM)) return false;
  if (features & VIRTIO_NET_F_GUEST_ECN && !(features & GUEST_TSO)) return false;
  if (features & HOST_SEGMENTS && !(features & VIRTIO_NET_F_CSUM)) return false;
  if (features & VIRTIO_NET_F_HOST_ECN && !(features & HOST_TSO)) return false;
  return !(features & COMMANDS) || (features & VIRTIO_NET_F_CTRL_VQ) != 0;
}

/** All offloads that the driver agreed to are in force until it says otherwise (§5.1.6.5.8). */
export function netFeaturesOk(): void {
  virtioNet().offloads = negotiatedOffloads();
}

/** The offloads that the driver may have in force. */
export function negotiatedOffloads(): u64 {
  return virtio().driverFeatures & VIRTIO_NET_GUEST_OFFLOADS;
}

// --- Queues -------------------------------------------------------------------------------------

/** All pairs, and the control queue. */
export function netQueueCountMax(): u32 {
  return 2 * netQueuePairsMax() + 1;
}

/** As many as the driver agreed on: §5.1.2, where the control queue comes last. */
export function netQueueCount(): u32 {
  if (negotiated(VIRTIO_NET_F_MQ)) return netQueueCountMax();
  return negotiated(VIRTIO_NET_F_CTRL_VQ) ? 3 : 2;
}

// Without a control queue the last one is a transmit queue, whose number is odd.
export function netIsControl(queueIndex: u32): bool {
  return (queueIndex & 1) == 0 && queueIndex == netQueueCount() - 1;
}

export function netIsReceive(queueIndex: u32): bool {
  return (queueIndex & 1) == 0 && queueIndex != netQueueCount() - 1;
}

/** Whether the kernel serves the queue, and the device only knows where it lies. */
export function netIsKernels(queueIndex: u32): bool {
  return netFlag(NET_FLAG_VHOST) && !netIsControl(queueIndex);
}

/** The kind of request that the host can have of the queue; 0: none. */
export function netRequestKind(queueIndex: u32): u32 {
  if (netFlag(NET_FLAG_VHOST)) return 0;
  if (queueIndex & 1) return REQUEST_KIND_NET_TX;
  return queueIndex == netQueueCount() - 1 ? 0 : REQUEST_KIND_NET_RX; // not the control queue's
}

/** The kernel interrupts past this device, so whoever looks is told that there may be buffers. */
export function netInterrupts(): u32 {
  return netFlag(NET_FLAG_VHOST) && virtioRunning() ? VIRTIO_MMIO_INT_VRING : 0;
}

// --- State --------------------------------------------------------------------------------------

/** The state after a reset; the link is the host's. */
export function netReset(): void {
  const self = virtioNet();
  self.offloads = 0;
  self.queuePairs = 1;
  self.announce = 0;
  setMac(CONFIG + NET_CONFIG_MAC);
}

/** Takes the driver's address from six bytes of cage memory. */
export function setMac(address: usize): void {
  const self = virtioNet();
  self.mac = load<u32>(address);
  self.macEnd = load<u16>(address, 4);
}

/** Whether the state is one that commands and input can lead to. */
export function netStateValid(): bool {
  const self = virtioNet();
  if (self.linkDown > 1 || self.zero != 0) return false;
  // What FEATURES_OK leaves stays until a running driver asks for something else.
  const agreed = (virtio().status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  const ran = (virtio().status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  const offloads = agreed ? negotiatedOffloads() : 0;
  if (self.offloads & ~offloads) return false;
  if (self.offloads != offloads) {
    if (!ran || !negotiated(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)) return false;
  }
  if (self.announce != 0) {
    if (!ran || self.announce > 1 || !negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE)) return false;
  }
  if (self.queuePairs != 1) {
    if (!ran || !negotiated(VIRTIO_NET_F_MQ)) return false;
    if (self.queuePairs == 0 || self.queuePairs > netQueuePairsMax()) return false;
  }
  const configured = self.mac == load<u32>(CONFIG, NET_CONFIG_MAC) &&
    self.macEnd == load<u16>(CONFIG, NET_CONFIG_MAC + 4);
  if (configured) return true;
  return ran && negotiated(VIRTIO_NET_F_CTRL_MAC_ADDR) &&
    macValid(NET + offsetof<VirtioNet>("mac"));
}

/** Lays the configuration space out at CONFIG_SPACE; fields of features not offered stay 0. */
export function netFillConfigSpace(): void {
  const self = virtioNet();
  memory.fill(CONFIG_SPACE, 0, NET_CONFIG_SPACE_BYTES);
  store<u32>(CONFIG_SPACE, self.mac, CONFIG_MAC);
  store<u16>(CONFIG_SPACE, self.macEnd, CONFIG_MAC + 4);
  const link: u16 = self.linkDown ? 0 : VIRTIO_NET_S_LINK_UP;
  const announce: u16 = self.announce ? VIRTIO_NET_S_ANNOUNCE : 0;
  store<u16>(CONFIG_SPACE, link | announce, CONFIG_STATUS);
  if (netQueuePairsMax() > 1) {
    store<u16>(CONFIG_SPACE, <u16>netQueuePairsMax(), CONFIG_MAX_VIRTQUEUE_PAIRS);
  }
  store<u16>(CONFIG_SPACE, load<u16>(CONFIG, NET_CONFIG_MTU), CONFIG_MTU);
}

/** News of the host's side of the link, from the inbox: NET_INPUT_*. */
export function netInput(lengthBytes: u32): u32 {
  if (lengthBytes < <u32>NET_INPUT_BYTES) return answer(0);
  const self = virtioNet();
  const down: u8 = load<u8>(INBOX, NET_INPUT_LINK) ? 0 : 1;
  const announce: u8 = load<u8>(INBOX, NET_INPUT_ANNOUNCE) && virtioRunning() &&
    negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE) ? 1 : 0;
  const changed = down != self.linkDown || announce > self.announce;
  self.linkDown = down;
  self.announce |= announce;
  answer(NET_INPUT_BYTES);
  return changed ? virtioConfigChanged() : 0;
}
