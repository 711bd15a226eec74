// Loaded into test processes with --import: puts another core in place of build/core.wasm in V8,
// with no hook in the code that is tested.
//
// FARADAY_TEST_CORE: the module that takes its place. FARADAY_TEST_EDGES: a folder; the module then
// calls coverage.edge(i32) on every edge, and each process leaves a file there with a byte for each
// edge, 1 where it was reached.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const EDGES_MAX = 1 << 14;

const { FARADAY_TEST_CORE, FARADAY_TEST_EDGES } = process.env;

if (FARADAY_TEST_CORE !== undefined) {
  const original = readFileSync(new URL('../../build/core.wasm', import.meta.url));
  const replacement = readFileSync(FARADAY_TEST_CORE);
  const reached = new Uint8Array(EDGES_MAX);
  const coverage = {
    edge: (/** @type {number} */ index) => {
      reached[index] = 1;
    },
  };
  let used = false;

  class Module extends WebAssembly.Module {
    /** @param {BufferSource} bytes */
    constructor(bytes) {
      const view = ArrayBuffer.isView(bytes) ? bytes.buffer : bytes;
      const offset = ArrayBuffer.isView(bytes) ? bytes.byteOffset : 0;
      const replaced = original.equals(Buffer.from(view, offset, bytes.byteLength));
      used ||= replaced;
      super(replaced ? replacement : bytes);
    }
  }

  class Instance extends WebAssembly.Instance {
    /**
     * @param {WebAssembly.Module} module
     * @param {WebAssembly.Imports} [imports]
     */
    constructor(module, imports) {
      super(module, { ...imports, coverage });
    }
  }

  Object.assign(WebAssembly, { Module, Instance });
  process.once('exit', () => {
    if (!used || FARADAY_TEST_EDGES === undefined) return;
    writeFileSync(join(FARADAY_TEST_EDGES, `${process.pid}.edges`), reached);
  });
}
