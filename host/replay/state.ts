// A device's state region, field by field (the layout: assembly/layout.ts and the box at the head
// of each device's file). It runs anywhere, browsers included. The bytes may be any: what is no
// state of a device decodes to numbers without sense, and to no error.
import * as abi from '../../assembly/abi.ts';
import { INCIDENT_NAMES } from '../incident-names.ts';
import {
  bitNames,
  featureNames,
  INTERRUPT_NAMES,
  isVirtio,
  kindName,
  requestName,
  STATUS_NAMES,
} from './names.ts';

// From the start of the region.
const KIND = 0x40;
const CONFIG = 0x80;
const VIRTIO = 0x100;
const NET = abi.NET_STATE - abi.STATE;
const PORT_DEVICE = 0x200;
const QUEUES = 0x400;
const QUEUE_STRIDE = 64;
const IN_FLIGHT = 0x1000;
const IN_FLIGHT_STRIDE = 16;
const IN_FLIGHT_QUEUE_BYTES = 0x1000;
const FIFO_BYTES = 16;
const NET_F_CTRL_VQ = 1 << 17;
const NET_F_MQ = 1 << 22;
const CMOS_BYTES = 128;

/** A request that the host has. */
export interface HeadInFlight {
  head: number;
  kind: string;
  generation: number;
  payloadBytes: number; // what the host may have written at most
  // Guest-physical: of the status byte, or of a received frame's num_buffers; 0: there is none.
  statusAddress: bigint;
}

export interface QueueState {
  index: number;
  size: number;
  ready: boolean;
  descTable: bigint; // guest-physical, as the next two
  availRing: bigint;
  usedRing: bigint;
  availNext: number; // the next available index to take, free-running
  usedNext: number; // the next used index to write
  inFlight: HeadInFlight[];
  held?: number[]; // virtio-net: heads of the receive buffers in flight, the oldest first
}

/** What a network device and its driver agreed on (virtio 1.2 §5.1). */
export interface NetState {
  offloads: string[]; // what received frames may need
  queuePairs: number; // in use
  linkUp: boolean;
  announce: boolean; // the driver has not yet announced itself as asked
  mac: string;
}

/** The transport of a virtio device (virtio 1.2 §4.2). */
export interface VirtioState {
  status: string[];
  driverFeatures: string[];
  deviceFeaturesSel: number;
  driverFeaturesSel: number;
  featuresBeyond: boolean; // a feature past bit 63 was accepted
  queueSel: number;
  interruptStatus: string[];
  configGeneration: number;
  writeback: boolean; // virtio-blk: the write cache is on
  queues: QueueState[];
}

/** COM1, a 16550A (PC16550D data sheet, section 8). */
export interface SerialState {
  ier: number;
  lcr: number;
  mcr: number;
  scr: number;
  divisor: number;
  fcr: number;
  overrun: boolean;
  msrDelta: number;
  thrEmptyPending: boolean;
  interruptSource: number; // as IIR has it; 1: none
  receive: number[]; // bytes that wait for the guest, the oldest first
  transmit: number[]; // bytes that wait for the host
}

export interface RtcState {
  unixSeconds: bigint; // as the host last told
  index: number;
  registerA: number;
  registerB: number;
  cmos: number[];
}

export interface I8042State {
  control: number;
  data: number;
  full: boolean;
  pendingCommand: number; // 0: none
  lastWasCommand: boolean;
}

export interface DeviceState {
  kind: string;
  incidents: Record<string, number>; // those that happened
  virtio?: VirtioState;
  net?: NetState;
  serial?: SerialState;
  rtc?: RtcState;
  i8042?: I8042State;
}

function headsInFlight(view: DataView, queue: number): HeadInFlight[] {
  const heads: HeadInFlight[] = [];
  for (let head = 0; head < abi.QUEUE_SIZE_MAX; head++) {
    const at = IN_FLIGHT + queue * IN_FLIGHT_QUEUE_BYTES + head * IN_FLIGHT_STRIDE;
    const kind = view.getUint8(at + 14);
    if (kind === 0) continue;
    heads.push({
      head,
      kind: requestName(kind),
      generation: view.getUint16(at + 12, true),
      payloadBytes: view.getUint32(at + 8, true),
      statusAddress: view.getBigUint64(at, true),
    });
  }
  return heads;
}

function heldHeads(view: DataView, queue: number): number[] {
  const at = QUEUES + queue * QUEUE_STRIDE;
  const heads: number[] = [];
  let head = view.getUint16(at + 32, true);
  let left = Math.min(view.getUint16(at + 36, true), abi.QUEUE_SIZE_MAX);
  for (; left > 0 && head < abi.QUEUE_SIZE_MAX; left--) {
    heads.push(head);
    head = view.getUint8(IN_FLIGHT + queue * IN_FLIGHT_QUEUE_BYTES + head * IN_FLIGHT_STRIDE + 15);
  }
  return heads;
}

function queueState(view: DataView, index: number, kind: number): QueueState {
  const at = QUEUES + index * QUEUE_STRIDE;
  return {
    index,
    size: view.getUint16(at + 24, true),
    ready: view.getUint8(at + 30) !== 0,
    descTable: view.getBigUint64(at, true),
    availRing: view.getBigUint64(at + 8, true),
    usedRing: view.getBigUint64(at + 16, true),
    availNext: view.getUint16(at + 26, true),
    usedNext: view.getUint16(at + 28, true),
    inFlight: headsInFlight(view, index),
    ...(kind === abi.KIND_VIRTIO_NET ? { held: heldHeads(view, index) } : {}),
  };
}

