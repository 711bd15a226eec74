// `faraday net up` and `net down`: what they plan, as pure data, and what they do to a real network
// stack, one that `unshare -n` makes for each test.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { FaradayError } from '../host/errors.ts';
import { parseSubnet } from '../host/net/ipv4.ts';
import type { HostNetwork, Link } from '../host/net/links.ts';
import { planDown, planUp, type UpRequest } from '../host/net/net-plan.ts';
import { toUpRequest, type UpFlags } from '../host/net/net-request.ts';
import { commandLine } from '../host/net/up-down.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const LIMIT_MS = 60_000;

const folder = mkdtempSync(join(tmpdir(), 'faraday-net-'));
test.after(() => rmSync(folder, { recursive: true }));

const link = (name: string, more: Partial<Link> = {}): Link => ({
  ...{ name, kind: 'other', alias: '', bridge: '' },
  ...more,
});
const ours = (name: string, alias: string, bridge = '') =>
  link(name, { kind: 'tap', alias: `faraday net${alias}`, bridge });

function host(links: Link[], ...routes: string[]): HostNetwork {
  return { links, addresses: [], routes: routes.map((text) => parseSubnet(text)!) };
}

const EMPTY = host([link('lo')]);
const tap = (more: Partial<UpRequest> = {}): UpRequest => ({
  ...{ name: 'tap0', nat: false, queues: 1 },
  ...more,
});

const lines = (request: UpRequest, on = EMPTY, isForwarding = true) =>
  planUp(request, on, isForwarding).steps.map(commandLine);

/** One line with exit code 2. */
function refused(action: () => unknown, wanted: RegExp): void {
  try {
    action();
  } catch (error) {
    assert.instance(error, FaradayError);
    assert.is((error as FaradayError).exitCode, 2);
    return assert.match((error as FaradayError).message, wanted);
  }
  assert.unreachable(`not refused: ${wanted}`);
}

// --- Plans --------------------------------------------------------------------------------------

test('a tap alone: made for its user, named ours, up', () => {
  assert.equal(lines(tap({ user: 'mia', queues: 4, mtu: 9000 })), [
    'ip tuntap add dev tap0 mode tap user mia multi_queue vnet_hdr',
    "ip link set dev tap0 alias 'faraday net user=mia queues=4 mtu=9000'",
    'ip link set dev tap0 mtu 9000',
    'ip link set dev tap0 up',
  ]);
});

