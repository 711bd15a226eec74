// `faraday image compose`: what it writes, what it refuses to replace, and that a cell starts it.
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { kvmTest } from './bare-metal.ts';
import { IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const TIME_LIMIT_MS = 30_000;

let folder: string;
let kernel: string;
let out: string;

test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'faraday-compose-'));
  kernel = join(folder, 'kernel');
  out = join(folder, 'out');
  writeFileSync(kernel, tinyKernel(print('hello\r\n'), POWER_OFF, IDLE_FOR_EVER));
});

test.after.each(() => rmSync(folder, { recursive: true }));

function run(command: string, args: string[]) {
  return spawnSync(command, args, {
    cwd: folder,
    env: { ...process.env, HOME: folder, XDG_DATA_HOME: '', XDG_CACHE_HOME: '' },
    timeout: TIME_LIMIT_MS,
    encoding: 'latin1',
  });
}

const compose = (...args: string[]) => {
  return run(process.execPath, [FARADAY, 'image', 'compose', '--kernel', 'kernel', ...args]);
};

function refusal(...args: string[]): string {
  const { status, stdout, stderr } = compose(...args);
  assert.is(status, 2, stderr);
  assert.is(stdout, '');
  assert.match(stderr, /^faraday: [^\n]+\n$/);
  return stderr;
}

test('a machine is written whole, for its owner only, and can be written again', () => {
  for (const memory of ['32M', '64M']) {
    const { status, stdout, stderr } = compose('--out', 'out', '--memory', memory);
    assert.is(status, 0, stderr);
    assert.match(stdout, /^composed; start it with: \/\S+\/build\/faraday-cell \/\S+\/out\n$/);
    assert.equal(readdirSync(out), ['machine']);
    assert.is(statSync(join(out, 'machine')).mode & 0o777, 0o600);
    const bytes = readFileSync(join(out, 'machine'));
    assert.is(bytes.toString('latin1', 0, 4), 'FRDI');
    assert.is(Number(bytes.readBigUInt64LE(16)), Number.parseInt(memory, 10) * 2 ** 20);
    assert.is(bytes.readUInt32LE(44), 0, 'it refers to no file');
  }
});

test('a disk is named by its absolute path', () => {
  writeFileSync(join(folder, 'disk'), '');
  truncateSync(join(folder, 'disk'), 4096);
  assert.is(compose('--out', 'out', '--disk', 'path=disk,id=data,num-queues=2').status, 0);
  assert.ok(readFileSync(join(out, 'machine')).includes(`${folder}/disk`));
});

test('what Faraday did not write is not replaced', () => {
  mkdirSync(out);
  writeFileSync(join(out, 'machine'), 'mine');
  assert.match(refusal('--out', 'out'), /holds a file 'machine' that is no machine image/);
  assert.is(readFileSync(join(out, 'machine'), 'utf8'), 'mine');
  rmSync(join(out, 'machine'));
  symlinkSync(kernel, join(out, 'machine'));
  assert.match(refusal('--out', 'out'), /is no machine image/);
});

test('a place that cannot be written to is refused in one line', () => {
  assert.match(refusal('--out', 'kernel'), /--out 'kernel' is not a directory; name one/);
  assert.match(refusal('--out', 'absent/out'), /cannot be written to \(ENOENT\)/);
  assert.match(refusal('--out', '/proc'), /cannot be written to/);
  assert.match(refusal(), /--out is missing; name a directory/);
});

test('flags of a run are none of compose, and a mistake leaves nothing behind', () => {
  assert.match(refusal('--out', 'out', '--report', 'r'), /unknown option '--report'/);
  assert.match(refusal('--out', 'out', '--cpus', '33'), /--cpus '33' must be/);
  assert.match(refusal('--out', 'out', '--initrd', 'none'), /none/);
  assert.equal(readdirSync(folder), ['kernel']);
});

test('a configuration file serves both verbs', () => {
  const settings = { memory: '32M', engine: 'v8', report: 'r', detach: true, 'log-level': 'info' };
  writeFileSync(join(folder, 'vm.json'), JSON.stringify(settings));
  assert.is(compose('--out', 'out', '--config', 'vm.json').status, 0);
});

kvmTest('a cell starts it without Node', () => {
  const { stdout } = compose('--out', 'out', '--cpus', '2');
  const [program, directory] = stdout.trim().replace(/^.*: /, '').split(' ');
  rmSync(kernel); // everything is inside
  const cell = run(program!, [directory!]);
  assert.is(cell.stdout, 'hello\r\n');
  assert.is(cell.status, 0, cell.stderr);
  const moved = run(program!, ['nowhere']);
  assert.is(moved.status, 2);
  assert.match(moved.stderr, /^faraday-cell: [^\n]+\n$/);
});

test.run();
