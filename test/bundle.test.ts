// The installed command: the bundle and V8's code cache of it.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Script } from 'node:vm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-bundle-'));
test.after(() => rmSync(folder, { recursive: true }));

const bundle = join(folder, 'build/faraday.cjs');

test.before(() => {
  mkdirSync(join(folder, 'build'));
  cpSync(join(REPOSITORY, 'bin'), join(folder, 'bin'), { recursive: true });
  for (const name of ['faraday.cjs', 'faraday.cjs.cache']) {
    cpSync(join(REPOSITORY, 'build', name), join(folder, 'build', name));
  }
});

function version(): string {
  const args = [join(folder, 'bin/faraday.js'), '--version'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.is(stderr, '');
  assert.is(status, 0);
  return stdout;
}

test('the code cache fits the bundle and this Node', () => {
  const cachedData = readFileSync(`${bundle}.cache`);
  const source = readFileSync(bundle, 'latin1');
  assert.is(new Script(source, { filename: bundle, cachedData }).cachedDataRejected, false);
});

test('the bundle is plain ASCII: as it is read, each byte is a character', () => {
  assert.ok(readFileSync(bundle).every((byte) => byte < 0x80));
});

test('the core that guests run is the built one, whatever the environment says', () => {});

test('a cache of something else, or none, only costs time', () => {
  const wanted = version();
  assert.match(wanted, /^\d+\.\d+\.\d+\n$/);
  const cache = readFileSync(`${bundle}.cache`);
  for (const other of [Buffer.alloc(0), Buffer.from('nonsense'), cache.subarray(0, 5000)]) {
    writeFileSync(`${bundle}.cache`, other);
    assert.is(version(), wanted);
  }
  rmSync(`${bundle}.cache`);
  assert.is(version(), wanted);
});

test('a clone that is not built says so', () => {
  rmSync(bundle);
  const args = [join(folder, 'bin/faraday.js'), '--version'];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.is(status, 3);
  assert.match(stderr, /^faraday: not built yet; run 'npm run build' in its folder first\n$/);
});

test.run();
