// `faraday replay`: the recorded calls on fresh cages; answers, accesses and the state at the end
// must be the same, byte for byte.
import { EFFECT_REQUEST } from '../../assembly/abi.ts';
import type { Cage } from '../core.ts';
import { FaradayError } from '../errors.ts';
import type { NativeError } from '../shim.ts';
import { firstDifference } from './accesses.ts';
import { coreHash } from './core-hash.ts';
import { nativeMachine, type ReplayEngine, type ReplayMachine, v8Machine } from './engines.ts';
import {
  CALL_COMPLETE,
  CALL_FAIL,
  CALL_INPUT,
  CALL_NAMES,
  CALL_NEXT,
  CALL_NOTIFY,
  CALL_READ,
  CALL_RESTART,
  CALL_WRITE,
  TRAPPED,
} from './format.ts';
import type { RecordedEvent } from './parse.ts';
import { recordOf, stateChecksum } from './recorder.ts';
import { Recording } from './recording.ts';
import { type DeviceState, decodeState } from './state.ts';

export interface ReplayResult {
  events: number; // replayed
  devices: number;
  guestBytes: number; // moved between guest memory and cages
  states: { name: string; state: DeviceState }[]; // after the last event replayed
}

const CALLS: Record<number, (cage: Cage, event: RecordedEvent) => number> = {
  [CALL_READ]: (cage, { args: [offset, width] }) => cage.read(offset, width),
  [CALL_WRITE]: (cage, { args: [offset, width, value] }) => cage.write(offset, width, value),
  [CALL_NOTIFY]: (cage, { args: [queue] }) => cage.notify(queue),
  [CALL_NEXT]: (cage, { args: [queue] }) => cage.next(queue),
  [CALL_COMPLETE]: (cage, { args: [tag, result, bytes] }) => cage.complete(tag, result, bytes),
  [CALL_INPUT]: (cage, { input }) => cage.input(input),
  [CALL_FAIL]: (cage) => cage.fail(),
};

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const number = (value: number): string =>
  value === TRAPPED ? 'a trap' : `0x${value.toString(16)}`;

class Replayer {
  private readonly recording: Recording;
  private readonly machine: ReplayMachine;
  private readonly cages: Cage[];
  private events = 0;
  private guestBytes = 0;

  constructor(recording: Recording, machine: ReplayMachine) {
    this.recording = recording;
    this.machine = machine;
    this.cages = recording.machine.devices.map((_, place) => this.create(place));
  }

  /** Replays events up to number `until`, all by default; only then the end is compared too. */
  run(until = Number.POSITIVE_INFINITY): ReplayResult {
    if (until > 0 && this.replayTo(until)) this.compareEnd();
    const { events, guestBytes } = this;
    if (events < until && Number.isFinite(until)) {
      throw this.recording.bad(`has ${events} events; --until ${until} is past its end`);
    }
    const states = this.cages.map((cage, place) => ({
      name: this.recording.machine.devices[place].name,
      state: decodeState(cage.stateBytes()),
    }));
    return { events, guestBytes, devices: this.cages.length, states };
  }

  /** Whether it came to the recording's end. */
  private replayTo(until: number): boolean {
    for (const event of this.recording.events()) {
      this.events++;
      if (event.call === CALL_RESTART) this.restart(event.place);
      else this.repeat(event);
      if (this.events === until) return false;
    }
    return true;
  }

  private compareEnd(): void {
    this.cages.forEach((cage, place) => {
      const expected = this.recording.stateChecksums[place];
      const got = stateChecksum(cage);
      if (expected !== got) {
        this.differ('at the end', place, 'state with CRC-32', number(expected), number(got));
      }
    });
  }

  private create(place: number): Cage {
    const device = this.recording.machine.devices[place];
    try {
      return this.machine.create(device);
    } catch (error) {
      if (!(error instanceof FaradayError)) throw error;
      throw this.recording.bad(
        `has a device that the core refuses, ${JSON.stringify(device.name)}`,
      );
    }
  }

  private restart(place: number): void {
    this.cages[place].close();
    this.cages[place] = this.create(place);
  }

  private repeat(event: RecordedEvent): void {
    const cage = this.cages[event.place];
    let effects = TRAPPED;
    const accesses = this.accessesOf(cage, event, () => {
      try {
        effects = CALLS[event.call](cage, event);
      } catch (error) {
        if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      }
    });
    // Accesses first: a call that strays from them has no answer.
    if (!Buffer.from(accesses).equals(event.accesses)) {
      this.differIn(event, 'access', ...firstDifference(event.accesses, accesses));
    }
    if (effects !== event.effects) {
      this.differIn(event, 'effects', number(event.effects), number(effects));
    }
    if (effects !== TRAPPED) this.compareOutbox(cage, event, effects);
    for (const { data } of event.parsed) this.guestBytes += data.length;
  }

  private compareOutbox(cage: Cage, event: RecordedEvent, effects: number): void {
    if (cage.value() !== event.value) {
      this.differIn(event, 'value', number(event.value), number(cage.value()));
    }
    if (!(effects & EFFECT_REQUEST)) return;
    const record = recordOf(cage);
    if (!Buffer.from(record).equals(event.record)) {
      this.differIn(event, 'request', hex(event.record), hex(record));
    }
  }

  private accessesOf(cage: Cage, event: RecordedEvent, call: () => void): Uint8Array {
    try {
      return this.machine.run(cage, event, call);
    } catch (error) {
      const { code, syscall } = error as NativeError;
      if (syscall === 'takeAccesses') {
        this.differIn(event, 'accesses', `${event.accesses.length} bytes of them`, 'far more');
      }
      if (code !== 'ERANGE' && code !== 'EINVAL') throw error;
      throw this.recording.bad(`reads outside of guest memory in event ${this.events}`);
    }
  }

  private differIn(event: RecordedEvent, what: string, expected: string, got: string): never {
    const numbers = event.args.map((value) => `0x${value.toString(16)}`).join(', ');
    const args = event.call === CALL_INPUT ? hex(event.input.subarray(0, 16)) : numbers;
    const call = `event ${this.events}, ${CALL_NAMES[event.call]}(${args})`;
    this.differ(call, event.place, what, expected, got);
  }

  private differ(where: string, place: number, what: string, expected: string, got: string): never {
    const { devices, coreHash: recorded } = this.recording.machine;
    const another =
      hex(recorded) === hex(coreHash()) ? '' : '; recorded with another build of the core';
    const difference = `expected ${what} ${expected}, got ${got}${another}`;
    throw new FaradayError('divergence', `${where} of ${devices[place].name}: ${difference}`);
  }
}

/**
 * Replays the recording at `path`, up to event number `until` where one is given; 0: none. Throws a
 * FaradayError: 'divergence' at the first difference, 'bad-recording' where it has fewer events.
 */
export function replay(path: string, engine: ReplayEngine, until?: number): ReplayResult {
  const recording = new Recording(path);
  try {
    const { memoryBytes } = recording.machine;
    const machine = engine === 'v8' ? v8Machine() : nativeMachineFor(memoryBytes);
    try {
      return new Replayer(recording, machine).run(until);
    } finally {
      machine.close();
    }
  } finally {
    recording.close();
  }
}

function nativeMachineFor(memoryBytes: number): ReplayMachine {
  try {
    return nativeMachine(memoryBytes);
  } catch (error) {
    const { code, syscall } = error as NativeError;
    if (syscall === undefined) throw error;
    const what = `this host cannot map the recorded ${memoryBytes} bytes of guest memory (${code})`;
    throw new FaradayError('host', `${what}; use --engine v8`);
  }
}
