// passt as Faraday starts it, with this test in the place of the guest: frames go both ways, what
// the guest is told is true, ports lead in, and nothing is left once the socket is closed.
import { spawnSync } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { FaradayError } from '../host/errors.ts';
import { PASST_MTU, type Passt, type PasstRequest, startPasst } from '../host/net/passt.ts';
import { passtAddressing } from '../host/net/passt-address.ts';
import { findProgram } from '../host/net/program.ts';
import { isAlive } from './cell-guest.ts';
import {
  arpRequest,
  arpSender,
  dhcpDiscover,
  type Ends,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  parseDhcp,
  parseIpv4,
  parseTcp,
  type Segment,
  TCP_ACK,
  TCP_RST,
  TCP_SYN,
  tcp,
} from './frames.ts';

const MAC = '02:00:00:00:00:01';
const ADDRESS = '10.0.2.15';
const GATEWAY = '10.0.2.2';
const WAIT_MS = 10_000;
const POLL_MS = 20;

const installed = spawnSync('passt', ['--version']).error === undefined;
const passtTest = installed
  ? test
  : (name: string, _body: () => Promise<void>) =>
      test.skip(`${name}: passt is not installed`, () => {});

const request = (more: Partial<PasstRequest> = {}): PasstRequest => ({
  ...{ id: 'eth0', mac: MAC, publish: [] },
  ...more,
});

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The guest's side of passt's socket. */
class Wire {
  readonly socket: Socket;
  readonly frames: Buffer[] = [];
  private rest: Buffer = Buffer.alloc(0);

  constructor(link: Passt) {
    this.socket = new Socket({ fd: link.fd, readable: true, writable: true });
    this.socket.on('error', () => {});
    this.socket.on('data', (bytes: Buffer) => this.take(bytes));
  }

  private take(bytes: Buffer): void {
    this.rest = Buffer.concat([this.rest, bytes]);
    while (this.rest.length >= 4 && this.rest.length >= 4 + this.rest.readUInt32BE(0)) {
      const end = 4 + this.rest.readUInt32BE(0);
      this.frames.push(this.rest.subarray(4, end));
      this.rest = this.rest.subarray(end);
    }
  }

  send(frame: Buffer): void {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.socket.write(Buffer.concat([length, frame]));
  }

  /** What `look` finds in the first frame where it finds something; frames before go. */
  async find<T>(look: (frame: Buffer) => T | undefined): Promise<T> {
    for (let waited = 0; waited < WAIT_MS; waited += POLL_MS) {
      while (this.frames.length > 0) {
        const found = look(this.frames.shift()!);
        if (found !== undefined) return found;
      }
      await sleep(POLL_MS);
    }
    throw new Error('no such frame came');
  }

  segment(wanted: (segment: Segment) => boolean): Promise<Segment> {
    return this.find((frame) => {
      const packet = parseIpv4(frame);
      const segment = packet?.protocol === PROTOCOL_TCP ? parseTcp(packet) : undefined;
      return segment && wanted(segment) ? segment : undefined;
    });
  }

  /** passt's own MAC address. */
  async gateway(): Promise<string> {
    this.send(arpRequest(MAC, ADDRESS, GATEWAY));
    const sender = await this.find(arpSender);
    assert.is(sender.ip, GATEWAY);
    return sender.mac;
  }
}

/** Runs `body` as a guest; passt must be gone after. */
async function asGuest(more: Partial<PasstRequest>, body: (wire: Wire) => Promise<void>) {
  const wire = new Wire(startPasst(request(more), () => {}));
  try {
    await body(wire);
  } finally {
    wire.socket.destroy();
  }
}

/** Processes of passt that serve a guest with this MTU, a number that only one test uses. */
function processesWith(mtu: number): number[] {
  const listed = spawnSync('pgrep', ['-f', `passt.* --mtu ${mtu} `], { encoding: 'utf8' }).stdout;
  return listed.split('\n').filter(Boolean).map(Number).filter(isAlive);
}

function listen(server: Server, host: string): Promise<number> {
  return new Promise((resolve) => {
    server.unref(); // a test that fails leaves it open
    server.listen(0, host, () => resolve((server.address() as AddressInfo).port));
  });
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server, '127.0.0.1');
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function refusal(more: Partial<PasstRequest>): FaradayError {
  try {
    closeSync(startPasst(request(more), () => {}).fd);
  } catch (error) {
    assert.instance(error, FaradayError);
    return error as FaradayError;
  }
  throw new Error('passt started');
}

