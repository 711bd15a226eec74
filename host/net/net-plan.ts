// What `faraday net up` and `net down` do, as the commands of ip, nft and sysctl that do it: pure,
// from what is asked for and how the host is.
//
// Nothing is kept in files. The alias of a tap holds what it was made with, that of a bridge says
// that it is ours, and the rules of a tap are a table of its own, so that `down` finds it all.
import { FaradayError } from '../errors.ts';
import { formatAddress, isHostOf, networkOf, overlaps, type Subnet } from './ipv4.ts';
import type { HostNetwork, Link } from './links.ts';
import type { Program } from './program.ts';

/** `faraday net up`, checked: see net-request.ts. */
export interface UpRequest {
  name: string;
  bridge?: string;
  nat: boolean;
  user?: string; // an account's name or number
  address?: Subnet; // this host's in the subnet of the guests
  queues: number;
  mtu?: number; // bytes
}

/** One command, and the one that takes it back. */
export interface Step {
  program: Program;
  words: readonly string[];
  undo?: { program: Program; words: readonly string[] };
  mayFail?: boolean; // what it removes may be gone
}

export interface Plan {
  steps: readonly Step[];
  already: boolean; // nothing to do: it is there as wanted
  next: string; // what is given to `faraday run --net`
}

const MARK = 'faraday net';
const ALIAS_CHARACTERS_MAX = 255;

const usage = (message: string): FaradayError => new FaradayError('bad-usage', message);
const ip = (...words: string[]): Pick<Step, 'program' | 'words'> => ({ program: 'ip', words });

const text = ({ address, prefix }: Subnet): string => `${formatAddress(address)}/${prefix}`;
const tableOf = (name: string): string => `faraday_${name}`;

/** What a tap was asked to be, in its alias. */
function aliasOf({ bridge, nat, user, address, queues, mtu }: UpRequest): string {
  return [
    MARK,
    ...(bridge === undefined ? [] : [`bridge=${bridge}`]),
    ...(nat ? ['nat'] : []),
    ...(user === undefined ? [] : [`user=${user}`]),
    ...(address === undefined ? [] : [`address=${text(address)}`]),
    ...(queues > 1 ? [`queues=${queues}`] : []),
    ...(mtu === undefined ? [] : [`mtu=${mtu}`]),
  ]
    .join(' ')
    .slice(0, ALIAS_CHARACTERS_MAX);
}

const isOurs = ({ alias }: Link): boolean => alias === MARK || alias.startsWith(`${MARK} `);
const hasNat = ({ alias }: Link): boolean => alias.split(' ').includes('nat');

// --- Addresses ----------------------------------------------------------------------------------

const POOL_PREFIX = 24;
const POOLS = [0x0ad50000, 0xac1d0000, 0xc0a80000]; // 10.213, 172.29 and 192.168, RFC 1918
const SUBNETS_OF_POOL = 256;

/** The first of our subnets that this host knows nothing of, with our own address in it. */
function freeSubnet({ addresses, routes }: HostNetwork): Subnet {
  const taken = [...routes, ...addresses.map(({ subnet }) => subnet)];
  for (const pool of POOLS) {
    for (let i = 0; i < SUBNETS_OF_POOL; i++) {
      const subnet = { address: pool + i * 256 + 1, prefix: POOL_PREFIX };
      if (!taken.some((other) => overlaps(other, subnet))) return subnet;
    }
  }
  throw usage('--nat finds no private subnet that this host does not use; give one by --address');
}

const addressOf = (host: HostNetwork, name: string): Subnet | undefined =>
  host.addresses.find((address) => address.name === name)?.subnet;

/**
 * This host's address among the guests, if it has one, and whether it is still to be set. A bridge
 * that is there already keeps what it has.
 */
