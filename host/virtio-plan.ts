// What each virtio device of a machine is to the core: its kind, its queues, its configuration.
import { KIND_VIRTIO_BLK, KIND_VIRTIO_NET, KIND_VIRTIO_RNG } from '../assembly/abi.ts';
import type { VirtioDevice } from './boot/image.ts';
import { encodeBlkConfig, encodeNetConfig, encodeRngConfig } from './device-config.ts';

export interface VirtioPlan {
  name: string; // in a report; its prefix keeps an id apart from the names of other devices
  kind: number; // KIND_VIRTIO_*
  queueCount: number;
  config: Uint8Array; // as the core's init() takes it
}

export function virtioPlan(device: VirtioDevice): VirtioPlan {
  switch (device.kind) {
    case 'virtio-blk': {
      const { id, queueCount } = device;
      const config = encodeBlkConfig(device);
      return { name: `disk:${id}`, kind: KIND_VIRTIO_BLK, queueCount, config };
    }
    case 'virtio-net': {
      const { id, queuePairs, macFilter, vhostFds } = device;
      const queueCount = 2 * queuePairs + 1; // the last one is the control queue
      const vhost = vhostFds.length > 0;
      const config = encodeNetConfig({ ...device, vhost, fixedMac: macFilter });
      return { name: `net:${id}`, kind: KIND_VIRTIO_NET, queueCount, config };
    }
    case 'virtio-rng':
      return {
        name: 'virtio-rng',
        kind: KIND_VIRTIO_RNG,
        queueCount: 1,
        config: encodeRngConfig(),
      };
  }
}
