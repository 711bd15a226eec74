// Why edges of the core that no test and no program of the corpus reaches cannot be reached. Each
// reason accounts for an exact number of edges: more of them, or fewer, and test/coverage.test.ts
// fails, so that no reason outlives what it explains.
import type { MeasuredEdge } from './measure.ts';

export interface Reason {
  function: string; // as the core's text names it, with all that the compiler inlined into it
  file: string; // of assembly/
  source: string; // a part of the line that the edges belong to
  edges: number;
  why: string;
}

const NARROW = 'the width was found to be right, and less than 8, before the register was missed';

const ALL_ONES = { file: 'assembly/registers.ts', source: 'width >= 8 ? u64.MAX_VALUE' };

export const REASONS: readonly Reason[] = [
  { ...ALL_ONES, function: 'assembly/virtio-mmio/virtioMmioRead', edges: 1, why: NARROW },
  { ...ALL_ONES, function: 'assembly/virtio-mmio/readConfig', edges: 1, why: NARROW },
  { ...ALL_ONES, function: 'assembly/serial/serialRead', edges: 1, why: NARROW },
  { ...ALL_ONES, function: 'assembly/index/read', edges: 4, why: NARROW },
  {
    function: 'assembly/serial/serialWrite',
    file: 'assembly/serial.ts',
    source: 'return UART_IIR_THRI',
    edges: 2,
    why: 'a byte written to the wire took this source back just before (8.5)',
  },
  {
    function: 'assembly/check/headsValid',
    file: 'assembly/virtio-device.ts',
    source: 'kind >= <u32>REQUEST_KIND_BLK_IN',
    edges: 1,
    why: 'a free head, whose kind is 0, was passed over before, and no kind is less than 1',
  },
  {
    function: 'assembly/virtio-requests/requestsComplete',
    file: 'assembly/virtio.ts',
    source: '== KIND_VIRTIO_NET ? EFFECT_SETUP',
    edges: 1,
    why: 'a used ring breaks here under a received frame, which only a network device has',
  },
];

export function accountsFor(reason: Reason, edge: MeasuredEdge): boolean {
  return (
    edge.function === reason.function &&
    edge.place.file === reason.file &&
    edge.source.includes(reason.source)
  );
}
