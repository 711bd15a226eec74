// Opening a tap: an interface of the host by its name, made on the spot where it is absent and
// rights allow, or descriptors that whoever started Faraday has opened already.
import { closeSync, constants, openSync } from 'node:fs';
import { NET_OFFLOADS } from '../device-config.ts';
import { FaradayError } from '../errors.ts';
import type { Log } from '../log.ts';
import * as kernel from './ioctl.ts';

const TUN = '/dev/net/tun';
const HEADER_BYTES = 12; // struct virtio_net_hdr_v1, before each frame
export const TAP_FLAGS = kernel.IFF_TAP | kernel.IFF_NO_PI | kernel.IFF_VNET_HDR;

/** An interface of the host, with a descriptor for each queue pair. */
export interface OpenInterface {
  name: string;
  fds: readonly number[];
}

export const hostError = (message: string): FaradayError => new FaradayError('host', message);

// --- Descriptors --------------------------------------------------------------------------------

/** Opens a device without waiting for it; `explain` has words for an errno. */
export function openDevice(path: string, explain: (errno: string) => string | undefined): number {
  try {
    return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const message = explain(kernel.errnoOf(error));
    throw message === undefined ? error : hostError(message);
  }
}

function explainTun(errno: string): string | undefined {
  if (errno === 'ENOENT' || errno === 'ENODEV') {
    return `${TUN} does not exist; 'modprobe tun' brings it, or use --net-backend user`;
  }
  if (errno !== 'EACCES' && errno !== 'EPERM') return undefined;
  return `${TUN} may not be opened by this user; run as root, or use --net-backend user`;
}

