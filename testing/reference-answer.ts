// What a call into a reference device leaves behind: effects, a value, a request record, and the
// counts of incidents. docs/abi.md says what each is.
import { COUNTER_COUNT, EFFECT_INCIDENT } from '../assembly/abi.ts';

/** A request as docs/abi.md lays it out, taken apart. Addresses and offsets are in bytes. */
export interface ReferenceRecord {
  /** REQUEST_KIND_*. */
  kind: number;
  /** What complete() takes. */
  tag: number;
  /** On the disk. */
  offset: bigint;
  /** Of the ranges, or of the disk where there are none. */
  length: bigint;
  /** REQUEST_FLAG_*. */
  flags: number;
  /** Guest-physical, in order. */
  ranges: { address: bigint; length: number }[];
  /** Of a CONSOLE_OUT record, else empty. */
  bytes: Uint8Array;
}

/** What a network device and its driver agreed on, as it stands at NET_STATE. */
export interface NetworkState {
  /** VIRTIO_NET_F_GUEST_*: what received frames may need. */
  offloads: bigint;
  /** Those in use. */
  queuePairs: number;
  /** On the host's side. */
  linkDown: boolean;
  /** The driver has not yet announced itself as asked. */
  announce: boolean;
  /** Six bytes. */
  mac: readonly number[];
}

/** The answer of one call. */
export interface ReferenceAnswer {
  /** EFFECT_*. */
  effects: number;
  /**
   * The u64 at OUTBOX_VALUE as a number, where the ABI says that the call leaves one. All ones of
   * eight bytes are 2^64, which is what a double makes of them.
   */
  value?: number;
  /** With EFFECT_REQUEST. */
  record?: ReferenceRecord;
}

/** One device's answer in the making, and its counters. */
export class Ledger {
  readonly counters: number[] = new Array(COUNTER_COUNT).fill(0);
  effects = 0;
  value: number | undefined;
  record: ReferenceRecord | undefined;

  /** Counts a mistake of the guest's or the host's. */
  blame(incident: number): void {
    this.counters[incident] += 1;
    this.effects |= EFFECT_INCIDENT;
  }

  /** Answers a read with all ones in the width of the access, and counts why. */
  refuseRead(incident: number, width: number): void {
    this.value = width < 8 ? 2 ** (8 * width) - 1 : 2 ** 64;
    this.blame(incident);
  }

  /** Ends a call: hands its answer out and begins a new one. */
  close(): ReferenceAnswer {
    const answer: ReferenceAnswer = { effects: this.effects };
    if (this.value !== undefined) answer.value = this.value;
    if (this.record) answer.record = this.record;
    this.effects = 0;
    this.value = undefined;
    this.record = undefined;
    return answer;
  }
}

/** What every kind of reference device offers; each method writes its answer into the ledger. */
export interface Model {
  read(offset: number, width: number): void;
  write(offset: number, width: number, value: number): void;
  notify(queue: number): void;
  next(queue: number): void;
  complete(tag: number, result: number, bytes: number): void;
  input(bytes: Uint8Array): void;
  reset(): void;
  fail(): void;
  /** Takes over the state of another model of the same kind and configuration. */
  copyFrom(other: Model): void;
}
