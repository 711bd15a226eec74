// Requests to tun, vhost-net and interfaces (linux/if_tun.h, vhost.h, sockios.h, if.h), with their
// structures laid out here: the only caller of shim().ioctl.
import { formatMac } from '../device-config.ts';
import { IOCTL_SOCKET, type NativeError, shim } from '../shim.ts';

// --- Requests -----------------------------------------------------------------------------------

const TUNSETIFF = 0x4004_54ca;
const TUNGETIFF = 0x8004_54d2;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETVNETHDRSZ = 0x4004_54d8;
const VHOST_GET_FEATURES = 0x8008_af00;
const FIONBIO = 0x5421;
const FIOCLEX = 0x5451;

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFMTU = 0x8921;
const SIOCSIFMTU = 0x8922;
const SIOCGIFHWADDR = 0x8927;
const SIOCGIFINDEX = 0x8933;

// --- Flags --------------------------------------------------------------------------------------

export const IFF_UP = 0x0001; // of an interface
export const IFF_TAP = 0x0002; // of a tap's descriptor, from here on
export const IFF_MULTI_QUEUE = 0x0100;
export const IFF_NO_PI = 0x1000;
export const IFF_VNET_HDR = 0x4000;

export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_TSO_ECN = 0x08;
export const TUN_F_UFO = 0x10;
export const TUN_F_USO4 = 0x20;
export const TUN_F_USO6 = 0x40;

// --- struct ifreq -------------------------------------------------------------------------------

const IFREQ_BYTES = 40;
const IFREQ_NAME_BYTES = 16;
const IFREQ_VALUE = 16; // short flags, int ifindex and mtu
const IFREQ_ADDRESS = 18; // behind the family of a struct sockaddr
const MAC_BYTES = 6;

function ifreq(name: string): DataView {
  const bytes = new Uint8Array(IFREQ_BYTES);
  bytes.set(Buffer.from(name, 'latin1').subarray(0, IFREQ_NAME_BYTES - 1));
  return new DataView(bytes.buffer);
}

const bytesOf = (view: DataView): Uint8Array => new Uint8Array(view.buffer);

/** The errno name of a call into the kernel that failed; anything else is thrown again. */
export function errnoOf(error: unknown): string {
  const { code, syscall } = error as NativeError;
  if (typeof code !== 'string' || typeof syscall !== 'string') throw error;
  return code;
}

// --- Interfaces ---------------------------------------------------------------------------------

function ask(request: number, name: string): DataView {
  const view = ifreq(name);
  shim().ioctl(IOCTL_SOCKET, request, bytesOf(view));
  return view;
}

/** The number of an interface; undefined where there is none of this name. */
export function interfaceIndex(name: string): number | undefined {
  try {
    return ask(SIOCGIFINDEX, name).getInt32(IFREQ_VALUE, true);
  } catch (error) {
    if (errnoOf(error) === 'ENODEV') return undefined;
    throw error;
  }
}

/** Bytes. */
export function interfaceMtu(name: string): number {
  return ask(SIOCGIFMTU, name).getInt32(IFREQ_VALUE, true);
}

/** EPERM: no rights; EINVAL: not for this interface. */
export function setInterfaceMtu(name: string, mtu: number): void {
  const view = ifreq(name);
  view.setInt32(IFREQ_VALUE, mtu, true);
  shim().ioctl(IOCTL_SOCKET, SIOCSIFMTU, bytesOf(view));
}

/** 'aa:bb:cc:dd:ee:ff'. */
export function interfaceMac(name: string): string {
  const bytes = bytesOf(ask(SIOCGIFHWADDR, name));
  return formatMac(bytes.subarray(IFREQ_ADDRESS, IFREQ_ADDRESS + MAC_BYTES));
}

export function isUp(name: string): boolean {
  return (ask(SIOCGIFFLAGS, name).getUint16(IFREQ_VALUE, true) & IFF_UP) !== 0;
}

/** EPERM: no rights. */
export function bringUp(name: string): void {
  const view = ask(SIOCGIFFLAGS, name);
  view.setUint16(IFREQ_VALUE, view.getUint16(IFREQ_VALUE, true) | IFF_UP, true);
  shim().ioctl(IOCTL_SOCKET, SIOCSIFFLAGS, bytesOf(view));
}

// --- Descriptors --------------------------------------------------------------------------------

function int(value: number): Uint8Array {
  return new Uint8Array(Int32Array.of(value).buffer);
}

/** Ties an open /dev/net/tun to the interface of this name, and makes that where it is absent. */
export function setTunInterface(fd: number, name: string, flags: number): void {
  const view = ifreq(name);
  view.setUint16(IFREQ_VALUE, flags, true);
  shim().ioctl(fd, TUNSETIFF, bytesOf(view));
}

/** What a descriptor of a tap or macvtap is tied to. Throws ENOTTY, EBADFD or EBADF. */
export function tunInterface(fd: number): { name: string; flags: number } {
  const view = ifreq('');
  shim().ioctl(fd, TUNGETIFF, bytesOf(view));
  const name = Buffer.from(view.buffer, 0, IFREQ_NAME_BYTES)
    .toString('latin1')
    .replace(/\0.*/s, '');
  return { name, flags: view.getUint16(IFREQ_VALUE, true) };
}

/** TUN_F_*: what frames that are read may ask of their reader. EINVAL: not known here. */
export function setTunOffload(fd: number, bits: number): void {
  shim().ioctl(fd, TUNSETOFFLOAD, bits);
}

/** The length of the header before each frame, in bytes. */
export function setVnetHeaderBytes(fd: number, lengthBytes: number): void {
  shim().ioctl(fd, TUNSETVNETHDRSZ, int(lengthBytes));
}

export function setNonBlocking(fd: number): void {
  shim().ioctl(fd, FIONBIO, int(1));
}

export function setCloseOnExec(fd: number): void {
  shim().ioctl(fd, FIOCLEX, 0);
}

/** Bits of VIRTIO_F_*, VIRTIO_NET_F_* and VHOST_* that the kernel's device does. */
export function vhostFeatures(fd: number): bigint {
  const bytes = new Uint8Array(8);
  shim().ioctl(fd, VHOST_GET_FEATURES, bytes);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}
