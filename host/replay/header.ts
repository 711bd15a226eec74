// The beginning of a recording, the same whoever writes the events: preamble and machine
// (docs/replay.md), and the form of a block.
import { ABI_VERSION } from '../../assembly/abi.ts';
import { crc32 } from '../boot/crc32.ts';
import { PAGE_BYTES } from '../boot/layout.ts';
import { coreHash } from './core-hash.ts';
import {
  BLOCK_CHECKSUM,
  BLOCK_HEADER_BYTES,
  ENGINE_FIRST,
  ENGINES,
  Encoder,
  FORMAT_VERSION,
  MAGIC,
  PREAMBLE_ABI,
  PREAMBLE_BYTES,
  PREAMBLE_FORMAT,
  type RecordedEngine,
} from './format.ts';

/** A device as the first block has it. */
export interface DevicePlan {
  name: string;
  kind: number; // KIND_* of abi.ts
  config: Uint8Array;
}

/** What stands before a block's payload. */
export function blockHeader(payload: Uint8Array): Uint8Array {
  const header = Buffer.alloc(BLOCK_HEADER_BYTES);
  header.writeUInt32LE(payload.length);
  header.writeUInt32LE(crc32(payload), BLOCK_CHECKSUM);
  return header;
}

/** Everything before the first block of events. */
export function recordingHeader(
  engine: RecordedEngine,
  memoryBytes: number,
  devices: readonly DevicePlan[],
): Uint8Array {
  const preamble = Buffer.alloc(PREAMBLE_BYTES);
  preamble.write(MAGIC, 'latin1');
  preamble.writeUInt32LE(FORMAT_VERSION, PREAMBLE_FORMAT);
  preamble.writeUInt32LE(ABI_VERSION, PREAMBLE_ABI);
  const machine = new Encoder();
  machine.varint(memoryBytes / PAGE_BYTES);
  machine.u8(ENGINE_FIRST + ENGINES.indexOf(engine));
  machine.raw(coreHash());
  machine.u8(devices.length);
  for (const { name, kind, config } of devices) {
    machine.varint(kind);
    machine.bytes(Buffer.from(name));
    machine.bytes(config);
  }
  const payload = machine.take();
  return Buffer.concat([preamble, blockHeader(payload), payload]);
}
