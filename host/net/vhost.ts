// Opening vhost-net: the kernel serves the rings of a tap, one descriptor for each queue pair.
import { vhostFeatures } from './ioctl.ts';
import { hostError, openDevice, openEach } from './tap.ts';

const DEVICE = '/dev/vhost-net';

/** Features (virtio 1.2 §5.1.3, §6) that a guest is offered whoever serves its queues. */
const REQUIRED: readonly (readonly [bit: bigint, name: string])[] = [
  [15n, 'VIRTIO_NET_F_MRG_RXBUF'],
  [28n, 'VIRTIO_F_INDIRECT_DESC'],
  [29n, 'VIRTIO_F_EVENT_IDX'],
  [32n, 'VIRTIO_F_VERSION_1'],
];

function explain(errno: string): string | undefined {
  if (errno === 'ENOENT' || errno === 'ENODEV') {
    return `${DEVICE} does not exist; 'modprobe vhost_net' brings it, or use --net-backend tap`;
  }
  if (errno !== 'EACCES' && errno !== 'EPERM') return undefined;
  return `${DEVICE} may not be opened by this user; run as root, or use --net-backend tap`;
}

/** The required features that these bits lack. */
export function missingFeatures(bits: bigint): string[] {
  return REQUIRED.filter(([bit]) => (bits & (1n << bit)) === 0n).map(([, name]) => name);
}

/** Opens it `count` times or not at all. Throws FaradayError('host'). */
export function openVhost(count: number): number[] {
  const check = (fd: number): void => {
    const missing = missingFeatures(vhostFeatures(fd));
    if (missing.length === 0) return;
    throw hostError(`${DEVICE} lacks ${missing.join(', ')}; use --net-backend tap`);
  };
  return openEach(count, () => openDevice(DEVICE, explain), check);
}
