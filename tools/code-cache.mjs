// Makes the code cache of the bundle: what V8 has compiled by the time a cell would be spawned, and
// no more, since all of it is unpacked at each start. Runs in a process of its own, by the Node
// that is to use it. Arguments: the bundle, a kernel, the target. Plain JavaScript, so that
// nothing but the bundle is compiled here.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { Script } from 'node:vm';

const [bundle, kernel, target] = /** @type {[string, string, string]} */ (process.argv.slice(2));
// As bin/faraday.js does it.
const script = new Script(readFileSync(bundle, 'latin1'), { filename: bundle });
const place = join(dirname(kernel), 'build/faraday.cjs');
const faraday = { exports: {} };
const nodeRequire = createRequire(bundle);

function save() {
  if (!existsSync(target)) writeFileSync(target, script.createCachedData());
}

const addon = {
  setNoNewPrivs() {},
  enterLandlock: () => ({ abi: 0, errno: '' }),
  terminalRemember() {
    throw Object.assign(new Error('no terminal is taken here'), { code: 'ENOTTY' });
  },
  startChild() {
    save();
    throw new Error('no cell is started here');
  },
};

/** Node's modules, but with an addon that starts no cell. @param {string} name */
function require(name) {
  const loaded = nodeRequire(name);
  return name === 'node:module' ? { ...loaded, createRequire: () => () => addon } : loaded;
}

script.runInThisContext()(faraday.exports, require, faraday, place, dirname(place));
const { main } = /** @type {{ main: (argv: string[]) => Promise<void> }} */ (faraday.exports);
await main(['run', '--kernel', kernel, '--disk', `path=${kernel},ro`]);
process.exitCode = 0; // it had to fail
save(); // where there is no KVM, so that it never came to a spawn
