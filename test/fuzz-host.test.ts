// Fuzzing of the host's parsers: every input that ever made one crash, the corpus, a short search
// of each target; and that the engine finds what is planted, by its guide and not by luck.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CORPUS_BYTES_MAX, CORPUS_FILES_MAX, inputFiles } from '../fuzz/host/corpus.ts';
import { begin, Coverage } from '../fuzz/host/coverage.ts';
import {
  type FuzzOptions,
  fuzzHost,
  HOST_TARGETS,
  type HostTarget,
  hostTarget,
  minimiseHostCorpus,
  replayHost,
} from '../fuzz/host/engine.ts';
import { havoc } from '../fuzz/host/mutate.ts';
import { shrink } from '../fuzz/host/shrink.ts';
import { runBatch } from '../fuzz/host/verdict.ts';
import { wordsOf } from '../fuzz/host/words.ts';
import { randomFrom } from '../testing/random.ts';
import { REPOSITORY } from '../tools/cache.ts';

const SEED = Number(process.env.SEED ?? 5);
const SEARCH_MS = 1000;
const EXECUTIONS_MAX = 1000; // of each target's short search
const WARM_EXECUTIONS = 2000; // after which V8 has optimised what it would
const TOY_EXECUTIONS = 10_000; // the guided search needs under 2,000, chance four billion

const folder = mkdtempSync(join(tmpdir(), 'faraday-fuzz-test-'));
test.after(() => rmSync(folder, { recursive: true }));

const corpusOf = (target: HostTarget) => join(REPOSITORY, 'fuzz/corpus', target.name);
const regressionsOf = (name: string) => join(REPOSITORY, 'fuzz/regressions', name);

function options(change: Partial<FuzzOptions> = {}): FuzzOptions {
  return {
    timeMs: 120_000,
    seed: SEED,
    corpusFolder: join(folder, 'none'),
    crashFolder: join(folder, 'crashes'),
    now: () => performance.now(),
    ...change,
  };
}

// --- Targets ------------------------------------------------------------------------------------

test('every folder of the corpus and of the regressions belongs to a target', () => {
  for (const kind of ['corpus', 'regressions']) {
    const parent = join(REPOSITORY, 'fuzz', kind);
    for (const { name } of HOST_TARGETS.filter(({ name }) => existsSync(join(parent, name)))) {
      const files = readdirSync(join(parent, name));
      assert.ok(files.length > 0 && files.every((file) => file.endsWith('.bin')), name);
    }
  }
  assert.ok(HOST_TARGETS.some(({ name }) => existsSync(regressionsOf(name))));
});

for (const target of HOST_TARGETS) {
  test(`${target.name}: what crashed once does no more, and the corpus is clean`, async () => {
    const files = [...inputFiles(regressionsOf(target.name)), ...inputFiles(corpusOf(target))];
    assert.ok(files.length > 0, 'there is nothing to replay');
    const crashed = (await replayHost(target, files)).filter(({ crash }) => crash !== null);
    assert.equal(
      crashed.map(({ file, crash }) => `${basename(file)}: ${crash?.message}`),
      [],
    );
  });

  test(`${target.name}: the corpus in the repository is small`, () => {
    const sizes = inputFiles(corpusOf(target)).map((path) => statSync(path).size);
    assert.ok(sizes.length <= CORPUS_FILES_MAX, `${sizes.length} files`);
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    assert.ok(bytes <= CORPUS_BYTES_MAX, `${bytes} bytes`);
  });

  test(`${target.name}: a short search from the corpus finds no crash (SEED=${SEED})`, async () => {
    const limits = { timeMs: SEARCH_MS, executionsMax: EXECUTIONS_MAX };
    const corpusFolder = corpusOf(target);
    const { crashes, history } = await fuzzHost(target, options({ ...limits, corpusFolder }));
    const { edges, executions } = history.at(-1)!;
    assert.ok(executions > 0 && edges > 10, `${executions} executions, ${edges} blocks`);
    assert.equal(crashes, []);
  });
}

test('the recordings of the corpus are replayed, not only refused', async () => {
  const target = hostTarget('replay')!;
  const { history } = await fuzzHost(target, options({ executionsMax: 1 }));
  assert.ok(history[0].edges > 80, `${history[0].edges} blocks`);
});

// --- The engine ---------------------------------------------------------------------------------

/** A target with planted bugs; blind: its coverage is not looked at. */
function toy(isBlind = false): HostTarget {
  return {
    name: 'toy',
    describe: 'planted bugs',
    sources: [isBlind ? 'testing/random.ts' : 'test/fuzz-toy.ts'],
    inputBytesMax: 64,
    allocationBytesMax: 8 * 2 ** 20,
    load: async () => {
      const { parseToy } = await import('./fuzz-toy.ts');
      return { seeds: () => [new Uint8Array(16)], run: parseToy };
    },
  };
}

const limits = { executionsMax: TOY_EXECUTIONS };

test('a crash behind four conditions is found by coverage, saved and shrunk', async () => {
  const { crashes, executions } = await fuzzHost(toy(), options(limits));
  assert.is(crashes.length, 1, `${executions} executions`);
  const [{ file, message }] = crashes;
  assert.is(readFileSync(file, 'latin1'), 'FUZZ');
  assert.match(basename(file), /^toy-[0-9a-f]{12}\.bin$/);
  assert.match(message, /^TypeError: planted at \d+ bytes/);
  const [again] = await replayHost(toy(), [file]);
  assert.match(again.crash!.message, /planted at 4 bytes/);
});

