// Cells from start to end, with real guests: what comes out, every cause of an end with its exit
// code, and that nothing is left running.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as protocol from '../host/engine/cell-protocol.ts';
import { CRASH_REGISTERS } from '../host/engine/cell-report.ts';
import { CODE, protectedMode } from './bare-metal.ts';
import {
  bareImage,
  causeOf,
  cellTest,
  composeFolder,
  isAlive,
  type RunningCell,
  runFolder,
  runSpawned,
  scratchPath,
  startFolder,
  startSpawned,
  within,
} from './cell-guest.ts';
import type { Code } from './machine-code.ts';
import { IDLE_FOR_EVER, print, tinyKernel } from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const JOBS = 30;
const UNHEARD = 30_000; // commands: more than a socket takes answers
const UD2 = [0x0f, 0x0b];
const I8042_COMMAND = 0x64;
const PVPANIC = 0x505;
const BOOT_TIMER = 0x3f0;
const USAGE_LINE = /^faraday-cell: usage \(EINVAL\): [^\n]+\n$/;

const spin = (code: Code) => code.say('up').label('spin').jump('spin');
const halt = (code: Code) => code.say('up').idle();

cellTest('what a guest sends comes out byte for byte, then it powers off', async () => {
  const text = Array.from({ length: 256 }, (_, i) => String.fromCharCode(i)).join('');
  const image = bareImage((code) => code.say(text).powerOff());
  for (const ended of [await runSpawned(image), await runFolder(composeFolder(image))]) {
    assert.equal(ended.output, Buffer.from(text, 'latin1'));
    assert.is(ended.status, 0);
    assert.is(ended.errors, '');
  }
});

const NO_IDT = protectedMode({ idtLimit: 0 });

const ENDS: [what: string, write: (code: Code) => void, cause: number, status: number][] = [
  ['a power off', (code) => code.powerOff(), protocol.CAUSE_POWER_OFF, 0],
  ['a reboot', (code) => code.out(I8042_COMMAND, 0xfe).idle(), protocol.CAUSE_REBOOT, 0],
  ['a panic', (code) => code.out(PVPANIC, 1).idle(), protocol.CAUSE_PANIC, 4],
  ['a triple fault', (code) => code.raw(...UD2), protocol.CAUSE_TRIPLE_FAULT, 4],
];

for (const [what, write, cause, status] of ENDS) {
  cellTest(`${what} ends a cell with ${status}, under a host and by hand`, async () => {
    const image = bareImage((code) => write(code.say('last words')), {}, NO_IDT);
    const spawned = await runSpawned(image);
    assert.is(causeOf(spawned), cause);
    const alone = await runFolder(composeFolder(image));
    assert.match(alone.errors, status === 0 ? /^$/ : /^faraday-cell: the guest [^\n]+\n$/);
    for (const ended of [spawned, alone]) {
      assert.is(ended.status, status);
      assert.is(ended.output.toString(), 'last words');
    }
  });
}

cellTest('the report of a triple fault has registers and the instruction', async () => {
  const ended = await runSpawned(
    bareImage((code) => code.raw(0xbb, 1, 2, 3, 4, ...UD2), {}, NO_IDT),
  );
  const { report } = ended;
  assert.is(report?.getUint32(protocol.REPORT_CRASHED, true), 1);
  const register = (name: string) => {
    const index = CRASH_REGISTERS.indexOf(name);
    return Number(report!.getBigUint64(protocol.REPORT_REGISTERS + 8 * index, true));
  };
  assert.is(register('rbx'), 0x04030201);
  assert.is(register('rip'), CODE + 5);
  assert.is(register('cs.selector'), 8);
  assert.is(report!.getUint16(protocol.REPORT_INSTRUCTION), 0x0f0b);
});

