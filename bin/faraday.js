#!/usr/bin/env node
// The installed command: runs the bundle that `npm run build` makes.
import { existsSync } from 'node:fs';

const bundle = new URL('../build/faraday.js', import.meta.url);
if (existsSync(bundle)) {
  const { main } = await import(bundle.href);
  await main(process.argv.slice(2));
} else {
  process.stderr.write("faraday: not built yet; run 'npm run build' in its folder first\n");
  process.exitCode = 3;
}
