// Time limit: 240 s
// The fuzzer of the devices: what it knows is fine, a short search finds nothing, and it does find
// what is planted. SEED=n repeats a run's search.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CORPUS_FOLDER, readPrograms, writePrograms } from '../fuzz/corpus.ts';
import { Machine } from '../fuzz/engine.ts';
import { loadModules } from '../fuzz/load.ts';
import * as shared from '../fuzz/machine/shared.ts';
import { plotEdges } from '../fuzz/plot.ts';
import { actionCount, parseProgram, printProgram, without } from '../fuzz/program.ts';
import { Session } from '../fuzz/session.ts';
import { DEVICE_TARGETS, deviceTarget } from '../fuzz/targets.ts';
import { judgesOf } from '../fuzz/worker.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { capture, planted } from './mutant-hunt.ts';
import { MUTANTS } from './mutants.ts';

const SEED = Number(process.env.SEED ?? 1 + (Date.now() % 1_000_000));
const STEPS = 12; // of a search: 4,096 programs each
const REGRESSIONS = join(REPOSITORY, 'fuzz/regressions');
const HUNTED = MUTANTS.filter((_, index) => index % 10 === 0);
const LIMIT_SECONDS = 60; // far more than a hunt takes

const modules = loadModules();

function sessionOf(name: string, seed = SEED, corpus = corpusOf(name)): Session {
  return new Session(modules, deviceTarget(name), { seed, corpus, judges: judgesOf(name) });
}

function corpusOf(name: string) {
  return readPrograms(join(CORPUS_FOLDER, `${name}.txt`));
}

for (const { name } of DEVICE_TARGETS) {
  test(`${name}: the corpus breaks nothing, and a short search finds nothing (SEED=${SEED})`, () => {
    const session = sessionOf(name);
    assert.equal(session.crashes, [], 'of the corpus');
    const { edges, corpus } = session.progress;
    assert.ok(corpus > 3, `${corpus} programs in the corpus`);
    for (let step = 0; step < STEPS; step++) session.step();
    const { executions, judged, edges: then } = session.progress;
    assert.equal(session.crashes, []);
    assert.ok(executions > STEPS * 4000, `${executions} executions`);
    assert.ok(judged >= executions / 80, `${judged} judged`);
    assert.ok(then >= edges);
  });

  test(`${name}: every crash that was ever found stays fixed`, () => {
    const folder = join(REGRESSIONS, name);
    const files = existsSync(folder) ? readdirSync(folder) : [];
    const session = sessionOf(name, SEED, []);
    for (const file of files) {
      for (const program of readPrograms(join(folder, file))) {
        assert.is(session.examine(program), null, file);
      }
    }
  });
}

test('a seed gives the same search again', () => {
  const run = () => {
    const session = sessionOf('block', 7, []);
    for (let step = 0; step < 3; step++) session.step();
    return [session.progress, session.corpus.map(printProgram)];
  };
  assert.equal(run(), run());
});

test('a smaller corpus reaches the same', () => {
  const session = sessionOf('ring', 5);
  for (let step = 0; step < 3; step++) session.step();
  const [before, count] = [session.coverage.slice(), session.corpus.length];
  session.minimise();
  assert.ok(session.corpus.length <= count);
  assert.equal(session.coverage, before);
  session.minimise(true);
  const edges = (coverage: Uint8Array) => coverage.map((classes) => (classes ? 1 : 0));
  assert.equal(edges(session.coverage), edges(before));
});

test('what a run leaves behind unmarked is noticed', () => {
  const machine = new Machine(modules.fast, modules, deviceTarget('ring'));
  machine.run(parseProgram('variant 0\nnotify\n'));
  assert.is(machine.checkRewind(), null);
  machine.memory[0x7000] = 1; // a byte of the cage that nothing ever uses
  assert.is(machine.checkRewind()?.kind, 'reset');
});

// --- Programs as text ---------------------------------------------------------------------------

test('a program is the same after it was printed and parsed', () => {
  const session = sessionOf('state', 3);
  for (const program of session.corpus) {
    const again = parseProgram(`# a comment\n${printProgram(program)}`);
    assert.equal(again.bytes.subarray(16), program.bytes.subarray(16));
    assert.is(again.variant, program.variant);
  }
});