test('without a look at coverage the same search does not find it', async () => {
  const { crashes } = await fuzzHost(toy(true), options(limits));
  assert.equal(crashes, []);
});

test('a seed gives the same search again, another seed another one', async () => {
  const run = async (seed: number) => {
    const { added } = await fuzzHost(toy(), options({ executionsMax: 2000, seed }));
    return added.map((bytes) => Buffer.from(bytes).toString('hex'));
  };
  const first = await run(1);
  assert.ok(first.length > 0);
  assert.equal(await run(1), first);
  assert.not.equal(await run(2), first);
});

test('too much memory and no end are crashes, and the next input runs all the same', async () => {
  const { parseGreedily, keptBytes } = await import('./fuzz-toy.ts');
  const inputs = ['', 'BIG', 'END', ''].map((text) => Buffer.from(text));
  const found = runBatch(toy(), { seeds: () => [], run: parseGreedily }, inputs);
  assert.equal(
    found.map(({ crash, index }) => [index, crash.kind]),
    [
      [1, 'memory'],
      [2, 'hang'],
    ],
  );
  assert.is(keptBytes(), 0);
});

test('a corpus is minimised to what reaches anything of its own', async () => {
  const inputs = ['', 'F', 'FU', 'F and more', 'G', 'FUZ', 'FU and more'].map((text) =>
    Buffer.from(text),
  );
  const kept = await minimiseHostCorpus(toy(), inputs);
  assert.equal(
    kept.map((bytes) => Buffer.from(bytes).toString()),
    ['F', 'FU', 'FUZ'],
  );
});

test('what ran before a take is news once', async () => {
  begin();
  const { parseToy } = await import('./fuzz-toy.ts');
  const coverage = new Coverage((url) => url.endsWith('/test/fuzz-toy.ts'));
  const news = (text: string): boolean => {
    coverage.take();
    parseToy(Buffer.from(text));
    const reached = coverage.take();
    const isNew = coverage.hasNews(reached);
    coverage.merge(reached);
    return isNew;
  };
  const seen = ['x', 'y', 'F', 'F1', 'FU', 'x', 'FU2'].map(news);
  assert.equal(seen, [true, false, true, false, true, false, false]);
  assert.ok(coverage.missing().some((line) => line.startsWith('file:') || line.includes('throw')));
});

test('a parser that is warm is seen as a cold one is', async () => {
  begin();
  const target = hostTarget('elf')!;
  const parser = await target.load();
  const kernel = Buffer.from(parser.seeds()[2]);
  const low = Buffer.from(kernel);
  low.writeBigUInt64LE(0x1000n, 64 + 24); // the address of its first segment
  const blocks = (): number => {
    const coverage = new Coverage((url) => url.endsWith('/boot/elf.ts'));
    coverage.take();
    runBatch(target, parser, [kernel]);
    coverage.merge(coverage.take());
    runBatch(target, parser, [low]);
    assert.ok(coverage.hasNews(coverage.take()));
    coverage.missing();
    return coverage.blocksReached();
  };
  blocks();
  const cold = blocks();
  for (let i = 0; i < WARM_EXECUTIONS; i++) runBatch(target, parser, [kernel, low]);
  const warm = blocks();
  assert.ok(warm >= cold, `${warm} blocks instead of ${cold}`);
});

test('shrinking keeps what the crash needs and drops or zeroes the rest', () => {
  const input = Buffer.from('some header A and, far behind it, B and a tail');
  const holds = (bytes: Uint8Array): boolean => {
    return bytes.indexOf(0x41) >= 0 && bytes.indexOf(0x42) > bytes.indexOf(0x41) + 4;
  };
  assert.equal(Buffer.from(shrink(input, holds)).toString('latin1'), 'A\0\0\0\0B');
});

test('changes to bytes stay changes: never the input itself, and of every kind', () => {
  const input = Buffer.from('an input that is to stay as it was');
  const before = input.toString();
  const context = { words: [Buffer.from('WORD')], other: Buffer.from('another input') };
  const random = randomFrom(SEED);
  const made = new Set<string>();
  for (let i = 0; i < 2000; i++) {
    made.add(Buffer.from(havoc(input, random, context)).toString('latin1'));
  }
  assert.is(input.toString(), before);
  assert.ok(made.size > 1500, `${made.size} different ones`);
  const some = (holds: (text: string) => boolean) => [...made].some(holds);
  assert.ok(some((text) => text.includes('WORD')) && some((text) => text.includes('another')));
  assert.ok(some((text) => text.length > 60) && some((text) => text.length < 10));
});

test('the dictionary holds the magic numbers of a parser, as a file would', () => {
  const words = wordsOf(['host/boot/bzimage.ts', 'host/boot/elf.ts']).map((word) =>
    Buffer.from(word).toString('latin1'),
  );
  for (const word of ['\xfd7zXZ\0', '\x28\xb5\x2f\xfd', 'Xen\0', '\x08\x02']) {
    assert.ok(words.includes(word), JSON.stringify(word));
  }
  assert.not.ok(words.some((word) => word.includes('errors.ts')));
});

test.run();
