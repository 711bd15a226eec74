#!/usr/bin/env node
// The installed command: runs the bundle that `npm run build` makes. CommonJS: see tools/build.ts.
const { existsSync } = require('node:fs');
const { join } = require('node:path');

const bundle = join(__dirname, '../build/faraday.cjs');
if (existsSync(bundle)) {
  require(bundle).main(process.argv.slice(2));
} else {
  process.stderr.write("faraday: not built yet; run 'npm run build' in its folder first\n");
  process.exitCode = 3;
}
