// The interfaces, addresses and routes of this host, as ip(8) lists them: what `faraday net` must
// know before it plans anything. Looking needs no rights.
import { spawnSync } from 'node:child_process';
import { FaradayError } from '../errors.ts';
import { parseAddress, type Subnet } from './ipv4.ts';
import { findProgram } from './program.ts';

export interface Link {
  name: string;
  kind: 'tap' | 'bridge' | 'other';
  alias: string; // '' for none
  bridge: string; // that it is in, '' for none
}

export interface HostNetwork {
  links: readonly Link[];
  addresses: readonly { name: string; subnet: Subnet }[];
  routes: readonly Subnet[]; // without the default route
}

const LIMIT_MS = 10_000;
const OUTPUT_BYTES_MAX = 2 ** 26;

// What is used of ip's JSON. Lists may hold empty objects.
interface LinkJson {
  ifname?: string;
  ifalias?: string;
  master?: string;
  linkinfo?: { info_kind?: string; info_data?: { type?: string } };
}
interface AddressJson {
  ifname?: string;
  addr_info?: { local?: string; prefixlen?: number }[];
}
interface RouteJson {
  dst?: string;
}

/** The environment of the system's programs: their messages are to be in English. */
export const PLAIN_ENVIRONMENT = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };

function list<T>(...words: string[]): T[] {
  const program = findProgram('ip', "'faraday net'");
  const { status, stdout } = spawnSync(program, ['-j', ...words], {
    env: PLAIN_ENVIRONMENT,
    timeout: LIMIT_MS,
    maxBuffer: OUTPUT_BYTES_MAX,
    encoding: 'utf8',
  });
  try {
    if (status === 0) return JSON.parse(stdout || '[]') as T[];
  } catch {
    // Falls through: that of busybox knows no JSON and prints something else.
  }
  const fix = "it must be the one of Debian's package 'iproute2'";
  throw new FaradayError('host', `'ip -j ${words.join(' ')}' cannot list the network; ${fix}`);
}

function kindOf({ linkinfo }: LinkJson): Link['kind'] {
  if (linkinfo?.info_kind === 'bridge') return 'bridge';
  return linkinfo?.info_kind === 'tun' && linkinfo.info_data?.type === 'tap' ? 'tap' : 'other';
}

function toLink(link: LinkJson): Link {
  const { ifname = '', ifalias = '', master = '' } = link;
  return { name: ifname, kind: kindOf(link), alias: ifalias, bridge: master };
}

function toSubnet(text: string | undefined, prefix: number | undefined): Subnet[] {
  const address = parseAddress(text ?? '');
  return address === undefined || prefix === undefined ? [] : [{ address, prefix }];
}

/** 'default' and what else is no subnet give none; one machine stands there without a prefix. */
function toRoute({ dst = '' }: RouteJson): Subnet[] {
  const [address, prefix = '32'] = dst.split('/');
  return toSubnet(address, Number(prefix)).filter((subnet) => subnet.prefix > 0);
}

/** Reads all of it. Throws FaradayError('host'). */
export function readHostNetwork(): HostNetwork {
  const links = list<LinkJson>('-d', 'link', 'show');
  const addresses = list<AddressJson>('-4', 'addr', 'show');
  const routes = list<RouteJson>('-4', 'route', 'show', 'table', 'all');
  return {
    links: links.map(toLink).filter(({ name }) => name !== ''),
    addresses: addresses.flatMap(({ ifname = '', addr_info = [] }) =>
      addr_info.flatMap(({ local, prefixlen }) =>
        toSubnet(local, prefixlen).map((subnet) => ({ name: ifname, subnet })),
      ),
    ),
    routes: routes.flatMap(toRoute),
  };
}
