// test/lab/scenarios.ts and scenario.sh without a lab: which guests are recorded, and that their
// recordings stay where a test failed, and only there.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { dropRecordings } from './lab/scenarios.ts';

const LIBRARY = new URL('lab/scenario.sh', import.meta.url).pathname;

const folder = mkdtempSync(join(tmpdir(), 'faraday-scenarios-'));
test.after(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, 'keep'));

/** What a scenario's `boot FLAGS` gives to Faraday. */
function bootArguments(flags: string): string[] {
  const script = `. "$1"; NODE=printf FARADAY='%s\\n' NAME=job; boot ${flags}`;
  const args = ['-c', script, 'scenario', LIBRARY];
  const { status, stdout, stderr } = spawnSync('bash', args, { cwd: folder, encoding: 'utf8' });
  assert.equal([status, stderr], [0, '']);
  return stdout.trimEnd().split('\n');
}

test('a guest in an engine that records is recorded, each into a file of its own', () => {
  const recordOf = (flags: string) => {
    const words = bootArguments(flags);
    const at = words.indexOf('--record');
    return at < 0 ? null : words[at + 1];
  };
  assert.is(recordOf('--engine v8 --kernel k'), 'keep/guest-1.rec');
  writeFileSync(join(folder, 'keep/guest-1.rec'), '');
  assert.is(recordOf('--kernel k --engine v8'), 'keep/guest-2.rec');
  assert.is(recordOf('--kernel k'), null);
  assert.is(recordOf('--engine cell'), null);
  assert.is(recordOf('--engine v8 --record own.rec'), 'own.rec');
});

test('boot passes on its flags as they are', () => {
  const words = bootArguments(`--engine v8 --cmdline 'two words'`);
  assert.equal(words.slice(0, 3), ['run', '--net-backend', 'none']);
  assert.equal(words.slice(-4), ['--engine', 'v8', '--cmdline', 'two words']);
});

test('recordings go where all tests passed and stay where one failed; the rest stays', () => {
  const results = join(folder, 'results/one');
  mkdirSync(results, { recursive: true });
  for (const name of ['guest-1.rec', 'report.json']) writeFileSync(join(results, name), 'x');
  const there = (name: string) => existsSync(join(results, name));
  dropRecordings(folder, 1);
  assert.ok(there('guest-1.rec'));
  dropRecordings(folder, 0);
  assert.equal([there('guest-1.rec'), there('report.json')], [false, true]);
});

test.run();
