// What the page knows of a recording: columns with one entry an event, requests with their ends,
// and checkpoints from which any stretch of events can be decoded again.
import { EFFECT_IRQ, EFFECT_REQUEST } from '../../assembly/abi.ts';
import {
  BLOCK_HEADER_BYTES,
  CALL_COMPLETE,
  CALL_NOTIFY,
  CALL_READ,
  CALL_WRITE,
  Decoder,
  Malformed,
  PREAMBLE_BYTES,
  TRAPPED,
} from '../replay/format.ts';
import { isVirtio } from '../replay/names.ts';
import {
  parseEvent,
  parseMachine,
  type RecordedEvent,
  type RecordedMachine,
} from '../replay/parse.ts';
import { parseRequest } from '../replay/request.ts';
import { type Checkpoint, type TracedEvent, Tracer } from '../replay/trace.ts';

const CHECKPOINT_EVENTS = 1024;
const QUEUE_NOTIFY = 0x50;

export interface Request {
  place: number; // of its device
  start: number; // the event that handed it out, by its index
  kick: number; // the event that rang the doorbell
  end: number; // the event that completed it; -1: none
  kind: string;
  length: number; // bytes
  offset: number; // bytes, on the disk
  queue: number;
  head: number;
  irq: boolean; // its completion raised an interrupt
}

export interface Phase {
  name: string;
  event: number; // index
}

export interface DecodedEvent extends TracedEvent {
  place: number;
  names: string[]; // of its accesses
}

/** Grows to any length. */
class Column<T extends Float64Array | Uint32Array | Uint8Array> {
  array: T;
  private used = 0;
  private readonly make: (length: number) => T;

  constructor(make: (length: number) => T) {
    this.make = make;
    this.array = make(0x10000);
  }

  push(value: number): void {
    if (this.used === this.array.length) {
      const larger = this.make(this.used * 2);
      larger.set(this.array);
      this.array = larger;
    }
    this.array[this.used++] = value;
  }
}

export class Model {
  readonly machine: RecordedMachine;
  readonly requests: Request[] = [];
  readonly phases: Phase[] = [];
  count = 0;
  private readonly bytes: Uint8Array;
  private readonly timeColumn = new Column((length) => new Float64Array(length));
  private readonly placeColumn = new Column((length) => new Uint8Array(length));
  private readonly callColumn = new Column((length) => new Uint8Array(length));
  private readonly byteColumn = new Column((length) => new Uint32Array(length));
  private readonly checkpoints: Checkpoint[] = [];
  private readonly open = new Map<string, Request>();
  private readonly kicks = new Map<string, number>();

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = PREAMBLE_BYTES;
    const next = (): [block: Decoder, start: number] => {
      const start = at + BLOCK_HEADER_BYTES;
      at = start + view.getUint32(at, true);
      return [new Decoder(bytes.subarray(start, at)), start];
    };
    this.machine = parseMachine(next()[0]);
    const tracer = new Tracer(this.machine.devices);
    try {
      while (at < bytes.length && this.takeBlock(tracer, ...next()));
    } catch (error) {
      // Its events end here; the note of whoever wrote the page says so.
      if (!(error instanceof Malformed)) throw error;
    }
  }

  /** Microseconds of an event since the recording began. */
  timeUs(event: number): number {
    return this.timeColumn.array[event];
  }

  place(event: number): number {
    return this.placeColumn.array[event];
  }

  /** Whether the event was the guest's access to a register. */
  isExit(event: number): boolean {
    const call = this.callColumn.array[event];
    return call === CALL_READ || call === CALL_WRITE || call === CALL_NOTIFY;
  }

  get endUs(): number {
    return this.count === 0 ? 0 : this.timeUs(this.count - 1);
  }

  /** The index of the first event at that time or later. */
  firstFrom(timeUs: number): number {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.timeUs(middle) < timeUs) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  latencyUs({ start, end }: Request): number {
    return end < 0 ? Number.NaN : this.timeUs(end) - this.timeUs(start);
  }

  /** Events from `first` on, with everything in them by name. */
  decode(first: number, count: number): DecodedEvent[] {
    const checkpoint = this.checkpoints[Math.floor(first / CHECKPOINT_EVENTS)];
    if (!checkpoint) return [];
    const tracer = new Tracer(this.machine.devices, checkpoint);
    const decoded: DecodedEvent[] = [];
    const last = Math.min(first + count, this.count);
    for (let index = checkpoint.number; index < last; index++) {
      const event = this.event(index);
      const traced = tracer.take(event);
      if (index < first) continue;
      decoded.push({ ...traced, place: event.place, names: tracer.accessNames(event) });
    }
    return decoded;
  }

  private event(index: number): RecordedEvent {
    const block = new Decoder(this.bytes.subarray(this.byteColumn.array[index]));
    const event = parseEvent(block, this.machine.devices.length, 0) as RecordedEvent;
    return { ...event, timeUs: this.timeUs(index) };
  }

  /** False where the recording ends. */
  private takeBlock(tracer: Tracer, block: Decoder, start: number): boolean {
    while (!block.done) {
      const at = start + block.at;
      const event = parseEvent(block, this.machine.devices.length, this.endUs);
      if (!event) return false;
      if (this.count % CHECKPOINT_EVENTS === 0) this.checkpoints.push(tracer.checkpoint());
      const { phase } = tracer.take(event);
      if (phase) this.phases.push({ name: phase, event: this.count });
      this.note(event, at);
    }
    return true;
  }

  private note(event: RecordedEvent, at: number): void {
    const index = this.count++;
    this.timeColumn.push(event.timeUs);
    this.placeColumn.push(event.place);
    this.callColumn.push(event.call);
    this.byteColumn.push(at);
    const { place, call, args, effects } = event;
    if (!isVirtio(this.machine.devices[place].kind)) return;
    const rings = call === CALL_WRITE && args[0] === QUEUE_NOTIFY;
    if (rings || call === CALL_NOTIFY) this.kicks.set(`${place} ${args[rings ? 2 : 0]}`, index);
    if (effects === TRAPPED) return;
    if (effects & EFFECT_REQUEST) this.requested(event, index);
    if (call === CALL_COMPLETE) this.completed(event, index);
  }

  private requested({ place, record }: RecordedEvent, index: number): void {
    const parsed = parseRequest(record);
    if (!parsed) return;
    const { tag, queue, head, kind, length, offset } = parsed;
    const kick = this.kicks.get(`${place} ${queue}`) ?? index;
    const base = { place, start: index, kick, end: -1, irq: false };
    const request = { ...base, kind, length, offset, queue, head };
    this.requests.push(request);
    this.open.set(`${place} ${tag}`, request);
  }

  private completed({ place, args, effects }: RecordedEvent, index: number): void {
    const key = `${place} ${args[0]}`;
    const request = this.open.get(key);
    if (!request) return;
    request.end = index;
    request.irq = (effects & EFFECT_IRQ) !== 0;
    this.open.delete(key);
  }
}
