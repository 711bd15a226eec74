// What `faraday run` takes as a network and how it refuses: host/net-config.ts and what it reads
// with, host/net-address.ts and host/net-limits.ts. test/net-open.test.ts opens them.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { commandLine } from '../host/boot/cmdline.ts';
import { readConfigFile, toRunConfig } from '../host/config.ts';
import { explainSandbox } from '../host/confine/explain-sandbox.ts';
import { sandboxText } from '../host/confine/explain-text.ts';
import { composeImage } from '../host/machine.ts';
import { netmask, parsePublish } from '../host/net-address.ts';
import { type NetRequest, parseNetFlag } from '../host/net-config.ts';
import type { RawSettings } from '../host/settings.ts';
import { usageRefusal as refusal } from './usage-refusal.ts';

const config = (settings: RawSettings) => toRunConfig({ kernel: 'vmlinux', ...settings });

/** The one network of a --net with these options. */
function net(text: string, more: RawSettings = {}): NetRequest {
  const { nets } = config({ net: [parseNetFlag(text)], cpus: 8, ...more });
  assert.is(nets.length, 1);
  return nets[0]!;
}

const refused = (text: string, more: RawSettings = {}) => refusal(() => net(text, more));

// --- What is taken ------------------------------------------------------------------------------

test('no flag, no network', () => {
  const { netBackend, nets } = config({});
  assert.equal([netBackend, nets], ['none', []]);
});

test('a tap alone has the defaults, and implies its backend', () => {
  for (const settings of [{ tap: 'tap0' }, { net: [{ tap: 'tap0' }] }, { net: ['tap=tap0'] }]) {
    const { netBackend, nets } = config(settings);
    assert.is(netBackend, 'tap');
    assert.equal(nets, [
      {
        id: 'net0',
        backend: 'tap',
        source: { tap: 'tap0' },
        mac: undefined,
        mtu: undefined,
        queuePairs: 1,
        queueSize: undefined,
        macFilter: false,
        ip: undefined,
        gateway: undefined,
        publish: [],
        rx: {},
        tx: {},
      },
    ]);
    assert.ok(Object.isFrozen(nets) && Object.isFrozen(nets[0]));
  }
});

test('every option of a network', () => {
  const made = net(
    'tap=t.0-a,id=up,mac=02:AB:00:00:00:01,mtu=9000,queues=4,queue-size=64,mac-filter=on,' +
      'ip=10.0.0.2/24,gateway=10.0.0.1',
  );
  const { id, mac, mtu, queuePairs, queueSize, macFilter, ip, gateway } = made;
  assert.equal([id, mac, mtu, queuePairs], ['up', '02:ab:00:00:00:01', 9000, 4]);
  assert.equal([queueSize, macFilter, gateway], [64, true, '10.0.0.1']);
  assert.equal(ip, { address: '10.0.0.2', prefix: 24 });
});

test('descriptors are a queue each', () => {
  const made = net('fd=5:7');
  assert.equal([made.source, made.queuePairs], [{ fds: [5, 7] }, 2]);
});

test('several networks, numbered in their order', () => {
  const { nets } = config({ net: ['tap=a', 'tap=b,id=x', 'fd=9'] });
  assert.equal(
    nets.map(({ id }) => id),
    ['net0', 'x', 'net2'],
  );
});

test('the short forms are one network', () => {
  const [made] = config({ tap: 'a', mac: '02:00:00:00:00:01', 'net-backend': 'macvtap' }).nets;
  assert.equal([made!.source, made!.mac], [{ tap: 'a' }, '02:00:00:00:00:01']);
  assert.is(made!.backend, 'macvtap');
});

test('backend user is a network without an interface, with its ports', () => {
  const { nets } = config({ 'net-backend': 'user', publish: ['8080:80', '[::1]:53:53/udp'] });
  assert.equal(
    nets.map(({ source, publish }) => [source, publish.length]),
    [[{ passt: true }, 2]],
  );
  const named = config({ 'net-backend': 'user', net: ['id=n,mtu=1400'] }).nets;
  assert.equal([named[0]!.id, named[0]!.mtu], ['n', 1400]);
});

test('ports of the host', () => {
  const tcp = { address: undefined, hostPort: 8080, guestPort: 80, protocol: 'tcp' };
  assert.equal(parsePublish('8080:80'), tcp);
  assert.equal(parsePublish('127.0.0.1:8080:80/tcp'), { ...tcp, address: '127.0.0.1' });
  assert.equal(parsePublish('[::1]:8080:80/UDP'), { ...tcp, address: '::1', protocol: 'udp' });
});

