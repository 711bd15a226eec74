// What `faraday run` accepts and how it refuses: host/config.ts, host/size.ts, host/suggest.ts.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readConfigFile, toRunConfig } from '../host/config.ts';
import { parseDiskFlag, parseRootfsFlag } from '../host/disk-config.ts';
import type { RawSettings } from '../host/settings.ts';
import { formatSize, parseSize } from '../host/size.ts';
import { nearest } from '../host/suggest.ts';
import { usageRefusal as refusal } from './usage-refusal.ts';

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

test('defaults: 128 MiB, one vCPU, no disk, engine cell', () => {
  const made = config({});
  assert.is(made.memoryBytes, 128 * 2 ** 20);
  assert.is(made.cpus, 1);
  assert.equal(made.disks, []);
  assert.is(made.engine, 'cell');
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
    refusal(() => config({ cpus: 2, engine: 'v8' })),
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
  assert.equal(parseRootfsFlag('a.img'), { path: 'a.img' });
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

test('a disk takes options for its I/O, on either flag and in the file', () => {
  const options = 'io-engine=io_uring,num-queues=4,cache=writethrough,queue-size=64';
  const raw = { 'io-engine': 'io_uring', 'num-queues': 4, cache: 'writethrough', 'queue-size': 64 };
  assert.equal(parseDiskFlag(`path=a,${options}`), { path: 'a', ...raw });
  assert.equal(parseRootfsFlag(`a,ro,${options}`), { path: 'a', ro: true, ...raw });
  withFile(JSON.stringify({ kernel: 'k', disk: [{ path: 'a', ...raw }] }), (path) => {
    const [disk] = toRunConfig(readConfigFile(path)).disks;
    const { ioUring, queueCount, writeback, queueSize } = disk!;
    assert.equal([ioUring, queueCount, writeback, queueSize], [true, 4, false, 64]);
  });
});

const badDisks: [RawSettings, RegExp][] = [
  [{ 'io-engine': 'aio' }, /--disk io-engine 'aio' is unknown; known are sync, io_uring$/],
  [{ cache: 'none' }, /--disk cache 'none' is unknown; known are writeback, writethrough$/],
  [{ 'num-queues': 0 }, /--disk num-queues '0' must be a whole number from 1 to 8$/],
  [{ 'num-queues': 9 }, /num-queues '9' must be/],
  [{ 'queue-size': 2 }, /--disk queue-size '2' must be a power of two from 4 to 256$/],
  [{ 'queue-size': 100 }, /queue-size '100' must be a power of two/],
  [{ 'queue-size': 512 }, /queue-size '512' must be/],
];

for (const [options, message] of badDisks) {
  test(`a disk with ${JSON.stringify(options)} is refused`, () => {
    assert.match(
      refusal(() => config({ disk: [{ path: 'a', ...options }] })),
      message,
    );
  });
}

test('malformed options of disks are refused by flag', () => {
  assert.match(
    refusal(() => parseDiskFlag('path=a,num-queues=two')),
    /--disk num-queues 'two' must be a whole number, such as num-queues=4/,
  );
  assert.match(
    refusal(() => parseRootfsFlag('a,io-engine')),
    /--rootfs option 'io-engine' is malformed; write io-engine=VALUE/,
  );
  assert.match(
    refusal(() => parseRootfsFlag('a,id=x')),
    /--rootfs option 'id' is unknown; known are ro, io-engine=, num-queues=, cache=, queue-size=$/,
  );
});

const notForV8: [RawSettings, RegExp][] = [
  [{ disk: [{ path: 'a', 'io-engine': 'io_uring' }] }, /io-engine=io_uring of disk disk0/],
  [{ 'huge-pages': '2M' }, /--huge-pages '2M'/],
  [{ prefault: true }, /--prefault/],
  [{ detach: true }, /--detach/],
];

for (const [settings, message] of notForV8) {
  test(`engine v8 refuses ${JSON.stringify(settings)} in one line that names the way out`, () => {
    const line = refusal(() => config({ engine: 'v8', ...settings }));
    assert.match(line, message);
    assert.match(line, /is not for engine v8; use --engine cell or /);
  });
}

test('what a machine may have: memory, CPUs and queues', () => {
  const made = config({ cpus: 32, 'huge-pages': '2M', prefault: true });
  assert.equal([made.cpus, made.hugePages, made.prefault], [32, '2M', true]);
  assert.equal([config({}).hugePages, config({}).prefault], ['transparent', false]);
  const many = config({ cpus: 2, disk: [{ path: 'a', 'num-queues': 8 }] });
  assert.is(many.disks[0]!.queueCount, 8);
});

test('a guest that is left running makes no report', () => {
  assert.is(config({ detach: true }).detach, true);
  assert.match(
    refusal(() => config({ detach: true, report: 'r' })),
    /--detach and --report exclude each other/,
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
    refusal(() => config({ engine: 'qemu' })),
    /--engine 'qemu' is unknown; known are cell, v8/,
  );
  assert.match(
    refusal(() => config({ 'huge-pages': '1G' })),
    /--huge-pages '1G' is unknown; known are off, transparent, 2M/,
  );
  assert.match(
    refusal(() => config({ 'log-level': 'loud' })),
    /known are error, warn, info, debug/,
  );
  assert.match(
    refusal(() => config({ 'net-backend': 'slirp' })),
    /known are none, tap, vhost-net, macvtap, user/,
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
    const standard = { ioUring: false, writeback: true, queueCount: 1, queueSize: 256 };
    assert.equal(made.disks[0], { path: 'r', readOnly: true, id: 'rootfs', ...standard });
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
