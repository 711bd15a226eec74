// The console of a cell by pipes and files: floods that nobody reads, readers that go away, input
// of every kind. Nothing is lost, nothing grows, nothing else has to wait.
import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { COMMAND_STOP } from '../host/engine/cell-protocol.ts';
import { randomFrom } from '../testing/random.ts';
import { le } from './bare-metal.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  type RunningCell,
  residentKib,
  scratchPath,
  sleep,
  startFolder,
  startSpawned,
  within,
} from './cell-guest.ts';
import { COM1, type Code } from './machine-code.ts';

const ECHO_BYTES = 100 * 1024;
const BOOT_TIMER = 0x3f0;
const MARKER = 123;
const RTC = 0x70;
const GROWTH_KIB_MAX = 512;
// A guest's own patience: how often it looks at the clock's registers before it goes on.
const LOOKS = 20_000;

/** Sends one byte for ever without looking whether there is room. */
const flood = (code: Code): Code =>
  code.label('flood').out(COM1, 0x2e).label('more').raw(0xee).jump('more');

/** Reads the clock LOOKS times, then writes the marker: work that needs no console. */
const workAndMark = (code: Code): Code =>
  code
    .raw(0xbd, ...le(LOOKS, 4)) // mov ebp, LOOKS
    .label('work')
    .in(RTC + 1)
    .raw(0x4d) // dec ebp
    .jumpIfNotZero('work')
    .out(BOOT_TIMER, MARKER);

/** Sends `count` bytes back, then powers off. */
const echo = (code: Code, count: number): Code =>
  code
    .raw(0xbd, ...le(count, 4))
    .label('echo')
    .receiveAl()
    .sendAl()
    .raw(0x4d)
    .jumpIfNotZero('echo')
    .powerOff();

const twoCpuFlood = bareImage(
  (code) => workAndMark(flood(code.startOthers(['other'])).label('other')).idle(),
  { cpuCount: 2, bootTimer: true },
);

cellTest('a flood that nobody reads holds up neither memory nor anything else', async () => {
  const cell = startSpawned(twoCpuFlood, { output: 'unread' });
  await cell.untilTold('marker'); // the other vCPU went on
  await sleep(200);
  const before = residentKib(cell.child.pid!);
  await sleep(500);
  await cell.pause();
  await cell.resume();
  const growth = residentKib(cell.child.pid!) - before;
  assert.ok(growth < GROWTH_KIB_MAX, `${growth} KiB more`);
  assert.is((await cell.stop()).status, 143);
});

cellTest(
  'a flood that nobody reads is stopped by a signal and by the end of its host',
  async () => {
    for (const how of ['SIGTERM', 'SIGINT', 'host gone'] as const) {
      const cell = startSpawned(twoCpuFlood, { output: 'unread' });
      await cell.untilTold('marker');
      await sleep(100);
      if (how === 'host gone') cell.control.destroy();
      else cell.child.kill(how);
      const expected = { SIGTERM: 143, SIGINT: 130, 'host gone': 3 }[how];
      assert.is((await cell.ended()).status, expected, how);
    }
  },
);

cellTest('a flood that is read comes out whole once the guest powers off', async () => {
  const bytes = 50_000;
  const image = bareImage((code) =>
    code
      .raw(0xbd, ...le(bytes, 4))
      .label('send')
      .raw(0x89, 0xe8) // mov eax, ebp
      .sendAl()
      .raw(0x4d)
      .jumpIfNotZero('send')
      .powerOff(),
  );
  const cell = startSpawned(image);
  cell.stdout.pause();
  await sleep(300);
  cell.stdout.resume();
  const ended = await cell.ended();
  const expected = Buffer.from(Array.from({ length: bytes }, (_, i) => (bytes - i) & 0xff));
  assert.ok(ended.output.equals(expected), `${ended.output.length} bytes came out`);
  assert.is(ended.status, 0);
});

cellTest(
  'a power off with output that nobody reads waits for a reader, or for a stop',
  async () => {
    const image = bareImage(
      (code) => {
        code
          .raw(0xbd, ...le(90_000, 4))
          .label('send')
          .out(COM1, 0x2e); // more than a pipe takes
        code.raw(0x4d).jumpIfNotZero('send').out(BOOT_TIMER, MARKER).powerOff();
      },
      { bootTimer: true },
    );
    for (const how of ['SIGTERM', 'command', 'host gone']) {
      const cell = startSpawned(image, { output: 'unread' });
      await cell.untilTold('marker');
      await sleep(200);
      assert.is(cell.child.exitCode, null);
      if (how === 'SIGTERM') cell.child.kill('SIGTERM');
      if (how === 'command') cell.command(COMMAND_STOP, 15);
      if (how === 'host gone') cell.control.destroy();
      assert.is((await cell.ended()).status, 0, how); // it powered off before
    }
  },
);

