// The addresses of a guest behind passt, which it is told by DHCP and by its kernel's command line.
// Fixed ones, and not those of this host, as passt would have it: known before anything runs.
import { FaradayError } from '../errors.ts';
import { netmask, type SubnetAddress } from '../net-address.ts';
import { formatAddress, isHostOf, networkOf, parseAddress, type Subnet } from './ipv4.ts';

/** What was asked for. */
export interface AddressRequest {
  id: string;
  ip?: SubnetAddress; // the guest's
  gateway?: string;
}

/** What the guest must be told, by DHCP or on its kernel's command line. */
export interface PasstAddressing {
  address: string;
  prefix: number;
  netmask: string;
  gateway: string; // passt's own address
  dns: string; // passt hands what comes here to the first name server of this host
}

// The addresses that users of QEMU's user networking know.
const DEFAULT_IP = { address: '10.0.2.15', prefix: 24 };
const DEFAULT_GATEWAY = '10.0.2.2';
const DEFAULT_DNS = '10.0.2.3';

/** The first machine's address in a subnet that is none of `taken`. */
function freeAddress(subnet: Subnet, taken: readonly number[]): number | undefined {
  const first = networkOf(subnet) + 1;
  const candidates = taken.map((_, i) => first + i);
  return [...candidates, first + taken.length].find(
    (address) => isHostOf(subnet, address) && !taken.includes(address),
  );
}

/** The addresses of a guest behind passt. Throws FaradayError('bad-usage'). */
export function passtAddressing(request: AddressRequest): PasstAddressing {
  const { id, ip = DEFAULT_IP } = request;
  const isDefault = request.ip === undefined;
  const { address, prefix } = ip;
  const subnet: Subnet = { address: parseAddress(address) ?? 0, prefix };
  const wanted = request.gateway ?? (isDefault ? DEFAULT_GATEWAY : undefined);
  const first = freeAddress(subnet, [subnet.address]);
  const gateway = wanted === undefined ? first : parseAddress(wanted);
  if (gateway === undefined || !isHostOf(subnet, gateway) || gateway === subnet.address) {
    const what = `ip=${address}/${prefix} leaves passt no address as a gateway`;
    throw new FaradayError('bad-usage', `--net id=${id}: ${what}; use a prefix of 30 or less`);
  }
  const free = freeAddress(subnet, [subnet.address, gateway]) ?? gateway; // a /30 has no third
  return {
    address,
    prefix,
    netmask: netmask(prefix),
    gateway: formatAddress(gateway),
    dns: isDefault ? DEFAULT_DNS : formatAddress(free),
  };
}
