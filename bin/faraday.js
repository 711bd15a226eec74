#!/usr/bin/env node
// The installed command: runs the bundle that `npm run build` makes. CommonJS, and with V8's
// compiled form of the bundle: see tools/build-bundle.ts.
const { readFileSync } = require('node:fs');
const { dirname, join } = require('node:path');
const { Script } = require('node:vm');

const bundle = join(__dirname, '../build/faraday.cjs');

function read(path, encoding) {
  try {
    return readFileSync(path, encoding);
  } catch {
    return undefined;
  }
}

const source = read(bundle, 'latin1');
if (source !== undefined) {
  // A cache made by another Node is not taken, and the source compiled as if there were none.
  const cachedData = read(`${bundle}.cache`);
  const script = new Script(source, { filename: bundle, cachedData });
  const faraday = { exports: {} };
  script.runInThisContext()(faraday.exports, require, faraday, bundle, dirname(bundle));
  faraday.exports.main(process.argv.slice(2));
} else {
  process.stderr.write("faraday: not built yet; run 'npm run build' in its folder first\n");
  process.exitCode = 3;
}