cellTest('the boot marker is told, also by a guest that is over at once', async () => {
  const mark = (code: Code, value: number) => code.out(BOOT_TIMER, value).powerOff();
  for (let i = 0; i < 20; i++) {
    const cell = startSpawned(bareImage((code) => mark(code, 123), { bootTimer: true }));
    const { report } = await cell.ended();
    const told = cell.messages.map((message) => message.type);
    assert.equal(told, ['confined', 'started', 'marker', 'ended']);
    const at = protocol.REPORT_PHASES + 8 * protocol.PHASE_MARKER;
    assert.ok(report!.getBigUint64(at, true) > 0n);
  }
  const other = startSpawned(bareImage((code) => mark(code, 124), { bootTimer: true }));
  const none = startSpawned(bareImage((code) => mark(code, 123)));
  for (const cell of [other, none]) {
    await cell.ended();
    assert.equal(
      cell.messages.map((message) => message.type),
      ['confined', 'started', 'ended'],
    );
  }
});

// --- Being told to stop -------------------------------------------------------------------------

const SIGNALS: ['SIGHUP' | 'SIGINT' | 'SIGTERM', number][] = [
  ['SIGHUP', 1],
  ['SIGINT', 2],
  ['SIGTERM', 15],
];

function assertStopped(ended: Awaited<ReturnType<RunningCell['ended']>>, number: number): void {
  assert.is(ended.status, 128 + number);
  assert.is(causeOf(ended), protocol.CAUSE_SIGNAL);
  assert.is(ended.report!.getUint32(protocol.REPORT_SIGNAL, true), number);
  assert.is(ended.errors, '');
}

for (const [name, number] of SIGNALS) {
  cellTest(`${name}, real or passed on, stops a busy and an idle guest`, async () => {
    for (const write of [spin, halt]) {
      for (const real of [true, false]) {
        const cell = startSpawned(bareImage(write));
        await cell.untilSaid('up');
        if (real) cell.child.kill(name);
        else cell.command(protocol.COMMAND_STOP, number);
        assertStopped(await cell.ended(), number);
      }
      const alone = startFolder(composeFolder(bareImage(write)));
      await alone.untilSaid('up');
      alone.child.kill(name);
      assert.is((await alone.ended()).status, 128 + number);
    }
  });
}

cellTest('by hand under nohup, the end of the session is not the end of the guest', async () => {
  const folder = composeFolder(
    bareImage((code) => code.say('up').label('echo').receiveAl().sendAl().jump('echo')),
  );
  const cell = startFolder(folder, { wrap: ['/usr/bin/nohup'], input: 'pipe' });
  await cell.untilSaid('up');
  cell.child.kill('SIGHUP');
  cell.input.write('still');
  await cell.untilSaid('still');
  cell.child.kill('SIGTERM');
  assert.is((await cell.ended()).status, 143);
});

cellTest('a signal which comes before the guest starts is not lost', async () => {
  for (let i = 0; i < 10; i++) {
    const cell = startSpawned(bareImage(spin));
    cell.command(protocol.COMMAND_STOP, 15);
    assertStopped(await cell.ended(), 15);
  }
});

cellTest('a paused guest is stopped like a running one', async () => {
  for (const how of ['command', 'signal', 'host gone']) {
    const cell = startSpawned(bareImage(spin));
    await cell.untilSaid('up');
    await cell.pause();
    if (how === 'command') cell.command(protocol.COMMAND_STOP, 15);
    if (how === 'signal') cell.child.kill('SIGTERM');
    if (how === 'host gone') cell.control.destroy();
    assert.is((await cell.ended()).status, how === 'host gone' ? 3 : 143, how);
  }
});

// --- The host's end -----------------------------------------------------------------------------

cellTest('a cell whose control socket closes ends with 3, a detached one goes on', async () => {
  for (const write of [spin, halt]) {
    const cell = startSpawned(bareImage(write));
    await cell.untilSaid('up');
    cell.control.destroy();
    assert.is((await cell.ended()).status, 3);
  }
  const detached = startSpawned(
    bareImage((code) => code.say('up').receiveAl().say('more').label('spin').jump('spin')),
    { args: ['--detached'], input: 'pipe' },
  );
  await detached.untilSaid('up');
  detached.control.destroy();
  detached.input.write('x');
  await detached.untilSaid('more');
  detached.child.kill('SIGTERM');
  assert.is((await detached.ended()).status, 143);
});

// The cell as a grandchild: its parent can be killed while its control socket stays open.
const BETWEEN = `
import os, sys, time
pid = os.fork()
if pid == 0:
    for fd in (3, 4, 5):
        os.set_inheritable(fd, True)
    os.execv(sys.argv[1], sys.argv[1:])
sys.stderr.write("cell %d\\n" % pid)
sys.stderr.flush()
time.sleep(1000)
`;

