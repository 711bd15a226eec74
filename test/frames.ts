// Ethernet, ARP, IPv4, UDP, TCP and DHCP frames, just enough to play a guest's driver at the socket
// of passt. RFC 826, 791, 768, 9293, 2131; checksums by RFC 1071.

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const BROADCAST = 'ff:ff:ff:ff:ff:ff';

export const TCP_FIN = 1;
export const TCP_SYN = 2;
export const TCP_RST = 4;
export const TCP_ACK = 16;

const ETHERNET_BYTES = 14;
const IPV4_BYTES = 20;

export interface Ends {
  from: { mac: string; ip: string; port: number };
  to: { mac: string; ip: string; port: number };
}

export interface Packet {
  protocol: number;
  source: string;
  destination: string;
  payload: Buffer; // from the transport's header on
}

export interface Segment {
  sourcePort: number;
  destinationPort: number;
  sequence: number;
  acknowledgement: number;
  flags: number;
  data: Buffer;
}

const macBytes = (mac: string) => Buffer.from(mac.replaceAll(':', ''), 'hex');
const ipBytes = (ip: string) => Buffer.from(ip.split('.').map(Number));
const ipText = (bytes: Buffer) => [...bytes].join('.');
const u16 = (value: number) => Buffer.from([value >> 8, value & 255]);

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function checksum(bytes: Buffer): number {
  const even = bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)]);
  let sum = 0;
  for (let at = 0; at < even.length; at += 2) sum += even.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function ethernet(to: string, from: string, type: number, payload: Buffer): Buffer {
  return Buffer.concat([macBytes(to), macBytes(from), u16(type), payload]);
}

export const etherType = (frame: Buffer): number => frame.readUInt16BE(12);

/** Who has `wanted`? */
export function arpRequest(mac: string, ip: string, wanted: string): Buffer {
  const head = Buffer.from([0, 1, 8, 0, 6, 4, 0, 1]);
  const body = [head, macBytes(mac), ipBytes(ip), Buffer.alloc(6), ipBytes(wanted)];
  return ethernet(BROADCAST, mac, ETHERTYPE_ARP, Buffer.concat(body));
}

/** The sender of an ARP answer; undefined for any other frame. */
export function arpSender(frame: Buffer): { mac: string; ip: string } | undefined {
  if (etherType(frame) !== ETHERTYPE_ARP || frame.readUInt16BE(20) !== 2) return undefined;
  const mac = frame.toString('hex', 22, 28).match(/../g)!.join(':');
  return { mac, ip: ipText(frame.subarray(28, 32)) };
}

function ipv4({ from, to }: Ends, protocol: number, payload: Buffer): Buffer {
  const head = Buffer.concat([
    Buffer.from([0x45, 0]),
    u16(IPV4_BYTES + payload.length),
    Buffer.from([0, 0, 0x40, 0, 64, protocol, 0, 0]),
    ipBytes(from.ip),
    ipBytes(to.ip),
  ]);
  head.writeUInt16BE(checksum(head), 10);
  return ethernet(to.mac, from.mac, ETHERTYPE_IPV4, Buffer.concat([head, payload]));
}

/** What the sum of UDP and TCP begins with. */
function pseudoHeader({ from, to }: Ends, protocol: number, bytes: number): Buffer {
  return Buffer.concat([ipBytes(from.ip), ipBytes(to.ip), u16(protocol), u16(bytes)]);
}

export function parseIpv4(frame: Buffer): Packet | undefined {
  if (etherType(frame) !== ETHERTYPE_IPV4) return undefined;
  const packet = frame.subarray(ETHERNET_BYTES);
  const bytes = packet.readUInt16BE(2);
  return {
    protocol: packet[9],
    source: ipText(packet.subarray(12, 16)),
    destination: ipText(packet.subarray(16, 20)),
    payload: packet.subarray((packet[0] & 15) * 4, bytes),
  };
}

export function udp(ends: Ends, data: Buffer): Buffer {
  const bytes = 8 + data.length;
  const head = Buffer.concat([u16(ends.from.port), u16(ends.to.port), u16(bytes), u16(0)]);
  const sum = checksum(Buffer.concat([pseudoHeader(ends, PROTOCOL_UDP, bytes), head, data]));
  head.writeUInt16BE(sum || 0xffff, 6);
  return ipv4(ends, PROTOCOL_UDP, Buffer.concat([head, data]));
}

export function tcp(
  ends: Ends,
  { sequence, acknowledgement, flags }: Pick<Segment, 'sequence' | 'acknowledgement' | 'flags'>,
  data = Buffer.alloc(0),
): Buffer {
  const head = Buffer.concat([
    u16(ends.from.port),
    u16(ends.to.port),
    u32(sequence),
    u32(acknowledgement),
    Buffer.from([0x50, flags]),
    u16(0xffff),
    u32(0),
  ]);
  const pseudo = pseudoHeader(ends, PROTOCOL_TCP, head.length + data.length);
  head.writeUInt16BE(checksum(Buffer.concat([pseudo, head, data])), 16);
  return ipv4(ends, PROTOCOL_TCP, Buffer.concat([head, data]));
}

export function parseTcp({ payload }: Packet): Segment {
  return {
    sourcePort: payload.readUInt16BE(0),
    destinationPort: payload.readUInt16BE(2),
    sequence: payload.readUInt32BE(4),
    acknowledgement: payload.readUInt32BE(8),
    flags: payload[13],
    data: payload.subarray((payload[12] >> 4) * 4),
  };
}

const DHCP_BYTES = 240; // up to the options
const DHCP_COOKIE = 0x63825363;

/** DHCPDISCOVER (type 1), RFC 2131 section 4.4.1. */
export function dhcpDiscover(mac: string): Buffer {
  const body = Buffer.alloc(DHCP_BYTES + 4);
  body.set([1, 1, 6, 0, 1, 2, 3, 4], 0);
  body.set(macBytes(mac), 28);
  body.writeUInt32BE(DHCP_COOKIE, 236);
  body.set([53, 1, 1, 255], DHCP_BYTES);
  const from = { mac, ip: '0.0.0.0', port: 68 };
  return udp({ from, to: { mac: BROADCAST, ip: '255.255.255.255', port: 67 } }, body);
}

/** Your address and the options of a DHCP answer, by their number. */
export function parseDhcp({ payload }: Packet): { address: string; options: Map<number, Buffer> } {
  const body = payload.subarray(8);
  const options = new Map<number, Buffer>();
  for (let at = DHCP_BYTES; body[at] !== 255 && at < body.length; at += 2 + body[at + 1]) {
    options.set(body[at], body.subarray(at + 2, at + 2 + body[at + 1]));
  }
  return { address: ipText(body.subarray(16, 20)), options };
}
