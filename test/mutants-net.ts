// Planted bugs of the network device, for test/mutants.ts: what a change made in a hurry could
// really do to frames, to commands, and to what outlives a reset or a restore.
import type { Mutant } from './mutants.ts';

type Row = readonly [id: string, bug: string, from: string, to: string];

const inFile = (file: string, target: string, ...rows: Row[]): Mutant[] =>
  rows.map(([id, bug, from, to]) => ({ id, bug, target, file: `assembly/${file}`, from, to }));

export const NET_MUTANTS: readonly Mutant[] = [
  // --- Received frames --------------------------------------------------------------------------
  ...inFile(
    'virtio-net-receive.ts',
    'net',
    [
      'rx-one-more',
      'without mergeable buffers a frame may fill two',
      '? queue.held : 1;',
      '? queue.held : 2;',
    ],
    [
      'rx-runs-on',
      'a frame takes every buffer there is',
      '} while (left != 0 && count < most);',
      '} while (count < most);',
    ],
    [
      'rx-number',
      'each frame says that it has one buffer',
      'store<u16>(HEADER, <u16>count);',
      'store<u16>(HEADER, 1);',
    ],
    [
      'rx-order',
      'a frame may begin in a buffer that is not the oldest',
      'if (head != queue.oldest || bytes < HEADER_BYTES) return',
      'if (bytes < HEADER_BYTES) return',
    ],
    [
      'rx-newest',
      'the next buffer follows one that was given back',
      '    if (queue.newest == head) queue.newest = <u16>before;\n',
      '',
    ],
    [
      'rx-cut',
      'a number of buffers that is cut is written in one piece',
      'return found.length - skip >= NUM_BUFFERS_BYTES ?',
      'return found.length > skip ?',
    ],
  ),
  ...inFile('virtq.ts', 'net', [
    'merged-event',
    'of buffers shown together only the last can interrupt',
    'usedEvent - 1) < count;',
    'usedEvent - 1) < 1;',
  ]),
  // --- Sent frames ------------------------------------------------------------------------------
  ...inFile(
    'virtio-net-frames.ts',
    'net',
    [
      'tx-number',
      'a field of the header that is not for the host reaches it',
      '  store<u16>(HEADER, 0, HEADER_NUM_BUFFERS);\n',
      '',
    ],
    [
      'tx-checksum',
      'a checksum may lie past the end of its frame',
      'checksum + CHECKSUM_BYTES > frameBytes',
      'checksum > frameBytes',
    ],
    [
      'tx-ecn',
      'ECN is left to the host though that was not agreed on',
      '  if (ecn && !negotiated(VIRTIO_NET_F_HOST_ECN)) return false;\n',
      '',
    ],
  ),
  // --- What is saved ----------------------------------------------------------------------------
  ...inFile('virtio-net.ts', 'state', [
    'net-unsaved',
    'what the driver asked for lies outside of the saved state',
    'return changetype<VirtioNet>(NET);',
    'return changetype<VirtioNet>(CONFIG_SPACE + 64);',
  ]),
  ...inFile('virtio-net-receive.ts', 'state', [
    'held-bound',
    'a state is loaded whose buffers lie past their queue',
    'if (head >= queue.size || entry.kind',
    'if (entry.kind',
  ]),
  // --- Commands ---------------------------------------------------------------------------------
  ...inFile(
    'virtio-net-control.ts',
    'net',
    [
      'ctrl-pairs',
      'a queue pair more than there is can be put in use',
      'pairs > netQueuePairsMax()',
      'pairs > netQueuePairsMax() + 1',
    ],
    [
      'ctrl-offloads',
      'offloads come in force that were not agreed on',
      '  if (offloads & ~negotiatedOffloads()) return false;\n',
      '',
    ],
    [
      'ctrl-answer',
      'the answer goes to the last byte of its buffer',
      'if (chainWrite(0, HEADER, 1))',
      'if (chainWrite(<u32>chain.writableBytes - 1, HEADER, 1))',
    ],
    [
      'ctrl-generation',
      'a new address leaves the configuration as old as it was',
      "  virtio().configGeneration++; // the driver's own change: no interrupt tells it of that\n",
      '',
    ],
  ),
  // --- Around them ------------------------------------------------------------------------------
  ...inFile(
    'virtio-net.ts',
    'net',
    [
      'pairs-reset',
      'the queue pairs in use outlive a reset',
      '  self.queuePairs = 1;\n',
      '  if (self.queuePairs == 0) self.queuePairs = 1;\n',
    ],
    [
      'link-reset',
      'a reset brings the link up',
      '  self.offloads = 0;\n',
      '  self.offloads = 0;\n  self.linkDown = 0;\n',
    ],
  ),
  ...inFile('virtio-net-frames.ts', 'net', [
    'rings-event',
    'the kernel is told of a used ring without its event index',
    'const used = RING_BYTES + USED_ELEMENT_BYTES * size;',
    'const used = RING_BYTES - 2 + USED_ELEMENT_BYTES * size;',
  ]),
  ...inFile('virtio-requests.ts', 'net', [
    'ask-twice',
    'who only looks at a queue of frames asks for its doorbell',
    'return drain(queueIndex, !deviceQueueIsOfFrames(queueIndex));',
    'return drain(queueIndex, true);',
  ]),
];