test('NAT: an address, one table of our own, forwarding where it is off', () => {
  const planned = lines(tap({ nat: true }), EMPTY, false);
  assert.is(planned[2], 'ip addr add 10.213.0.1/24 dev tap0');
  assert.match(planned[4]!, /^nft 'table ip faraday_tap0 \{.* ip saddr 10\.213\.0\.0\/24 .*masq/);
  assert.is(planned[5], 'sysctl -q -w net.ipv4.ip_forward=1');
  assert.is(lines(tap({ nat: true })).length, 5);
});

test('the address of NAT is one that no route and no interface of the host covers', () => {
  const chosen = (...routes: string[]) => lines(tap({ nat: true }), host([], ...routes))[2];
  assert.match(chosen('10.213.0.0/16')!, / 172\.29\.0\.1\/24 /);
  assert.match(chosen('10.213.0.0/24', '10.213.1.77/32')!, / 10\.213\.2\.1\/24 /);
  assert.match(chosen('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/17')!, / 192\.168\.128\.1\/24 /);
  refused(() => chosen('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'), /give one by --address$/);
  const used = { ...EMPTY, addresses: [{ name: 'eth0', subnet: parseSubnet('10.213.0.9/23')! }] };
  assert.match(lines(tap({ nat: true }), used)[2]!, / 10\.213\.2\.1\/24 /);
});

test('a bridge that is there is joined, another is made', () => {
  const made = lines(tap({ bridge: 'br0' }));
  assert.ok(made.includes('ip link add name br0 type bridge'));
  assert.ok(made.includes('ip link set dev tap0 master br0'));
  const there = host([link('br0', { kind: 'bridge' })]);
  const joined = lines(tap({ bridge: 'br0' }), there);
  assert.not(joined.some((line) => line.includes('type bridge') || line.includes('dev br0 ')));
  assert.ok(joined.includes('ip link set dev tap0 master br0'));
  refused(() => lines(tap({ bridge: 'br0', nat: true }), there), /has no IPv4 address/);
  refused(() => lines(tap({ bridge: 'eth0' }), host([link('eth0')])), /no bridge/);
  refused(() => lines(tap({ bridge: 'tap0' })), /own name/);
});

test("what is proposed to a guest is in the subnet and nobody else's", () => {
  const next = (address: string, bridge?: string, links: Link[] = []) => {
    const subnet = parseSubnet(address)!;
    const on = { ...host(links), addresses: bridge ? [{ name: bridge, subnet }] : [] };
    return planUp(tap(bridge ? { bridge } : { address: subnet }), on, true).next;
  };
  assert.is(next('10.0.0.1/24'), 'tap=tap0,ip=10.0.0.2/24,gateway=10.0.0.1');
  assert.is(next('10.0.0.254/24'), 'tap=tap0,ip=10.0.0.1/24,gateway=10.0.0.254');
  assert.is(next('10.0.0.2/30'), 'tap=tap0,ip=10.0.0.1/30,gateway=10.0.0.2');
  const bridge = link('br0', { kind: 'bridge' });
  const second = [bridge, ours('tap7', ' bridge=br0', 'br0')];
  assert.is(next('10.0.0.1/24', 'br0', second), 'tap=tap0,ip=10.0.0.3/24,gateway=10.0.0.1');
});

test('up of what is there: nothing to do, or one line', () => {
  const there = (alias: string) => host([ours('tap0', alias)]);
  const plan = planUp(tap({ nat: true }), there(' nat'), true);
  assert.is(plan.already, true);
  assert.equal(plan.steps, []);
  refused(() => lines(tap(), there(' nat')), /other settings \(nat\).*faraday net down tap0/);
  refused(() => lines(tap(), host([link('tap0', { kind: 'tap' })])), /but not ours/);
  refused(() => lines(tap(), host([link('tap0')])), /no tap/);
});

test('down takes what is ours, and a bridge only when it is ours and empty', () => {
  const down = (...links: Link[]) => planDown('tap0', host(links)).steps.map(commandLine);
  assert.equal(down(ours('tap0', ' nat')), [
    'nft delete table ip faraday_tap0',
    'ip link del dev tap0',
  ]);
  const bridge = link('br0', { kind: 'bridge', alias: 'faraday net' });
  const inBridge = ours('tap0', ' bridge=br0', 'br0');
  const both = ['ip link del dev tap0', 'ip link del dev br0'];
  assert.equal(down(inBridge, bridge), both);
  assert.equal(down(inBridge, bridge, link('eth1', { bridge: 'br0' })), both.slice(0, 1));
  assert.equal(down(inBridge, { ...bridge, alias: '' }), both.slice(0, 1));
  refused(() => down(link('tap0', { kind: 'tap' })), /not made by 'faraday net up'/);
  refused(() => down(link('tap0')), /no tap/);
  refused(() => down(), /not there/);
});

test('names, numbers and users are checked before anything else', () => {
  const bad: [string, UpFlags][] = [
    ...['', '-x', 'a b', 'a/b', '..', 'x'.repeat(16), 'all', 'a\nb', 'x;y', 'a"b', 'ä', 'a*'].map(
      (name): [string, UpFlags] => [name, {}],
    ),
    ['tap0', { bridge: '-br' }],
    ['tap0', { user: 'nobody-of-that-name' }],
    ['tap0', { user: '-1' }],
    ['tap0', { user: '4294967295' }],
    ['tap0', { user: 'root:x' }],
    ['tap0', { queues: '0' }],
    ['tap0', { queues: '9' }],
    ['tap0', { queues: '1e0' }],
    ['tap0', { mtu: '67' }],
    ['tap0', { mtu: '65522' }],
    ['tap0', { address: '10.0.0.1' }],
    ['tap0', { address: '10.0.0.0/24' }],
    ['tap0', { address: '10.0.0.255/24' }],
    ['tap0', { address: '127.0.0.1/8' }],
    ['tap0', { address: '10.0.0.1/31' }],
  ];
  for (const [name, flags] of bad) refused(() => toUpRequest(name, flags), / '/);
  const most = { queues: '8', mtu: '65521', user: 'root', address: '10.0.0.1/30' };
  assert.is(toUpRequest('abcdefghijk-_.9', most).queues, 8);
});

test('a command line survives a shell', () => {
  const words = ["it's", 'a b', '$HOME', '', 'plain-1.2/3'];
  const line = commandLine({ program: 'ip', words });
  const { stdout } = spawnSync('sh', ['-c', line.replace(/^ip/, "printf '%s|'")]);
  assert.is(stdout.toString(), words.map((word) => `${word}|`).join(''));
});

// --- For real -----------------------------------------------------------------------------------

const isolated = spawnSync('unshare', ['-n', 'ip', 'tuntap', 'add', 'probe', 'mode', 'tap']);
const realTest =
  isolated.status === 0
    ? test
    : (name: string, _body: () => void) => test.skip(`${name}: needs root, iproute2`, () => {});

/** Runs a script in a network stack of its own, where `faraday` is the command. */
function script(text: string): string {
  const head = `faraday() { "${process.execPath}" "${FARADAY}" "$@"; }\nip link set lo up\n`;
  const { stdout, stderr, error } = spawnSync('unshare', ['-n', 'bash', '-c', head + text], {
    timeout: LIMIT_MS,
    encoding: 'utf8',
    env: { ...process.env, SUDO_UID: '' },
  });
  assert.is(error, undefined);
  return stdout + stderr;
}

const REST = 'ip -br link | grep -v "^lo "; nft list tables; echo end';

realTest('up and down leave nothing behind; up twice says so, down twice is an error', () => {
  const output = script(`faraday net up tap0 --nat --bridge br0 --user nobody; echo "status $?"
ip -d -j link show tap0 | grep -q '"user":"nobody"' && echo owned
nft list tables; cat /proc/sys/net/ipv4/ip_forward
faraday net up tap0 --nat --bridge br0 --user nobody; echo "status $?"
faraday net up tap1 --bridge br0 --queues 2
faraday net down tap0; ip -br link | cut -d ' ' -f 1; faraday net down tap1
faraday net down tap0 2>&1; echo "status $?"; faraday net down lo 2> /dev/null; echo "status $?"
${REST}`);
  assert.is(
    output,
    `# tap0 is ready. Next:
faraday run --kernel KERNEL --net tap=tap0,ip=10.213.0.2/24,gateway=10.213.0.1
status 0
owned
table ip faraday_tap0
1
# tap0 is there already. Next:
faraday run --kernel KERNEL --net tap=tap0,ip=10.213.0.2/24,gateway=10.213.0.1
status 0
# tap1 is ready. Next:
faraday run --kernel KERNEL --net tap=tap1,queues=2,ip=10.213.0.3/24,gateway=10.213.0.1
# tap0 is removed; net.ipv4.ip_forward stays as it is
lo
br0
tap1
# tap1 is removed
faraday: 'tap0' is not there; 'ip link' lists what is
status 2
status 2
end
`,
  );
});

realTest('what --dry-run prints does the same, and prints without doing', () => {
  const output = script(
    `sysctl -q -w net.ipv4.ip_forward=0
faraday net up tap0 --nat --dry-run > up; ${REST}
sh -e up; echo "status $?"; faraday net up tap0 --nat | head -n 1
faraday net down tap0 --dry-run > down; sh -e down; echo "status $?"; ${REST}`.replaceAll(
      / (up|down)\b(?=;)/g,
      ` ${folder}/$1`,
    ),
  );
  const again = '# tap0 is there already. Next:';
  assert.is(output, `end\nstatus 0\n${again}\nstatus 0\nend\n`);
});

realTest('a failure half way undoes what was done', () => {
  const output = script(`mkdir ${folder}/bin
printf '#!/bin/sh\\necho no rules today >&2; exit 1\\n' > ${folder}/bin/nft
chmod +x ${folder}/bin/nft
PATH=${folder}/bin:$PATH faraday net up tap0 --nat --bridge br0 2>&1; echo "status $?"
cat /proc/sys/net/ipv4/ip_forward
${REST}`);
  assert.match(
    output,
    /^faraday: 'nft .*' failed: no rules today; what was done before is undone\n/,
  );
  assert.match(output, /status 3\n0\nend\n$/);
});

realTest('without rights, one line says what to do', () => {
  const output = script(`drop='setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all'
$drop "${process.execPath}" "${FARADAY}" net up tap0 2>&1; echo "status $?"
$drop "${process.execPath}" "${FARADAY}" net up tap0 --dry-run | head -n 1; ${REST}`);
  assert.match(
    output,
    /^faraday: 'faraday net up' changes .*; run it with sudo, or .*\nstatus 3\n/,
  );
  assert.match(output, /\nip tuntap add dev tap0 mode tap user 65534 vnet_hdr\nend\n$/);
});

test.run();
