// What the blocks of a recording hold (docs/replay.md), taken apart. It runs anywhere, browsers
// included; host/replay/recording.ts reads the file.
import { EFFECT_REQUEST, REQUEST_BYTES_MAX } from '../../assembly/abi.ts';
import { type Access, parseAccesses } from './accesses.ts';
import {
  CALL_ARGUMENTS,
  CALL_END,
  CALL_INPUT,
  CALL_NAMES,
  CALL_RESTART,
  type Decoder,
  ENGINE_FIRST,
  ENGINES,
  HASH_BYTES,
  Malformed,
  type RecordedEngine,
  TRAPPED,
} from './format.ts';

const PAGE_BYTES = 4096;
const NOTHING = new Uint8Array(0);

export interface RecordedDevice {
  name: string;
  kind: number;
  config: Uint8Array;
}

export interface RecordedMachine {
  memoryBytes: number;
  engine: RecordedEngine; // that recorded
  coreHash: Uint8Array;
  devices: readonly RecordedDevice[];
}

export interface RecordedEvent {
  call: number; // CALL_*
  place: number; // of the device
  timeUs: number; // when the call began, since the recording began
  args: number[];
  input: Uint8Array;
  effects: number;
  value: number;
  record: Uint8Array; // the request record, where there was one
  accesses: Uint8Array; // as entries
  parsed: readonly Access[];
}

/** The first block. Throws Malformed. */
export function parseMachine(block: Decoder): RecordedMachine {
  const memoryBytes = block.varint() * PAGE_BYTES;
  if (memoryBytes === 0) throw new Malformed('no guest memory');
  const engine = ENGINES[block.u8() - ENGINE_FIRST];
  if (!engine) throw new Malformed('no known engine');
  const coreHash = block.raw(HASH_BYTES);
  const devices: RecordedDevice[] = [];
  for (let left = block.u8(); left > 0; left--) {
    const kind = block.varint();
    const name = new TextDecoder().decode(block.bytes());
    devices.push({ kind, name, config: block.bytes() });
  }
  if (!block.done) throw new Malformed('more than belongs there');
  return { memoryBytes, engine, coreHash, devices };
}

/** The next event, or null for the end of all. Throws Malformed. */
export function parseEvent(
  block: Decoder,
  deviceCount: number,
  lastUs: number,
): RecordedEvent | null {
  const call = block.u8();
  if (call === CALL_END) return null;
  if (call >= CALL_NAMES.length) throw new Malformed('no known call');
  const place = block.u8();
  if (place >= deviceCount) throw new Malformed('a device that is not there');
  const timeUs = lastUs + block.varint();
  const args = Array.from({ length: CALL_ARGUMENTS[call] }, () => block.varint());
  const input = call === CALL_INPUT ? block.bytes() : NOTHING;
  const base = { call, place, timeUs, args, input };
  if (call === CALL_RESTART) {
    return { ...base, effects: 0, value: 0, record: NOTHING, accesses: NOTHING, parsed: [] };
  }
  const effects = block.varint();
  const value = effects === TRAPPED ? 0 : block.varint();
  const hasRecord = effects !== TRAPPED && effects & EFFECT_REQUEST;
  const record = hasRecord ? block.bytes() : NOTHING;
  if (record.length > REQUEST_BYTES_MAX) throw new Malformed('a request record that is too long');
  const accesses = block.bytes();
  return { ...base, effects, value, record, accesses, parsed: parseAccesses(accesses) };
}
