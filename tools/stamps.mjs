// What `npm run build` makes of what, and whether it is up to date. build/stamps.json holds for
// each step the hash of its inputs at its last success: file times say nothing after a checkout.
// Plain JavaScript, because tools/setup.mjs asks before anything is installed.
import { createHash } from 'node:crypto';
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const stampsPath = join(root, 'build/stamps.json');

/** @typedef {'core' | 'shim' | 'guest' | 'page' | 'bundle' | 'testing' | 'fuzz'} StepName */

const FUZZ_INPUTS = ['fuzz/machine', 'tools/build-fuzz.ts', 'tools/instrument.ts', 'tools/wat.ts'];

/**
 * Inputs are files and whole folders.
 * @type {Record<StepName, { inputs: string[], output: string, also?: string[] }>}
 */
export const STEPS = {
  core: {
    inputs: [
      'assembly',
      'asconfig.json',
      'tools/build-core.ts',
      'node_modules/assemblyscript/package.json',
    ],
    output: 'build/core.wasm',
  },
  shim: {
    inputs: [
      'shim',
      'assembly',
      'asconfig.json',
      'tools/build-core.ts',
      'host/shim.ts',
      'host/access-format.ts',
      'host/boot/image-format.ts',
      'host/engine/cell-protocol.ts',
      'host/confine',
      'host/replay/format.ts',
      'tools/build-shim.ts',
      'tools/build-filters.ts',
    ],
    output: 'build/faraday-cell',
    also: ['build/faraday.node', 'build/faraday-cell-recording'],
  },
  guest: { inputs: ['guest', 'tools/build-guest.ts'], output: 'build/init' },
  page: {
    inputs: ['host/page', 'host/replay', 'assembly/abi.ts', 'tools/build-page.ts'],
    output: 'build/trace.html',
  },
  bundle: {
    inputs: [
      'host',
      'assembly/abi.ts',
      'package.json',
      'package-lock.json',
      'tools/build-bundle.ts',
      'tools/code-cache.mjs',
    ],
    output: 'build/faraday.cjs',
    also: ['build/faraday.cjs.cache'],
  },
  fuzz: {
    inputs: ['assembly', 'asconfig.json', 'tools/build-core.ts', ...FUZZ_INPUTS],
    output: 'build/fuzz.wasm',
    also: ['build/fuzz-compare.wasm', 'build/fuzz-edges.json'],
  },
  testing: {
    inputs: [
      'testing',
      'host',
      'assembly',
      'asconfig.json',
      'tsconfig.json',
      'package-lock.json',
      'tools/build-core.ts',
      'tools/build-testing.ts',
      ...FUZZ_INPUTS,
      'fuzz/engine.ts',
      'fuzz/judge.ts',
      'fuzz/program.ts',
      'fuzz/reference-judge.ts',
      'fuzz/session.ts',
      'fuzz/targets.ts',
      'fuzz/trace.ts',
    ],
    output: 'build/testing/index.js',
    also: [
      'build/testing/node.js',
      'build/testing/library.js',
      'build/testing/core.wasm',
      'build/testing/fuzz.wasm',
      'build/testing/fuzz-compare.wasm',
      'build/testing/fuzz-edges.json',
      'build/testing/types/testing/index.d.ts',
    ],
  },
};

/** @param {string} path @returns {string[]} every file at or under `path`, in a fixed order */
function filesUnder(path) {
  if (!statSync(path).isDirectory()) {
    return [path];
  }
  return readdirSync(path)
    .sort()
    .flatMap((name) => filesUnder(join(path, name)));
}

/** @param {StepName} name @returns {string} a hash of all the step's inputs */
export function inputHash(name) {
  const hash = createHash('sha256').update(process.arch);
  for (const input of STEPS[name].inputs) {
    const path = join(root, input);
    for (const file of existsSync(path) ? filesUnder(path) : []) {
      hash
        .update(`${file.slice(root.length)}\0`)
        .update(readFileSync(file))
        .update('\0');
    }
  }
  return hash.digest('hex');
}

/** @returns {Partial<Record<StepName, string>>} */
function readStamps() {
  try {
    return JSON.parse(readFileSync(stampsPath, 'utf8'));
  } catch {
    return {}; // Not built yet, or cut off: everything is built again.
  }
}

/** @returns {StepName[]} steps whose output is missing or made of other inputs, in build order */
export function staleSteps() {
  const stamps = readStamps();
  const names = /** @type {StepName[]} */ (Object.keys(STEPS));
  return names.filter(
    (name) =>
      outputsOf(name).some((path) => !existsSync(join(root, path))) ||
      stamps[name] !== inputHash(name),
  );
}

/** @param {StepName} name @returns {string[]} all files that the step makes */
export function outputsOf(name) {
  return [STEPS[name].output, ...(STEPS[name].also ?? [])];
}

/** @param {StepName} name @param {string} hash of the inputs as they were when the step began */
export function recordStep(name, hash) {
  const temporary = `${stampsPath}.${process.pid}`;
  writeFileSync(temporary, JSON.stringify({ ...readStamps(), [name]: hash }));
  renameSync(temporary, stampsPath);
}