cellTest('a cell ends when its parent is killed, though the socket stays open', async () => {
  for (const write of [spin, halt]) {
    const cell = startSpawned(bareImage(write), { wrap: ['/usr/bin/python3', '-c', BETWEEN] });
    let words = '';
    cell.child.stderr!.on('data', (text: string) => {
      words += text;
    });
    await cell.untilSaid('up');
    const pid = Number(/^cell (\d+)$/m.exec(words)![1]);
    assert.ok(isAlive(pid));
    cell.child.kill('SIGKILL');
    await cell.ended(); // once nobody holds its output open: the cell is gone
    await within(gone(pid), 'the cell after its parent');
  }
});

async function gone(pid: number): Promise<void> {
  while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 10));
}

cellTest('a signal to the whole job stops host and cell at once, with a report', async () => {
  const kernel = scratchPath('kernel');
  writeFileSync(kernel, tinyKernel(print('up'), IDLE_FOR_EVER));
  for (let i = 0; i < JOBS; i++) {
    const report = scratchPath('report');
    const args = [FARADAY, 'run', '--kernel', kernel, '--report', report];
    const child = spawn(process.execPath, args, { detached: true, stdio: 'pipe' });
    let words = '';
    child.stderr.on('data', (text: Buffer) => {
      words += text.toString();
    });
    await within(once(child.stdout, 'data'), 'the guest');
    process.kill(-child.pid!, 'SIGTERM');
    const [status] = await within(once(child, 'close'), 'the job');
    assert.equal([status, words], [143, ''], `job ${i}`);
    assert.is(JSON.parse(readFileSync(report, 'utf8')).exit.cause, 'signal');
  }
});

cellTest('a host that asks and asks but does not listen holds nobody up', async () => {
  const cell = startSpawned(bareImage((code) => code.say('up').label('say').say('.').jump('say')));
  await cell.untilSaid('up');
  cell.control.pause();
  const commands = Buffer.alloc(UNHEARD * protocol.COMMAND_BYTES);
  for (let i = 0; i < UNHEARD; i++) {
    const type = i % 2 === 0 ? protocol.COMMAND_PAUSE : protocol.COMMAND_RESUME;
    commands.writeUInt32LE(type, i * protocol.COMMAND_BYTES);
  }
  await within(new Promise((resolve) => cell.control.write(commands, resolve)), 'commands');
  const bytes = cell.output.length;
  await cell.until(() => cell.output.length > bytes + 100, 'a guest that goes on');
  cell.child.kill('SIGTERM');
  assert.is((await cell.ended()).status, 143);
});

// --- Words it does not understand ---------------------------------------------------------------

cellTest('bad arguments are one line and 2', async () => {
  const folder = composeFolder(bareImage(spin));
  const cases = [
    ['--unknown', folder],
    [folder, folder],
    [folder, '--disk'],
    [folder, '--disk', 'no-equals-sign'],
    [folder, '--spawned'],
    ['/'.repeat(5000)],
    [folder, ...Array.from({ length: 17 }, () => ['--disk', 'a=b']).flat()],
  ];
  for (const args of cases) {
    const ended = await runFolder(args[0]!, { args: args.slice(1) });
    assert.is(ended.status, 2, args.join(' ').slice(0, 100));
    assert.match(ended.errors, USAGE_LINE, args.join(' ').slice(0, 100));
  }
});

cellTest('commands that do not exist, or come in pieces, do no harm', async () => {
  const cell = startSpawned(bareImage(spin));
  await cell.untilSaid('up');
  cell.command(99, 1);
  cell.command(0xffffffff, 0xffffffff);
  const stop = Buffer.alloc(8);
  stop.writeUInt32LE(protocol.COMMAND_PAUSE, 0);
  for (const byte of stop) {
    cell.control.write(Buffer.of(byte));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await cell.untilTold('paused');
  await cell.resume();
  await cell.resume(); // of a guest that runs
  await cell.pause();
  await cell.pause(); // of one that stands still
  assertStopped(await cell.stop(), 15);
});

test.run();
