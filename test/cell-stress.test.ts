// Four busy vCPUs, started, paused, resumed and stopped over and over: none of it may hang, crash,
// or let a vCPU run on.
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as protocol from '../host/engine/cell-protocol.ts';
import { EXIT_IO_READ, EXIT_IO_WRITE, EXIT_MMIO_READ, EXIT_MMIO_WRITE } from '../host/shim.ts';
import { randomFrom } from '../testing/random.ts';
import {
  bareImage,
  causeOf,
  cellTest,
  exitsOf,
  type RunningCell,
  sleep,
  startSpawned,
  within,
} from './cell-guest.ts';
import { COM1, type Code, POWER_OFF_PORT } from './machine-code.ts';

const SEED = 20;
const WINDOW = 0xd0000000;
const WINDOW_STATUS = WINDOW + 0x70;
const RTC = 0x70;
const COUNTERS = 0x40000;
const PROCESSES = 30;
const CYCLES = 10;
const QUICK_STARTS = 200;
const ENDS = 20;
const BREATH = 20_000; // pauses, each with its resume, that are asked for at once
const UNUSED_PORT = 0x80;
const LETTERS = ['A', 'B', 'C', 'D'];

/** What each vCPU does without end: ports, a window, memory, and its letter on the console. */
function busyLoop(code: Code, index: number): Code {
  const name = `loop ${index}`;
  code.label(name);
  code.out(COM1 + 7, index).in(COM1 + 7); // the scratch register
  code.out(RTC, 0x0a).in(RTC + 1);
  code.load(WINDOW).store(WINDOW_STATUS, 1).load(WINDOW_STATUS);
  code.increment(COUNTERS + 4 * index).increment(COUNTERS + 64);
  return code.say(LETTERS[index]!).jump(name);
}

const busyImage = bareImage(
  (code) => {
    code.startOthers(['cpu 1', 'cpu 2', 'cpu 3']);
    busyLoop(code, 0);
    for (const index of [1, 2, 3]) busyLoop(code.label(`cpu ${index}`), index);
  },
  { cpuCount: 4, virtio: [{ kind: 'virtio-rng', slot: { address: WINDOW, pin: 5 } }] },
);

/** State and time on a processor of each thread, by the thread's name. */
function threads(pid: number): Map<string, { state: string; nanoseconds: string }> {
  const folder = `/proc/${pid}/task`;
  return new Map(
    readdirSync(folder).map((tid) => {
      const [, name, state] = /\((.*)\) (\w)/.exec(readFileSync(`${folder}/${tid}/stat`, 'utf8'))!;
      const nanoseconds = readFileSync(`${folder}/${tid}/schedstat`, 'utf8').split(' ')[0]!;
      return [name!, { state: state!, nanoseconds }];
    }),
  );
}

const vcpuThreads = (pid: number) => [...threads(pid)].filter(([name]) => name.startsWith('vcpu'));

async function allAsleep(pid: number): Promise<void> {
  while ([...threads(pid).values()].some(({ state }) => state !== 'S')) await sleep(2);
}

/** What the console sent before it fell asleep may still be on its way to this process. */
async function allRead(cell: RunningCell): Promise<void> {
  let bytes = -1;
  while (cell.output.length !== bytes) {
    bytes = cell.output.length;
    await sleep(10);
  }
}

/** Nothing moves: no vCPU is given a processor, nothing more comes out. */
async function assertStill(cell: RunningCell): Promise<void> {
  const pid = cell.child.pid!;
  await within(allAsleep(pid), 'threads of a paused guest'); // the console empties its ring first
  await within(allRead(cell), 'what a paused guest had said');
  const before = vcpuThreads(pid);
  const bytes = cell.output.length;
  assert.is(before.length, LETTERS.length);
  await sleep(15);
  assert.equal(vcpuThreads(pid), before);
  assert.is(cell.output.length, bytes);
}

