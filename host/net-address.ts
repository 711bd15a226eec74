// Addresses as users write them: of an interface, of a guest in its subnet, of a forwarded port.
import { isIP, isIPv4, isIPv6 } from 'node:net';
import {
  formatAddress,
  isHostOf,
  maskOf,
  networkOf,
  parseAddress,
  type Subnet,
} from './net/ipv4.ts';
import { usage } from './settings.ts';

/** An IPv4 address and the length of its subnet's prefix, 1 to 32 bits. */
export interface SubnetAddress {
  address: string;
  prefix: number;
}

/** A port of the host that leads to one of the guest. */
export interface PortForward {
  address?: string; // of the host, IPv4 or IPv6; left out: all of its addresses
  hostPort: number;
  guestPort: number;
  protocol: 'tcp' | 'udp';
}

// --- Interfaces ---------------------------------------------------------------------------------

/** Checks a MAC address; returns it in lower case. */
export function parseMac(field: string, text: string): string {
  const refused = (finding: string): Error => usage(`${field} mac '${text}' ${finding}`);
  if (!/^[\da-f]{2}(:[\da-f]{2}){5}$/i.test(text)) {
    throw refused('must be six bytes in hexadecimal, such as 02:00:00:00:00:01');
  }
  const mac = text.toLowerCase();
  const first = Number.parseInt(mac.slice(0, 2), 16);
  if (first & 1) throw refused('is a multicast address; make its first byte even, such as 02');
  if (/^[0:]+$/.test(mac)) throw refused('is all zero; use one such as 02:00:00:00:00:01');
  return mac;
}

const INTERFACE_NAME_MAX = 15;

/** Checks the name of a network interface: what Linux takes as one, in printable ASCII. */
export function checkInterface(field: string, name: string): string {
  const isName = /^[!-~]+$/.test(name) && !/[/:%]/.test(name) && name !== '.' && name !== '..';
  if (isName && name.length <= INTERFACE_NAME_MAX) return name;
  const wanted = `1 to ${INTERFACE_NAME_MAX} printable characters without space, '/', ':' and '%'`;
  throw usage(`${field} '${name}' must be the name of an interface: ${wanted}`);
}

// --- Subnets ------------------------------------------------------------------------------------

/** As numbers; the address was found to be one. */
const subnetOf = ({ address, prefix }: SubnetAddress): Subnet => {
  return { address: parseAddress(address)!, prefix };
};

/** True for an address which stands for no host: its subnet's first or last one, a group's. */
function isNoHost(given: SubnetAddress): boolean {
  const subnet = subnetOf(given);
  const first = subnet.address >>> 24;
  if (first === 0 || first === 127 || first >= 224) return true;
  return subnet.prefix < 31 && !isHostOf(subnet, subnet.address);
}

/** Reads '10.0.0.2/24'. */
export function parseSubnetAddress(field: string, text: string): SubnetAddress {
  const [, address = '', bits] = /^([\d.]+)(?:\/(\d{1,2}))?$/.exec(text) ?? [];
  const refused = (finding: string): Error => usage(`${field} ip '${text}' ${finding}`);
  if (!isIPv4(address)) throw refused('must be an IPv4 address with a prefix: 10.0.0.2/24');
  if (bits === undefined) throw refused(`lacks its prefix: ${address}/24?`);
  const subnet = { address, prefix: Number(bits) };
  if (subnet.prefix < 1 || subnet.prefix > 32) throw refused('must have a prefix from 1 to 32');
  if (isNoHost(subnet)) throw refused('is no address that a guest can have; use another one');
  return subnet;
}

/** Checks that a guest with `ip` reaches its gateway. */
export function parseGateway(field: string, text: string, ip: SubnetAddress | undefined): string {
  const refused = (finding: string): Error => usage(`${field} gateway '${text}' ${finding}`);
  if (!isIPv4(text)) throw refused('must be an IPv4 address, such as 10.0.0.1');
  if (!ip) throw refused('needs ip= beside it, such as ip=10.0.0.2/24');
  const { address, prefix } = ip;
  if (networkOf(subnetOf({ address: text, prefix })) !== networkOf(subnetOf(ip))) {
    throw refused(`is not in the subnet of ip=${address}/${prefix}`);
  }
  if (text === address) throw refused('is the address of the guest itself');
  if (isNoHost({ address: text, prefix })) throw refused('is no address that a host can have');
  return text;
}

/** '255.255.255.0' for 24. */
export function netmask(prefix: number): string {
  return formatAddress(maskOf(prefix));
}

// --- Ports --------------------------------------------------------------------------------------

const PUBLISH = /^(?:(\[[\da-f:.]+\]|[\d.]+):)?(\d{1,5}):(\d{1,5})(?:\/(tcp|udp))?$/i;

const isPort = (port: number): boolean => port >= 1 && port <= 65535;

/** The address in brackets (IPv6) or without (IPv4); undefined for what is neither. */
function hostAddress(text: string): string | undefined {
  const inner = text.replace(/^\[(.*)\]$/, '$1');
  const fits = text.startsWith('[') ? isIPv6(inner) : isIP(inner) === 4;
  return fits ? inner : undefined;
}

/** Reads '[ADDRESS:]HOST:GUEST[/udp]'. */
export function parsePublish(text: string): PortForward {
  const refused = (finding: string): Error => usage(`--publish '${text}' ${finding}`);
  const match = PUBLISH.exec(text);
  if (!match) throw refused('must be [ADDRESS:]HOST:GUEST[/udp], such as 8080:80');
  const [hostPort, guestPort] = [Number(match[2]), Number(match[3])];
  if (!isPort(hostPort) || !isPort(guestPort)) throw refused('must have ports from 1 to 65535');
  const address = match[1] === undefined ? undefined : hostAddress(match[1]);
  if (match[1] !== undefined && address === undefined) {
    throw refused('has no address of the host at its start, such as 127.0.0.1 or [::1]');
  }
  const protocol = match[4]?.toLowerCase() === 'udp' ? 'udp' : 'tcp';
  return { address, hostPort, guestPort, protocol };
}
