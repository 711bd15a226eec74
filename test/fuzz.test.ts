// Time limit: 600 s
// The fuzzer of the devices: what it knows is fine, a short search finds nothing, and it does find
// what is planted. SEED=n repeats a run's search.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { QUEUE_COUNT_MAX, REQUEST, REQUEST_KIND_NET_RX } from '../assembly/abi.ts';
import { CORPUS_FOLDER, readPrograms, writePrograms } from '../fuzz/corpus.ts';
import { Machine } from '../fuzz/engine.ts';
import { loadModules } from '../fuzz/load.ts';
import * as shared from '../fuzz/machine/shared.ts';
import { plotEdges } from '../fuzz/plot.ts';
import { actionCount, parseProgram, printProgram, without } from '../fuzz/program.ts';
import { search } from '../fuzz/search.ts';
import { Session } from '../fuzz/session.ts';
import { DEVICE_TARGETS, deviceTarget } from '../fuzz/targets.ts';
import { judgesOf } from '../fuzz/worker.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { capture, planted } from './mutant-hunt.ts';
import { MUTANTS } from './mutants.ts';

const SEED = Number(process.env.SEED ?? 1 + (Date.now() % 1_000_000));
const STEPS = 12; // of a search: 4,096 programs each, less where much is new
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
  test(`${name}: neither the corpus nor a short search breaks it (SEED=${SEED})`, () => {
    const session = sessionOf(name);
    assert.equal(session.crashes, [], 'of the corpus');
    const { edges, corpus } = session.progress;
    assert.ok(corpus > 3, `${corpus} programs in the corpus`);
    for (let step = 0; step < STEPS; step++) session.step();
    const { executions, judged, edges: then } = session.progress;
    assert.equal(session.crashes, []);
    assert.ok(executions > STEPS * 3000, `${executions} executions`);
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
  // A byte of the cage that nothing ever uses, and one of the guest's.
  for (const address of [0x7000, shared.RAM + 0xf000]) {
    machine.memory[address] ^= 1;
    assert.is(machine.checkRewind()?.kind, 'reset', `${address}`);
    machine.memory[address] ^= 1;
  }
});

test('an instance that goes on with a saved state has nothing else of the one before', () => {
  const machine = new Machine(modules.fast, modules, deviceTarget('state'));
  const held = 'variant 4\nbuffers 0 100 5f6\nnext\nnext\n'; // two buffers of a network device
  const run = (text: string) => {
    assert.is(typeof machine.run(parseProgram(text)), 'number', text);
    return machine.view.getUint32(REQUEST, true);
  };
  assert.is(run(held), REQUEST_KIND_NET_RX);
  assert.is(run(`${held}restore\n`), 0);
  const judged = sessionOf('state', 1, []);
  const frame = parseProgram(`${held}restore\nreceive 0 0 0 800\n`);
  assert.is(judged.examine(frame), null);
});

test("an access that moves guest bytes outside of the core's own memory is a trap", () => {
  for (const [name, address] of [
    ['guestRead', 0x2ff0],
    ['guestRead', 0x1fff8],
    ['guestWrite', 0x1ff0],
    ['guestWrite', 0x1fff8],
  ] as const) {
    const { exports } = new WebAssembly.Instance(modules.fast, {});
    const call = (exported: string, ...numbers: (number | bigint)[]) =>
      (exports[exported] as (...numbers: unknown[]) => number)(...numbers);
    assert.throws(() => call(name, 0n, address, 16), WebAssembly.RuntimeError);
    assert.is(call('violation'), shared.RULE_STATE_REGION, name);
  }
});

