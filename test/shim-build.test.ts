// The build of addon and cell: numbers from one source, work only where something changed, clear
// errors.
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REQUEST_BYTES_MAX } from '../assembly/abi.ts';
import { FaradayError } from '../host/errors.ts';
import { EXIT_UNKNOWN } from '../host/shim.ts';
import { abiHeader, buildShim, nodeHeaders } from '../tools/build-shim.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { STEPS } from '../tools/stamps.mjs';

const folder = mkdtempSync(join(tmpdir(), 'faraday-build-'));
const buildFolder = join(REPOSITORY, 'build');
const compiler = process.env.CC;

test.after.each(() => {
  if (compiler === undefined) delete process.env.CC;
  else process.env.CC = compiler;
});
test.after(() => rmSync(folder, { recursive: true }));

async function buildError(): Promise<FaradayError> {
  try {
    await buildShim();
  } catch (error) {
    assert.instance(error, FaradayError);
    return error as FaradayError;
  }
  throw new Error('the build did not fail');
}

test('C sees the numbers of the core and of the seam', () => {
  const header = abiHeader();
  assert.match(header, new RegExp(`^#define ABI_REQUEST_BYTES_MAX ${REQUEST_BYTES_MAX}$`, 'm'));
  assert.match(header, new RegExp(`^#define SHIM_EXIT_UNKNOWN ${EXIT_UNKNOWN}$`, 'm'));
});

test('a build without changes leaves addon and cell as they are', async () => {
  const files = ['faraday.node', 'faraday-cell', 'core_w2c.c', 'obj/cage.c.o'];
  const inodes = () => files.map((name) => statSync(join(buildFolder, name)).ino);
  await buildShim();
  const before = inodes();
  await buildShim();
  assert.equal(inodes(), before);
});

test('whatever the build takes numbers or tables from is an input of its step', () => {
  const { inputs } = STEPS.shim;
  const imports = (file: string): string[] => {
    const text = readFileSync(join(REPOSITORY, file), 'utf8');
    return [...text.matchAll(/ from '(\.[^']+)'/g)].map(([, path]) => join(dirname(file), path!));
  };
  const builders = ['tools/build-shim.ts', 'tools/build-filters.ts'];
  const tools = /^tools\/(command|cache|lock)|^host\/errors/; // how it is done, not what is made
  const wanted = builders.flatMap(imports).filter((file) => !tools.test(file));
  assert.ok(wanted.includes('host/confine/cell-policy.ts'), wanted.join());
  for (const file of wanted) {
    const known = inputs.some((input) => file === input || file.startsWith(`${input}/`));
    assert.ok(known, `${file} is no input of the step`);
  }
});

test('headers are found without a download', () => {
  assert.ok(statSync(join(nodeHeaders(), 'node_api.h')).isFile());
});

test("a compile error is our fault and carries the compiler's words", async () => {
  const path = join(folder, 'cc');
  writeFileSync(path, '#!/bin/sh\necho "block.c:1: error: no such thing" >&2\nexit 1\n');
  chmodSync(path, 0o755);
  process.env.CC = path;
  const error = await buildError();
  assert.is(error.code, 'internal');
  assert.match(error.message, 'block.c:1: error: no such thing');
});

test('a missing compiler is a matter of the host, and the line says how to get it', async () => {
  process.env.CC = join(folder, 'no-such-compiler');
  const error = await buildError();
  assert.is(error.code, 'host');
  assert.match(error.message, 'no-such-compiler not found');
  assert.match(error.message, 'apt-get install');
});

test.run();
