// What is asked for of the network: `--net-backend`, `--net` with its short forms `--tap` and
// `--mac`, `--publish`, and their form in a configuration file. docs/cli.md explains them.
import type { RateLimiter } from './boot/image.ts';
import {
  checkInterface,
  type PortForward,
  parseGateway,
  parseMac,
  parsePublish,
  parseSubnetAddress,
  type SubnetAddress,
} from './net-address.ts';
import { LIMIT_KEYS, toLimiter } from './net-limits.ts';
import {
  checkId,
  checkOptions,
  checkQueueSize,
  checkUniqueIds,
  type OptionKeys,
  oneOf,
  parseOptions,
  type RawSettings,
  splitCommas,
  usage,
} from './settings.ts';

export const NET_BACKENDS = ['none', 'tap', 'vhost-net', 'macvtap', 'user'] as const;
export type NetBackend = (typeof NET_BACKENDS)[number];

const QUEUE_PAIRS_MAX = 8;
export const MTU_MIN = 68; // of IPv4 (RFC 791)
export const MTU_MAX = 65535;
const FD_MIN = 3; // what is below is a standard stream
const FD_MAX = 0x7fff_ffff;

/** What frames go to and come from: an interface, descriptors opened by others, passt. */
export type NetSource = { tap: string } | { fds: readonly number[] } | { passt: true };

/** One network as it was asked for; host/net/ opens it. */
export interface NetRequest {
  id: string;
  backend: Exclude<NetBackend, 'none'>;
  source: NetSource;
  mac?: string; // lower case; left out: made from the interface's name
  mtu?: number; // bytes; left out: what the interface has
  queuePairs: number;
  queueSize?: number;
  macFilter: boolean; // drop what the guest sends from another address
  ip?: SubnetAddress; // the guest's, by its kernel command line
  gateway?: string;
  publish: readonly PortForward[];
  rx: RateLimiter;
  tx: RateLimiter;
}

const NET_KEYS: OptionKeys = {
  tap: 'string',
  fd: 'string',
  mac: 'string',
  mtu: 'integer',
  queues: 'integer',
  'queue-size': 'integer',
  id: 'string',
  ip: 'string',
  gateway: 'string',
  'mac-filter': 'string',
  ...LIMIT_KEYS,
};

/** `--net tap=NAME[,mac=...][,mtu=...]...`. */
export function parseNetFlag(text: string): RawSettings {
  const parts = splitCommas(text);
  const hint = (part: string): string => {
    return part === parts[0] && !part.includes('=') ? `; write tap=${part}` : '';
  };
  return parseOptions('--net', parts, NET_KEYS, hint);
}

/** Type-checks a network of a configuration file: what --net takes, or an object of it. */
export function checkNet(field: string, value: unknown): void {
  if (typeof value === 'string') return;
  checkOptions(field, value, NET_KEYS, 'a text such as "tap=tap0" or an object {"tap": "tap0"}');
}

// --- One network --------------------------------------------------------------------------------

function inRange(field: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw usage(`${field} '${value}' must be a whole number from ${least} to ${most}`);
}

function toFds(text: string): number[] {
  if (!/^\d{1,9}(:\d{1,9})*$/.test(text)) {
    throw usage(`--net fd '${text}' must be descriptors of a tap, one for each queue: fd=3 or 3:4`);
  }
  const fds = text.split(':').map((part) => inRange('--net fd', Number(part), FD_MIN, FD_MAX));
  const twice = fds.find((fd, at) => fds.indexOf(fd) !== at);
  if (twice === undefined) return fds;
  throw usage(`--net fd '${text}' names ${twice} twice; give each queue its own descriptor`);
}

function toSource(net: RawSettings, backend: NetBackend): NetSource {
  const tap = net.tap as string | undefined;
  const fd = net.fd as string | undefined;
  if (backend === 'user') {
    const given = tap !== undefined ? 'tap' : 'fd';
    if (tap === undefined && fd === undefined) return { passt: true };
    throw usage(`--net ${given}= and --net-backend user exclude each other; keep one`);
  }
  if (tap !== undefined && fd !== undefined) {
    throw usage('--net tap= and fd= exclude each other; keep one');
  }
  if (tap !== undefined) return { tap: checkInterface('--net tap', tap) };
  if (fd !== undefined) return { fds: toFds(fd) };
  const more = backend === 'macvtap' ? "with a macvtap's name" : 'or fd=NUMBER';
  throw usage(`--net lacks its interface; write tap=NAME, ${more}`);
}

function toQueuePairs(net: RawSettings, source: NetSource, cpus: number): number {
  const given = net.queues as number | undefined;
  const opened = 'fds' in source ? source.fds.length : undefined;
  const pairs = inRange('--net queues', given ?? opened ?? 1, 1, QUEUE_PAIRS_MAX);
  if (opened !== undefined && pairs !== opened) {
    throw usage(`--net queues '${pairs}' needs as many descriptors, not ${opened}: fd=3:4 for two`);
  }
  if ('passt' in source && pairs > 1) {
    throw usage(`--net queues '${pairs}' is more than --net-backend user has; leave queues= out`);
  }
  if (pairs > cpus) {
    throw usage(`--net queues '${pairs}' is more than --cpus ${cpus}; use a queue for each CPU`);
  }
  return pairs;
}

/** Where the kernel moves the frames, nobody here can look at them or hold them up. */
function checkVhost({ macFilter, rx, tx }: NetRequest): void {
  const refused = (what: string): Error => {
    return usage(`--net ${what} is not for --net-backend vhost-net; use --net-backend tap`);
  };
  if (macFilter) throw refused('mac-filter=on');
  if (Object.keys({ ...rx, ...tx }).length > 0) throw refused('with a rate limit');
}

