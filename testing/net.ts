// Frames and control commands as a network driver lays them out in guest memory. Virtio 1.2 §5.1.
import type { GuestMemory } from '../host/guest-memory.ts';
import type { GuestBuffer } from './queue.ts';

/** The first guest-physical address that none of the 17 queues of a network device uses. */
export const NET_DATA = 0x60000;

/** Feature bits of a network device (§5.1.3): VIRTIO_NET_F_*. */
export const NET_F_CSUM = 1n << 0n;
export const NET_F_GUEST_CSUM = 1n << 1n;
export const NET_F_CTRL_GUEST_OFFLOADS = 1n << 2n;
export const NET_F_MTU = 1n << 3n;
export const NET_F_MAC = 1n << 5n;
export const NET_F_GUEST_TSO4 = 1n << 7n;
export const NET_F_GUEST_TSO6 = 1n << 8n;
export const NET_F_GUEST_ECN = 1n << 9n;
export const NET_F_GUEST_UFO = 1n << 10n;
export const NET_F_HOST_TSO4 = 1n << 11n;
export const NET_F_HOST_TSO6 = 1n << 12n;
export const NET_F_HOST_ECN = 1n << 13n;
export const NET_F_HOST_UFO = 1n << 14n;
export const NET_F_MRG_RXBUF = 1n << 15n;
export const NET_F_STATUS = 1n << 16n;
export const NET_F_CTRL_VQ = 1n << 17n;
export const NET_F_CTRL_RX = 1n << 18n;
export const NET_F_CTRL_VLAN = 1n << 19n;
export const NET_F_CTRL_RX_EXTRA = 1n << 20n;
export const NET_F_GUEST_ANNOUNCE = 1n << 21n;
export const NET_F_MQ = 1n << 22n;
export const NET_F_CTRL_MAC_ADDR = 1n << 23n;
export const NET_F_GUEST_USO4 = 1n << 54n;
export const NET_F_GUEST_USO6 = 1n << 55n;
export const NET_F_HOST_USO = 1n << 56n;

/** Offsets in the configuration space (§5.1.4): 6 bytes, then u16 each. */
export const NET_SPACE_MAC = 0;
export const NET_SPACE_STATUS = 6;
export const NET_SPACE_MAX_VIRTQUEUE_PAIRS = 8;
export const NET_SPACE_MTU = 10;

/** Bits of the status there: VIRTIO_NET_S_*. */
export const NET_S_LINK_UP = 1;
export const NET_S_ANNOUNCE = 2;

/** Flags and segmentation types of a frame's header (§5.1.6): VIRTIO_NET_HDR_*. */
export const NET_HDR_F_NEEDS_CSUM = 1;
export const NET_HDR_F_DATA_VALID = 2;
export const NET_HDR_GSO_NONE = 0;
export const NET_HDR_GSO_TCPV4 = 1;
export const NET_HDR_GSO_UDP = 3;
export const NET_HDR_GSO_TCPV6 = 4;
export const NET_HDR_GSO_UDP_L4 = 5;
export const NET_HDR_GSO_ECN = 0x80;

/** Classes and commands of the control queue (§5.1.6.5): VIRTIO_NET_CTRL_*, [class, command]. */
export const NET_CTRL_RX_PROMISC = [0, 0] as const;
export const NET_CTRL_RX_ALLMULTI = [0, 1] as const;
export const NET_CTRL_RX_ALLUNI = [0, 2] as const;
export const NET_CTRL_RX_NOBCAST = [0, 5] as const;
export const NET_CTRL_MAC_TABLE_SET = [1, 0] as const;
export const NET_CTRL_MAC_ADDR_SET = [1, 1] as const;
export const NET_CTRL_VLAN_ADD = [2, 0] as const;
export const NET_CTRL_VLAN_DEL = [2, 1] as const;
export const NET_CTRL_ANNOUNCE_ACK = [3, 0] as const;
export const NET_CTRL_MQ_VQ_PAIRS_SET = [4, 0] as const;
export const NET_CTRL_GUEST_OFFLOADS_SET = [5, 0] as const;

/** What the device answers to a command: VIRTIO_NET_*. */
export const NET_OK = 0;
export const NET_ERR = 1;
/** What netAck() puts there: no device answers it. */
export const ACK_UNTOUCHED = 0xa5;

/** The fields of struct virtio_net_hdr, which stands before every frame; 0 by default. */
export interface NetHeader {
  /** NET_HDR_F_*. */
  flags?: number;
  /** NET_HDR_GSO_*. */
  gsoType?: number;
  /** Bytes of all headers of the frame, a hint. */
  hdrLen?: number;
  /** Bytes of payload in a segment. */
  gsoSize?: number;
  /** Bytes from the frame's start to what the checksum covers. */
  csumStart?: number;
  /** Bytes from there to the checksum. */
  csumOffset?: number;
  /** Receive buffers that the frame takes; the driver leaves it 0. */
  numBuffers?: number;
}

/** The 12 bytes of a header. */
export function netHeaderBytes(header: NetHeader = {}): Uint8Array {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(0, header.flags ?? 0);
  view.setUint8(1, header.gsoType ?? 0);
  view.setUint16(2, header.hdrLen ?? 0, true);
  view.setUint16(4, header.gsoSize ?? 0, true);
  view.setUint16(6, header.csumStart ?? 0, true);
  view.setUint16(8, header.csumOffset ?? 0, true);
  view.setUint16(10, header.numBuffers ?? 0, true);
  return new Uint8Array(view.buffer);
}

/** Takes the first 12 of these bytes apart. */
export function parseNetHeader(bytes: Uint8Array): Required<NetHeader> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 12);
  return {
    flags: view.getUint8(0),
    gsoType: view.getUint8(1),
    hdrLen: view.getUint16(2, true),
    gsoSize: view.getUint16(4, true),
    csumStart: view.getUint16(6, true),
    csumOffset: view.getUint16(8, true),
    numBuffers: view.getUint16(10, true),
  };
}

function write(memory: GuestMemory, address: number, bytes: Uint8Array): GuestBuffer {
  for (const [at, byte] of bytes.entries()) memory.view.setUint8(address + at, byte);
  return { address, length: bytes.length };
}

/** Writes a header at `address`: the first part of a transmit chain. */
export function netHeader(
  memory: GuestMemory,
  address: number,
  header: NetHeader = {},
): GuestBuffer {
  return write(memory, address, netHeaderBytes(header));
}

/** Writes a frame at `address`, header and all that the caller made of it. */
export function netFrame(memory: GuestMemory, address: number, bytes: Uint8Array): GuestBuffer {
  return write(memory, address, bytes);
}

/** Writes a control command at `address`: class, command, data. */
export function netCommand(
  memory: GuestMemory,
  address: number,
  command: readonly [number, number],
  data: Uint8Array | readonly number[] = [],
): GuestBuffer {
  return write(memory, address, Uint8Array.from([...command, ...data]));
}

/** A command's answer at `address`, a byte that the device has not yet written. */
export function netAck(memory: GuestMemory, address: number): GuestBuffer {
  memory.view.setUint8(address, ACK_UNTOUCHED);
  return { address, length: 1, write: true };
}
