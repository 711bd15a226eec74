// Plants a bug in a copy of the core and looks for it, first with the fuzzer, from the corpus of
// the repository, then with the core's tests.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CORPUS_FOLDER, readPrograms } from '../fuzz/corpus.ts';
import { type FuzzModules, fuzzModules } from '../fuzz/engine.ts';
import { ReferenceJudge } from '../fuzz/reference-judge.ts';
import { Session } from '../fuzz/session.ts';
import { deviceTarget } from '../fuzz/targets.ts';
import { compileCore } from '../tools/build-core.ts';
import { buildFuzzModule } from '../tools/build-fuzz.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { runOnCore } from './coverage/replaced-core.ts';
import type { Mutant } from './mutants.ts';

export interface Capture {
  by: string; // 'fuzzer: KIND', 'tests: FILE', or '' for nobody
  seconds: number; // of searching; of the tests that noticed
}

/** The text with the bug in it. Throws where its place is not there exactly once. */
export function planted(text: string, { id, file, from, to }: Mutant): string {
  const parts = text.split(from);
  if (parts.length !== 2) throw new Error(`${id}: ${file} has ${parts.length - 1} times: ${from}`);
  return parts.join(to);
}

async function compileMutant(mutant: Mutant): Promise<{ wasm: Uint8Array; wat: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-mutant-'));
  try {
    cpSync(join(REPOSITORY, 'assembly'), join(folder, 'assembly'), { recursive: true });
    cpSync(join(REPOSITORY, 'asconfig.json'), join(folder, 'asconfig.json'));
    const path = join(folder, mutant.file);
    writeFileSync(path, planted(readFileSync(path, 'utf8'), mutant));
    return await compileCore(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Looks for the bug with the fuzzer for `limitSeconds`. */
function hunt(modules: FuzzModules, name: string, seed: number, limitSeconds: number): Capture {
  const target = deviceTarget(name);
  const start = process.uptime();
  // The native engine runs the core without the bug: it may not be asked.
  const judges = [new ReferenceJudge(target)];
  const corpus = readPrograms(join(CORPUS_FOLDER, `${name}.txt`));
  const session = new Session(modules, target, { seed, corpus, judges, stopAtFirst: true });
  while (session.crashes.length === 0 && process.uptime() - start < limitSeconds) session.step();
  const [crash] = session.crashes;
  return { by: crash ? `fuzzer: ${crash.kind}` : '', seconds: process.uptime() - start };
}

/** Runs the tests of the core on the core with the bug. */
async function runTests(wasm: Uint8Array): Promise<Capture> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-mutant-'));
  const start = process.uptime();
  try {
    const path = join(folder, 'core.wasm');
    writeFileSync(path, wasm);
    const output = await runOnCore(path);
    const failed = /^FAILED +\w+: (\S+)\.test\.ts/m.exec(output);
    return { by: failed ? `tests: ${failed[1]}` : '', seconds: process.uptime() - start };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Who notices the bug, and after how long. */
export async function capture(
  mutant: Mutant,
  seed: number,
  limitSeconds: number,
): Promise<Capture> {
  const { wasm, wat } = await compileMutant(mutant);
  const fuzz = await buildFuzzModule(wat);
  const modules = fuzzModules(new WebAssembly.Module(fuzz.wasm as BufferSource), null, fuzz);
  const found = hunt(modules, mutant.target, seed, limitSeconds);
  return found.by ? found : runTests(wasm);
}

interface Row extends Capture {
  mutant: Mutant;
}

/** docs/mutants.md: who noticed which bug, and when. */
export function mutantsPage(rows: readonly Row[], command: string): string {
  const lines = rows.map(({ mutant: { id, bug, target, file }, by, seconds }) => {
    const who = by === '' ? '**nobody**' : by;
    return `| ${id} | ${bug} | \`${file}\` | ${target} | ${who} | ${seconds.toFixed(2)} |`;
  });
  const fuzzed = rows.filter(({ by }) => by.startsWith('fuzzer')).length;
  const tested = rows.filter(({ by }) => by.startsWith('tests')).length;
  const missed = rows.length - fuzzed - tested;
  return `# Planted bugs

\`${command}\` plants each of ${rows.length} bugs in a copy of the core and looks for it: first the
[fuzzer](fuzzing.md) on the target named, from the corpus of the repository and without the native
engine, whose core has no bug; then the tests of the core. The fuzzer notices ${fuzzed}, the tests
${tested} more, nobody ${missed}. A rule is named where one was broken; \`reference\`: the
reference device answers otherwise; \`trap\`: the cage trapped.

Seconds are those until it was noticed, of the tests how long they ran. Generated: who changes
\`test/mutants.ts\` runs the command again.

| bug | what is wrong | where | target | noticed by | seconds |
|---|---|---|---|---|---|
${lines.join('\n')}
`;
}