function toRequest(
  net: RawSettings,
  backend: NetRequest['backend'],
  cpus: number,
  defaultId: string,
): NetRequest {
  const source = toSource(net, backend);
  const { mac, mtu, ip: address, gateway } = net as Record<string, string | undefined>;
  const ip = address === undefined ? undefined : parseSubnetAddress('--net', address);
  const queueSize = net['queue-size'] as number | undefined;
  const filter = (net['mac-filter'] as string | undefined) ?? 'off';
  return {
    id: checkId('--net', (net.id as string | undefined) ?? defaultId),
    backend,
    source,
    mac: mac === undefined ? undefined : parseMac('--net', mac),
    mtu: mtu === undefined ? undefined : inRange('--net mtu', Number(mtu), MTU_MIN, MTU_MAX),
    queuePairs: toQueuePairs(net, source, cpus),
    queueSize: queueSize === undefined ? undefined : checkQueueSize('--net', queueSize),
    macFilter: oneOf('--net mac-filter', filter, ['on', 'off']) === 'on',
    ip,
    gateway: gateway === undefined ? undefined : parseGateway('--net', gateway, ip),
    publish: [],
    rx: toLimiter('--net', net, 'rx'),
    tx: toLimiter('--net', net, 'tx'),
  };
}

// --- All of them --------------------------------------------------------------------------------

/** The networks by `--net`, or the one by the short forms; the backend that it takes. */
function rawNets(settings: RawSettings): [nets: RawSettings[], backend: NetBackend] {
  const given = (settings.net as (RawSettings | string)[] | undefined) ?? [];
  const nets = given.map((net) => (typeof net === 'string' ? parseNetFlag(net) : net));
  const { tap, mac } = settings as Record<string, string | undefined>;
  const isTap = tap !== undefined || nets.length > 0;
  const backend = (settings['net-backend'] as string | undefined) ?? (isTap ? 'tap' : 'none');
  const checked = oneOf('--net-backend', backend, NET_BACKENDS);
  if (tap !== undefined && nets.length > 0) {
    throw usage('--tap and --net exclude each other; write --net tap=NAME for each network');
  }
  if (mac !== undefined && nets.length > 0) {
    throw usage('--mac and --net exclude each other; write --net ...,mac=ADDRESS');
  }
  const isShort = tap !== undefined || (checked === 'user' && nets.length === 0);
  if (mac !== undefined && !isShort) throw usage('--mac is for one network; add --tap NAME');
  if (!isShort) return [nets, checked];
  return [[{ ...(tap !== undefined && { tap }), ...(mac !== undefined && { mac }) }], checked];
}

function toPublish(settings: RawSettings, backend: NetBackend): PortForward[] {
  const texts = (settings.publish ?? []) as string[];
  if (texts.length > 0 && backend !== 'user') {
    throw usage(`--publish '${texts[0]}' is for --net-backend user; add that, or leave it out`);
  }
  const seen = new Set<string>();
  return texts.map((text) => {
    const forward = parsePublish(text);
    const key = `${forward.protocol} ${forward.address ?? ''} ${forward.hostPort}`;
    if (seen.has(key)) throw usage(`--publish '${text}': its port of the host is taken already`);
    seen.add(key);
    return forward;
  });
}

/** Refuses what two networks must not share. */
function checkDifferent(key: string, fix: string, all: readonly (string | undefined)[]): void {
  const given = all.filter((value) => value !== undefined);
  const twice = given.find((value, at) => given.indexOf(value) !== at);
  if (twice !== undefined) throw usage(`--net ${key} '${twice}' is used twice; ${fix}`);
}

function checkTogether(nets: readonly NetRequest[]): void {
  checkUniqueIds('--net', 'network', nets);
  const taps = nets.map(({ source }) => ('tap' in source ? source.tap : undefined));
  const fds = nets.flatMap(({ source }) => ('fds' in source ? source.fds.map(String) : []));
  checkDifferent('tap', 'attach each interface once', taps);
  checkDifferent('fd', 'attach each descriptor once', fds);
  checkDifferent(
    'mac',
    'give each network its own',
    nets.map(({ mac }) => mac),
  );
  checkDifferent(
    'ip',
    'give each network its own',
    nets.map(({ ip }) => ip?.address),
  );
}

function checkCount(nets: readonly RawSettings[], backend: NetBackend): void {
  if (backend === 'none' && nets.length > 0) {
    throw usage('--net and --net-backend none exclude each other; keep one');
  }
  if (backend === 'user' && nets.length > 1) {
    throw usage(`--net-backend user makes one network, not ${nets.length}; keep one --net`);
  }
  if (backend !== 'none' && backend !== 'user' && nets.length === 0) {
    throw usage(`--net-backend ${backend} lacks its interface; add --tap NAME`);
  }
}

/** All networks of the settings, which `cpus` serve, and their backend. */
export function toNets(
  settings: RawSettings,
  cpus: number,
): { netBackend: NetBackend; nets: readonly NetRequest[] } {
  const [raw, netBackend] = rawNets(settings);
  checkCount(raw, netBackend);
  const publish = toPublish(settings, netBackend);
  if (netBackend === 'none') return { netBackend, nets: Object.freeze([]) };
  const nets = raw.map((net, i) => {
    const request = { ...toRequest(net, netBackend, cpus, `net${i}`), publish };
    if (netBackend === 'vhost-net') checkVhost(request);
    return Object.freeze(request);
  });
  checkTogether(nets);
  if (settings['cmdline-replace'] !== undefined && nets.some(({ ip }) => ip)) {
    throw usage('--net ip= and --cmdline-replace exclude each other; keep one');
  }
  return { netBackend, nets: Object.freeze(nets) };
}