/** Opens `count` descriptors and prepares each, all or none. */
export function openEach(
  count: number,
  open: () => number,
  prepare: (fd: number) => void,
): number[] {
  const fds: number[] = [];
  try {
    for (let i = 0; i < count; i++) {
      fds.push(open());
      prepare(fds[i]);
    }
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
  return fds;
}

/** Sets a descriptor up as the cell wants it: vnet header, nothing asked of the reader. */
export function prepareTap(fd: number): void {
  kernel.setVnetHeaderBytes(fd, HEADER_BYTES);
  kernel.setTunOffload(fd, 0);
}

// --- Offloads -----------------------------------------------------------------------------------

const { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO } = kernel;
const TUN_F_TSO = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const TUN_F_USO = kernel.TUN_F_USO4 | kernel.TUN_F_USO6;

/** What a reader of frames may be asked for, and whether this kernel knows it. */
const PROBES: readonly (readonly [bits: number, offloads: bigint])[] = [
  [TUN_F_CSUM, NET_OFFLOADS.GUEST_CSUM],
  [
    TUN_F_CSUM | TUN_F_TSO,
    NET_OFFLOADS.GUEST_TSO4 | NET_OFFLOADS.GUEST_TSO6 | NET_OFFLOADS.GUEST_ECN,
  ],
  [TUN_F_CSUM | TUN_F_UFO, NET_OFFLOADS.GUEST_UFO],
  // Segments of UDP are known both ways or not at all (Linux 6.2).
  [
    TUN_F_CSUM | TUN_F_TSO | TUN_F_USO,
    NET_OFFLOADS.GUEST_USO4 | NET_OFFLOADS.GUEST_USO6 | NET_OFFLOADS.HOST_USO,
  ],
];

/** Every kernel with vnet headers takes these from a writer. */
const HOST_OFFLOADS =
  NET_OFFLOADS.CSUM |
  NET_OFFLOADS.HOST_TSO4 |
  NET_OFFLOADS.HOST_TSO6 |
  NET_OFFLOADS.HOST_ECN |
  NET_OFFLOADS.HOST_UFO;

/** The offloads that a tap can do; none is set after. */
export function probeOffloads(fd: number): bigint {
  let offloads = HOST_OFFLOADS;
  for (const [bits, names] of PROBES) {
    try {
      kernel.setTunOffload(fd, bits);
      offloads |= names;
    } catch (error) {
      if (kernel.errnoOf(error) !== 'EINVAL') throw error;
    }
  }
  kernel.setTunOffload(fd, 0);
  return offloads;
}

// --- By name ------------------------------------------------------------------------------------

function explainTap(name: string, exists: boolean, errno: string): FaradayError | undefined {
  const tap = `--net tap '${name}'`;
  const made = `as root, 'faraday net up ${name}`;
  switch (errno) {
    case 'EPERM':
      if (exists) return hostError(`${tap} is another user's; ${made} --user USER' makes your own`);
      return hostError(`${tap} does not exist, and this user may not make it; ${made}' does`);
    case 'EBUSY':
      return hostError(`${tap} is held by another process; stop that, or name another tap`);
    case 'EINVAL':
      return hostError(`${tap} is an interface, but no tap; 'faraday net up NAME' makes one`);
    case 'E2BIG':
      return new FaradayError('bad-usage', `${tap} has no queue left; use fewer queues=`);
    default:
      return undefined;
  }
}

/** Ties a descriptor to the tap; the errno name of a failure, else ''. */
function attach(fd: number, name: string, flags: number): string {
  try {
    kernel.setTunInterface(fd, name, TAP_FLAGS | flags);
    return '';
  } catch (error) {
    return kernel.errnoOf(error);
  }
}

/**
 * Ties a descriptor to the tap, which wants to hear whether it has several queues: for one queue
 * both kinds will do. Returns the flag that fitted.
 */
function attachFirst(fd: number, name: string, queues: number, exists: boolean): number {
  const wanted = queues > 1 ? kernel.IFF_MULTI_QUEUE : 0;
  const other = kernel.IFF_MULTI_QUEUE - wanted;
  const errno = attach(fd, name, wanted);
  if (errno === '') return wanted;
  const second = errno === 'EINVAL' && exists ? attach(fd, name, other) : errno;
  if (second === '' && queues === 1) return other;
  if (second === '') {
    const fix = `leave queues= out, or make the tap with 'ip tuntap add ... multi_queue'`;
    throw new FaradayError('bad-usage', `--net tap '${name}' has one queue, not ${queues}; ${fix}`);
  }
  throw explainTap(name, exists, second) ?? hostError(`--net tap '${name}': TUNSETIFF: ${second}`);
}

/** Opens the tap of this name once for each queue, all or none; makes it where it is absent. */
export function openTap(name: string, queues: number, log: Log): OpenInterface {
  const exists = kernel.interfaceIndex(name) !== undefined;
  let flags: number | undefined;
  const prepare = (fd: number): void => {
    if (flags === undefined) flags = attachFirst(fd, name, queues, exists);
    else {
      const errno = attach(fd, name, flags);
      if (errno) throw explainTap(name, exists, errno) ?? hostError(`tap '${name}': ${errno}`);
    }
    prepareTap(fd);
  };
  const fds = openEach(queues, () => openDevice(TUN, explainTun), prepare);
  if (!exists) log('info', `made tap ${name}, which goes with the guest`);
  return { name, fds };
}

// --- By descriptor ------------------------------------------------------------------------------

function tapOf(fd: number): string {
  const refused = (finding: string): FaradayError => hostError(`--net fd '${fd}' ${finding}`);
  let found: { name: string; flags: number };
  try {
    found = kernel.tunInterface(fd);
  } catch (error) {
    const errno = kernel.errnoOf(error);
    if (errno === 'EBADF') throw refused('is not open; pass it on to Faraday');
    throw refused(`is no tap with an interface (${errno}); open /dev/net/tun and TUNSETIFF`);
  }
  const { name, flags } = found;
  if ((flags & kernel.IFF_TAP) === 0) throw refused(`is a tun (${name}), no tap; use IFF_TAP`);
  // Whether IFF_NO_PI is set cannot be seen: the kernel says "no filter" with the same bit.
  if ((flags & kernel.IFF_VNET_HDR) !== 0) return name;
  throw refused(`is a tap (${name}) without IFF_VNET_HDR; set that with TUNSETIFF`);
}

/** Takes descriptors that are open already. */
export function adoptTap(fds: readonly number[]): OpenInterface {
  const names = fds.map(tapOf);
  const stranger = names.find((name) => name !== names[0]);
  if (stranger !== undefined) {
    throw hostError(`--net fd '${fds.join(':')}' is of two taps, ${names[0]} and ${stranger}`);
  }
  for (const fd of fds) {
    kernel.setCloseOnExec(fd); // the cell gets a copy, nobody else
    kernel.setNonBlocking(fd);
    prepareTap(fd);
  }
  return { name: names[0], fds };
}
