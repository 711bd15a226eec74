// A cell on a terminal: raw mode, the keys that are the user's, and a terminal that is as it was
// after every kind of end, violent ones too.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cellProgram } from '../host/cell-program.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  LIMIT_MS,
  scratch,
  scratchPath,
  sleep,
  within,
} from './cell-guest.ts';
import { COM1, type Code } from './machine-code.ts';
import {
  ECHO_UNTIL_Q,
  FLOOD,
  IDLE_FOR_EVER,
  POWER_OFF,
  print,
  TRIPLE_FAULT,
  tinyKernel,
} from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const PLAYER = new URL('./cell-terminal.py', import.meta.url).pathname;
const BACKGROUND = new URL('./in-background.py', import.meta.url).pathname;

/** What the terminal showed, and 'status=... raw=... restored=... alive=...'. */
async function play(steps: string, command: string[]): Promise<string> {
  return await run('python3', [PLAYER, steps, ...command]);
}

/** All that a program prints. */
async function run(program: string, words: string[]): Promise<string> {
  const env = { ...process.env, XDG_DATA_HOME: scratch, XDG_CACHE_HOME: scratch };
  const child = spawn(program, words, { env });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('latin1').on('data', (chunk: string) => {
      text += chunk;
    });
  }
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  await within(ended, `the player: ${words.join(' ')}`, 2 * LIMIT_MS);
  return text;
}

function byHand(steps: string, write: (code: Code) => void): Promise<string> {
  return play(steps, [cellProgram(), composeFolder(bareImage(write))]);
}

function byHost(steps: string, ...instructions: number[][]): Promise<string> {
  const path = scratchPath('kernel');
  writeFileSync(path, tinyKernel(...instructions));
  return play(steps, [process.execPath, FARADAY, 'run', '--kernel', path]);
}

const idle = (code: Code) => code.say('up').idle();
const busy = (code: Code) =>
  code
    .say('up')
    .label('busy')
    .in(COM1 + 7)
    .jump('busy');
const flood = (code: Code) => code.say('up').out(COM1, 0x2e).label('flood').raw(0xee).jump('flood');

const STATES: [what: string, steps: string, write: (code: Code) => void, host: number[][]][] = [
  ['an idle guest', 'see:up', idle, [print('up'), IDLE_FOR_EVER]],
  ['a busy guest', 'see:up', busy, [print('up'), [0xeb, 0xfe]]],
  ['a guest that floods', 'see:up', flood, [print('up'), FLOOD]],
  ['a guest that floods a full terminal', 'see:up,deaf', flood, [print('up'), FLOOD]],
];

for (const [what, steps, write, instructions] of STATES) {
  cellTest(`Ctrl-A x leaves ${what}`, async () => {
    for (const text of [
      await byHand(`${steps},type:^Ax`, write),
      await byHost(`${steps},type:^Ax`, ...instructions),
    ]) {
      assert.match(text, /status=0 raw=True restored=True alive=False\n$/);
    }
  });

  cellTest(`SIGTERM ends ${what}, the terminal as it was`, async () => {
    for (const text of [
      await byHand(`${steps},kill:SIGTERM`, write),
      await byHost(`${steps},kill:SIGTERM`, ...instructions),
    ]) {
      assert.match(text, /status=143 raw=True restored=True alive=False\n$/);
    }
  });
}

cellTest('Ctrl-A x leaves a guest that is over but whose output nobody reads', async () => {
  const text = await byHand('piped,over,type:^C^\\^Ax', (code) => {
    for (let i = 0; i < 50; i++) code.say('many last words ');
    code.powerOff();
  });
  assert.match(text, /status=0 raw=True restored=True alive=False\n$/);
});

cellTest('a cell by hand that is hit by a fault leaves the terminal as it was', async () => {
  for (const [signal, code] of [
    ['SIGSEGV', 128 + 11],
    ['SIGBUS', 128 + 7],
    ['SIGABRT', 128 + 6],
  ] as const) {
    for (const [, steps, write] of STATES) {
      const text = await byHand(`${steps},kill:${signal}`, write);
      assert.match(text, `status=${code} raw=True restored=True alive=False\n`, steps);
    }
  }
});

