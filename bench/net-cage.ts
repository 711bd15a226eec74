// What does a network device's cage cost? A frame of 1,514 bytes that the guest sends, in one
// descriptor and in an indirect table of two, one that it receives, and one of 64 KiB in 43
// mergeable buffers, each from the ring to the used ring: core.wasm in V8, the same as native code
// the way the cell has it (bench/net-cage-native.c), and plain C that does the same work
// (bench/net-cage-reference.c), all measured in the same call.
import {
  EFFECT_REQUEST,
  KIND_VIRTIO_NET,
  NET_HEADER_BYTES,
  TAG_GENERATION_MASK,
  TAG_GENERATION_SHIFT,
  TAG_QUEUE_SHIFT,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { encodeNetConfig } from '../host/device-config.ts';
import { Driver, F_EVENT_IDX, F_INDIRECT_DESC } from '../testing/driver.ts';
import { DATA, type DriverQueue, guestMemory } from '../testing/queue.ts';
import { compileCage, type Lines, NATIVE_OBJECTS, runInTurn } from './parts/cage.ts';
import { median, printLine, printRow, ratioOf } from './parts/samples.ts';

// The same as in bench/net-cage-workload.h.
const QUEUE_SIZE = 256;
const FRAME_BYTES = 1514;
const LARGE_BYTES = 65536;
const SENT = 128; // frames in a batch
const BUFFER_BYTES = 1536;
const BUFFERS = 215; // in a batch: five large frames
const LARGE_BUFFERS = 43;
const ROUNDS = 200; // batches in a sample
const SAMPLES = 31;
const INDIRECT = 0x30000;
const F_CSUM = 1n << 0n;
const F_HOST_TSO4 = 1n << 11n;
const F_MRG_RXBUF = 1n << 15n;
// A header as Linux has it on TCP: the checksum is left to the device (virtio 1.2, 5.1.6.2).
const HEADER = [1, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0];

const RUNS = 9; // of each C program
const WARM_UP_SAMPLES = 3; // until V8 has compiled everything for good

interface Nanoseconds {
  fetch: number;
  complete: number;
}

interface Load {
  id: string; // in the output of the C programs
  title: string;
  queue: 0 | 1; // receive, transmit
  chains: number; // in a batch
  frames: number;
  bytes: number; // to complete a frame with
  chain(queue: DriverQueue, index: number): number;
}

const now = () => Number(process.hrtime.bigint());
const place = (index: number) => DATA + index * BUFFER_BYTES;

const whole = (queue: DriverQueue, index: number) =>
  queue.chain([{ address: place(index), length: NET_HEADER_BYTES + FRAME_BYTES }]);

const inTwo = (queue: DriverQueue, index: number) => {
  const header = { address: place(index), length: NET_HEADER_BYTES };
  const frame = { address: place(index) + NET_HEADER_BYTES, length: FRAME_BYTES };
  return queue.indirectChain([header, frame], INDIRECT + index * 32);
};

const buffer = (queue: DriverQueue, index: number) =>
  queue.chain([{ address: place(index), length: BUFFER_BYTES, write: true }]);

const sending = { queue: 1, chains: SENT, frames: SENT, bytes: 0 } as const;
const receiving = { queue: 0, chains: BUFFERS, chain: buffer } as const;

const LOADS: Load[] = [
  { id: 'transmit-1', title: 'transmit, 1 descriptor', ...sending, chain: whole },
  { id: 'transmit-2', title: 'transmit, 2 descriptors', ...sending, chain: inTwo },
  {
    ...{ id: 'receive', title: 'receive, 1 buffer', ...receiving },
    ...{ frames: BUFFERS, bytes: NET_HEADER_BYTES + FRAME_BYTES },
  },
  {
    ...{ id: 'receive-large', title: 'receive, 43 buffers', ...receiving },
    ...{ frames: BUFFERS / LARGE_BUFFERS, bytes: NET_HEADER_BYTES + LARGE_BYTES },
  },
];

/** A running interface, and the chains of a batch in the memory of its guest. */
function setUp(load: Load): { cage: Cage; queue: DriverQueue; heads: number[] } {
  const memory = guestMemory();
  const offloads = F_CSUM | F_HOST_TSO4;
  const config = { mac: '02:00:00:00:00:01', queueSize: QUEUE_SIZE, offloads };
  const cage = new Cage(KIND_VIRTIO_NET, memory, encodeNetConfig(config));
  const driver = new Driver(cage, memory);
  const features = offloads | F_MRG_RXBUF | F_INDIRECT_DESC | F_EVENT_IDX;
  driver.bringUp({ queueCount: 2, queueSize: QUEUE_SIZE, features });
  const queue = driver.queues[load.queue]!;
  const heads = Array.from({ length: load.chains }, (_, index) => {
    for (const [at, byte] of HEADER.entries()) memory.view.setUint8(place(index) + at, byte);
    return load.chain(queue, index);
  });
  return { cage, queue, heads };
}

// As in bench/cage.ts, tags are predicted: each batch, from 1 on, is one more generation of every
// head. A wrong one would show as an incident.
function measureBatch(cage: Cage, load: Load, heads: number[], batch: number): Nanoseconds {
  const { queue, chains, bytes } = load;
  const step = chains / load.frames;
  const generation = (batch & TAG_GENERATION_MASK) << TAG_GENERATION_SHIFT;
  const start = now();
  let effects = cage.notify(queue);
  for (let index = 1; index < chains; index += 1) effects &= cage.next(queue);
  const drained = !(cage.next(queue) & EFFECT_REQUEST);
  const middle = now();
  for (let index = 0; index < chains; index += step) {
    cage.complete(generation | (queue << TAG_QUEUE_SHIFT) | heads[index]!, 0, bytes);
  }
  const complete = now() - middle;
  if (!(effects & EFFECT_REQUEST) || !drained) throw new Error(`${load.id}: not a whole batch`);
  return { fetch: middle - start, complete };
}

function measureV8(load: Load): Nanoseconds {
  const { cage, queue, heads } = setUp(load);
  const samples: Nanoseconds[] = [];
  let batch = 0;
  for (let sample = 0; sample < WARM_UP_SAMPLES + SAMPLES; sample += 1) {
    const sum = { fetch: 0, complete: 0 };
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const head of heads) queue.offer(head);
      batch += 1;
      const { fetch, complete } = measureBatch(cage, load, heads, batch);
      sum.fetch += fetch;
      sum.complete += complete;
    }
    if (sample >= WARM_UP_SAMPLES) samples.push(sum);
  }
  const incidents = Object.values(cage.counters()).reduce((total, count) => total + count, 0);
  if (incidents) throw new Error(`${incidents} incidents: something else was measured`);
  const usedIndex = queue.memory.view.getUint16(queue.usedRing + 2, true);
  if (usedIndex !== queue.availIndex) throw new Error(`${load.id}: chains are missing`);
  const of = (pick: (sample: Nanoseconds) => number) =>
    median(samples.map(pick)) / (load.frames * ROUNDS);
  return { fetch: of((each) => each.fetch), complete: of((each) => each.complete) };
}