/** As many as were agreed on, the control queue last (virtio 1.2 §5.1.2). */
function netQueueCount(view: DataView): number {
  const features = view.getUint32(VIRTIO, true);
  const pairs = view.getUint16(CONFIG + abi.NET_CONFIG_QUEUE_PAIRS, true);
  if (features & NET_F_MQ) return Math.min(2 * pairs + 1, abi.QUEUE_COUNT_MAX);
  return features & NET_F_CTRL_VQ ? 3 : 2;
}

function netState(view: DataView): NetState {
  const { NET_STATE_OFFLOADS, NET_STATE_QUEUE_PAIRS, NET_STATE_LINK_DOWN } = abi;
  const offloads = view.getBigUint64(NET + NET_STATE_OFFLOADS, true);
  const mac = Array.from({ length: 6 }, (_, at) => view.getUint8(NET + abi.NET_STATE_MAC + at));
  return {
    offloads: featureNames(abi.KIND_VIRTIO_NET, offloads),
    queuePairs: view.getUint16(NET + NET_STATE_QUEUE_PAIRS, true),
    linkUp: view.getUint8(NET + NET_STATE_LINK_DOWN) === 0,
    announce: view.getUint8(NET + abi.NET_STATE_ANNOUNCE) !== 0,
    mac: mac.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
  };
}

function queueCount(view: DataView, kind: number): number {
  if (kind === abi.KIND_VIRTIO_NET) return netQueueCount(view);
  if (kind !== abi.KIND_VIRTIO_BLK) return 1;
  return Math.min(view.getUint16(CONFIG + abi.BLK_CONFIG_QUEUE_COUNT, true), abi.QUEUE_COUNT_MAX);
}

function virtioState(view: DataView, kind: number): VirtioState {
  const u32 = (offset: number): number => view.getUint32(VIRTIO + offset, true);
  return {
    status: bitNames(u32(20), STATUS_NAMES),
    driverFeatures: featureNames(kind, view.getBigUint64(VIRTIO, true)),
    deviceFeaturesSel: u32(8),
    driverFeaturesSel: u32(12),
    featuresBeyond: u32(32) !== 0,
    queueSel: u32(16),
    interruptStatus: bitNames(u32(24), INTERRUPT_NAMES),
    configGeneration: u32(28),
    writeback: u32(36) !== 0,
    queues: Array.from({ length: queueCount(view, kind) }, (_, index) =>
      queueState(view, index, kind),
    ),
  };
}

function serialState(view: DataView): SerialState {
  const u8 = (offset: number): number => view.getUint8(PORT_DEVICE + offset);
  const fifo = (from: number, head: number, count: number): number[] =>
    Array.from({ length: Math.min(count, FIFO_BYTES) }, (_, i) => u8(from + ((head + i) % 16)));
  return {
    ier: u8(0),
    lcr: u8(1),
    mcr: u8(2),
    scr: u8(3),
    divisor: view.getUint16(PORT_DEVICE + 4, true),
    fcr: u8(6),
    overrun: u8(7) !== 0,
    msrDelta: u8(8),
    thrEmptyPending: u8(9) !== 0,
    interruptSource: u8(10),
    receive: fifo(16, u8(11), u8(12)),
    transmit: fifo(32, 0, u8(13)),
  };
}

function rtcState(view: DataView): RtcState {
  const u8 = (offset: number): number => view.getUint8(PORT_DEVICE + offset);
  return {
    unixSeconds: view.getBigUint64(PORT_DEVICE, true),
    index: u8(8),
    registerA: u8(9),
    registerB: u8(10),
    cmos: Array.from({ length: CMOS_BYTES }, (_, index) => u8(64 + index)),
  };
}

function i8042State(view: DataView): I8042State {
  const u8 = (offset: number): number => view.getUint8(PORT_DEVICE + offset);
  return {
    control: u8(0),
    data: u8(1),
    full: u8(2) !== 0,
    pendingCommand: u8(3),
    lastWasCommand: u8(4) !== 0,
  };
}

function incidentsOf(view: DataView): Record<string, number> {
  const counted = INCIDENT_NAMES.map((name, index) => [name, view.getUint32(index * 4, true)]);
  return Object.fromEntries(counted.filter(([, count]) => count !== 0));
}

/** Takes a state region of STATE_BYTES apart, as Cage.stateBytes() gives it. */
export function decodeState(state: Uint8Array): DeviceState {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  const kind = view.getUint32(KIND, true);
  const base = { kind: kindName(kind), incidents: incidentsOf(view) };
  if (isVirtio(kind)) {
    const net = kind === abi.KIND_VIRTIO_NET ? { net: netState(view) } : {};
    return { ...base, virtio: virtioState(view, kind), ...net };
  }
  if (kind === abi.KIND_SERIAL) return { ...base, serial: serialState(view) };
  if (kind === abi.KIND_RTC) return { ...base, rtc: rtcState(view) };
  if (kind === abi.KIND_I8042) return { ...base, i8042: i8042State(view) };
  return base;
}
