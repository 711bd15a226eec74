// `faraday trace`: a recording's events with everything in them by name. It runs anywhere, browsers
// included; what it is given may be any bytes that parse.
import * as abi from '../../assembly/abi.ts';
import type { Access } from './accesses.ts';
import {
  CALL_COMPLETE,
  CALL_INPUT,
  CALL_NAMES,
  CALL_NEXT,
  CALL_NOTIFY,
  CALL_READ,
  CALL_RESTART,
  CALL_WRITE,
  TRAPPED,
} from './format.ts';
import { bitNames, EFFECT_NAMES, isVirtio, parseTag, printable, resultName } from './names.ts';
import type { RecordedDevice, RecordedEvent } from './parse.ts';
import { PhaseFinder } from './phases.ts';
import * as ports from './port-registers.ts';
import { AccessNamer } from './queue-accesses.ts';
import { parseRequest, type TracedRequest } from './request.ts';
import { copyVirtio, freshVirtio, type VirtioContext, virtioRegister } from './virtio-registers.ts';

export interface TracedEvent {
  number: number; // from 1
  timeUs: number; // when the call began, since the recording began
  device: string;
  kind: string; // the call
  register: string; // of read and write
  meaning: string; // of its value, or of the arguments
  offset: number; // of read and write
  width: number;
  value: number; // written, or what the call left in the outbox
  effects: string[];
  trapped: boolean;
  request: TracedRequest | null;
  phase: string; // that it begins, or empty
  accesses: readonly Access[];
}

/** What decides the meaning of a device's next access. */
export interface DeviceContext {
  virtio: VirtioContext;
  ports: ports.PortContext;
}

const SHOWN_INPUT_BYTES = 32;

/** Where a tracer stands: another goes on from there. */
export interface Checkpoint {
  number: number; // of the last event taken
  contexts: readonly DeviceContext[];
}

const copyContext = ({ virtio, ports: port }: DeviceContext): DeviceContext => ({
  virtio: copyVirtio(virtio),
  ports: { ...port },
});

function freshContext({ kind }: RecordedDevice): DeviceContext {
  return { virtio: freshVirtio(kind), ports: ports.freshPorts() };
}

/**
 * Names events, each in its turn from the first on, or from a checkpoint on: what one means follows
 * from those before. Phases are told from the first event on only.
 */
export class Tracer {
  readonly devices: readonly RecordedDevice[];
  private readonly contexts: DeviceContext[];
  private readonly phases: PhaseFinder | null;
  private number: number;

  constructor(devices: readonly RecordedDevice[], from?: Checkpoint) {
    this.devices = devices;
    this.contexts = from ? from.contexts.map(copyContext) : devices.map(freshContext);
    this.number = from?.number ?? 0;
    this.phases = from ? null : new PhaseFinder(devices);
  }

  checkpoint(): Checkpoint {
    return { number: this.number, contexts: this.contexts.map(copyContext) };
  }

  take(event: RecordedEvent): TracedEvent {
    const { call, place, effects } = event;
    const trapped = effects === TRAPPED;
    if (call === CALL_RESTART) this.contexts[place] = freshContext(this.devices[place]);
    const isRegister = call === CALL_READ || call === CALL_WRITE;
    return {
      number: ++this.number,
      timeUs: event.timeUs,
      device: this.devices[place].name,
      kind: CALL_NAMES[call],
      ...(isRegister ? this.register(event) : { register: '', meaning: this.meaning(event) }),
      offset: isRegister ? event.args[0] : 0,
      width: isRegister ? event.args[1] : 0,
      value: call === CALL_WRITE ? event.args[2] : event.value,
      effects: trapped ? [] : bitNames(effects, EFFECT_NAMES),
      trapped,
      request: parseRequest(event.record),
      phase: this.phases?.take(event) ?? '',
      accesses: event.parsed,
    };
  }

  /** What each access of an event is. To be asked before the next event is taken. */
  accessNames(event: RecordedEvent): string[] {
    const namer = new AccessNamer(this.contexts[event.place].virtio);
    return event.parsed.map((access) => namer.name(access));
  }

  private register(event: RecordedEvent): ports.RegisterAccess {
    const { place, call, args, effects } = event;
    const write = call === CALL_WRITE;
    const [offset, width] = args;
    const value = write ? args[2] : event.value;
    const context = this.contexts[place];
    const taken = effects !== TRAPPED && !(effects & abi.EFFECT_INCIDENT);
    const { kind } = this.devices[place];
    if (isVirtio(kind)) return virtioRegister(context.virtio, write, offset, value, taken);
    // Such a device takes bytes only: what another width says of its state is nothing.
    const port = width === 1 && taken ? context.ports : { ...context.ports };
    const byte = value & 0xff;
    switch (kind) {
      case abi.KIND_SERIAL:
        return ports.serialRegister(port, write, offset, byte);
      case abi.KIND_RTC:
        return ports.rtcRegister(port, write, offset, byte);
      case abi.KIND_I8042:
        return ports.i8042Register(write, offset, byte);
      case abi.KIND_ACPI_PM:
        return ports.acpiRegister(write, offset, byte);
      case abi.KIND_PVPANIC:
        return ports.pvpanicRegister(byte);
      default:
        return { register: 'MARKER', meaning: byte === abi.BOOT_TIMER_MARKER ? 'user space' : '' };
    }
  }

  private meaning({ call, place, args, input }: RecordedEvent): string {
    switch (call) {
      case CALL_NOTIFY:
        return `queue ${args[0]}`;
      case CALL_NEXT:
        return isVirtio(this.devices[place].kind) ? `queue ${args[0]}` : 'output';
      case CALL_COMPLETE: {
        const { queue, head } = parseTag(args[0]);
        return `queue ${queue} head ${head}: ${resultName(args[1])}, ${args[2]} bytes`;
      }
      case CALL_INPUT:
        return this.inputMeaning(place, input);
      default:
        return '';
    }
  }

  private inputMeaning(place: number, input: Uint8Array): string {
    if (this.devices[place].kind === abi.KIND_RTC && input.length === 8) {
      const seconds = Number(new DataView(input.buffer, input.byteOffset).getBigUint64(0, true));
      const isDate = seconds <= 253402300799; // 9999-12-31: an RTC knows none after it
      return isDate ? new Date(seconds * 1000).toISOString() : `${seconds} seconds`;
    }
    const more = input.length > SHOWN_INPUT_BYTES ? '...' : '';
    return `'${printable(input.subarray(0, SHOWN_INPUT_BYTES))}'${more}`;
  }
}
