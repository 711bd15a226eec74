// Opening networks (host/net/) on the real /dev/net/tun, in a network namespace of its own: the
// file starts itself again in one, and what it makes there goes with it. No KVM.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
} from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { NET_OFFLOADS } from '../host/device-config.ts';
import { FaradayError } from '../host/errors.ts';
import type { Log } from '../host/log.ts';
import * as kernel from '../host/net/ioctl.ts';
import { openMacvtap } from '../host/net/macvtap.ts';
import { macFor, openNets } from '../host/net/nets.ts';
import { closeNets, type OpenNet, toNetDevice } from '../host/net/open-net.ts';
import { adoptTap, openTap } from '../host/net/tap.ts';
import { missingFeatures } from '../host/net/vhost.ts';
import { type NetRequest, toNets } from '../host/net-config.ts';
import type { RawSettings } from '../host/settings.ts';
import { shim } from '../host/shim.ts';

const TUN = '/dev/net/tun';
const TUNSETPERSIST = 0x4004_54cb;
const TUNSETOWNER = 0x4004_54cc;
const INSIDE = 'FARADAY_TEST_NET_NAMESPACE';
const SELF = import.meta.filename;
const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const HOST = new URL('../host', import.meta.url).pathname;
const isRoot = process.geteuid!() === 0;

/** The words that start a program in a network namespace; none where this host has not got it. */
function namespaceWords(): string[] {
  const words = ['unshare', isRoot ? '-n' : '-rn'];
  return spawnSync(words[0]!, [words[1]!, 'sh', '-c', `: <> ${TUN}`]).status === 0 ? words : [];
}

const words = process.env[INSIDE] ? [] : namespaceWords();
if (words.length > 0) {
  const command = [...words, process.execPath, ...process.execArgv, SELF];
  const env = { ...process.env, [INSIDE]: '1' };
  const { status } = spawnSync(command[0]!, command.slice(1), { stdio: 'inherit', env });
  process.exit(status ?? 1);
}

/** A test that needs the namespace. */
function tunTest(name: string, body: () => void | Promise<void>): void {
  if (process.env[INSIDE]) test(name, body);
  else test.skip(`${name} (skipped: no network namespace with ${TUN} here)`, body);
}

// --- Tools --------------------------------------------------------------------------------------

const lines: string[] = [];
const log: Log = (level, message) => lines.push(`${level}: ${message}`);

function requests(...nets: (RawSettings | string)[]): readonly NetRequest[] {
  return toNets({ net: nets }, 8).nets;
}

/** The message of the error: one line, this exit code, and no descriptor left open. */
function refused(act: () => unknown, exitCode = 3): string {
  const before = readdirSync('/proc/self/fd').length;
  try {
    act();
  } catch (error) {
    if (!(error instanceof FaradayError)) throw error;
    assert.is(error.exitCode, exitCode, error.message);
    assert.not.match(error.message, '\n');
    assert.is(readdirSync('/proc/self/fd').length, before, 'descriptors are left open');
    return error.message;
  }
  throw new Error('nothing was thrown');
}

/** Makes a tap that stays; `flags` beside IFF_TAP and IFF_NO_PI. */
function persist(name: string, flags = 0, owner?: number): void {
  const fd = openSync(TUN, constants.O_RDWR);
  kernel.setTunInterface(fd, name, kernel.IFF_TAP | kernel.IFF_NO_PI | flags);
  shim().ioctl(fd, TUNSETPERSIST, 1);
  if (owner !== undefined) shim().ioctl(fd, TUNSETOWNER, owner);
  closeSync(fd);
}

function opened(...nets: (RawSettings | string)[]): OpenNet[] {
  lines.length = 0;
  return openNets(requests(...nets), log);
}

// --- Taps by name -------------------------------------------------------------------------------

tunTest('an absent tap is made, brought up, and goes with its descriptors', () => {
  const [net] = opened('tap=new0,mtu=9000');
  const { name, mac, mtu, fds, vhostFds } = net!;
  assert.equal([name, mtu, fds.length, vhostFds], ['new0', 9000, 1, []]);
  assert.is(mac, macFor('new0', 'net0'));
  assert.ok(kernel.isUp('new0'));
  assert.is(kernel.interfaceMtu('new0'), 9000);
  assert.equal(lines, ['info: made tap new0, which goes with the guest']);
  closeNets([net!]);
  assert.is(kernel.interfaceIndex('new0'), undefined);
});

