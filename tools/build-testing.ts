// The library 'faraday/testing': build/testing/ holds it for browsers (index.js) and for Node
// (node.js), what both share (library.js), its types, and beside them the release core and the
// fuzzer.
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { build as bundle } from 'esbuild';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { run } from './command.ts';

const buildFolder = join(REPOSITORY, 'build');
const target = join(buildFolder, 'testing');

/** What earlier steps made and the library loads. */
const FILES = ['core.wasm', 'fuzz.wasm', 'fuzz-compare.wasm', 'fuzz-edges.json'];

/** Two entry points and one file of what both share, so that mixing them makes no class twice. */
async function writeModules(folder: string): Promise<void> {
  try {
    await bundle({
      absWorkingDir: REPOSITORY,
      entryPoints: ['testing/index.ts', 'testing/node.ts'],
      outdir: folder,
      bundle: true,
      splitting: true,
      chunkNames: 'library',
      platform: 'neutral',
      external: ['node:*'],
      format: 'esm',
      target: 'es2022',
      logLevel: 'silent',
    });
  } catch (error) {
    throw new FaradayError('internal', `testing/ does not bundle:\n${(error as Error).message}`);
  }
}

/**
 * Declarations, one for each source. Imports lose the extension .ts, which only compilers that are
 * told so take; testing/tsconfig.json keeps Node's types out, so what needs them is an error here.
 */
async function writeTypes(folder: string): Promise<void> {
  const compiler = join(REPOSITORY, 'node_modules/typescript/bin/tsc');
  const flags = ['--project', join(REPOSITORY, 'testing'), '--outDir', folder];
  const result = await run(process.execPath, [compiler, ...flags], { acceptStatus: [1, 2] });
  if (result.status !== 0) {
    const output = `${result.stdout}${result.stderr}`.trim();
    throw new FaradayError('internal', `testing/ has no types:\n${output}`);
  }
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.d.ts')) continue;
    const path = join(folder, name);
    const text = readFileSync(path, 'utf8').replace(/(from '\.[^']*)\.ts'/g, "$1.js'");
    writeFileSync(path, text);
  }
}

/** Makes build/testing/ of testing/ and build/core.wasm. Throws FaradayError('internal'). */
export async function buildTesting(): Promise<void> {
  const temporary = `${target}.${process.pid}`;
  mkdirSync(temporary);
  try {
    await writeModules(temporary);
    await writeTypes(join(temporary, 'types'));
    for (const name of FILES) copyFileSync(join(buildFolder, name), join(temporary, name));
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
