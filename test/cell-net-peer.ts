// The other end of a cell's network device that the test plays itself, and what the cell says of
// the device in the end.
import { readdirSync, readFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import * as assert from 'uvu/assert';
import type { BytesSegment, NetDevice } from '../host/boot/image.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { le } from './bare-metal.ts';
import { type RunningCell, scratchPath, sleep, startSpawned, within } from './cell-guest.ts';
import { netImage } from './cell-net.ts';
import type { Code } from './machine-code.ts';
import { netDevice } from './machine-image.ts';

const QUIET_MS = 60;

/** The other end of a device with `stream`: frames behind their length in four bytes. */
export class StreamPeer {
  readonly fd: number; // for the cell
  readonly frames: Buffer[] = [];
  private readonly own: Socket;
  private readonly cells: Socket;
  private readonly waiting: (() => void)[] = [];
  private rest: Buffer[] = [];

  private constructor(own: Socket, cells: Socket) {
    this.own = own;
    this.cells = cells;
    this.fd = (cells as unknown as { _handle: { fd: number } })._handle.fd;
    own.on('error', () => {}).on('data', (chunk: Buffer) => this.take(chunk));
  }

  static async create(): Promise<StreamPeer> {
    const path = scratchPath('socket');
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
    const cells = createConnection({ path, allowHalfOpen: true }).pause();
    await new Promise<void>((resolve) => cells.once('connect', resolve));
    const own = await accepted;
    server.close();
    return new StreamPeer(own, cells);
  }

  /** The cell has its descriptor: this process needs it no more. */
  handedOver(): this {
    this.cells.destroy();
    this.own.resume();
    return this;
  }

  private take(chunk: Buffer): void {
    let bytes = Buffer.concat([...this.rest, chunk]);
    while (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE(0)) {
      const end = 4 + bytes.readUInt32BE(0);
      this.frames.push(Buffer.from(bytes.subarray(4, end)));
      bytes = bytes.subarray(end);
    }
    this.rest = [Buffer.from(bytes)];
    for (const wake of this.waiting.splice(0)) wake();
  }

  /** Waits for this many frames in all. */
  async until(count: number): Promise<Buffer[]> {
    const wait = async () => {
      while (this.frames.length < count) {
        await new Promise<void>((resolve) => {
          this.waiting.push(resolve);
        });
      }
    };
    await within(wait(), `${count} frames; there are ${this.frames.length}`);
    return this.frames;
  }

  raw(bytes: Uint8Array): void {
    this.own.write(bytes);
  }

  send(...frames: Buffer[]): void {
    for (const frame of frames) {
      this.own.write(Buffer.concat([Buffer.from(le(frame.length, 4).reverse()), frame]));
    }
  }

  /** Reads nothing more, until listen(). */
  ignore(): this {
    this.own.pause();
    return this;
  }

  listen(): void {
    this.own.resume();
  }

  /** Says that nothing more will come, but listens. */
  finish(): void {
    this.own.end();
  }

  close(): void {
    this.own.destroy();
  }
}

// --- What came of it ----------------------------------------------------------------------------

export interface QueueCounts {
  frames: number;
  bytes: number;
  drops: number[]; // by NET_DROP_*
}

/** What the cell's last words say of a queue, and whether the backend is gone. */
export function countsOf(
  { messages }: RunningCell,
  queue: number,
): QueueCounts & { gone: boolean } {
  const message = messages.find(({ type }) => type === 'network');
  if (message?.type !== 'network') throw new Error('no word about the network');
  const { record } = message;
  const at = protocol.NET_QUEUES + queue * protocol.NET_QUEUE_STRIDE;
  const u64 = (offset: number): number => Number(record.getBigUint64(at + offset, true));
  const drops = Array.from({ length: protocol.NET_DROP_COUNT }, (_, i) => {
    return u64(protocol.NET_QUEUE_DROPS + 8 * i);
  });
  const gone = record.getUint32(protocol.NET_GONE, true) === 1;
  return {
    frames: u64(protocol.NET_QUEUE_FRAMES),
    bytes: u64(protocol.NET_QUEUE_BYTES),
    drops,
    gone,
  };
}

/** Drops of a queue where all were for one reason. */
export function drops(count: number, reason: number): number[] {
  return Array.from({ length: protocol.NET_DROP_COUNT }, (_, i) => (i === reason ? count : 0));
}

export const NO_DROPS: number[] = drops(0, 0);

/** State of a thread, and how long and how often it was on a processor. */
function threadOf(pid: number, name: string): { state: string; turns: string } {
  const folder = `/proc/${pid}/task`;
  for (const tid of readdirSync(folder)) {
    const [, found, state] = /\((.*)\) (\w)/.exec(readFileSync(`${folder}/${tid}/stat`, 'utf8'))!;
    if (found !== name) continue;
    return { state: state!, turns: readFileSync(`${folder}/${tid}/schedstat`, 'utf8') };
  }
  throw new Error(`no thread '${name}'`);
}

/** Waits until the network thread sleeps, and goes on doing so: it is not even woken up. */
export async function assertIdle(cell: RunningCell): Promise<void> {
  const pid = cell.child.pid!;
  const look = () => threadOf(pid, 'net');
  const wait = async () => {
    for (;;) {
      const before = look();
      await sleep(QUIET_MS);
      const after = look();
      if (before.state === 'S' && after.state === 'S' && before.turns === after.turns) return;
    }
  };
  await within(wait(), 'the network thread never rests');
}

/** Does what wakes the idle network thread, and waits until it has had its turn. */
export async function served(cell: RunningCell, act: () => void): Promise<void> {
  const look = () => threadOf(cell.child.pid!, 'net');
  const { turns } = look();
  act();
  const wait = async () => {
    for (let now = look(); now.state !== 'S' || now.turns === turns; now = look()) await sleep(1);
  };
  await within(wait(), 'the network thread has no turn');
}

/**
 * Waits until the guest is up, as it says, and the network thread has seen that: what came before
 * is dropped.
 */
export async function untilUp(cell: RunningCell): Promise<void> {
  await cell.untilSaid('up');
  await assertIdle(cell);
}

// --- Running ------------------------------------------------------------------------------------

export interface Running {
  cell: RunningCell;
  peer: StreamPeer;
}

/** A guest with a network device at the end of a stream. */
export async function start(
  segments: BytesSegment[],
  write: (code: Code) => void,
  change: Partial<NetDevice> = {},
): Promise<Running> {
  const peer = await StreamPeer.create();
  const device = netDevice([peer.fd], { stream: true, ...change });
  const cell = startSpawned(netImage(device, segments, write), { input: 'pipe' });
  return { cell, peer: peer.handedOver() };
}

/** Waits for its power off. */
export async function end({ cell, peer }: Running): Promise<void> {
  const { status } = await cell.ended();
  peer.close();
  assert.is(status, 0);
}