tunTest('descriptors have the vnet header of the cell, do not block and ask for nothing', () => {
  const [net] = opened('tap=set0');
  const fd = net!.fds[0]!;
  const { flags } = kernel.tunInterface(fd);
  const wanted = kernel.IFF_TAP | kernel.IFF_NO_PI | kernel.IFF_VNET_HDR;
  assert.is(flags & wanted, wanted);
  const size = new Uint8Array(4);
  shim().ioctl(fd, 0x8004_54d7, size); // TUNGETVNETHDRSZ
  assert.is(size[0], 12);
  assert.throws(() => readSync(fd, new Uint8Array(2000)), /EAGAIN/);
  closeNets([net!]);
});

tunTest('offloads: segmentation of TCP both ways on every kernel', () => {
  const [net] = opened('tap=off0');
  const { CSUM, HOST_TSO4, HOST_TSO6, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6 } = NET_OFFLOADS;
  const least = CSUM | HOST_TSO4 | HOST_TSO6 | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
  assert.is(net!.offloads & least, least);
  const uso = NET_OFFLOADS.GUEST_USO4 | NET_OFFLOADS.GUEST_USO6 | NET_OFFLOADS.HOST_USO;
  assert.ok([0n, uso].includes(net!.offloads & uso), 'UDP both ways or not at all');
  closeNets([net!]);
});

tunTest('a tap that stays keeps its settings, and is told of where the guest should know', () => {
  persist('keep0');
  kernel.setInterfaceMtu('keep0', 4000);
  const [net] = opened('tap=keep0');
  assert.is(net!.mtu, 4000);
  assert.equal(lines, []);
  assert.ok(kernel.isUp('keep0'));
  closeNets([net!]);
  assert.not.equal(kernel.interfaceIndex('keep0'), undefined);
  const message = refused(() => opened('tap=keep0,mtu=4001'), 2);
  assert.match(message, /^--net mtu '4001' is more than keep0 has, 4000; use less, or/);
  const [less] = opened('tap=keep0,mtu=1400');
  assert.is(less!.mtu, 1400);
  closeNets([less!]);
});

tunTest('several queues are as many descriptors of one tap', () => {
  persist('many0', kernel.IFF_MULTI_QUEUE);
  const [net] = opened('tap=many0,queues=4');
  assert.equal(new Set(net!.fds.map((fd) => kernel.tunInterface(fd).name)), new Set(['many0']));
  assert.is(net!.fds.length, 4);
  closeNets([net!]);
  const [one] = opened('tap=many0'); // with one queue too
  assert.is(one!.fds.length, 1);
  closeNets([one!]);
});

tunTest('more queues than the tap has are refused', () => {
  persist('one0');
  const message = refused(() => opened('tap=one0,queues=2'), 2);
  assert.match(message, /^--net tap 'one0' has one queue, not 2; leave queues= out, or/);
});

tunTest('a tap that is held is refused, and everything before it closed', () => {
  persist('held0');
  const holder = openTap('held0', 1, log);
  const finding = /^--net tap 'held0' is held by another process; stop that, or name another/;
  assert.match(
    refused(() => opened('tap=held0')),
    finding,
  );
  assert.match(
    refused(() => opened('tap=first0', 'tap=held0')),
    finding,
  );
  assert.is(kernel.interfaceIndex('first0'), undefined);
  closeSync(holder.fds[0]!);
});

tunTest('what is no tap is refused', () => {
  const message = refused(() => opened('tap=lo'));
  assert.match(message, /^--net tap 'lo' is an interface, but no tap/);
});

tunTest('networks become devices in their order', () => {
  const nets = opened('tap=a0,id=x,mac=02:00:00:00:00:09,mac-filter=on', 'tap=b0,queue-size=64');
  const slot = { address: 4096, pin: 5 };
  const device = toNetDevice(slot, nets[0]!);
  const { kind, id, name, mac, queuePairs, queueSize, macFilter, stream, fds } = device;
  assert.equal([kind, id, name, mac], ['virtio-net', 'x', 'a0', '02:00:00:00:00:09']);
  assert.equal([queuePairs, queueSize, macFilter, stream], [1, 256, true, false]);
  assert.equal(fds, nets[0]!.fds);
  assert.is(toNetDevice(slot, nets[1]!).queueSize, 64);
  assert.not.ok('request' in device);
  closeNets(nets);
});

