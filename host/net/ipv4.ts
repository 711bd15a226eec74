// IPv4 addresses as numbers, and subnets in the form ADDRESS/PREFIX (RFC 4632).

export interface Subnet {
  address: number; // of one machine in it, not the subnet's own; u32
  prefix: number; // 0 to 32
}

const BITS = 32;

/** '10.0.2.15' as a number; undefined for anything else, leading zeros included. */
export function parseAddress(text: string): number | undefined {
  const parts = text.split('.');
  const good = (part: string) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255;
  if (parts.length !== 4 || !parts.every(good)) return undefined;
  return parts.reduce((value, part) => value * 256 + Number(part), 0);
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

/** '10.0.2.15/24'; undefined for anything else. */
export function parseSubnet(text: string): Subnet | undefined {
  const [, host, bits] = /^([\d.]+)\/(\d{1,2})$/.exec(text) ?? [];
  const address = parseAddress(host ?? '');
  const prefix = Number(bits);
  return address === undefined || prefix > BITS ? undefined : { address, prefix };
}

/** The netmask of a prefix. A shift by 32 is one by 0 in JavaScript, hence the case of its own. */
export const maskOf = (prefix: number): number =>
  prefix === 0 ? 0 : (-1 << (BITS - prefix)) >>> 0;

export const networkOf = ({ address, prefix }: Subnet): number => (address & maskOf(prefix)) >>> 0;

export const broadcastOf = (subnet: Subnet): number =>
  (networkOf(subnet) | ~maskOf(subnet.prefix)) >>> 0;

/** Whether two subnets share an address. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  return networkOf(a) <= broadcastOf(b) && networkOf(b) <= broadcastOf(a);
}

/** Whether a machine of this subnet may have this address: all-zeros and all-ones are taken. */
export function isHostOf(subnet: Subnet, address: number): boolean {
  return address > networkOf(subnet) && address < broadcastOf(subnet);
}
