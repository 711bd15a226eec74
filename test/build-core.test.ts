// The step budget that the build plants in the core: exact, and full again for every call.

import binaryen from 'assemblyscript/binaryen';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { STEPS_PER_CALL } from '../assembly/abi.ts';
import { FaradayError } from '../host/errors.ts';
import { compileCore, withStepBudget } from '../tools/build-core.ts';

const LAST = STEPS_PER_CALL - 1; // the trap stands at the head of round STEPS_PER_CALL

// spin(n): n rounds of a loop. nested(n): n rounds of one loop with two rounds of another in each.
const SPINNER = `(module
  (func $spin (param $rounds i32) (result i32)
    (loop $again
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $again (local.get $rounds)))
    (i32.const 7))
  (func $nested (param $rounds i32) (result i32)
    (local $inner i32)
    (loop $outer
      (local.set $inner (i32.const 2))
      (loop $twice
        (local.set $inner (i32.sub (local.get $inner) (i32.const 1)))
        (br_if $twice (local.get $inner)))
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $outer (local.get $rounds)))
    (i32.const 8))
  (func $forever (result i32)
    (loop $again (br $again)))
  (export "spin" (func $spin))
  (export "nested" (func $nested))
  (export "forever" (func $forever)))`;

/** The text as binaryen prints it, which is what the build has. */
function printed(wat: string): string {
  return binaryen.parseText(wat).emitText();
}

function instantiate(wat: string): Record<string, (rounds: number) => number> {
  const wasm = binaryen.parseText(withStepBudget(printed(wat))).emitBinary();
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(wasm.slice()));
  return exports as Record<string, (rounds: number) => number>;
}

const trap = (error: Error) => error instanceof WebAssembly.RuntimeError;

test('a loop traps at the head of round STEPS_PER_CALL, not one earlier or later', () => {
  const { spin } = instantiate(SPINNER);
  assert.is(spin(LAST), 7);
  assert.throws(() => spin(LAST + 1), trap);
});

test('a loop without an end traps', () => {
  assert.throws(() => instantiate(SPINNER).forever(0), trap);
});

test('every call starts with a full budget, also after a trap', () => {
  const { spin } = instantiate(SPINNER);
  for (let call = 0; call < 3; call++) assert.is(spin(LAST), 7);
  assert.throws(() => spin(0), trap); // 2^32 rounds
  assert.is(spin(LAST), 7);
});

test('all loops of a call share one budget', () => {
  const { nested } = instantiate(SPINNER);
  assert.is(nested(Math.floor(LAST / 3)), 8);
  assert.throws(() => nested(Math.floor(LAST / 3) + 1), trap);
});

test('every loop of the core is counted', async () => {
  const { wat } = await compileCore();
  const loops = wat.match(/^ *\(loop /gm)?.length ?? 0;
  const heads = wat.match(/^ *\(loop \S+\s+\(global\.set \$steps-left\s+\(i32\.sub/gm)?.length;
  assert.ok(loops > 10, `${loops} loops`);
  assert.is(heads, loops);
});

test('a text form in which no loop is seen fails the build', () => {
  assert.throws(() => withStepBudget('(module)'), /0 loops in the core/);
});

test('an export that the wrapper cannot pass on fails the build', () => {
  const odd = '(module (func $f (param $a i64) (result i32) (i32.const 0)) (export "f" (func $f)))';
  assert.throws(
    () => withStepBudget(printed(odd)),
    (error: FaradayError) => error instanceof FaradayError && /export f/.test(error.message),
  );
});

test.run();
