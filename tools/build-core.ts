// Builds build/core.wasm: asc compiles assembly/, then every loop gets a step counter.
//
// The core's loops are bounded by construction; the counter holds even where that fails, so that a
// cage which spins ends in a trap, by the same rule in both engines. It costs a decrement per round
// (npm run bench -- cage), no system call and no signal, and it is deterministic: a recording that
// ends in such a trap replays to the same trap.
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import binaryen from 'assemblyscript/binaryen';
import { STEPS_PER_CALL } from '../assembly/abi.ts';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { run } from './command.ts';

const COUNTER = '$steps-left';

/** What stands at the head of each loop: one step less, and a trap after the last. */
const STEP = [
  `(global.set ${COUNTER} (i32.sub (global.get ${COUNTER}) (i32.const 1)))`,
  `(if (i32.eqz (global.get ${COUNTER})) (then (unreachable)))`,
].join('\n');

/** A function that gives the counter its full budget and calls `inner`; the new export. */
function entry(name: string, inner: string, wat: string): string {
  const line = wat.split('\n').find((text) => text.startsWith(` (func ${inner} `)) ?? '';
  const count = [...line.matchAll(/\(param \$\S+ i32\)/g)].length;
  if (/\(func \S+( \(param \$\S+ i32\))* \(result i32\)$/.exec(line.trim()) === null) {
    throw new FaradayError('internal', `export ${name} is no function of i32: '${line.trim()}'`);
  }
  const numbers = [...Array(count).keys()];
  const parameters = numbers.map((index) => `(param $${index} i32) `).join('');
  const values = numbers.map((index) => ` (local.get $${index})`).join('');
  return `(func $entry-${name} ${parameters}(result i32)
    (global.set ${COUNTER} (i32.const ${STEPS_PER_CALL}))
    (call ${inner}${values}))`;
}

/** Adds the counter to a module in the text form that binaryen prints. */
export function withStepBudget(wat: string): string {
  const additions = [`(global ${COUNTER} (mut i32) (i32.const 0))`];
  const counted = wat
    .replace(/^ *\(loop \$\S+( \(result \w+\))?$/gm, (head) => `${head}\n${STEP}`)
    .replace(/^ \(export "(\w+)" \(func (\$\S+)\)\)$/gm, (_, name: string, inner: string) => {
      additions.push(entry(name, inner, wat));
      return ` (export "${name}" (func $entry-${name}))`;
    });
  const loops = wat.match(/\(loop\b/g)?.length ?? 0;
  const heads = counted.split(STEP).length - 1;
  if (loops === 0 || loops !== heads) {
    throw new FaradayError('internal', `${loops} loops in the core, ${heads} of them counted`);
  }
  return counted.replace(/\)\s*$/, `\n${additions.join('\n')}\n)`);
}

/** The module of asc's text form, counted; the text keeps the names, which tests look for. */
function addStepBudget(wat: string): { wasm: Uint8Array; wat: string } {
  const plain = binaryen.parseText(wat);
  const module = binaryen.parseText(withStepBudget(plain.emitText()));
  module.setFeatures(binaryen.Features.All);
  if (!module.validate()) throw new FaradayError('internal', 'the counted core is not valid');
  return { wasm: module.emitBinary(), wat: module.emitText() };
}

/**
 * Compiles the assembly/ of `source` for release. Throws a FaradayError with the compiler's output.
 */
export async function compileCore(source = REPOSITORY): Promise<{ wasm: Uint8Array; wat: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-core-'));
  try {
    const [wasm, wat] = [join(folder, 'core.wasm'), join(folder, 'core.wat')];
    const compiler = join(REPOSITORY, 'node_modules/assemblyscript/bin/asc.js');
    const flags = ['--target', 'release', '--outFile', wasm, '--textFile', wat];
    // Its settings are in asconfig.json, which it looks for in the current folder.
    const result = await run(process.execPath, [compiler, ...flags], {
      cwd: source,
      env: { NODE_EXTRA_CA_CERTS: undefined },
      acceptStatus: [1],
    });
    if (result.status !== 0) {
      const output = `${result.stdout}${result.stderr}`.trim();
      throw new FaradayError('internal', `the core does not compile:\n${output}`);
    }
    return addStepBudget(readFileSync(wat, 'utf8'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Brings build/core.wasm and its text form up to date. */
export async function buildCore(): Promise<void> {
  const { wasm, wat } = await compileCore();
  for (const [name, content] of Object.entries({ 'core.wat': wat, 'core.wasm': wasm })) {
    const path = join(REPOSITORY, 'build', name);
    writeFileSync(`${path}.${process.pid}`, content);
    renameSync(`${path}.${process.pid}`, path);
  }
}
