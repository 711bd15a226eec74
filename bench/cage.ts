// What does a cage cost? A register read, a queue notification with the parse of a three-descriptor
// block request, and its completion: core.wasm in V8, the same as native code the way the cell has
// it (bench/cage-native.c), and plain C that does the same work (bench/cage-reference.c), all
// measured in the same call.
import { EFFECT_REQUEST, TAG_GENERATION_MASK, TAG_GENERATION_SHIFT } from '../assembly/abi.ts';
import { blkDevice, type Fixture } from '../test/fixtures.ts';
import { BLK_T_IN, blkHeader, blkStatus } from '../testing/block.ts';
import { REG, RUNNING } from '../testing/driver.ts';
import { DATA, type DriverQueue } from '../testing/queue.ts';
import { compileCage, type Lines, NATIVE_OBJECTS, runInTurn } from './parts/cage.ts';
import { median, printLine, printRow, ratioOf } from './parts/samples.ts';

const QUEUE_SIZE = 256;
const BLOCK = 4096;
const BATCH = 80; // requests of three descriptors in one queue, as in the reference
const ROUNDS = 400; // batches in a sample
const SAMPLES = 31;
const RUNS = 9; // of each C program
const WARM_UP_SAMPLES = 3; // until V8 has compiled everything for good

interface Nanoseconds {
  read: number;
  parse: number;
  complete: number;
}

const now = () => Number(process.hrtime.bigint());

/** A running disk whose descriptor table holds BATCH requests, and their heads. */
function setUp(): { device: Fixture; queue: DriverQueue; heads: number[] } {
  const device = blkDevice();
  const queue = device.driver.bringUp({ queueSize: QUEUE_SIZE });
  const heads = [...Array(BATCH).keys()].map((index) => {
    const header = blkHeader(device.memory, DATA + index * 64, BLK_T_IN, BigInt(index));
    const data = { address: DATA + 0x10000 + index * BLOCK, length: BLOCK, write: true };
    return queue.chain([header, data, blkStatus(device.memory, DATA + index * 64 + 32)]);
  });
  return { device, queue, heads };
}

function measureReads({ cage }: Fixture): number {
  let sum = 0;
  const start = now();
  for (let count = 0; count < BATCH * ROUNDS; count += 1) {
    cage.read(REG.Status, 4);
    sum += cage.value();
  }
  const elapsed = now() - start;
  if (sum !== RUNNING * BATCH * ROUNDS) throw new Error(`status reads summed up to ${sum}`);
  return elapsed / (BATCH * ROUNDS);
}

// Copying the record out is the host's work and not measured, so tags are predicted: each batch is
// one more generation of every head. A wrong one would show as an incident.
function measureRequests(
  { cage }: Fixture,
  queue: DriverQueue,
  heads: number[],
  sample: number,
): [number, number] {
  let parsing = 0;
  let completing = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const head of heads) queue.offer(head);
    const start = now();
    for (let index = 0; index < BATCH; index += 1) {
      if (!(cage.notify(0) & EFFECT_REQUEST)) throw new Error('a request was not parsed');
    }
    const middle = now();
    const generation = (sample * ROUNDS + round + 1) & TAG_GENERATION_MASK;
    const tag = generation << TAG_GENERATION_SHIFT;
    for (let index = 0; index < BATCH; index += 1) cage.complete(tag | heads[index], 0, BLOCK);
    completing += now() - middle;
    parsing += middle - start;
  }
  return [parsing / (BATCH * ROUNDS), completing / (BATCH * ROUNDS)];
}

function measureCage(): Nanoseconds {
  const { device, queue, heads } = setUp();
  const samples: Nanoseconds[] = [];
  for (let sample = 0; sample < WARM_UP_SAMPLES + SAMPLES; sample += 1) {
    const read = measureReads(device);
    const [parse, complete] = measureRequests(device, queue, heads, sample);
    if (sample >= WARM_UP_SAMPLES) samples.push({ read, parse, complete });
  }
  const incidents = Object.values(device.cage.counters()).reduce((sum, count) => sum + count, 0);
  if (incidents) throw new Error(`${incidents} incidents: something else was measured`);
  const of = (pick: (sample: Nanoseconds) => number) => median(samples.map(pick));
  return { read: of((s) => s.read), parse: of((s) => s.parse), complete: of((s) => s.complete) };
}

/** The three numbers of each run of a C program. */
function figuresOf(runs: Lines[]): Nanoseconds[] {
  return runs.map(([line]) => {
    const [read, parse, complete] = line!.map(Number);
    return { read: read!, parse: parse!, complete: complete! };
  });
}

const ROWS: [name: string, pick: (of: Nanoseconds) => number][] = [
  ['register read', (of) => of.read],
  ['notify and parse', (of) => of.parse],
  ['completion', (of) => of.complete],
  ['whole request', (of) => of.parse + of.complete],
];

/** Measures all three and prints one table. */
export function run(): void {
  const reference = compileCage('cage-reference', []);
  const native = compileCage('cage-native', NATIVE_OBJECTS);
  const [theirs, ours] = runInTurn([reference, native], RUNS).map(figuresOf);
  const v8 = measureCage();
  printLine(`cage: ns each, median of ${SAMPLES} samples of ${BATCH * ROUNDS}`);
  printRow('', ['V8', 'native', 'C', 'native/C']);
  for (const [name, pick] of ROWS) {
    const [own, other] = [ours!.map(pick), theirs!.map(pick)];
    const figures = [pick(v8), median(own), median(other)].map((value) => value.toFixed(1));
    printRow(name, [...figures, ratioOf(own, other).toFixed(2)]);
  }
}
