// Which tests run on another core than build/core.wasm: the instrumented one, whose coverage is
// measured, or one with a planted bug (test/mutant-hunt.ts). test/coverage/hook.mjs replaces it.
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { REPOSITORY } from '../../tools/cache.ts';
import { run } from '../../tools/command.ts';

// Beside the tests that mirror a file of assembly/.
const OTHERS = ['conformance', 'core', 'hostile-rings', 'reference', 'reference-net'];

/** Tests of the core that say nothing about another one, with the reason. */
const EXCLUDED: Record<string, string> = {
  abi: "is about the build: the core's bytes, imports and text form",
  'build-core': 'is about the build, and compiles cores of its own',
  'debug-build': 'runs a core of its own, compiled for debugging',
  engines: 'compares with the native engine, which holds the core as it was built',
  'hostile-ports': 'compares with the native engine',
  'planted-bugs': 'builds cores of its own, with bugs',
  replay: 'compares with the native engine and with recordings, which name the core by its hash',
};

/** Names of the test files. */
function tests(): string[] {
  const files = readdirSync(join(REPOSITORY, 'test'));
  return [...readdirSync(join(REPOSITORY, 'assembly')), ...OTHERS]
    .map((name) => basename(name, '.ts'))
    .filter((name) => !(name in EXCLUDED))
    .map((name) => `${name}.test.ts`)
    .filter((name) => files.includes(name));
}

/**
 * Runs the tests with the module at `core` in place of the core, and with a folder for the edges
 * that it tells of; returns what test/run.ts prints.
 */
export async function runOnCore(core: string, edges?: string): Promise<string> {
  const hook = new URL('hook.mjs', import.meta.url).href;
  const result = await run(process.execPath, ['--import', 'tsx', 'test/run.ts', ...tests()], {
    cwd: REPOSITORY,
    env: {
      NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ''} --import=${hook}`,
      FARADAY_TEST_CORE: core,
      FARADAY_TEST_EDGES: edges,
    },
    acceptStatus: [1],
  });
  return result.stdout;
}
