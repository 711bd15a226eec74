// The whole conformance table, in the order of the specification.
import { BASIC } from './basic.ts';
import { BLOCK } from './block.ts';
import { ENTROPY } from './entropy.ts';
import { INITIALISATION } from './initialisation.ts';
import { MMIO } from './mmio.ts';
import { NETWORK } from './network.ts';
import { NETWORK_CONTROL } from './network-control.ts';
import { NETWORK_RECEIVE } from './network-receive.ts';
import { RESERVED_FEATURES } from './reserved-features.ts';
import { RING_NOTIFICATIONS } from './ring-notifications.ts';
import { AFTER_SPLIT_QUEUE, SPLIT_QUEUE } from './split-queue.ts';
import type { Chapter } from './statement.ts';

export const CHAPTERS: Chapter[] = [
  { title: '§2.1 to §2.5: status, features, reset, configuration space', sections: BASIC },
  {
    title: '§2.6 to §2.10: virtqueues',
    sections: [...SPLIT_QUEUE, ...RING_NOTIFICATIONS, ...AFTER_SPLIT_QUEUE],
  },
  { title: '§3: initialisation and cleanup', sections: INITIALISATION },
  { title: '§4.2: virtio over MMIO', sections: MMIO },
  {
    title: '§5.1: network device',
    sections: [...NETWORK, ...NETWORK_RECEIVE, ...NETWORK_CONTROL],
  },
  { title: '§5.2: block device', sections: BLOCK },
  { title: '§5.4: entropy device', sections: ENTROPY },
  { title: '§6: reserved feature bits', sections: RESERVED_FEATURES },
];
