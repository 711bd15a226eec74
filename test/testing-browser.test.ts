// The library 'faraday/testing' in a real browser: the page that examples/ has, from a file server.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { browserTest, withPage } from './browser.ts';

const PAGE = '/examples/block-device.html';
const SERVED = [
  PAGE,
  '/examples/block-device.mjs',
  '/build/testing/index.js',
  '/build/testing/library.js',
  '/build/testing/core.wasm',
];
// As a file server that never heard of WebAssembly.
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
};

const FUZZER = ['fuzz.wasm', 'fuzz-compare.wasm', 'fuzz-edges.json'];
const ALL = [...SERVED, ...FUZZER.map((name) => `/build/testing/${name}`)];

const server = createServer(({ url = '' }, response) => {
  if (url === '/favicon.ico') return response.writeHead(204).end();
  if (!ALL.includes(url)) return response.writeHead(404).end();
  const type = TYPES[extname(url)] ?? 'application/octet-stream';
  return response.setHeader('content-type', type).end(readFileSync(join(REPOSITORY, url)));
});

let origin = '';
test.before(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
test.after(() => {
  server.closeAllConnections();
  server.close();
});

browserTest(
  'a page runs the example, from five files, and gets the answers that Node gets',
  async () => {
    const node = spawnSync(process.execPath, ['examples/block-device.mjs'], {
      cwd: REPOSITORY,
      encoding: 'utf8',
    });
    assert.match(node.stdout, /^ok: write: 0\n/);
    await withPage(origin + PAGE, async (page) => {
      await page.waitFor(`document.title === 'done'`);
      assert.is(await page.evaluate(`document.querySelector('pre').textContent`), node.stdout);
      assert.equal(page.errors, []);
      const asked = page.requests.map((url) => url.slice(origin.length));
      assert.equal(asked.filter((path) => path !== '/favicon.ico').sort(), [...SERVED].sort());
    });
  },
);

browserTest('a page that cannot have the core is told in one line', async () => {
  await withPage(origin + PAGE, async (page) => {
    const load = (source: string) =>
      page.evaluate(`import('/build/testing/index.js').then((t) => t.loadCore(${source}))
        .then(() => 'none', (error) => error.code + ': ' + error.message)`);
    const missing = `the core: ${origin}/none.wasm answers status 404`;
    assert.is(await load(`new URL('/none.wasm', location.href)`), `host: ${missing}`);
    assert.is(await load(`fetch('/none.wasm')`), `host: ${missing}`);
    assert.is(await load(`fetch('/build/testing/core.wasm')`), 'none');
  });
});

// Its answers depend on nothing but the seed, whatever runs it.
const SEARCH = `async ({ loadFuzzer }) => {
  const search = (await loadFuzzer()).start('ring', { seed: 3 });
  search.run(20000);
  return [search.executions, search.edges, search.findings.length, search.corpus.join('\\n')];
}`;

browserTest('the fuzzer finds in a page what it finds in Node', async () => {
  const print = '(found) => console.log(JSON.stringify(found))';
  const code = `(${SEARCH})(await import('faraday/testing')).then(${print})`;
  const node = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    cwd: REPOSITORY,
    encoding: 'utf8',
  });
  assert.is(node.stderr, '');
  await withPage(origin + PAGE, async (page) => {
    const found = await page.evaluate(
      `import('/build/testing/index.js').then(${SEARCH}).then((x) => JSON.stringify(x))`,
    );
    assert.is(`${found}\n`, node.stdout);
    const [executions, edges, findings] = JSON.parse(node.stdout);
    assert.ok(executions >= 20000);
    assert.ok(edges > 100, `${edges} edges`);
    assert.is(findings, 0);
  });
});

test.run();