/** A load's figures in each run of a C program. */
function figuresOf(runs: Lines[], { id }: Load): Nanoseconds[] {
  return runs.map((lines) => {
    const [, fetch, complete] = lines.find(([first]) => first === id)!.map(Number);
    return { fetch: fetch!, complete: complete! };
  });
}

const PARTS: [title: string, pick: (of: Nanoseconds) => number][] = [
  ['fetch', (of) => of.fetch],
  ['complete', (of) => of.complete],
  ['whole frame', (of) => of.fetch + of.complete],
];

/** Measures all three and prints one table. */
export function run(): void {
  const reference = compileCage('net-cage-reference', []);
  const native = compileCage('net-cage-native', NATIVE_OBJECTS);
  const [referenceRuns, nativeRuns] = runInTurn([reference, native], RUNS);
  printLine(`network cage: ns a frame, median of ${SAMPLES} samples of ${ROUNDS} batches`);
  printRow('', ['V8', 'native', 'C', 'native/C']);
  for (const load of LOADS) {
    const v8 = measureV8(load);
    const [ours, theirs] = [figuresOf(nativeRuns!, load), figuresOf(referenceRuns!, load)];
    for (const [title, pick] of PARTS) {
      const [own, other] = [ours.map(pick), theirs.map(pick)];
      const figures = [pick(v8), median(own), median(other)].map((value) => value.toFixed(1));
      printRow(`${load.title}: ${title}`, [...figures, ratioOf(own, other).toFixed(2)]);
    }
  }
}