// --- Taps by descriptor -------------------------------------------------------------------------

function tunWith(flags: number, name = 'fd0'): number {
  const fd = openSync(TUN, constants.O_RDWR);
  kernel.setTunInterface(fd, name, flags);
  return fd;
}

tunTest('a descriptor that was opened by others is taken, and left open', () => {
  const fd = tunWith(kernel.IFF_TAP | kernel.IFF_NO_PI | kernel.IFF_VNET_HDR);
  const [net] = opened(`fd=${fd}`);
  assert.equal([net!.name, net!.fds], ['fd0', [fd]]);
  const flags = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/^flags:\s+(\d+)$/m)![1]!;
  const wanted = 0o2000000 | constants.O_NONBLOCK; // O_CLOEXEC: for no program but the cell
  assert.is(Number.parseInt(flags, 8) & wanted, wanted);
  closeNets([net!]);
  assert.ok(fstatSync(fd));
  closeSync(fd);
});

tunTest('descriptors of one tap twice, or of two as one network, are refused', () => {
  const flags = kernel.IFF_TAP | kernel.IFF_NO_PI | kernel.IFF_VNET_HDR | kernel.IFF_MULTI_QUEUE;
  const fds = [tunWith(flags), tunWith(flags), tunWith(flags, 'fd1')];
  const twice = refused(() => opened(`fd=${fds[0]}`, `fd=${fds[1]}`), 2);
  assert.match(twice, /^--net: fd0 is given twice/);
  const two = refused(() => opened(`fd=${fds[0]}:${fds[2]}`));
  assert.match(two, /is of two taps, fd0 and fd1$/);
  fds.forEach(closeSync);
});

tunTest('descriptors that will not do are refused', () => {
  assert.match(
    refused(() => adoptTap([4000])),
    /^--net fd '4000' is not open; pass it on/,
  );
  const file = openSync(SELF, 'r');
  const bare = openSync(TUN, constants.O_RDWR);
  const headerless = tunWith(kernel.IFF_TAP | kernel.IFF_NO_PI);
  const tun = tunWith(0x0001 | kernel.IFF_NO_PI | kernel.IFF_VNET_HDR, 'tun0');
  const findings: [number, RegExp][] = [
    [file, /is no tap with an interface \(ENOTTY\)/],
    [bare, /is no tap with an interface \(EBADFD\)/],
    [headerless, /is a tap \(fd0\) without IFF_VNET_HDR; set that with TUNSETIFF/],
    [tun, /is a tun \(tun0\), no tap/],
  ];
  for (const [fd, message] of findings) {
    assert.match(
      refused(() => adoptTap([fd])),
      message,
    );
    closeSync(fd);
  }
});

// --- Rights -------------------------------------------------------------------------------------

/** Runs `code` in a process that may open files, and nothing else of root's. */
function withoutRights(code: string): string {
  const script = [
    `import { shim } from '${HOST}/shim.ts';`,
    `import { openNets } from '${HOST}/net/nets.ts';`,
    `import { toNets } from '${HOST}/net-config.ts';`,
    'const open = (...net) => {',
    '  try { openNets(toNets({ net }, 8).nets, console.log); }',
    '  catch (error) { console.log(error.exitCode, error.message); }',
    '};',
    'shim().dropCapabilities(2);', // CAP_DAC_OVERRIDE stays
    code,
  ].join('\n');
  const args = ['--import', 'tsx', '--input-type=module', '-e', script];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.is(stderr, '');
  return stdout;
}

tunTest('without rights: no new tap, nobody else’s tap, a tap that is down is warned of', () => {
  persist('other0', 0, 12345);
  persist('down0', kernel.IFF_VNET_HDR, process.geteuid!());
  const said = withoutRights("open('tap=absent0'); open('tap=other0'); open('tap=down0');");
  const [absent, other, down] = said.split('\n');
  assert.match(absent, /^3 --net tap 'absent0' does not exist, and this user may not make it; as/);
  assert.match(absent, /'faraday net up absent0' does$/);
  assert.match(other, /^3 --net tap 'other0' is another user's; as root, 'faraday net up other0/);
  assert.match(down, /^warn interface down0 is down \(EPERM\); as root, 'ip link set down0 up'$/);
});

// --- Macvtap and vhost-net ----------------------------------------------------------------------

