// Coverage of the core: measured anew, as `npm run coverage` does, and held against the page and
// the reasons given for what is not reached; and that the measurement sees what it says.
// Time limit: 480 s
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { placesIn } from '../tools/source-lines.ts';
import { parseWat } from '../tools/wat.ts';
import { eachInstruction, instrumentedCore } from './coverage/instrumented-core.ts';
import { type Measured, measure } from './coverage/measure.ts';
import { coveragePage, problems } from './coverage/page.ts';

const measured = await measure();

test('98 % of the edges are reached, and every other has its reason, which is no stale one', () => {
  assert.equal(problems(measured), []);
});

test('docs/coverage.md says what is measured', () => {
  const { is, should } = coveragePage(measured);
  assert.ok(is === should, 'write it: npm run coverage');
});

test('an edge that is no longer reached, and one that is reached after all, are noticed', () => {
  const changed = (byTests: boolean, which: (reached: boolean) => boolean): Measured => {
    const at = measured.edges.findIndex((edge) => which(edge.byTests || edge.byCorpus));
    const edges = [...measured.edges];
    edges[at] = { ...edges[at], byTests, byCorpus: false };
    return { ...measured, edges };
  };
  const before = problems(measured).length;
  const lost = changed(false, (reached) => reached);
  assert.match(problems(lost).slice(before).join(), 'has no reason');
  const gained = changed(true, (reached) => !reached);
  assert.match(problems(gained).slice(before).join(), /is for \d+ edges, not \d+/);
});

// Edges: entry, then, else. What stands after the return runs by the else edge alone.
const SMALL = `(module (func $f (param $a i32) (result i32)
  (if (local.get $a) (then (return (i32.const 1))))
  (i32.const 2)))`;

// Edges: entry, case to $in, case to $out, loop, taken, not taken.
const JUMPS = `(module (func $f (param $a i32)
  (block $out
    (block $in (br_table $in $out (i32.const 1)))
    (drop (i32.const 2)))
  (loop $again
    (br_if $again (i32.const 3))
    (drop (i32.const 4)))))`;

/** The constants in a module whose instructions ran when these edges were taken. */
function ran(module: string, ...edges: number[]): string {
  const found: string[] = [];
  eachInstruction(
    instrumentedCore(module),
    (edge) => edges.includes(edge),
    (node, did) => {
      if (did && node[0] === 'i32.const') found.push(String(node[1]));
    },
  );
  return found.join(' ');
}

test('which instructions ran follows from the edges taken', () => {
  assert.is(ran(SMALL), '');
  assert.is(ran(SMALL, 0, 1), '1');
  assert.is(ran(SMALL, 0, 2), '2');
  assert.is(ran(SMALL, 0, 1, 2), '1 2');
  assert.is(ran(JUMPS, 0, 1), '1 2');
  assert.is(ran(JUMPS, 0, 2, 3, 4), '1 3');
  assert.is(ran(JUMPS, 0, 1, 2, 3, 4, 5), '1 2 3 4');
});

test('instructions get the place that the compiler gives; text of another core is refused', () => {
  const located = SMALL.replace('(if', ';;@ assembly/a.ts:7:2\n(if').replace(
    '  (i32.const 2',
    ';;@ assembly/b.ts:9:0\n(i32.const 2',
  );
  const places = [...placesIn(parseWat(SMALL), located)];
  assert.equal(
    places.map(([node, { file, line }]) => `${node[0]} ${file}:${line}`),
    [
      ...['if', 'local.get', 'return', 'i32.const'].map((name) => `${name} assembly/a.ts:7`),
      'i32.const assembly/b.ts:9',
    ],
  );
  assert.throws(() => placesIn(parseWat(SMALL), '(module (func $f (nop)))'), /build again/);
});

test('the edges are numbered as in the fuzz modules', () => {
  const list = readFileSync(join(REPOSITORY, 'build/fuzz-edges.json'), 'utf8');
  const { edges } = instrumentedCore(readFileSync(join(REPOSITORY, 'build/core.wat'), 'utf8'));
  assert.equal(edges, JSON.parse(list).edges);
});

test.run();