/** Each vCPU says something again. */
async function assertMoving(cell: RunningCell): Promise<void> {
  const bytes = cell.output.length;
  const news = () => cell.output.subarray(bytes).toString();
  await cell.until(() => LETTERS.every((letter) => news().includes(letter)), 'all four letters');
}

cellTest('four vCPUs run at once and the report has their exits', async () => {
  const cell = startSpawned(busyImage);
  await assertMoving(cell);
  const ended = await cell.stop();
  assert.is(ended.status, 143);
  for (const kind of [EXIT_IO_READ, EXIT_IO_WRITE, EXIT_MMIO_READ, EXIT_MMIO_WRITE]) {
    assert.ok(exitsOf(ended, kind) > LETTERS.length, `kind ${kind}`);
  }
});

cellTest(`${PROCESSES} guests stand still and go on ${CYCLES} times each`, async () => {
  for (let i = 0; i < PROCESSES; i++) {
    const cell = startSpawned(busyImage);
    await assertMoving(cell);
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      await cell.pause();
      if (cycle % CYCLES === i % CYCLES) await assertStill(cell);
      await cell.resume();
      if (cycle % 2 === 0) await assertMoving(cell);
    }
    if (i % 2 === 0) await cell.pause();
    const ended = await cell.stop();
    assert.is(ended.status, 143);
    assert.is(causeOf(ended), protocol.CAUSE_SIGNAL);
  }
});

cellTest('commands in one breath are all obeyed, in their order', async () => {
  const cell = startSpawned(busyImage);
  await assertMoving(cell);
  const times = 200;
  for (let i = 0; i < times; i++) {
    cell.command(protocol.COMMAND_PAUSE);
    cell.command(protocol.COMMAND_RESUME);
  }
  await cell.untilTold('resumed', times);
  const told = cell.messages.map((message) => message.type).slice(2); // confined, started
  assert.equal(told, Array.from({ length: times }, () => ['paused', 'resumed']).flat());
  await assertMoving(cell);
  assert.is((await cell.stop()).status, 143);
});

cellTest(`${ENDS} guests that power off do nothing more, however often resumed`, async () => {
  const image = bareImage((code) => {
    code.raw(0xb9, 0, 4, 0, 0); // mov ecx: a while in which commands pile up
    code.label('wait').out(UNUSED_PORT, 0).raw(0x49).jumpIfNotZero('wait'); // dec ecx
    code.out(POWER_OFF_PORT, 0x34).label('more').out(COM1, 0x5a).jump('more');
  });
  const commands = Buffer.alloc(2 * BREATH * protocol.COMMAND_BYTES);
  for (let i = 0; i < 2 * BREATH; i++) {
    const type = i % 2 === 0 ? protocol.COMMAND_PAUSE : protocol.COMMAND_RESUME;
    commands.writeUInt32LE(type, i * protocol.COMMAND_BYTES);
  }
  for (let i = 0; i < ENDS; i++) {
    const cell = startSpawned(image);
    cell.control.write(commands);
    const ended = await cell.ended();
    assert.is(ended.status, 0);
    assert.is(causeOf(ended), protocol.CAUSE_POWER_OFF);
    assert.is(ended.output.length, 0, `run ${i}`);
  }
});

cellTest(`${QUICK_STARTS} guests are stopped at any moment of their start`, async () => {
  const random = randomFrom(SEED);
  for (let i = 0; i < QUICK_STARTS; i++) {
    const cell = startSpawned(busyImage);
    await sleep(random(12));
    if (random(3) === 0) cell.command(protocol.COMMAND_PAUSE);
    if (random(2) === 0) cell.command(protocol.COMMAND_STOP, 15);
    else cell.control.destroy();
    const { status, signal } = await cell.ended();
    assert.is(signal, null, `run ${i} of seed ${SEED}`);
    assert.ok(status === 143 || status === 3, `run ${i} of seed ${SEED}: ${status}`);
  }
});

test.run();
