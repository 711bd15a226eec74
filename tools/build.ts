// npm run build: the core, the shim, the guest's init and the bundle, each when its inputs changed.
import { mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { build as bundle, type Plugin } from 'esbuild';
import { FaradayError } from '../host/errors.ts';
import { buildCore } from './build-core.ts';
import { buildGuest } from './build-guest.ts';
import { buildShim } from './build-shim.ts';
import { REPOSITORY } from './cache.ts';
import { withLock } from './lock.mjs';
import { step } from './progress.mjs';
import { inputHash, recordStep, type StepName, staleSteps } from './stamps.mjs';

const buildFolder = join(REPOSITORY, 'build');

/** commander needs child processes for verbs that are programs of their own: Faraday has none. */
const withoutChildProcesses: Plugin = {
  name: 'without-child-processes',
  setup(build) {
    build.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      importer.includes('/node_modules/commander/')
        ? { path: 'none', namespace: 'without-child-processes' }
        : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: 'without-child-processes' }, () => ({ contents: '' }));
  },
};

/**
 * Bundles host/ and commander into one file; the core and the addon stay beside it. CommonJS,
 * because Node's loader of ES modules costs more at start than all of Faraday's own code, and
 * because what is imported on demand then loads Node's modules on demand too.
 */
async function buildBundle(): Promise<void> {
  const target = join(buildFolder, 'faraday.cjs');
  const temporary = `${target}.${process.pid}`;
  try {
    await bundle({
      absWorkingDir: REPOSITORY,
      entryPoints: ['host/main.ts'],
      outfile: temporary,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20',
      logLevel: 'silent',
      plugins: [withoutChildProcesses],
      define: { 'import.meta.url': 'bundleUrl' },
      banner: { js: "const bundleUrl = require('node:url').pathToFileURL(__filename).href;" },
    });
  } catch (error) {
    throw new FaradayError('internal', `the host does not bundle:\n${(error as Error).message}`);
  }
  renameSync(temporary, target);
}

const BUILDERS: Record<StepName, () => Promise<unknown>> = {
  core: buildCore,
  shim: buildShim,
  guest: async () => buildGuest(),
  bundle: buildBundle,
};

/** Brings every output up to date. Throws a FaradayError with the failing tool's output. */
async function build(): Promise<void> {
  mkdirSync(buildFolder, { recursive: true });
  await withLock(
    join(buildFolder, 'build.lock'),
    async () => {
      for (const name of staleSteps()) {
        const hash = inputHash(name);
        await step('build', name, BUILDERS[name]);
        recordStep(name, hash);
      }
    },
    () => process.stderr.write('build: waiting for another build of this folder\n'),
  );
}

try {
  await build();
} catch (error) {
  process.stderr.write(`build: ${(error as Error).message}\n`);
  process.exitCode = error instanceof FaradayError && error.code === 'host' ? error.exitCode : 1;
}