tunTest('a macvtap that is none, or absent', () => {
  assert.match(
    refused(() => openMacvtap('absent0', 1)),
    /^--net tap 'absent0' does not exist; as root, 'ip link add link INTERFACE name absent0 type/,
  );
  assert.match(
    refused(() => openMacvtap('lo', 1)),
    /^--net tap 'lo' is no macvtap: it has no \/dev\/tap1;/,
  );
});

tunTest('a macvtap is opened by its number and has its own address', () => {
  persist('under0');
  const make = 'link add link under0 name mv0 type macvtap mode bridge';
  spawnSync('ip', make.split(' '));
  const index = kernel.interfaceIndex('mv0');
  if (index === undefined || !existsSync(`/dev/tap${index}`)) {
    process.stdout.write('\nSKIPPED: this host makes no macvtap, or no /dev/tapN for it\n');
    return;
  }
  const [net] = openNets(toNets({ tap: 'mv0', 'net-backend': 'macvtap' }, 1).nets, log);
  assert.equal([net!.name, net!.mac], ['mv0', kernel.interfaceMac('mv0')]);
  assert.ok(kernel.isUp('mv0'));
  closeNets([net!]);
});

tunTest('vhost-net without its device is refused, and no tap left', () => {
  if (existsSync('/dev/vhost-net')) return;
  const { nets } = toNets({ tap: 'vh0', 'net-backend': 'vhost-net' }, 1);
  assert.match(
    refused(() => openNets(nets, log)),
    /^\/dev\/vhost-net does not exist; 'modprobe vhost_net' brings it, or use --net-backend tap$/,
  );
  assert.is(kernel.interfaceIndex('vh0'), undefined);
});

test('features that vhost-net must have', () => {
  const all = (1n << 15n) | (1n << 28n) | (1n << 29n) | (1n << 32n);
  assert.equal(missingFeatures(all), []);
  assert.equal(missingFeatures(all ^ (1n << 29n) ^ (1n << 15n)), [
    ...['VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_F_EVENT_IDX'],
  ]);
});

// --- Addresses, and ioctl() itself --------------------------------------------------------------

test('a guest without an address gets the same one every time, and no group’s', () => {
  assert.is(macFor('tap0', 'net0'), macFor('tap0', 'net0'));
  const made = Array.from({ length: 200 }, (_, i) => macFor(`tap${i}`, 'net0'));
  assert.is(new Set([...made, macFor('tap0', 'net1')]).size, 201);
  for (const mac of made) assert.match(mac, /^[\da-f][26ae](:[\da-f]{2}){5}$/);
});

test('ioctl() checks its arguments, and says what failed', () => {
  const { ioctl } = shim();
  assert.throws(() => ioctl(0, 0x8004_54d2, new Uint8Array(3)), /argument is shorter/);
  assert.throws(() => ioctl(-2, 1, 1), /fd is not a whole number/);
  assert.throws(() => ioctl(0, -1, 1), /request is not a whole number/);
  assert.throws(() => ioctl(0, 1, -1), /argument is not a whole number/);
  assert.throws(() => ioctl(0, 1, 'x' as unknown as number), /argument is no Uint8Array/);
  assert.throws(() => ioctl(4000, 0x5421, new Uint8Array(4)), /ioctl: .*\(EBADF\)/);
});

// --- The whole command --------------------------------------------------------------------------

tunTest('the command says it in one line, with the exit code, and leaves nothing', () => {
  persist('busy0');
  const holder = openTap('busy0', 1, log);
  const cases: [string[], number, RegExp][] = [
    [['--tap', 'busy0'], 3, /^faraday: --net tap 'busy0' is held by another process; [^\n]+\n$/],
    [['--net', 'tap=n0,mac=01:00:00:00:00:00'], 2, /^faraday: --net mac [^\n]+\n$/],
    [['--net', 'tap=n0', '--net', 'fd=99'], 3, /^faraday: --net fd '99' is not open; [^\n]+\n$/],
    [['--net', 'tap=n0'], 2, /^faraday: [^\n]*absent[^\n]*\n$/], // the kernel is missing
  ];
  for (const [args, code, message] of cases) {
    const all = [FARADAY, '--kernel', '/absent', ...args];
    const { status, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' });
    assert.match(stderr, message);
    assert.is(status, code);
    assert.is(kernel.interfaceIndex('n0'), undefined);
  }
  closeSync(holder.fds[0]!);
});

test.run();
