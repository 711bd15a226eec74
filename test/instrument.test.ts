// The rewriting of a module for coverage and fuzzing, on functions of a few instructions.
import binaryen from 'assemblyscript/binaryen';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type InstrumentOptions, instrument } from '../tools/instrument.ts';
import { parseWat, printWat } from '../tools/wat.ts';

const EDGES = 0x100;

/** What a function of one i32 answers, and which of its edges it takes. */
function watch(body: string, options: Partial<InstrumentOptions> = {}, extra = '') {
  const text = `(module ${extra} (memory $0 1 1) (export "memory" (memory $0))
    (export "run" (func $run))
    (func $run (param $0 i32) (result i32) ${body}))`;
  const module = parseWat(binaryen.parseText(text).emitText());
  const { edges, fixedStores } = instrument(module, { edgesAt: EDGES, ...options });
  const built = binaryen.parseText(printWat(module));
  built.setFeatures(binaryen.Features.All);
  assert.ok(built.validate());
  const compiled = new WebAssembly.Module(built.emitBinary() as BufferSource);
  const call = (argument: number, imports: Record<string, unknown> = {}) => {
    const instance = new WebAssembly.Instance(compiled, { host: imports } as WebAssembly.Imports);
    const { memory, run } = instance.exports as {
      memory: WebAssembly.Memory;
      run: (argument: number) => number;
    };
    const answer = run(argument);
    const counts = new Uint8Array(memory.buffer, EDGES, edges.length);
    const taken = edges.flatMap(({ kind }, edge) =>
      counts[edge] ? [`${kind} ${counts[edge]}`] : [],
    );
    return { answer, taken };
  };
  return { call, edges, fixedStores };
}

test('an if has two edges, whether it has an else or not', () => {
  const { call } = watch('(if (local.get $0) (then (local.set $0 (i32.const 7)))) (local.get $0)');
  assert.equal(call(1), { answer: 7, taken: ['entry 1', 'then 1'] });
  assert.equal(call(0), { answer: 0, taken: ['entry 1', 'else 1'] });
});

test('a conditional branch with and without a value has two edges, and so has a select', () => {
  const { call } = watch(`(block $out (result i32)
    (drop (br_if $out (i32.const 5) (i32.eq (local.get $0) (i32.const 1))))
    (select (i32.const 6) (i32.const 8) (local.get $0)))`);
  assert.equal(call(1), { answer: 5, taken: ['entry 1', 'taken 1'] });
  assert.equal(call(2), { answer: 6, taken: ['entry 1', 'not taken 1', 'chosen 1'] });
  assert.equal(call(0), { answer: 8, taken: ['entry 1', 'not taken 1', 'other 1'] });
});

test('a loop counts its rounds', () => {
  const { call } = watch(`(loop $again
    (local.set $0 (i32.sub (local.get $0) (i32.const 1)))
    (br_if $again (local.get $0))) (local.get $0)`);
  assert.equal(call(3), { answer: 0, taken: ['entry 1', 'loop 3', 'taken 2', 'not taken 1'] });
});

test('each target of a br_table is an edge of its own', () => {
  const { call, edges } = watch(`(block $other (block $two (block $one
    (br_table $one $two $one $other (local.get $0)))
    (return (i32.const 11))) (return (i32.const 12))) (i32.const 13)`);
  assert.is(edges.filter(({ kind }) => kind === 'case').length, 3);
  assert.equal(
    [0, 1, 2, 3, 9].map((value) => call(value).answer),
    [11, 12, 11, 13, 13],
  );
  assert.is.not(call(0).taken.join(), '');
});

test('an edge that leads to nothing but a trap is marked', () => {
  const { edges } = watch('(if (local.get $0) (then (unreachable))) (local.get $0)');
  assert.equal(
    edges.map(({ kind, trapOnly }) => [kind, trapOnly]),
    [
      ['entry', false],
      ['then', true],
      ['else', false],
    ],
  );
});

test("the step budget's own check is no edge", () => {
  const step = `(if (i32.eqz (global.get $steps-left)) (then (unreachable)))`;
  const { edges } = watch(
    `${step} (local.get $0)`,
    {},
    '(global $steps-left (mut i32) (i32.const 9))',
  );
  assert.equal(
    edges.map(({ kind }) => kind),
    ['entry'],
  );
});

const OUTSIDE = '(import "host" "outside" (func $outside (param i32)))';
const BOUNDS = { dirtyAt: 0x200, blockShift: 4, loadFrom: 0x40, storeFrom: 0x80, end: 0xc0 };

test('a computed access outside of its bounds is told before it is made', () => {
  const { call } = watch(
    '(i32.store offset=4 (local.get $0) (i32.const 1)) (i32.load (local.get $0))',
    { memory: BOUNDS },
    OUTSIDE,
  );
  const told = (address: number) => {
    const addresses: number[] = [];
    call(address, { outside: (at: number) => addresses.push(at) });
    return addresses;
  };
  assert.equal(told(0x80), []);
  assert.equal(told(0xb8), []);
  assert.equal(told(0x7c), [], 'the store begins where it may');
  assert.equal(told(0x78), [0x78], 'and here four bytes before');
  assert.equal(told(0xbc), [0xbc], 'the store would end past the last byte');
  assert.equal(told(0x30), [0x30, 0x30]);
});

test('stores are marked by their block, those with a fixed address listed', () => {
  const { call, fixedStores } = watch(
    `(i32.store (i32.const 144) (i32.const 1)) (i32.store8 offset=1 (local.get $0) (i32.const 1))
     (i32.load8_u (i32.const 523))`,
    { memory: BOUNDS },
    OUTSIDE,
  );
  assert.equal(fixedStores, [144]);
  assert.is(call(0xae, { outside() {} }).answer, 0);
  assert.is(call(0xaf, { outside() {} }).answer, 1, 'block 11 begins at 0xb0');
});

test('both operands of a comparison are told, each evaluated once', () => {
  const seen: [bigint, bigint][] = [];
  const { call } = watch(
    `(i32.lt_u (i32.add (i32.lt_u (local.get $0) (i32.const 9)) (local.tee $0
      (i32.add (local.get $0) (i32.const 1)))) (local.get $0))`,
    { comparisons: true },
    '(import "host" "compare" (func $compare (param i64) (param i64)))',
  );
  const compare = (left: bigint, right: bigint) => seen.push([left, right]);
  assert.is(call(5, { compare }).answer, 0);
  assert.equal(seen, [
    [5n, 9n],
    [7n, 6n],
  ]);
});

test.run();