test('a text that is no program is refused with the line', () => {
  const refused = (text: string, expected: RegExp) =>
    assert.throws(
      () => parseProgram(text),
      (error: Error) => error instanceof SyntaxError && expected.test(error.message),
    );
  refused('notify\n', /begins with 'variant N'/);
  refused('variant 0\nfly 1\n', /no action: 'fly 1'/);
  refused('variant 0\nread 100\n', /no action: 'read 100'/);
  refused('variant 0\nread 1 2 3 4 5\n', /no action/);
  refused('variant 0\nread -1\n', /no action/);
  refused(`variant 0\n${'next\n'.repeat(shared.ACTIONS_MAX + 1)}`, /too many actions/);
});

test('actions can be taken out of a program', () => {
  const program = parseProgram('variant 0\nread 1\nread 2\nread 3\nread 4\n');
  const rest = without(program, 1, 2);
  assert.is(printProgram(rest), 'variant 0\nread 1\nread 4\n');
  assert.is(actionCount(rest), 2);
});

// --- Planted bugs -------------------------------------------------------------------------------

test('every planted bug has its place in the sources, once', () => {
  assert.ok(MUTANTS.length >= 25);
  assert.is(new Set(MUTANTS.map(({ id }) => id)).size, MUTANTS.length);
  for (const mutant of MUTANTS) {
    const text = readFileSync(join(REPOSITORY, mutant.file), 'utf8');
    assert.is.not(planted(text, mutant), text, mutant.id);
  }
});

test('docs/mutants.md has a row for each, and nobody missed one', () => {
  const page = readFileSync(join(REPOSITORY, 'docs/mutants.md'), 'utf8');
  const rows = [...page.matchAll(/^\| ([a-z0-9-]+) \| (.*?) \| `.*`/gm)];
  assert.equal(
    rows.map(([, id, bug]) => [id, bug]),
    MUTANTS.map(({ id, bug }) => [id, bug]),
  );
  assert.not.match(page, /\*\*nobody\*\*/);
});

for (const mutant of HUNTED) {
  test(`the fuzzer notices a planted bug: ${mutant.bug}`, async () => {
    const { by } = await capture(mutant, 1, LIMIT_SECONDS);
    assert.match(by, /^fuzzer: /);
  });
}

// --- The command --------------------------------------------------------------------------------

function fuzz(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const command = ['--import', 'tsx', join(REPOSITORY, 'fuzz/main.ts'), ...args];
  return spawnSync(process.execPath, command, { cwd: REPOSITORY, encoding: 'utf8' });
}

const scratch = mkdtempSync(join(tmpdir(), 'faraday-fuzz-test-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));

for (const [args, said] of [
  [['nothing'], /^fuzz: no target 'nothing'; there are all, transport, ring, /],
  [['ring', '--time', '0'], /^fuzz: --time '0' is no whole number from 1 to /],
  [['ring', '--workers', 'x'], /^fuzz: --workers 'x' is no whole number from 1 to 64$/m],
  [['ring', '--replay', '/nowhere'], /^fuzz: --replay '\/nowhere' does not exist$/m],
  [['all', '--replay', 'x'], /^fuzz: --replay needs one target, not all$/m],
  [[], /^fuzz: missing required argument 'target'$/m],
] as const) {
  test(`a mistake gets one line: fuzz ${args.join(' ')}`, () => {
    const { status, stdout, stderr } = fuzz(...args);
    assert.is(status, 2);
    assert.is(stdout, '');
    assert.match(stderr, said);
    assert.is(stderr.trimEnd().split('\n').length, 1, stderr);
  });
}

test('a program of a file is run again, and a damaged file refused', () => {
  const path = join(scratch, 'program.txt');
  writePrograms(path, [parseProgram('variant 0\nrequest 0 0 0 10002000100\nnotify\n')]);
  assert.equal(fuzz('ring', '--replay', path).stdout, 'ring: nothing wrong\n');
  writeFileSync(path, 'variant 0\nfly\n');
  const { status, stderr } = fuzz('ring', '--replay', path);
  assert.is(status, 2);
  assert.is(stderr, `fuzz: corpus '${path}': no action: 'fly'\n`);
});

test('the picture of a search is a whole SVG with every line named', () => {
  const points = [1, 10, 100].map((s) => ({ ms: s * 1000, edges: s }));
  const svg = plotEdges('a < b', [
    { name: 'ring', points },
    { name: 'empty', points: [] },
  ]);
  assert.match(svg, /^<svg [^>]*>.*<\/svg>\n$/s);
  assert.match(svg, />a &lt; b</);
  assert.match(svg, />ring 100</);
  assert.is(svg.match(/<polyline/g)?.length, 1);
});

test.run();
