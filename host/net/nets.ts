// Opening the networks of a run, all or none, before Faraday's own process gives up its rights:
// what a cell is handed are descriptors, with nothing left to be asked of the host.
import { createHash } from 'node:crypto';
import { hostname } from 'node:os';
import { formatMac } from '../device-config.ts';
import { FaradayError } from '../errors.ts';
import type { Log } from '../log.ts';
import { MTU_MAX, MTU_MIN, type NetRequest } from '../net-config.ts';
import * as kernel from './ioctl.ts';
import { openMacvtap } from './macvtap.ts';
import { closeDescriptors, closeNets, type OpenNet } from './open-net.ts';
import { PASST_MTU, startPasst } from './passt.ts';
import { adoptTap, hostError, type OpenInterface, openTap, probeOffloads } from './tap.ts';
import { openVhost } from './vhost.ts';

const MTU_OF_ETHERNET = 1500; // what a guest assumes where it is told none

/**
 * The address of a guest that was given none: the same for this host, interface and network every
 * time, locally administered and no group's.
 */
export function macFor(name: string, id: string): string {
  const bytes = createHash('sha256')
    .update(`${hostname()}\0${name}\0${id}`)
    .digest()
    .subarray(0, 6);
  bytes[0] = (bytes[0] & 0xfc) | 2;
  return formatMac(bytes);
}

// --- The interface ------------------------------------------------------------------------------

/** Frames need the interface up. */
function ensureUp(name: string, log: Log): void {
  if (kernel.isUp(name)) return;
  try {
    kernel.bringUp(name);
  } catch (error) {
    const errno = kernel.errnoOf(error);
    log('warn', `interface ${name} is down (${errno}); as root, 'ip link set ${name} up'`);
  }
}

/** What the guest is told of its MTU. An interface that was just made takes what is wanted. */
function agreeMtu(name: string, wanted: number | undefined, isNew: boolean): number {
  if (isNew && wanted !== undefined) kernel.setInterfaceMtu(name, wanted);
  const own = kernel.interfaceMtu(name);
  if (wanted === undefined) {
    return own === MTU_OF_ETHERNET || own < MTU_MIN ? 0 : Math.min(own, MTU_MAX);
  }
  if (wanted <= own) return wanted;
  const fix = `use less, or as root 'ip link set ${name} mtu ${wanted}'`;
  throw new FaradayError(
    'bad-usage',
    `--net mtu '${wanted}' is more than ${name} has, ${own}; ${fix}`,
  );
}

/** A macvtap delivers what is sent to its own address. */
function macOf(request: NetRequest, name: string, isHere: boolean, log: Log): string {
  const { mac, id, backend } = request;
  if (backend !== 'macvtap' || !isHere) return mac ?? macFor(name, id);
  const own = kernel.interfaceMac(name);
  if (mac !== undefined && mac !== own) {
    log('warn', `mac=${mac} is not that of macvtap ${name}, ${own}: it may receive no frame`);
  }
  return mac ?? own;
}

function openInterface({ source, backend, queuePairs }: NetRequest, log: Log): OpenInterface {
  if ('fds' in source) return adoptTap(source.fds);
  if (!('tap' in source)) throw new FaradayError('internal', 'a network without an interface');
  if (backend === 'macvtap') return openMacvtap(source.tap, queuePairs);
  return openTap(source.tap, queuePairs, log);
}

// --- One network --------------------------------------------------------------------------------

/** passt ends by itself once nobody has its socket. */
function openPasst(request: NetRequest, log: Log): OpenNet {
  const { id, mac = macFor('passt', id), mtu = PASST_MTU } = request;
  const { fd } = startPasst({ ...request, mac, mtu }, log);
  return { request, name: 'passt', mac, mtu, offloads: 0n, fds: [fd], vhostFds: [] };
}

function openOne(request: NetRequest, log: Log): OpenNet {
  const { source, backend, queuePairs } = request;
  if (backend === 'user') return openPasst(request, log);
  const isNew = 'tap' in source && kernel.interfaceIndex(source.tap) === undefined;
  const vhostFds = backend === 'vhost-net' ? openVhost(queuePairs) : [];
  let fds: readonly number[] = [];
  try {
    const opened = openInterface(request, log);
    const { name } = opened;
    fds = opened.fds;
    const offloads = probeOffloads(fds[0]);
    // A descriptor may lead to an interface of another network namespace.
    const isHere = kernel.interfaceIndex(name) !== undefined;
    const mtu = isHere ? agreeMtu(name, request.mtu, isNew) : (request.mtu ?? 0);
    if (isHere) ensureUp(name, log);
    const mac = macOf(request, name, isHere, log);
    return { request, name, mac, mtu, offloads, fds, vhostFds };
  } catch (error) {
    closeDescriptors(request, fds, vhostFds);
    throw error;
  }
}

/** An errno that nobody had words for yet, with the network it is about. */
function explained(error: unknown, { id }: NetRequest): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (error instanceof FaradayError || code === undefined || syscall === undefined) return error;
  if (code === 'EMFILE' || code === 'ENFILE') return error; // main() says what to do
  return hostError(`network ${id} cannot be opened on this host (${syscall}: ${code})`);
}

// --- All of them --------------------------------------------------------------------------------

function checkOnce(open: readonly OpenNet[]): void {
  const names = open.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice === undefined) return;
  throw new FaradayError('bad-usage', `--net: ${twice} is given twice; attach each interface once`);
}

/** Opens all networks or none. Errors: FaradayError 'host' or 'bad-usage', one line each. */
export function openNets(requests: readonly NetRequest[], log: Log): OpenNet[] {
  const open: OpenNet[] = [];
  for (const request of requests) {
    try {
      open.push(openOne(request, log));
      checkOnce(open);
    } catch (error) {
      closeNets(open);
      throw explained(error, request);
    }
  }
  return open;
}
