// How much does recording add to a boot?
// The same guest boots in engine v8 with and without --record, in turn, each in a nested lab of its
// own (bench/boot.ts says why): a stock kernel with its messages on the console, from a root disk.
// That is the most that a boot has to record.
import { randomBytes } from 'node:crypto';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { makeRootDisk } from '../tools/rootfs.ts';
import { benchInLab, compile, labFolder } from './parts/lab.ts';
import { keepRaw, median, printComparison, printLine } from './parts/samples.ts';

const ROUNDS = 3;
const ROOT_MIB = 32;
const TIME_LIMIT_SECONDS = 200;
const MIB = 2 ** 20;
const DATA_BYTES = 4 * MIB; // that the guest reads, so that there are block requests in number
const GUEST_INIT = `#!/bin/sh
exec < /dev/console > /dev/console 2>&1
cat /data > /dev/null
echo 'USER SPACE'
poweroff -f
`;

interface Sample {
  kind: string; // plain, recorded
  userSpaceMs: number;
  endMs: number;
  events: number; // of the recording, as the next
  bytes: number;
}

async function prepare(): Promise<void> {
  const folder = await labFolder('record');
  await makeRootDisk(join(folder, 'root.ext4'), ROOT_MIB, {
    init: GUEST_INIT,
    files: { data: randomBytes(DATA_BYTES) },
  });
  await compile('stopwatch', join(folder, 'stopwatch'));
  copyFileSync(new URL('record.sh', import.meta.url), join(folder, 'record.sh'));
}

/** One guest, in a lab of its own. */
async function boot(kind: string): Promise<Sample> {
  const output = await benchInLab({
    name: 'record',
    command: ['bash', 'record.sh', process.execPath, kind],
    timeoutSeconds: TIME_LIMIT_SECONDS,
  });
  const line = output.replaceAll('\r', '').split('\n');
  const times = line.find((each) => each.startsWith('sample '));
  if (!times) throw new FaradayError('internal', `record: ${output}`);
  const [userSpaceMs, endMs] = times.split(' ').slice(1).map(Number);
  const size = /^recording (\d+) (\d+)/m.exec(line.join('\n'));
  const [events, bytes] = size ? size.slice(1).map(Number) : [0, 0];
  return { kind, userSpaceMs, endMs, events, bytes };
}

/** Measures in the lab and prints the table; raw samples stay in build/bench/record.json. */
export async function run(): Promise<void> {
  await prepare();
  const samples: Sample[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of ['plain', 'recorded']) samples.push(await boot(kind));
  }
  keepRaw('record', samples);
  const of = (kind: string) => samples.filter((sample) => sample.kind === kind);
  const contender = (name: string, kind: string) => ({
    name,
    values: of(kind).map(({ userSpaceMs }) => userSpaceMs / 1000),
  });
  const plain = contender('without --record', 'plain');
  const recorded = contender('with --record', 'recorded');
  const title = `process start to the guest's first line, seconds, ${ROUNDS} runs of each`;
  printComparison(`engine v8: ${title}`, [plain, recorded], plain, 2);
  const middle = (pick: (sample: Sample) => number) => median(of('recorded').map(pick));
  const events = middle((sample) => sample.events).toFixed(0);
  printLine(`a recording: ${events} events, ${(middle((s) => s.bytes) / MIB).toFixed(2)} MiB`);
}
