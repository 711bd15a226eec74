// `--net-backend user`: a network without root rights, by passt, which turns what a guest sends
// into sockets of an ordinary process. It speaks Ethernet over a stream socket, each frame after
// its length, 32 bits, big endian.
//
// What it starts with is what it ever has: no right to gain others (no_new_privs), an empty
// environment, no descriptor but its end of the socket pair. Then it shuts itself in: namespaces of
// its own, an empty root, no capabilities, a filter on system calls.
// The socket is its leash: it ends when nobody has the other end, be it a cell that outlives us.
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { FaradayError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { PortForward } from '../net-address.ts';
import { CHILD_CONTROL, CHILD_NULL, shim } from '../shim.ts';
import { temporaryFolder } from '../temporary-folder.ts';
import { setNonBlocking } from './ioctl.ts';
import { type AddressRequest, passtAddressing } from './passt-address.ts';
import { findProgram } from './program.ts';

export interface PasstRequest extends AddressRequest {
  mac?: string; // the guest's
  mtu?: number; // bytes
  publish: readonly PortForward[];
}

export interface Passt {
  fd: number; // our end of the stream socket; passt ends when its last copy is closed
}

/** The guest's MTU where nobody asks for one: passt has no offloads, large frames are its speed. */
export const PASST_MTU = 65520;

// Its own MAC, locally administered; its default would tell guests that of a device of this host.
const MACS = ['02:fa:52:0a:00:02', '02:fa:52:0a:00:03'];

const START_LIMIT_MS = 10_000;
const POLL_MS = 1;
const SOCKET_FD = 3;
const OUTPUT_BYTES_MAX = 4096;
// Linux, uapi/asm/fcntl.h: Node does not name it.
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

// --- The command line ---------------------------------------------------------------------------

function portWord({ address, hostPort, guestPort }: PortForward): string {
  return `${address === undefined ? '' : `${address}/`}${hostPort}:${guestPort}`;
}

/** -t or -u for each port; 'none' where there is none, as UDP follows TCP otherwise. */
function portWords(publish: readonly PortForward[], protocol: 'tcp' | 'udp'): string[] {
  const flag = protocol === 'tcp' ? '-t' : '-u';
  const ports = publish.filter((port) => port.protocol === protocol);
  return ports.length === 0 ? [flag, 'none'] : ports.flatMap((port) => [flag, portWord(port)]);
}

/** The arguments of passt, which goes into the background by itself once it is ready. */
export function passtWords(request: PasstRequest): string[] {
  const { address, netmask, gateway, dns } = passtAddressing(request);
  const mac = MACS.find((candidate) => candidate !== request.mac)!;
  return [
    ...['--quiet', '--fd', String(SOCKET_FD)],
    // From lo it takes nothing, since everything is said; without it, a host with no route at all
    // could not have guests that only talk to itself.
    ...['--ipv4-only', '--interface', 'lo'],
    ...['--address', address, '--netmask', netmask, '--gateway', gateway, '--mac-addr', mac],
    ...['--mtu', String(request.mtu ?? PASST_MTU), '--dns-forward', dns],
    // Else whoever talks to the gateway talks to 127.0.0.1 of this host.
    '--no-map-gw',
    ...portWords(request.publish, 'tcp'),
    ...portWords(request.publish, 'udp'),
  ];
}

/** passt makes IPv6 what the host's own interface has; guests are told IPv4 addresses only. */
function checkPorts(publish: readonly PortForward[]): void {
  const port = publish.find(({ address }) => address?.includes(':'));
  if (port === undefined) return;
  const what = 'is an IPv6 address, which --net-backend user does not forward';
  throw new FaradayError('bad-usage', `${published(port)} ${what}; use one of IPv4`);
}

// --- What went wrong ----------------------------------------------------------------------------

/** A published port as the user wrote it. */
function published({ address, hostPort, guestPort, protocol }: PortForward): string {
  const host = address?.includes(':') ? `[${address}]` : address;
  const start = host === undefined ? '' : `${host}:`;
  return `--publish '${start}${hostPort}:${guestPort}${protocol === 'udp' ? '/udp' : ''}'`;
}

/** The last line that passt wrote which is about its end. */
function lastWords(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '' && !/syslog/.test(line));
  return lines.at(-1) ?? 'it says nothing';
}

function explainFailure(request: PasstRequest, output: string): FaradayError {
  const words = lastWords(output);
  const [, flag, spec] = /'-([tu]) ([^' ]+)'/.exec(words) ?? [];
  const protocol = flag === 'u' ? 'udp' : 'tcp';
  const port = request.publish.find((p) => portWord(p) === spec && p.protocol === protocol);
  if (port) {
    const what = 'cannot be bound: it is in use, kept for root, or its address is not of this host';
    return new FaradayError('bad-usage', `${published(port)} ${what}; give another`);
  }
  const twice = /Overlapping port specifier (\S+)/.exec(words)?.[1];
  const again = request.publish.find((p) => portWord(p) === twice);
  if (again) {
    const what = 'is there twice: passt forwards a port once, whatever the address; leave one out';
    return new FaradayError('bad-usage', `${published(again)} ${what}`);
  }
  const fix = 'docs/networking.md says what it needs';
  return new FaradayError('host', `passt does not start: ${words}; ${fix}`);
}

// --- Starting it --------------------------------------------------------------------------------

/** A file without a name for what passt writes before it is in the background. */
function outputFile(): number {
  const unnamed = constants.O_RDWR | constants.O_EXCL | O_TMPFILE;
  try {
    return openSync('/dev/shm', unnamed, 0o600);
  } catch {
    return openSync(temporaryFolder(), unnamed, 0o600);
  }
}

function readOutput(fd: number): string {
  const bytes = Buffer.alloc(OUTPUT_BYTES_MAX);
  return bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, 0));
}

/** Waits for the process that was started: its status, or null once that takes too long. */
function statusOf(pid: number): number | null {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (const start = performance.now(); performance.now() - start < START_LIMIT_MS; ) {
    const status = shim().reapChild(pid);
    if (status !== null) return status;
    Atomics.wait(pause, 0, 0, POLL_MS);
  }
  process.kill(pid, 'SIGKILL');
  while (shim().reapChild(pid) === null) Atomics.wait(pause, 0, 0, POLL_MS);
  return null;
}

/**
 * Starts passt for one guest and returns once it is ready. Throws FaradayError: 'host' where it is
 * missing or cannot work here, 'bad-usage' for a port or an address that cannot be had.
 */
export function startPasst(request: PasstRequest, log: Log): Passt {
  checkPorts(request.publish);
  const words = [findProgram('passt', '--net-backend user'), ...passtWords(request)];
  shim().setNoNewPrivs();
  const output = outputFile();
  try {
    const child = shim().startChild(
      words,
      [CHILD_NULL, CHILD_NULL, output, CHILD_CONTROL],
      true,
      false,
    );
    const status = statusOf(child.pid);
    const text = status === null ? 'it was not ready in time' : readOutput(output);
    log('debug', `${words.join(' ')}: ${text.trim().replace(/\s*\n/g, '; ')}`);
    if (status === 0) {
      setNonBlocking(child.control); // a cell's network thread waits for all of its files at once
      return { fd: child.control };
    }
    closeSync(child.control);
    throw explainFailure(request, text);
  } finally {
    closeSync(output);
  }
}