// --- Addresses ----------------------------------------------------------------------------------

function ip(text: string): { address: string; prefix: number } {
  const [address, prefix] = text.split('/');
  return { address: address!, prefix: Number(prefix) };
}

test('addresses: those of QEMU by default, else made from ip= and gateway=', () => {
  assert.equal(passtAddressing(request()), {
    address: '10.0.2.15',
    prefix: 24,
    netmask: '255.255.255.0',
    gateway: '10.0.2.2',
    dns: '10.0.2.3',
  });
  const chosen = (text: string, gateway?: string) => {
    const { gateway: router, netmask, dns } = passtAddressing(request({ ip: ip(text), gateway }));
    return [router, netmask, dns];
  };
  assert.equal(chosen('192.168.7.9/24'), ['192.168.7.1', '255.255.255.0', '192.168.7.2']);
  assert.equal(chosen('192.168.7.1/24'), ['192.168.7.2', '255.255.255.0', '192.168.7.3']);
  assert.equal(chosen('10.1.2.3/8', '10.9.9.9'), ['10.9.9.9', '255.0.0.0', '10.0.0.1']);
  assert.equal(chosen('10.1.2.1/30'), ['10.1.2.2', '255.255.255.252', '10.1.2.2']);
});

test('a subnet without room for a gateway is one line with exit code 2', () => {
  for (const text of ['10.0.2.1/31', '10.0.2.1/32']) {
    const error = refusal({ ip: ip(text) });
    assert.is(error.exitCode, 2);
    assert.match(error.message, /^--net id=eth0: ip=10\.0\.2\.1\/3[12] leaves passt no address/);
  }
});

// --- Frames -------------------------------------------------------------------------------------

passtTest(
  "frames go both ways: ARP is answered, with a MAC address that is not the host's",
  async () => {
    await asGuest({}, async (wire) => {
      const mac = await wire.gateway();
      const own = Object.values(networkInterfaces()).flatMap((list) => list!.map((one) => one.mac));
      assert.not(own.includes(mac), mac);
      assert.match(mac, /^02:fa:52:/);
    });
  },
);

passtTest('DHCP offers what passtAddressing() says', async () => {
  for (const more of [{}, { ip: ip('192.168.77.5/28'), gateway: '192.168.77.9', mtu: 1400 }]) {
    const said = passtAddressing(request(more));
    await asGuest(more, async (wire) => {
      wire.send(dhcpDiscover(MAC));
      const { address, options } = await wire.find((frame) => {
        const packet = parseIpv4(frame);
        return packet?.protocol === PROTOCOL_UDP ? parseDhcp(packet) : undefined;
      });
      assert.is(address, said.address);
      assert.is([...options.get(1)!].join('.'), said.netmask);
      assert.is([...options.get(3)!].join('.'), said.gateway);
      const mtu = 'mtu' in more ? more.mtu : PASST_MTU;
      assert.is(options.get(26)!.readUInt16BE(), mtu);
    });
  }
});