function chooseAddress(
  { bridge, nat, address }: UpRequest,
  host: HostNetwork,
): { subnet?: Subnet; isNew: boolean } {
  const isThere = host.links.some(({ name }) => name === bridge);
  if (bridge !== undefined && isThere) {
    const own = addressOf(host, bridge);
    if (address !== undefined && (own === undefined || text(own) !== text(address))) {
      throw usage(`--address is for a new bridge, and '${bridge}' is there; leave --address out`);
    }
    if (nat && own === undefined) {
      throw usage(`--bridge '${bridge}' has no IPv4 address, which --nat needs; name a new bridge`);
    }
    return { subnet: own, isNew: false };
  }
  const taken = [...host.routes, ...host.addresses.map(({ subnet }) => subnet)];
  if (address !== undefined && taken.some((other) => overlaps(other, address))) {
    throw usage(`--address '${text(address)}' is in a subnet of this host; choose another`);
  }
  if (address === undefined && !nat) return { isNew: false };
  return { subnet: address ?? freeSubnet(host), isNew: true };
}

/** The address proposed to a guest: after this host's, one further for each tap in the bridge. */
function guestAddress(subnet: Subnet, others: number): string | undefined {
  const first = networkOf(subnet) + 1;
  const candidates = [subnet.address + 1 + others, first + others, first];
  const free = candidates.find((one) => one !== subnet.address && isHostOf(subnet, one));
  return free === undefined ? undefined : formatAddress(free);
}

/** What `faraday run --net` is given. */
function nextOf({ name, queues }: UpRequest, subnet: Subnet | undefined, others: number): string {
  const guest = subnet && guestAddress(subnet, others);
  return [
    `tap=${name}`,
    ...(queues > 1 ? [`queues=${queues}`] : []),
    ...(subnet && guest ? [`ip=${guest}/${subnet.prefix}`] : []),
    ...(subnet && guest ? [`gateway=${formatAddress(subnet.address)}`] : []),
  ].join(',');
}

// --- Up -----------------------------------------------------------------------------------------

function tapSteps(request: UpRequest): Step[] {
  const { name, user, queues, mtu } = request;
  const add = ['tuntap', 'add', 'dev', name, 'mode', 'tap'];
  const owner = user === undefined ? [] : ['user', user];
  const several = queues > 1 ? ['multi_queue'] : [];
  return [
    { ...ip(...add, ...owner, ...several, 'vnet_hdr'), undo: ip('link', 'del', 'dev', name) },
    ip('link', 'set', 'dev', name, 'alias', aliasOf(request)),
    ...(mtu === undefined ? [] : [ip('link', 'set', 'dev', name, 'mtu', String(mtu))]),
  ];
}

function bridgeSteps({ name, bridge }: UpRequest, host: HostNetwork): Step[] {
  if (bridge === undefined) return [];
  const isThere = host.links.some((link) => link.name === bridge);
  const make: Step[] = [
    {
      ...ip('link', 'add', 'name', bridge, 'type', 'bridge'),
      undo: ip('link', 'del', 'dev', bridge),
    },
    ip('link', 'set', 'dev', bridge, 'alias', MARK),
    ip('link', 'set', 'dev', bridge, 'up'),
  ];
  return [...(isThere ? [] : make), ip('link', 'set', 'dev', name, 'master', bridge)];
}

/**
 * Guests of the subnet get out under this host's address; nobody gets in but by what they asked
 * for, and nothing leaves with an address that is not of the subnet. One command: all or nothing.
 */
function natStep(name: string, device: string, subnet: Subnet): Step {
  const net = text({ ...subnet, address: networkOf(subnet) });
  const inwards = `iifname != "${device}" oifname "${device}"`;
  const rules = [
    `table ip ${tableOf(name)} {`,
    'chain postrouting { type nat hook postrouting priority srcnat;',
    `ip saddr ${net} oifname != "${device}" masquerade; };`,
    'chain forward { type filter hook forward priority filter;',
    `iifname "${device}" oifname != "${device}" ip saddr != ${net} drop;`,
    `${inwards} ct state established,related accept;`,
    `${inwards} drop; }; }`,
  ].join(' ');
  const undo = { program: 'nft' as const, words: ['delete', 'table', 'ip', tableOf(name)] };
  return { program: 'nft', words: [rules], undo };
}

