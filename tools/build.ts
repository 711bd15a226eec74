// npm run build: the core, the shim, the guest's init, the page of a trace, the bundle, the fuzzer
// and the library for tests, each when its inputs changed.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { buildBundle } from './build-bundle.ts';
import { buildCore } from './build-core.ts';
import { buildFuzz } from './build-fuzz.ts';
import { buildGuest } from './build-guest.ts';
import { buildPage } from './build-page.ts';
import { buildShim } from './build-shim.ts';
import { buildTesting } from './build-testing.ts';
import { REPOSITORY } from './cache.ts';
import { withLock } from './lock.mjs';
import { step } from './progress.mjs';
import { inputHash, recordStep, type StepName, staleSteps } from './stamps.mjs';

const buildFolder = join(REPOSITORY, 'build');

const BUILDERS: Record<StepName, () => Promise<unknown>> = {
  core: buildCore,
  shim: buildShim,
  guest: async () => buildGuest(),
  page: buildPage,
  bundle: buildBundle,
  fuzz: buildFuzz,
  testing: buildTesting,
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