cellTest('a reader that goes away leaves the guest running', async () => {
  const image = bareImage(
    (code) => {
      code
        .say('up')
        .receiveAl()
        .raw(0xbd, ...le(100_000, 4))
        .label('send')
        .out(COM1, 0x2e);
      code.raw(0x4d).jumpIfNotZero('send').out(BOOT_TIMER, MARKER).powerOff();
    },
    { bootTimer: true },
  );
  const cell = startSpawned(image, { input: 'pipe' });
  await cell.untilSaid('up');
  cell.stdout.destroy();
  cell.input.write('x');
  const ended = await cell.ended();
  assert.is(ended.status, 0);
  assert.equal(
    cell.messages.map((message) => message.type),
    ['confined', 'started', 'marker', 'ended'],
  );
});

// --- Input --------------------------------------------------------------------------------------

function randomBytes(count: number): Buffer {
  const random = randomFrom(7);
  return Buffer.from(Array.from({ length: count }, () => random(256)));
}

cellTest(`${ECHO_BYTES} bytes by a pipe come back as they are`, async () => {
  const bytes = randomBytes(ECHO_BYTES);
  const cell = startSpawned(
    bareImage((code) => echo(code, ECHO_BYTES)),
    { input: 'pipe' },
  );
  cell.input.write(bytes);
  const ended = await cell.ended();
  assert.ok(ended.output.equals(bytes), `${ended.output.length} bytes came back`);
  assert.is(ended.status, 0);
});

cellTest('a file is read to its end, also while paused in between', async () => {
  const bytes = randomBytes(20_000);
  const path = scratchPath('input');
  writeFileSync(path, bytes);
  const input = openSync(path, 'r');
  const cell = startSpawned(
    bareImage((code) => echo(code, bytes.length)),
    { input },
  );
  closeSync(input);
  await cell.until(() => cell.output.length > 100, 'a few bytes');
  for (let i = 0; i < 5; i++) {
    await cell.pause();
    await cell.resume();
  }
  assert.ok((await cell.ended()).output.equals(bytes));
});

/** Nanoseconds that a thread has run. */
function runTime(pid: number, name: string): string {
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const folder = `/proc/${pid}/task/${tid}`;
    if (readFileSync(`${folder}/comm`, 'utf8').trim() === name) {
      return readFileSync(`${folder}/schedstat`, 'utf8').split(' ')[0]!;
    }
  }
  throw new Error(`no thread '${name}'`);
}

/** The I/O thread comes to rest: it does not ask again and again for input that cannot come. */
async function assertResting(cell: RunningCell): Promise<void> {
  const pid = cell.child.pid!;
  const rest = async () => {
    for (;;) {
      const before = runTime(pid, 'faraday-cell');
      await sleep(30);
      if (runTime(pid, 'faraday-cell') === before) return;
    }
  };
  await within(rest(), 'an I/O thread that comes to rest');
}

const INPUTS: [what: string, open: () => number | 'pipe'][] = [
  ['/dev/null', () => openSync('/dev/null', 'r')],
  ['/dev/zero', () => openSync('/dev/zero', 'r')],
  ['a file at its end', () => openSync(openEmpty(), 'r')],
  ['a pipe that has closed', () => 'pipe'],
];

function openEmpty(): string {
  const path = scratchPath('empty');
  writeFileSync(path, '');
  return path;
}

for (const [what, open] of INPUTS) {
  cellTest(`${what} as input costs an idle guest no processor time`, async () => {
    const input = open();
    const cell = startSpawned(
      bareImage((code) => code.say('up').idle()),
      { input },
    );
    if (input === 'pipe') cell.input.end('a few bytes that nobody takes');
    else closeSync(input);
    await cell.untilSaid('up');
    await assertResting(cell);
    assert.is((await cell.stop()).status, 143);
  });
}

// --- Descriptors that are closed ----------------------------------------------------------------

const SHELL = (redirections: string) => ['/bin/sh', '-c', `exec "$@" ${redirections}`, 'sh'];

cellTest('a closed standard input is no input, and nothing else takes its place', async () => {
  const image = bareImage((code) => {
    code.say('up').raw(0xbd, ...le(LOOKS, 4));
    code
      .label('look')
      .in(COM1 + 5)
      .raw(0xa8, 1)
      .jumpIfNotZero('input');
    code.raw(0x4d).jumpIfNotZero('look').say(' quiet').powerOff();
    code.label('input').say(' input came').powerOff();
  });
  const ended = await startFolder(composeFolder(image), { wrap: SHELL('<&-') }).ended();
  assert.is(ended.output.toString(), 'up quiet');
  assert.is(ended.status, 0);
});

cellTest('a closed or full standard output is one warning, and the guest goes on', async () => {
  const image = bareImage((code) => {
    for (let i = 0; i < 50; i++) code.say('many words ');
    code.powerOff();
  });
  for (const [to, errno] of [
    ['>&-', 'EBADF'],
    ['>/dev/full', 'ENOSPC'],
  ] as const) {
    const ended = await startFolder(composeFolder(image), { wrap: SHELL(to) }).ended();
    assert.is(ended.status, 0);
    const finding = `standard output cannot be written (${errno})`;
    assert.is(ended.errors, `faraday-cell: ${finding}; console output is lost\n`);
  }
});

cellTest('with no standard descriptor at all a cell runs to its end', async () => {
  const folder = composeFolder(bareImage((code) => code.say('unheard').powerOff()));
  const ended = await startFolder(folder, { wrap: SHELL('<&- >&- 2>&-') }).ended();
  assert.is(ended.status, 0);
});

test.run();