cellTest('a cell by hand that goes on in the background is not stopped by typing', async () => {
  const command = [cellProgram(), composeFolder(bareImage(idle))];
  const text = await run('python3', [BACKGROUND, '--stay', ...command]);
  assert.match(text, /^stopped=True raw-behind-the-shell=False raw=False\n/m);
  assert.match(text, /^typed: stopped=False\n/m);
  assert.match(text, /^status=143 restored=True\n$/m);
});

const stateOf = (pid: number): string =>
  /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!;

/** The state of both processes of a run, once it is what it should be. */
async function untilState(pids: number[], wanted: RegExp): Promise<void> {
  const states = () => pids.map(stateOf).join('');
  const deadline = Date.now() + LIMIT_MS;
  while (!wanted.test(states()) && Date.now() < deadline) await sleep(20);
  assert.match(states(), wanted);
}

cellTest('Ctrl-Z stops a guest whose input is no terminal, and fg continues it', async () => {
  const path = scratchPath('kernel');
  writeFileSync(path, tinyKernel(print('up'), IDLE_FOR_EVER));
  // A job of its own, and somebody like a shell: in a group without one nothing stops.
  const code =
    'import os, subprocess, sys; null = subprocess.DEVNULL; ' +
    'subprocess.Popen(sys.argv[1:], stdin=null, preexec_fn=os.setpgrp).wait()';
  const command = [process.execPath, FARADAY, 'run', '--kernel', path];
  const env = { ...process.env, XDG_DATA_HOME: scratch, XDG_CACHE_HOME: scratch };
  const shell = spawn('python3', ['-c', code, ...command], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const children = (pid: number, thread: string): string =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8');
  // A cell is the child of a thread that is made for it.
  const childOf = (pid: number): number =>
    Number(
      readdirSync(`/proc/${pid}/task`)
        .map((thread) => children(pid, thread))
        .join(' ')
        .trim(),
    );
  const ended = new Promise((resolve) => shell.once('exit', resolve));
  let host = 0;
  try {
    await within(once(shell.stdout!, 'data'), 'the guest'); // 'up'
    host = childOf(shell.pid!);
    const both = [host, childOf(host)];
    process.kill(-host, 'SIGTSTP');
    await untilState(both, /^TT$/);
    process.kill(-host, 'SIGCONT');
    await untilState(both, /^[^T][^T]$/);
  } finally {
    if (host > 0) process.kill(-host, 'SIGKILL');
    else shell.kill('SIGKILL');
    await within(ended, 'the end');
  }
});

cellTest('Ctrl-A Ctrl-A sends one, any other key after it goes through with it', async () => {
  const echo = (code: Code) => {
    code.say('up').label('echo').receiveAl().raw(0x3c, 0x71).jumpIfZero('off'); // cmp al, 'q'
    code.raw(0x3c, 1).jumpIfNotZero('plain').raw(0xb0, 0x2a); // Ctrl-A as '*'
    code.label('plain').sendAl().jump('echo').label('off').powerOff();
  };
  const text = await byHand('see:up,type:a^A^Ab^Acq', echo);
  assert.match(text, /upa\*b\*c/);
  assert.match(text, /status=0 raw=True restored=True/);
});

cellTest('a power off, a crash and a key from a host leave the terminal as it was', async () => {
  const off = await byHost('see:up,type:abq', print('up'), ECHO_UNTIL_Q, POWER_OFF, IDLE_FOR_EVER);
  assert.match(off, /upab/);
  assert.match(off, /status=0 raw=True restored=True alive=False\n$/);
  const crash = await byHost('see:up,type:abq', print('up'), ECHO_UNTIL_Q, TRIPLE_FAULT);
  assert.match(crash, /status=4 raw=True restored=True alive=False\n$/);
});

cellTest('a host that is killed takes its cell along and leaves the terminal usable', async () => {
  for (const [, steps, , instructions] of STATES) {
    const text = await byHost(`${steps},kill:SIGKILL`, ...instructions);
    assert.match(text, /status=-9 raw=True restored=True alive=False\n$/, steps);
  }
});

cellTest('a cell that is killed or crashes is one line, the terminal as it was', async () => {
  for (const signal of ['SIGKILL', 'SIGSEGV', 'SIGABRT']) {
    for (const [, steps, , instructions] of STATES) {
      // The line itself waits for room on a full terminal.
      const text = await byHost(`${steps},cell:${signal},hear`, ...instructions);
      assert.match(text, /status=5 raw=True restored=True alive=False\n$/, steps);
      assert.match(text, `the cell ended by ${signal}`);
    }
  }
});

test.run();