test('rate limits: bytes with a unit or without, frames by number, 0 for none', () => {
  const { rx, tx } = net(
    'tap=a,rx-bw-size=10M,rx-bw-refill-time=100,rx-bw-one-time-burst=4096,' +
      'tx-ops-size=1000,tx-ops-refill-time=50,tx-bw-size=0,tx-bw-refill-time=1',
  );
  const bandwidth = { size: 10 * 2 ** 20, oneTimeBurst: 4096, refillMs: 100 };
  assert.equal(rx, { bandwidth });
  assert.equal(tx, { ops: { size: 1000, oneTimeBurst: 0, refillMs: 50 } });
  const [file] = config({ net: [{ tap: 'a', 'rx-bw-size': 5, 'rx-bw-refill-time': 6 }] }).nets;
  assert.equal(file!.rx, { bandwidth: { size: 5, oneTimeBurst: 0, refillMs: 6 } });
});

test('the address of a guest goes to its kernel', () => {
  const ip = { address: '10.0.0.2', prefix: 22 };
  const nets = [
    { device: 'eth0', ip, gateway: '10.0.0.1' },
    { device: 'eth1', ip },
  ];
  const text = commandLine({ nets, append: 'quiet' });
  assert.match(text, / ip=10\.0\.0\.2::10\.0\.0\.1:255\.255\.252\.0::eth0:off /);
  assert.match(text, / ip=10\.0\.0\.2:::255\.255\.252\.0::eth1:off quiet$/);
  assert.equal([1, 24, 31, 32].map(netmask), [
    ...['128.0.0.0', '255.255.255.0', '255.255.255.254', '255.255.255.255'],
  ]);
});

// --- What is refused ----------------------------------------------------------------------------

const BAD: [string, RegExp][] = [
  ['tap0', /--net option 'tap0' is unknown; .*; write tap=tap0$/],
  ['tap=a,speed=1', /--net option 'speed' is unknown; known are tap=, fd=, mac=/],
  ['tap=a,tap=b', /--net names 'tap' twice/],
  ['tap=a,mtu', /--net option 'mtu' is malformed; write mtu=VALUE/],
  ['mac=02:00:00:00:00:01', /--net lacks its interface; write tap=NAME, or fd=NUMBER/],
  ['tap=', /--net tap '' must be the name of an interface/],
  ['tap=sixteenletters__', /1 to 15 printable characters/],
  ['tap=a/b', /--net tap 'a\/b' must be/],
  ['tap=a b', /without space/],
  ['tap=tap%d', /without space/],
  ['tap=..', /must be the name/],
  ['tap=a,fd=3', /tap= and fd= exclude each other/],
  ['fd=x', /--net fd 'x' must be descriptors of a tap/],
  ['fd=3:', /--net fd '3:' must be/],
  ['fd=1', /--net fd '1' must be a whole number from 3/],
  ['fd=3:3', /--net fd '3:3' names 3 twice/],
  ['fd=3:4,queues=1', /--net queues '1' needs as many descriptors, not 2/],
  ['tap=a,mac=01:00:5e:00:00:01', /mac '01:00:5e:00:00:01' is a multicast address/],
  ['tap=a,mac=ff:ff:ff:ff:ff:ff', /is a multicast address/],
  ['tap=a,mac=02:00:00:00:00', /mac '02:00:00:00:00' must be six bytes/],
  ['tap=a,mac=02:00:00:00:00:01:02', /must be six bytes/],
  ['tap=a,mac=02-00-00-00-00-01', /must be six bytes/],
  ['tap=a,mac=2:0:0:0:0:1', /must be six bytes/],
  ['tap=a,mac=00:00:00:00:00:00', /is all zero/],
  ['tap=a,mtu=67', /--net mtu '67' must be a whole number from 68 to 65535/],
  ['tap=a,mtu=65536', /mtu '65536' must be/],
  ['tap=a,mtu=big', /--net mtu 'big' must be a whole number/],
  ['tap=a,queues=0', /--net queues '0' must be a whole number from 1 to 8/],
  ['tap=a,queues=9', /--net queues '9' must be/],
  ['tap=a,queue-size=100', /--net queue-size '100' must be a power of two from 4 to 256/],
  ['tap=a,mac-filter=yes', /--net mac-filter 'yes' is unknown; known are on, off/],
  ['tap=a,id=', /--net id is empty/],
  ['tap=a,id=012345678901234567890', /1 to 20 printable ASCII/],
  ['tap=a,ip=10.0.0.2', /--net ip '10\.0\.0\.2' lacks its prefix: 10\.0\.0\.2\/24\?/],
  ['tap=a,ip=10.0.0/24', /must be an IPv4 address/],
  ['tap=a,ip=10.0.0.256/24', /must be an IPv4 address/],
  ['tap=a,ip=fd00::2/64', /must be an IPv4 address/],
  ['tap=a,ip=10.0.0.2/33', /must have a prefix from 1 to 32/],
  ['tap=a,ip=10.0.0.0/24', /is no address that a guest can have/],
  ['tap=a,ip=10.0.0.255/24', /is no address that a guest can have/],
  ['tap=a,ip=224.0.0.1/24', /is no address that a guest can have/],
  ['tap=a,gateway=10.0.0.1', /--net gateway '10\.0\.0\.1' needs ip= beside it/],
  ['tap=a,ip=10.0.0.2/24,gateway=10.0.1.1', /is not in the subnet of ip=10\.0\.0\.2\/24/],
  ['tap=a,ip=10.0.0.2/24,gateway=10.0.0.2', /is the address of the guest itself/],
  ['tap=a,ip=10.0.0.2/24,gateway=10.0.0.255', /is no address that a host can have/],
  ['tap=a,ip=10.0.0.2/24,gateway=up', /must be an IPv4 address/],
  ['tap=a,rx-bw-size=1M', /--net rx-bw-size needs rx-bw-refill-time= beside it/],
  ['tap=a,tx-ops-refill-time=1', /--net tx-ops-refill-time needs tx-ops-size=/],
  ['tap=a,tx-bw-one-time-burst=1', /--net tx-bw-one-time-burst needs tx-bw-size=/],
  ['tap=a,rx-bw-size=fast,rx-bw-refill-time=1', /--net rx-bw-size 'fast' is not a size/],
  ['tap=a,rx-ops-size=1M,rx-ops-refill-time=1', /--net rx-ops-size '1M' must be a whole number/],
];