passtTest('a forwarded port leads into the guest, and its answer out again', async () => {
  const hostPort = await freePort();
  const publish = [{ address: '127.0.0.1', hostPort, guestPort: 80, protocol: 'tcp' as const }];
  await asGuest({ publish }, async (wire) => {
    const mac = await wire.gateway();
    const client = connect(hostPort, '127.0.0.1');
    const received: Buffer[] = [];
    client.on('data', (bytes: Buffer) => received.push(bytes));
    client.on('error', () => {});
    const syn = await wire.segment(({ flags }) => (flags & TCP_SYN) !== 0);
    assert.is(syn.destinationPort, 80);
    const from = { mac: MAC, ip: ADDRESS, port: 80 };
    const ends: Ends = { from, to: { mac, ip: GATEWAY, port: syn.sourcePort } };
    const acknowledgement = syn.sequence + 1;
    wire.send(tcp(ends, { sequence: 1000, acknowledgement, flags: TCP_SYN | TCP_ACK }));
    client.write('question');
    const asked = await wire.segment(({ data }) => data.length > 0);
    assert.is(asked.data.toString(), 'question');
    const answer = { sequence: 1001, acknowledgement: acknowledgement + 8, flags: TCP_ACK };
    wire.send(tcp(ends, answer, Buffer.from('answer')));
    await wire.segment((segment) => segment.acknowledgement === 1007);
    for (let waited = 0; waited < WAIT_MS && received.length === 0; waited += POLL_MS) {
      await sleep(POLL_MS);
    }
    assert.is(Buffer.concat(received).toString(), 'answer');
    client.destroy();
  });
});
/** An address of this host that guests can reach; none where it has only loopback. */
const ownAddress = Object.values(networkInterfaces())
  .flatMap((list) => list ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

const SYN = { sequence: 7, acknowledgement: 0, flags: TCP_SYN };

const fromGuest = (mac: string, ip: string, port: number): Ends => ({
  from: { mac: MAC, ip: ADDRESS, port: 40000 },
  to: { mac, ip, port },
});

/** Opens a connection from the guest: the flags of what comes back. */
async function connectTo(wire: Wire, mac: string, to: string, port: number): Promise<number> {
  wire.send(tcp(fromGuest(mac, to, port), SYN));
  return (await wire.segment(({ destinationPort }) => destinationPort === 40000)).flags;
}

passtTest("a guest's connection reaches a server on this host's own address", async () => {
  if (ownAddress === undefined) return;
  const server = createServer();
  const port = await listen(server, ownAddress);
  await asGuest({}, async (wire) => {
    const flags = await connectTo(wire, await wire.gateway(), ownAddress, port);
    assert.is(flags & (TCP_SYN | TCP_RST), TCP_SYN);
  });
  server.close();
});

passtTest('a guest reaches nothing of 127.0.0.1 by its gateway', async () => {
  const server = createServer((socket) => assert.unreachable(`from ${socket.remotePort}`));
  const port = await listen(server, '127.0.0.1');
  await asGuest({}, async (wire) => {
    const mac = await wire.gateway();
    wire.send(tcp(fromGuest(mac, GATEWAY, port), SYN));
    await wire.gateway(); // passt takes frames in turn: it has seen the one before
    await sleep(200);
  });
  server.close();
});

// --- Its process --------------------------------------------------------------------------------

passtTest('passt has no rights, no environment, and ends with the socket', async () => {
  const wire = new Wire(startPasst(request({ mtu: 1411 }), () => {}));
  await wire.gateway(); // it shuts itself in once it is in the background, and answers after that
  const pids = processesWith(1411);
  assert.is(pids.length, 1);
  const status = readFileSync(`/proc/${pids[0]}/status`, 'utf8');
  assert.match(status, /^NoNewPrivs:\t1$/m);
  assert.match(status, /^Seccomp:\t2$/m);
  assert.match(status, /^CapEff:\t0+$/m);
  assert.not.match(status, /^Uid:\t0\t/m);
  if (process.geteuid?.() === 0) {
    assert.is(readFileSync(`/proc/${pids[0]}/environ`, 'utf8'), '');
    assert.equal(readdirSync(`/proc/${pids[0]}/root/`), []);
  }
  wire.socket.destroy();
  for (let waited = 0; waited < WAIT_MS && processesWith(1411).length > 0; waited += POLL_MS) {
    await sleep(POLL_MS);
  }
  assert.equal(processesWith(1411), []);
});

passtTest('a port that is in use or given twice is one line that names it', async () => {
  const server = createServer();
  const hostPort = await listen(server, '127.0.0.1');
  const port = { address: '127.0.0.1', hostPort, guestPort: 80, protocol: 'tcp' as const };
  const used = refusal({ publish: [port] });
  assert.is(used.exitCode, 2);
  assert.ok(used.message.startsWith(`--publish '127.0.0.1:${hostPort}:80' cannot be bound`));
  server.close();
  const free = await freePort();
  const twice = [80, 81].map((guestPort) => ({ ...port, hostPort: free, guestPort }));
  const again = refusal({ publish: twice });
  assert.is(again.exitCode, 2);
  assert.ok(again.message.startsWith(`--publish '127.0.0.1:${free}:81' is there twice`));
  const newer = refusal({ publish: [{ ...port, address: '::1', protocol: 'udp' }] });
  assert.is(newer.exitCode, 2);
  assert.ok(newer.message.startsWith(`--publish '[::1]:${hostPort}:80/udp' is an IPv6 address`));
});

test('where passt is missing, one line names its package', () => {
  assert.throws(
    () => findProgram('passt', '--net-backend user', () => false),
    (thrown: unknown) =>
      thrown instanceof FaradayError &&
      thrown.exitCode === 3 &&
      /^--net-backend user needs 'passt'.* apt install passt$/.test(thrown.message),
  );
});

test.run();
