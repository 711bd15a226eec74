// FARADAY_CORE_WASM=FILE npm test -- core: V8 runs that build of the core, an instrumented one, in
// place of build/core.wasm, to measure what the tests cover. test/run.ts has each test file load
// this first. Nothing of the command line imports it: `faraday` never looks at the variable.
import { readFileSync } from 'node:fs';
import { replaceCore } from '../host/core.ts';

replaceCore(readFileSync(process.env.FARADAY_CORE_WASM as string));