function natSteps(
  { name, bridge, nat }: UpRequest,
  subnet: Subnet | undefined,
  isForwarding: boolean,
): Step[] {
  if (!nat || subnet === undefined) return [];
  const write = (value: number) => ({
    program: 'sysctl' as const,
    words: ['-q', '-w', `net.ipv4.ip_forward=${value}`],
  });
  const forward: Step[] = isForwarding ? [] : [{ ...write(1), undo: write(0) }];
  return [natStep(name, bridge ?? name, subnet), ...forward];
}

function checkBridge({ name, bridge }: UpRequest, { links }: HostNetwork): void {
  if (bridge === name) throw usage(`--bridge '${bridge}' is the tap's own name; give it another`);
  const link = links.find((other) => other.name === bridge);
  if (link === undefined || link.kind === 'bridge') return;
  throw usage(`--bridge '${bridge}' is an interface that is no bridge; name one, or a new one`);
}

/** A tap of that name is good where it was made with the same words. */
function isMade(request: UpRequest, { links }: HostNetwork): boolean {
  const { name } = request;
  const link = links.find((other) => other.name === name);
  if (link === undefined) return false;
  if (link.kind !== 'tap')
    throw usage(`'${name}' is an interface that is no tap; use another name`);
  if (!isOurs(link)) throw usage(`tap '${name}' is there, but not ours; use another name`);
  if (link.alias === aliasOf(request)) return true;
  const made = link.alias.slice(MARK.length + 1) || 'nothing else';
  const fix = `'faraday net down ${name}' first, or use another name`;
  throw usage(`tap '${name}' is there with other settings (${made}); ${fix}`);
}

/** Plans `up`. Throws FaradayError('bad-usage'). */
export function planUp(request: UpRequest, host: HostNetwork, isForwarding: boolean): Plan {
  const { name, bridge } = request;
  checkBridge(request, host);
  const device = bridge ?? name;
  const inBridge = host.links.filter((link) => bridge !== undefined && link.bridge === bridge);
  const others = inBridge.filter((link) => link.name !== name).length;
  if (isMade(request, host)) {
    return { steps: [], already: true, next: nextOf(request, addressOf(host, device), others) };
  }
  const { subnet, isNew } = chooseAddress(request, host);
  const steps = [
    ...tapSteps(request),
    ...bridgeSteps(request, host),
    ...(subnet && isNew ? [ip('addr', 'add', text(subnet), 'dev', device)] : []),
    ip('link', 'set', 'dev', name, 'up'),
    ...natSteps(request, subnet, isForwarding),
  ];
  return { steps, already: false, next: nextOf(request, subnet, others) };
}

// --- Down ---------------------------------------------------------------------------------------

/** Plans `down`: whether rules of NAT go too. Throws FaradayError('bad-usage'). */
export function planDown(
  name: string,
  { links }: HostNetwork,
): { steps: readonly Step[]; nat: boolean } {
  const link = links.find((other) => other.name === name);
  if (link === undefined) throw usage(`'${name}' is not there; 'ip link' lists what is`);
  if (link.kind !== 'tap') throw usage(`'${name}' is an interface that is no tap; name a tap`);
  if (!isOurs(link)) {
    const fix = `'ip link del ${name}' removes it all the same`;
    throw usage(`tap '${name}' was not made by 'faraday net up'; ${fix}`);
  }
  const nat = hasNat(link);
  const rules: Step = {
    program: 'nft',
    words: ['delete', 'table', 'ip', tableOf(name)],
    mayFail: true,
  };
  const bridge = links.find((other) => other.name === link.bridge);
  const isLast = !links.some((other) => other.bridge === link.bridge && other.name !== name);
  const hasEnded = bridge !== undefined && isOurs(bridge) && isLast;
  const steps = [
    ...(nat ? [rules] : []),
    ip('link', 'del', 'dev', name),
    ...(hasEnded ? [ip('link', 'del', 'dev', bridge.name)] : []),
  ];
  return { steps, nat };
}
