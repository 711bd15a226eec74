// What `faraday net up` and `net down` are asked for, checked: names end up in commands that run
// with all rights.
import { FaradayError } from '../errors.ts';
import { readSmallFile } from '../small-file.ts';
import { formatAddress, isHostOf, networkOf, parseSubnet, type Subnet } from './ipv4.ts';
import type { UpRequest } from './net-plan.ts';

/** The flags of `net up` as commander has them. */
export interface UpFlags {
  bridge?: string;
  nat?: boolean;
  user?: string;
  address?: string;
  queues?: string;
  mtu?: string;
}

const NAME_CHARACTERS_MAX = 15; // IFNAMSIZ of linux/if.h, with a NUL
// Words that ip and the kernel keep for themselves where a name could stand.
const RESERVED = ['all', 'default', 'lo', 'dev', 'type', 'help'];

const QUEUES_MAX = 8; // of a guest's device
const MTU_MIN = 68; // RFC 791
const MTU_MAX = 65521; // of Linux's taps
const PREFIX_MAX = 30; // a subnet with room for two

const usage = (message: string): FaradayError => new FaradayError('bad-usage', message);

/**
 * An interface's name. Linux takes almost any bytes; those that mean something to shells, nft,
 * ip or sysctl are refused.
 */
export function checkName(field: string, name: string): string {
  const isName = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name) && name.length <= NAME_CHARACTERS_MAX;
  if (!isName) {
    const wanted = `1 to ${NAME_CHARACTERS_MAX} letters, digits, '_', '.' and '-', no '-' first`;
    throw usage(`${field} '${name}' is no name for an interface; use ${wanted}`);
  }
  if (RESERVED.includes(name))
    throw usage(`${field} '${name}' has a meaning of its own; use another`);
  return name;
}

/** Names of /etc/passwd; numbers as they are, since accounts may also live elsewhere. */
function checkUser(user: string): string {
  const isNumber = /^(0|[1-9]\d{0,9})$/.test(user) && Number(user) < 2 ** 32 - 1;
  const lines = (readSmallFile('/etc/passwd') ?? '').split('\n');
  const isAccount =
    /^[^:\s-][^:\s]*$/.test(user) && lines.some((line) => line.startsWith(`${user}:`));
  if (isNumber || isAccount) return user;
  throw usage(`--user '${user}' is no account of /etc/passwd; give one, or a user's number`);
}

function checkAddress(text: string): Subnet {
  const subnet = parseSubnet(text);
  const refused = (finding: string) => usage(`--address '${text}' ${finding}`);
  if (!subnet) throw refused('must be an IPv4 address of this host and a prefix: 10.0.0.1/24');
  if (subnet.prefix < 8 || subnet.prefix > PREFIX_MAX) {
    throw refused(`must have a prefix from 8 to ${PREFIX_MAX}, so that a guest has room`);
  }
  const first = subnet.address >>> 24;
  if (first === 0 || first === 127 || first >= 224) throw refused('is no address of a machine');
  if (isHostOf(subnet, subnet.address)) return subnet;
  const instead = formatAddress(networkOf(subnet) + 1);
  throw refused(`is the subnet's own; use a machine's, such as ${instead}/${subnet.prefix}`);
}

function checkNumber(field: string, value: string, least: number, most: number): number {
  const number = /^\d{1,6}$/.test(value) ? Number(value) : -1;
  if (number >= least && number <= most) return number;
  throw usage(`${field} '${value}' must be a whole number from ${least} to ${most}`);
}

/** Who the tap is for where nobody says: under sudo, the user who typed the command. */
function callingUser(): string | undefined {
  const { SUDO_UID } = process.env;
  if (process.geteuid?.() !== 0) return String(process.geteuid?.());
  return SUDO_UID !== undefined && /^[1-9]\d{0,9}$/.test(SUDO_UID) ? SUDO_UID : undefined;
}

/** Checks all that can be checked without looking at the host's network. */
export function toUpRequest(name: string, flags: UpFlags): UpRequest {
  const { bridge, nat = false, user, address, queues = '1', mtu } = flags;
  return {
    name: checkName('NAME', name),
    bridge: bridge === undefined ? undefined : checkName('--bridge', bridge),
    nat,
    user: user === undefined ? callingUser() : checkUser(user),
    address: address === undefined ? undefined : checkAddress(address),
    queues: checkNumber('--queues', queues, 1, QUEUES_MAX),
    mtu: mtu === undefined ? undefined : checkNumber('--mtu', mtu, MTU_MIN, MTU_MAX),
  };
}