for (const [text, message] of BAD) {
  test(`--net ${text} is refused`, () => assert.match(refused(text), message));
}

test('a size beyond what a number holds is refused', () => {
  const text = `tap=a,rx-bw-size=${'9'.repeat(400)},rx-bw-refill-time=1`;
  assert.match(refused(text), /must be a whole number of at most 2\^53/);
});

const BAD_TOGETHER: [RawSettings, RegExp][] = [
  [{ net: ['tap=a', 'tap=a'] }, /--net tap 'a' is used twice; attach each interface once/],
  [{ net: ['fd=3', 'fd=3'] }, /--net fd '3' is used twice/],
  [{ net: ['tap=a,id=x', 'tap=b,id=x'] }, /--net id 'x' is used twice; give each network/],
  [
    { net: ['tap=a,mac=02:00:00:00:00:01', 'tap=b,mac=02:00:00:00:00:01'] },
    /--net mac '02:00:00:00:00:01' is used twice/,
  ],
  [{ net: ['tap=a,ip=10.0.0.2/8', 'tap=b,ip=10.0.0.2/8'] }, /--net ip '10.0.0.2' is used twice/],
  [{ net: ['tap=a,queues=3'], cpus: 2 }, /--net queues '3' is more than --cpus 2/],
  [{ net: ['tap=a'], 'net-backend': 'none' }, /--net and --net-backend none exclude each other/],
  [{ 'net-backend': 'tap' }, /--net-backend tap lacks its interface; add --tap NAME/],
  [{ 'net-backend': 'vhost-net' }, /--net-backend vhost-net lacks its interface/],
  [{ net: ['tap=a'], tap: 'b' }, /--tap and --net exclude each other/],
  [{ net: ['tap=a'], mac: '02:00:00:00:00:01' }, /--mac and --net exclude each other/],
  [{ mac: '02:00:00:00:00:01' }, /--mac is for one network; add --tap NAME/],
  [{ tap: 'a', publish: ['80:80'] }, /--publish '80:80' is for --net-backend user; add that/],
  [{ publish: ['80:80'] }, /is for --net-backend user/],
  [{ net: ['tap=a'], 'net-backend': 'user' }, /--net tap= and --net-backend user exclude/],
  [{ net: ['fd=3'], 'net-backend': 'user' }, /--net fd= and --net-backend user exclude/],
  [{ net: ['id=a', 'id=b'], 'net-backend': 'user' }, /user makes one network, not 2/],
  [{ net: ['queues=2'], cpus: 2, 'net-backend': 'user' }, /queues '2' is more than --net-backend/],
  [
    { 'net-backend': 'user', publish: ['80:80', '80:81'] },
    /--publish '80:81': its port of the host is taken already/,
  ],
  [{ net: ['tap=a,mac-filter=on'], 'net-backend': 'vhost-net' }, /mac-filter=on is not for/],
  [
    { net: ['tap=a,tx-ops-size=1,tx-ops-refill-time=1'], 'net-backend': 'vhost-net' },
    /--net with a rate limit is not for --net-backend vhost-net/,
  ],
  [{ net: ['tap=a,ip=10.0.0.2/8'], 'cmdline-replace': 'x' }, /ip= and --cmdline-replace exclude/],
  [{ tap: 'a', engine: 'v8' }, /--net-backend tap is not for engine v8; use --engine cell or/],
  [{ tap: 'a', 'net-backend': 'slirp' }, /known are none, tap, vhost-net, macvtap, user$/],
];