test("the fuzz machine's places are apart, and every variant has its own", () => {
  const blocks = (shared.RAM + shared.RAM_BYTES) >> shared.DIRTY_SHIFT;
  const places = [
    [0, 0x20000], // the core's own
    [shared.EDGES, shared.EDGES_MAX],
    [shared.VIRGIN, shared.EDGES_MAX],
    [shared.DIRTY, blocks],
    [shared.ALWAYS_DIRTY, blocks],
    [shared.DICTIONARY, 8 * shared.DICTIONARY_MAX],
    [shared.COMPARISONS, 16 * shared.COMPARISONS_MAX],
    [shared.PROGRAM, shared.ENTRY_BYTES],
    [shared.WALK, 16 * shared.WALK_MAX],
    [shared.HEADS, QUEUE_COUNT_MAX * 256 * 16],
    [shared.FLIGHTS, 32 * 16],
    [shared.NET_HEADER, 12],
    [shared.HELD, QUEUE_COUNT_MAX * 256 * 16],
    [shared.HELD_COUNTS, QUEUE_COUNT_MAX * 8],
    [shared.RAM, shared.RAM_BYTES],
    [shared.SNAPSHOTS, shared.VARIANTS_MAX * shared.SNAPSHOT_STRIDE],
    [shared.TRACE, shared.TRACE_BYTES],
    [shared.ACCESSES, shared.ACCESSES_BYTES],
    // A corpus entry past the most that one program's comparisons may add.
    [shared.CORPUS, (shared.CORPUS_MAX + 1) * shared.ENTRY_BYTES],
    [shared.MEMORY_PAGES * 65536, 0],
  ].sort(([one], [other]) => one - other);
  for (let index = 1; index < places.length; index++) {
    const [at, bytes] = places[index - 1];
    assert.ok(at + bytes <= places[index][0], `${at.toString(16)} runs into the next`);
  }
  assert.is(shared.ENTRY_BYTES, shared.ENTRY_ACTIONS + shared.ACTIONS_MAX * shared.ACTION_BYTES);
  assert.ok(shared.SNAPSHOT_STRIDE >= 0x20000 + shared.RAM_BYTES);
  for (const { variants } of DEVICE_TARGETS) assert.ok(variants.length <= shared.VARIANTS_MAX);
});

test('a program that is only looked at is still new to the search', () => {
  const session = sessionOf('ring', 5, []);
  const program = parseProgram('variant 0\nnotify\n');
  assert.is(session.examine(program), null);
  assert.is(session.progress.edges, 0);
  session.consider(program);
  assert.ok(session.corpus.length > 0);
  assert.ok(session.progress.edges > 0);
});

test('what a search found is told once, and neither its corpus nor what others found', () => {
  const options = { seed: 5, corpus: corpusOf('ring').slice(0, 2), judges: [] };
  const session = new Session({ ...modules, compare: null }, deviceTarget('ring'), options);
  session.consider(parseProgram('variant 1\nrequest 0 0 0 10002000100\nnotify\n'));
  assert.is(session.corpus.length, 3);
  assert.equal(session.takeFresh(), []);
  session.step();
  const found = session.corpus.slice(3);
  session.minimise(); // which takes some of them out, and may not hide them
  assert.ok(found.length > 0);
  assert.equal(session.takeFresh(), found);
  assert.equal(session.takeFresh(), []);
});

test('of comparisons each pair of operands is told once', () => {
  const machine = new Machine(modules.compare!, modules, deviceTarget('ring'));
  machine.takeComparisons(); // of the bring-up
  machine.run(parseProgram(`variant 0\n${'request 0 0 0 10002000100\nnotify\n'.repeat(8)}`));
  const pairs = machine.takeComparisons().map((pair) => pair.join(' '));
  assert.ok(pairs.length > 10 && pairs.length < shared.COMPARISONS_MAX, `${pairs.length}`);
  assert.is(new Set(pairs).size, pairs.length);
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

test('a worker that dies ends the search, and says so', async () => {
  const options = { target: 'none', timeMs: 60_000, seed: 1, workers: 2, corpus: [] };
  const { failed, crashes } = await search({ ...options, onProgress: () => {} });
  assert.is(failed?.message, 'a worker of the search ended with status 1');
  assert.equal(crashes, []);
});

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
  [['ring', '--replay', '/'], /^fuzz: --replay '\/' is no file$/m],
  [['elf', '--replay', '/'], /^fuzz: --replay '\/' is no file$/m],
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
  for (const [text, message] of [
    ['variant 0\nfly\n', `corpus '${path}': no action: 'fly'`],
    [
      `variant 0\nfly\x1b${'.'.repeat(99)}\n`,
      `corpus '${path}': no action: 'fly${'.'.repeat(60)}'`,
    ],
    ['variant 9\nnotify\n', `--replay '${path}': no variant 9: ring has 0 to 4`],
    ['\n\n', `--replay '${path}' holds no program`],
  ]) {
    writeFileSync(path, text);
    const { status, stderr } = fuzz('ring', '--replay', path);
    assert.is(status, 2);
    assert.is(stderr, `fuzz: ${message}\n`);
  }
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
