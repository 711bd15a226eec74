// What `faraday run` accepts and how it refuses: host/config.ts, host/size.ts, host/suggest.ts.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  parseDiskFlag,
  parseRootfsFlag,
  type RawSettings,
  readConfigFile,
  toRunConfig,
} from '../host/config.ts';
import { EXIT_USAGE, FaradayError } from '../host/errors.ts';
import { formatSize, parseSize } from '../host/size.ts';
import { nearest } from '../host/suggest.ts';

/** The message of the usage error `act` must throw: one line, exit code 2. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (!(error instanceof FaradayError)) throw error;
    assert.is(error.exitCode, EXIT_USAGE);
    assert.not.match(error.message, '\n');
    return error.message;
  }
  throw new Error('nothing was thrown');
}

function withFile(text: string, use: (path: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-config-'));
  try {
    const path = join(folder, 'vm.json');
    writeFileSync(path, text);
    use(path);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const config = (settings: RawSettings) => toRunConfig({ kernel: 'vmlinux', ...settings });

test('defaults: 128 MiB, one vCPU, no disk, engine v8', () => {
  const made = config({});
  assert.is(made.memoryBytes, 128 * 2 ** 20);
  assert.is(made.cpus, 1);
  assert.equal(made.disks, []);
  assert.is(made.engine, 'v8');
  assert.is(made.netBackend, 'none');
  assert.ok(Object.isFrozen(made));
});

test('the kernel is required and the message says what to name', () => {
  assert.match(
    refusal(() => toRunConfig({})),
    /--kernel is missing; name a vmlinux/,
  );
});

test('memory sizes take binary units and no others', () => {
  assert.is(parseSize('--memory', '128M'), 128 * 2 ** 20);
  assert.is(parseSize('--memory', '2g'), 2 * 2 ** 30);
  assert.is(parseSize('--memory', '512KiB'), 512 * 2 ** 10);
  assert.is(parseSize('--memory', '1.5G'), 1.5 * 2 ** 30);
  for (const bad of ['', 'M', '12X', '-1M', '1e3M', '0x10M', '1 M B', '１M']) {
    assert.match(
      refusal(() => parseSize('--memory', bad)),
      /is not a size/,
    );
  }
  assert.match(
    refusal(() => parseSize('--memory', '128')),
    /lacks a unit: 128M\?/,
  );
  assert.match(
    refusal(() => parseSize('--memory', '99999999999999999T')),
    /more than any host has/,
  );
  assert.match(
    refusal(() => parseSize('--memory', '16.001M')),
    /whole number of bytes/,
  );
  assert.is(formatSize(3 * 2 ** 30), '3G');
  assert.is(formatSize(1000), '1000 bytes');
});

test('memory below 16M, or not whole pages, is refused', () => {
  assert.match(
    refusal(() => config({ memory: '15M' })),
    /'15M' is too small; at least 16M/,
  );
  assert.is(config({ memory: '16M' }).memoryBytes, 2 ** 24);
  assert.match(
    refusal(() => config({ memory: '17000.5K' })),
    /multiple of 4 KiB/,
  );
});

test('two vCPUs are more than engine v8 runs', () => {
  assert.match(
    refusal(() => config({ cpus: 2 })),
    /--cpus '2' is more than engine v8 can run/,
  );
  for (const bad of [0, -1, 33, 1.5, Number.NaN]) {
    assert.match(
      refusal(() => config({ cpus: bad })),
      /1 to 32/,
    );
  }
});

test('--rootfs takes a path and ro; a doubled comma is one in the path', () => {
  assert.equal(parseRootfsFlag('a.img'), { path: 'a.img', ro: false });
  assert.equal(parseRootfsFlag('a.img,ro'), { path: 'a.img', ro: true });
  assert.equal(parseRootfsFlag('a,,b.img,ro'), { path: 'a,b.img', ro: true });
  assert.match(
    refusal(() => parseRootfsFlag('a.img,rw')),
    /option 'rw' is unknown/,
  );
});

test('--disk takes path=, ro and id=, each once', () => {
  assert.equal(parseDiskFlag('path=a.img,ro,id=data'), { path: 'a.img', ro: true, id: 'data' });
  assert.match(
    refusal(() => parseDiskFlag('a.img')),
    /write path=a\.img/,
  );
  assert.match(
    refusal(() => parseDiskFlag('path=a,path=b')),
    /names 'path' twice/,
  );
  assert.match(
    refusal(() => parseDiskFlag('path=a,ro=1')),
    /'ro=1' is malformed; write ro/,
  );
  assert.match(
    refusal(() => parseDiskFlag('path')),
    /malformed; write path=VALUE/,
  );
  assert.match(
    refusal(() => parseDiskFlag('path=a,iops=3')),
    /'iops' is unknown/,
  );
  assert.match(
    refusal(() => config({ disk: [{ ro: true }] })),
    /lacks path=/,
  );
});

test('the root disk comes first; ids are unique and fit the GET_ID answer', () => {
  const made = config({ rootfs: 'root.img', disk: [{ path: 'a' }, { path: 'b', id: 'bulk' }] });
  assert.equal(
    made.disks.map(({ path, id }) => [path, id]),
    [
      ['root.img', 'rootfs'],
      ['a', 'disk0'],
      ['b', 'bulk'],
    ],
  );
  assert.match(
    refusal(() =>
      config({
        disk: [
          { path: 'a', id: 'x' },
          { path: 'b', id: 'x' },
        ],
      }),
    ),
    /id 'x' is used twice/,
  );
  assert.match(
    refusal(() => config({ disk: [{ path: 'a', id: 'x'.repeat(21) }] })),
    /1 to 20 printable/,
  );
  assert.match(
    refusal(() => config({ rootfs: 'a\0b' })),
    /NUL/,
  );
});

test('--cmdline and --cmdline-replace exclude each other', () => {
  assert.match(
    refusal(() => config({ cmdline: 'a', 'cmdline-replace': 'b' })),
    /exclude each other/,
  );
});

test('a value outside a fixed list is named with the list', () => {
  assert.match(
    refusal(() => config({ engine: 'cell' })),
    /--engine 'cell' is unknown; known is v8/,
  );
  assert.match(
    refusal(() => config({ 'log-level': 'loud' })),
    /known are error, warn, info, debug/,
  );
  assert.match(
    refusal(() => config({ 'net-backend': 'tap' })),
    /known is none/,
  );
});

test('a configuration file has the names of the flags and the same meaning', () => {
  const text = JSON.stringify({
    kernel: 'k',
    rootfs: { path: 'r', ro: true },
    disk: ['a', { path: 'b', id: 'b' }],
    memory: '256M',
    cpus: 1,
    'boot-timer': true,
  });
  withFile(text, (path) => {
    const made = toRunConfig({ ...readConfigFile(path), memory: '64M' });
    assert.is(made.kernel, 'k');
    assert.is(made.memoryBytes, 64 * 2 ** 20, 'the flag wins');
    assert.is(made.bootTimer, true);
    assert.equal(made.disks[0], { path: 'r', readOnly: true, id: 'rootfs' });
  });
});

const badFiles: [string, string, RegExp][] = [
  ['an unknown key', '{"kernal": "k"}', /unknown key 'kernal'; did you mean 'kernel'\?/],
  ['a wrong type', '{"cpus": "1"}', /'cpus' must be a whole number, not "1"/],
  ['a fraction of a vCPU', '{"cpus": 1.5}', /'cpus' must be a whole number/],
  ['a number for memory', '{"memory": 128}', /'memory' must be a string, not 128/],
  ['null', '{"kernel": null}', /'kernel' must be a string, not null/],
  ['an unknown disk key', '{"disk": [{"path": "a", "rw": true}]}', /\[0\] has an unknown key 'rw'/],
  ['a wrong disk type', '{"disk": [{"path": 3}]}', /'path' must be a string, not 3/],
  ['one disk without a list', '{"disk": "a"}', /must be a list of disks/],
  ['a list at the top', '[]', /must hold one JSON object/],
  ['broken JSON', '{"kernel": ', /is not JSON/],
  ['a prototype key', '{"__proto__": {"kernel": "k"}}', /unknown key '__proto__'/],
  ['an inherited name', '{"constructor": "k"}', /unknown key 'constructor'/],
];

for (const [name, text, message] of badFiles) {
  test(`a configuration file with ${name} is refused`, () => {
    withFile(text, (path) =>
      assert.match(
        refusal(() => readConfigFile(path)),
        message,
      ),
    );
  });
}

test('a missing configuration file is named', () => {
  assert.match(
    refusal(() => readConfigFile('/nonexistent/vm.json')),
    /--config '\/nonexistent\/vm\.json' cannot be read \(ENOENT\)/,
  );
});

test('the nearest word is offered only where one is near', () => {
  assert.is(nearest('--kernal', ['--kernel', '--initrd']), '--kernel');
  assert.is(nearest('--mem', ['--kernel', '--memory']), '--memory');
  assert.is(nearest('--zzzzzz', ['--kernel', '--memory']), undefined);
});

test.run();