for (const [settings, message] of BAD_TOGETHER) {
  test(`${JSON.stringify(settings)} is refused`, () => {
    assert.match(
      refusal(() => config(settings)),
      message,
    );
  });
}

for (const text of [
  '80',
  ':80',
  '80:',
  '0:80',
  '80:65536',
  'a:80:80',
  '1.2.3:80:80',
  '::1:80:80',
]) {
  test(`--publish ${text} is refused`, () => {
    assert.match(
      refusal(() => parsePublish(text)),
      /^--publish '/,
    );
  });
}

// --- In a configuration file --------------------------------------------------------------------

const folder = mkdtempSync(join(tmpdir(), 'faraday-net-config-'));
test.after(() => rmSync(folder, { recursive: true }));

function fromFile(settings: unknown): RawSettings {
  const path = join(folder, 'vm.json');
  writeFileSync(path, JSON.stringify(settings));
  return readConfigFile(path);
}

test('a configuration file has networks as objects or as text', () => {
  const settings = fromFile({
    net: [{ tap: 'a', 'mac-filter': 'on', 'rx-bw-size': '1M', 'rx-bw-refill-time': 5 }, 'tap=b'],
  });
  const { nets } = config(settings);
  assert.equal([nets[0]!.macFilter, nets[0]!.rx.bandwidth!.size], [true, 2 ** 20]);
  assert.equal(nets[1]!.source, { tap: 'b' });
});

const BAD_FILES: [unknown, RegExp][] = [
  [{ net: 'tap=a' }, /'net' must be a list of networks, not "tap=a"/],
  [{ net: [3] }, /'net'\[0\] must be a text such as "tap=tap0" or an object/],
  [{ net: [{ tpa: 'a' }] }, /'net'\[0\] has an unknown key 'tpa'; did you mean 'tap'\?/],
  [{ net: [{ tap: 1 }] }, /'net'\[0\]: 'tap' must be a string, not 1/],
  [{ net: [{ tap: 'a', mtu: '9000' }] }, /'mtu' must be a whole number, not "9000"/],
  [{ net: [{ tap: 'a', 'rx-bw-size': 1.5 }] }, /'rx-bw-size' must be a whole number or a string/],
  [{ publish: '80:80' }, /'publish' must be a list of strings/],
];

for (const [settings, message] of BAD_FILES) {
  test(`a file with ${JSON.stringify(settings)} is refused`, () => {
    assert.match(
      refusal(() => fromFile(settings)),
      message,
    );
  });
}

// --- Elsewhere ----------------------------------------------------------------------------------

test('a composed machine has no network', async () => {
  let message = '';
  await composeImage(config({ tap: 'a' })).catch((error: Error) => {
    message = error.message;
  });
  assert.match(message, /^a composed machine has no network yet; leave/);
});

test('the policy of a run names what its network opens', () => {
  const made = config({
    net: ['tap=a,queues=2'],
    cpus: 2,
    'net-backend': 'vhost-net',
  });
  const sandbox = explainSandbox(made, true);
  assert.equal(sandbox.host.before, [
    { path: '/dev/net/tun', reason: 'network net0, 2 times: a' },
    { path: '/dev/vhost-net', reason: 'network net0, 2 times' },
  ]);
  const what = sandbox.cell!.descriptors.map((one) => one.what);
  assert.ok(what.includes('network net0: a, 2 queues'));
  assert.ok(what.includes('/dev/vhost-net, 2 queues, for network net0'));
  assert.match(sandboxText(sandbox), /Opened before it gives anything up[\s\S]*\/dev\/net\/tun/);
  const macvtap = explainSandbox(config({ tap: 'absent0', 'net-backend': 'macvtap' }), true);
  assert.equal(macvtap.host.before[0]!.path, '/dev/tapN');
  const none = explainSandbox(config({}), true);
  assert.equal(none.host.before, []);
  assert.not.match(sandboxText(none), 'Opened before');
});

test.run();
