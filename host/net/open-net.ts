// A network that is open: what a machine gets of it, and how it is closed.
import { closeSync } from 'node:fs';
import type { NetDevice, VirtioSlot } from '../boot/image.ts';
import type { NetRequest } from '../net-config.ts';

const QUEUE_SIZE = 256;

/** A network with everything of the host that serves it. */
export interface OpenNet {
  request: NetRequest;
  name: string; // of the interface; 'passt'
  mac: string;
  mtu: number; // bytes; 0: the guest is told none
  offloads: bigint; // NET_OFFLOADS
  fds: readonly number[];
  vhostFds: readonly number[];
}

/** Closes what was opened here: inherited descriptors are somebody else's. */
export function closeDescriptors(
  { source }: NetRequest,
  fds: readonly number[],
  vhostFds: readonly number[],
): void {
  for (const fd of [...('fds' in source ? [] : fds), ...vhostFds]) closeSync(fd);
}

/** Closes the descriptors of this process; a guest that was left running keeps its own. */
export function closeNets(nets: readonly OpenNet[]): void {
  for (const { request, fds, vhostFds } of nets) closeDescriptors(request, fds, vhostFds);
}

/** The device that a machine gets of it. */
export function toNetDevice(slot: VirtioSlot, open: OpenNet): NetDevice {
  const { request, ...device } = open;
  const { id, queuePairs, queueSize = QUEUE_SIZE, macFilter, rx, tx } = request;
  const settings = { id, queuePairs, queueSize, macFilter, rx, tx };
  return { kind: 'virtio-net', slot, ...device, ...settings, stream: request.backend === 'user' };
}
