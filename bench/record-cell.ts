// What does it cost a cell to record? The same bare-metal guest in the release cell and in the one
// that records: a disk whose queue is kept full, and registers that two vCPUs read at once.
import { closeSync, rmSync, statSync } from 'node:fs';
import type { MachineImage } from '../host/boot/image.ts';
import { PHASE_ENDED, PHASE_RUNNING, REPORT_PHASES } from '../host/engine/cell-protocol.ts';
import { openCellRecording } from '../host/replay/cell-recording.ts';
import { replay } from '../host/replay/replay.ts';
import { le } from '../test/bare-metal.ts';
import { busyRings, queueSegments, ringAt, testDisk, WINDOW } from '../test/cell-disk.ts';
import { bareImage, scratchPath, startSpawned } from '../test/cell-guest.ts';
import type { Code } from '../test/machine-code.ts';
import { REG } from '../testing/driver.ts';
import { type Contender, keepRaw, median, printComparison, printLine } from './parts/samples.ts';

const ROUNDS = 9;
const REQUESTS = 30_000;
const READS = 60_000; // of each of the two vCPUs
const DEPTH = 32;

interface Load {
  name: string;
  unit: string;
  count: number;
  image: MachineImage;
}

function blockLoad(): Load {
  const ring = ringAt(0, { depth: DEPTH });
  const image = bareImage((code) => busyRings(code, [ring], [ring], REQUESTS).powerOff(), {
    virtio: [testDisk().device],
    segments: queueSegments({ heads: DEPTH }),
  });
  return { name: '512-byte reads, 32 at once', unit: 'request', count: REQUESTS, image };
}

const reads = (code: Code, name: string): Code => {
  code.raw(0xbd, ...le(READS, 4)).label(name); // mov ebp, count
  return code
    .load(WINDOW + REG.Status)
    .raw(0x4d)
    .jumpIfNotZero(name); // dec ebp
};

function registerLoad(): Load {
  const image = bareImage(
    (code) => {
      reads(code.startOthers(['other']), 'first').powerOff();
      reads(code.label('other'), 'second').idle();
    },
    { cpuCount: 2, virtio: [{ kind: 'virtio-rng', slot: { address: WINDOW, pin: 5 } }] },
  );
  return { name: 'a register of one device, two vCPUs', unit: 'read', count: READS, image };
}

/** Runs the guest once: nanoseconds from its first instruction to its end. */
async function measure(image: MachineImage, path?: string): Promise<number> {
  const recording = path === undefined ? undefined : openCellRecording(path, [], image).fd;
  const cell = startSpawned(image, { recording });
  if (recording !== undefined) closeSync(recording);
  const { status, report } = await cell.ended();
  if (status !== 0 || !report) throw new Error(`the guest ended with ${status}`);
  const phase = (index: number) => Number(report.getBigUint64(REPORT_PHASES + 8 * index, true));
  return phase(PHASE_ENDED) - phase(PHASE_RUNNING);
}

export async function run(): Promise<void> {
  const raw: Record<string, Contender[]> = {};
  for (const { name, unit, count, image } of [blockLoad(), registerLoad()]) {
    const plain: Contender = { name: 'released cell', values: [] };
    const recording: Contender = { name: 'recording cell', values: [] };
    const sizes: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const path = scratchPath('recording');
      plain.values.push((await measure(image)) / count / 1000);
      recording.values.push((await measure(image, path)) / count / 1000);
      sizes.push(statSync(path).size / count);
      if (round === 0) replay(path, 'v8'); // what is measured is a recording that replays
      rmSync(path);
    }
    printComparison(`${name}: microseconds for each ${unit}`, [plain, recording], plain, 2);
    printLine(`  ${median(sizes).toFixed(0)} bytes of recording for each ${unit}\n`);
    raw[name] = [plain, recording];
  }
  keepRaw('record-cell', raw);
}
