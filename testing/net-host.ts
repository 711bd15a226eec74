// The host of a network device: it takes frames to send, and delivers received ones into buffers
// that it holds. docs/abi.md, 'A network device's queues'.
import {
  EFFECT_MORE,
  EFFECT_REQUEST,
  NET_HEADER_BYTES,
  REQUEST_KIND_NET_RX,
  REQUEST_KIND_NET_TX,
  RESULT_IOERR,
  RESULT_OK,
} from '../assembly/abi.ts';
import type { Cage } from '../host/cage.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { rangesOf } from './executors.ts';
import { type Executor, kick, parseRecord, type RequestRecord } from './requests.ts';

/** The 12 bytes of struct virtio_net_hdr in a record of a frame to send (docs/abi.md). */
export function headerOf(request: RequestRecord): Uint8Array {
  const view = new DataView(new ArrayBuffer(NET_HEADER_BYTES));
  view.setBigUint64(0, request.offset, true);
  view.setUint32(8, request.flags, true);
  return new Uint8Array(view.buffer);
}

/** Takes frames to send: each, behind its 12 bytes of header, is added to `frames`. */
export function frameSink(memory: GuestMemory, frames: Uint8Array[]): Executor {
  return (request) => {
    const views = rangesOf(memory, request);
    if (!views || request.kind !== REQUEST_KIND_NET_TX) return { result: RESULT_IOERR, bytes: 0 };
    frames.push(Uint8Array.from([headerOf(request), ...views].flatMap((view) => [...view])));
    return { result: RESULT_OK, bytes: 0 };
  };
}

/** One pair of queues of a network device as its host serves it; pair 0 by default. */
export class NetHost {
  /** The device. */
  readonly cage: Cage;
  /** The guest memory of its driver, one buffer. */
  readonly memory: GuestMemory;
  /** The number of the receive queue; that of the transmit queue is one more. */
  readonly receiveQueue: number;
  /** Receive buffers handed out and not yet used, the oldest first. */
  held: RequestRecord[] = [];
  /** Frames sent so far, each behind its header. */
  readonly sent: Uint8Array[] = [];

  constructor(cage: Cage, memory: GuestMemory, pair = 0) {
    this.cage = cage;
    this.memory = memory;
    this.receiveQueue = 2 * pair;
  }

  /** Takes all receive buffers that the driver offers; returns the effects seen (abi.EFFECT_*). */
  fetch(): number {
    let seen = 0;
    for (let effects = EFFECT_MORE; effects & EFFECT_MORE; ) {
      effects = this.cage.next(this.receiveQueue);
      seen |= effects;
      if (!(effects & EFFECT_REQUEST)) continue;
      const request = parseRecord(this.cage.record());
      if (request.kind === REQUEST_KIND_NET_RX) this.held.push(request);
    }
    return seen;
  }

  /**
   * Puts `bytes`, a header of 12 bytes and a frame, into the buffers held and completes the oldest
   * of them. Returns the effects; null where the bytes do not fit, or a buffer is not RAM.
   */
  deliver(bytes: Uint8Array): number | null {
    let at = 0;
    let used = 0;
    for (; at < bytes.length && used < this.held.length; used += 1) {
      const views = rangesOf(this.memory, this.held[used]);
      if (!views) return null;
      for (const view of views) {
        const part = bytes.subarray(at, at + view.length);
        view.set(part);
        at += part.length;
      }
    }
    if (used === 0 || at < bytes.length) return null;
    const [first] = this.held.splice(0, used);
    return this.cage.complete(first.tag, RESULT_OK, bytes.length);
  }

  /** Gives back buffer `index` of those held, which the host could not use; returns the effects. */
  refuse(index: number): number {
    const [request] = this.held.splice(index, 1);
    return this.cage.complete(request.tag, RESULT_IOERR, 0);
  }

  /** Rings the transmit queue and takes the frames there; returns all effects. */
  transmit(): number {
    const execute = frameSink(this.memory, this.sent);
    return kick(this.cage, this.receiveQueue + 1, execute).effects;
  }
}
