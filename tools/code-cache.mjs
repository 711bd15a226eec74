// Makes the code cache of the bundle: what V8 has compiled by the time a guest would start. Runs in
// a process of its own, by the Node that is to use it. Arguments: the bundle, a kernel, the target.
// Plain JavaScript, so that nothing but the bundle is compiled here.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { Script } from 'node:vm';

const [bundle, kernel, target] = /** @type {[string, string, string]} */ (process.argv.slice(2));
// As bin/faraday.js does, but in a folder without a cell, so that none is started.
const script = new Script(readFileSync(bundle, 'latin1'), { filename: bundle });
const place = join(dirname(kernel), 'build/faraday.cjs');
const faraday = { exports: {} };
script.runInThisContext()(faraday.exports, createRequire(bundle), faraday, place, dirname(place));
const { main } = /** @type {{ main: (argv: string[]) => Promise<void> }} */ (faraday.exports);
await main(['run', '--kernel', kernel]);
process.exitCode = 0; // it had to fail
writeFileSync(target, script.createCachedData());
