// The shape of the release core: what it imports and exports, that its state is all there is to it,
// and that abi.ts, whose numbers both sides read, is consistent.
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { coreModule } from '../host/core.ts';
import { compileCore } from '../tools/build-core.ts';

const CORE = new URL('../build/core.wasm', import.meta.url);
const IMPORTS = ['fence', 'load16', 'read', 'store16', 'write'];
const FUNCTIONS = [
  'check',
  'complete',
  'fail',
  'init',
  'input',
  'next',
  'notify',
  'read',
  'reset',
  'write',
];

/** The core compiled once more, with the names that the binary does not have. */
const fresh = await compileCore();

test('the imports are exactly the guest memory accessors', () => {
  const imports = WebAssembly.Module.imports(coreModule());
  assert.equal(
    imports.map(({ module, name, kind }) => `${kind} ${module}.${name}`).sort(),
    IMPORTS.map((name) => `function guest.${name}`),
  );
});

test('the exports are exactly the ten functions and the memory', () => {
  const exports = WebAssembly.Module.exports(coreModule());
  const names = exports.map(({ name, kind }) => `${kind} ${name}`).sort();
  assert.equal(names, [...FUNCTIONS.map((name) => `function ${name}`), 'memory memory']);
});

test('the build is reproducible, byte for byte, and build/core.wasm is up to date', () => {
  assert.ok(readFileSync(CORE).equals(fresh.wasm), 'run `npm run build`, then try again');
});

test('the memory is the whole state: no table, no data, no start function', () => {
  for (const item of ['table', 'elem', 'data', 'start']) {
    assert.not.match(fresh.wat, new RegExp(`^ *\\(${item} `, 'm'), item);
  }
  assert.not.match(fresh.wat, 'call_indirect');
});

test('the one global is the step budget, which every export fills before it does anything', () => {
  const globals = fresh.wat.match(/^ *\(global .*$/gm);
  assert.equal(
    globals?.map((line) => line.trim()),
    ['(global $steps-left (mut i32) (i32.const 0))'],
  );
  for (const name of FUNCTIONS) {
    assert.match(fresh.wat, `(export "${name}" (func $entry-${name}))`);
    const body = fresh.wat.split(`(func $entry-${name} `)[1] ?? '';
    const first = /\(result i32\)\s+\(global\.set \$steps-left\s+\(i32\.const (\d+)\)/.exec(body);
    assert.is(first?.[1], `${abi.STEPS_PER_CALL}`, name);
  }
});

test('the memory has its fixed size and never grows', () => {
  assert.match(fresh.wat, /\(memory \$0 2 2\)/);
  assert.not.match(fresh.wat, 'memory.grow');
  assert.is(abi.CAGE_MEMORY_BYTES, 2 * 65536);
});

test('nothing of a heap is linked in', () => {
  assert.not.match(fresh.wat, '~lib/rt');
  assert.not.match(fresh.wat, '~lib/memory/heap');
});

/** Who calls whom, from the text form; there are no indirect calls. */
function callGraph(wat: string): Map<string, string[]> {
  const graph = new Map<string, string[]>();
  let current: string[] = [];
  for (const line of wat.split('\n')) {
    const name = /^ \(func (\$\S+)/.exec(line)?.[1];
    if (name) {
      current = [];
      graph.set(name, current);
    }
    const callee = /\bcall (\$[^\s)]+)/.exec(line)?.[1];
    if (callee) current.push(callee);
  }
  return graph;
}

/** A path of calls that comes back to where it started, or null. */
function findCycle(graph: Map<string, string[]>): string[] | null {
  const done = new Set<string>();
  const visit = (name: string, path: string[]): string[] | null => {
    if (path.includes(name)) return [...path, name];
    if (done.has(name)) return null;
    for (const callee of graph.get(name) ?? []) {
      const cycle = visit(callee, [...path, name]);
      if (cycle) return cycle;
    }
    done.add(name);
    return null;
  };
  for (const name of graph.keys()) {
    const cycle = visit(name, []);
    if (cycle) return cycle;
  }
  return null;
}

test('nothing recurses: the call graph has no cycle', () => {
  const graph = callGraph(fresh.wat);
  assert.ok(graph.size > 15, `${graph.size} functions`);
  const calls = [...graph.values()].reduce((sum, callees) => sum + callees.length, 0);
  assert.ok(calls > 30, `${calls} calls`);
  assert.is(findCycle(graph), null);
});

test('the search for cycles finds one', () => {
  const graph = callGraph(' (func $a\n  call $b\n (func $b\n  (call $c)\n (func $c\n  call $a');
  assert.equal(findCycle(graph), ['$a', '$b', '$c', '$a']);
});

/** The numbers of abi.ts whose names start with `prefix`. */
function numbers(prefix: string): number[] {
  return Object.entries(abi).flatMap(([name, value]) => (name.startsWith(prefix) ? [value] : []));
}

test('effects are distinct single bits', () => {
  const effects = numbers('EFFECT_');
  assert.is(new Set(effects).size, effects.length);
  for (const effect of effects) assert.is(effect & (effect - 1), 0);
});

test('kinds, incidents, request kinds and results are distinct', () => {
  for (const prefix of ['KIND_', 'INCIDENT_', 'REQUEST_KIND_', 'RESULT_']) {
    const values = numbers(prefix);
    assert.ok(values.length > 1);
    assert.is(new Set(values).size, values.length, prefix);
  }
  assert.ok(Math.max(...numbers('INCIDENT_')) < abi.COUNTER_COUNT);
});

test('the fixed places of the memory follow each other', () => {
  const ends = [
    abi.INBOX,
    abi.INBOX + abi.INBOX_BYTES,
    abi.OUTBOX + abi.OUTBOX_BYTES,
    abi.STATE,
    abi.STATE + abi.STATE_BYTES,
  ];
  assert.equal(
    ends,
    [...ends].sort((a, b) => a - b),
  );
  assert.is(abi.STATE + abi.STATE_BYTES, abi.CAGE_MEMORY_BYTES);
  assert.ok(abi.REQUEST + abi.REQUEST_BYTES_MAX <= abi.OUTBOX + abi.OUTBOX_BYTES);
});

test('docs/abi.md names every effect, kind, incident, request and export', () => {
  const page = readFileSync(new URL('../docs/abi.md', import.meta.url), 'utf8');
  const prefixes = /^(EFFECT|KIND|INCIDENT|REQUEST_KIND|REQUEST_FLAG|RESULT|INVALID)_/;
  for (const name of Object.keys(abi).filter((key) => prefixes.test(key))) {
    assert.match(page, new RegExp(`\`${name}\``), name);
  }
  for (const name of [...FUNCTIONS, ...IMPORTS]) {
    assert.match(page, new RegExp(`\`${name}\\(`), name);
  }
});

test.run();
