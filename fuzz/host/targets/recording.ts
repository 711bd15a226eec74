// Recordings: reading one to its end, and replaying it on fresh cages in V8. An input is one byte
// of choices, then blocks as pieces (scratch.ts) around which the file is made: nothing would get
// past the digests of changed bytes. With RAW it is the file itself; a kind of 1 spoils a digest.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  ABI_VERSION,
  KIND_RTC,
  KIND_SERIAL,
  KIND_VIRTIO_BLK,
  KIND_VIRTIO_RNG,
} from '../../../assembly/abi.ts';
import { crc32 } from '../../../host/boot/crc32.ts';
import { Cage } from '../../../host/core.ts';
import { encodeBlkConfig, encodeRngConfig } from '../../../host/device-config.ts';
import { FaradayError } from '../../../host/errors.ts';
import { firstDifference } from '../../../host/replay/accesses.ts';
import * as format from '../../../host/replay/format.ts';
import { openRecording } from '../../../host/replay/recorder.ts';
import { Recording } from '../../../host/replay/recording.ts';
import { replay } from '../../../host/replay/replay.ts';
import { BLK_T_IN, blkHeader, blkStatus } from '../../../testing/block.ts';
import { Driver } from '../../../testing/driver.ts';
import { DATA, guestMemory } from '../../../testing/queue.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';
import { glued, pieces, type Scratch, scratch } from './scratch.ts';

const BLOCKS_MAX = 16;
const RAW = 1;
const RAM_BYTES = 0x80000;
const KINDS = ['read', 'write', 'load16', 'store16', 'fence'];

function preamble(): Buffer {
  const bytes = Buffer.alloc(format.PREAMBLE_BYTES);
  bytes.write(format.MAGIC, 'latin1');
  bytes.writeUInt32LE(format.FORMAT_VERSION, format.PREAMBLE_FORMAT);
  bytes.writeUInt32LE(ABI_VERSION, format.PREAMBLE_ABI);
  return bytes;
}

function block(payload: Uint8Array, isSpoilt: boolean): Buffer {
  const header = Buffer.alloc(format.BLOCK_HEADER_BYTES);
  header.writeUInt32LE(payload.length);
  header.writeUInt32LE((crc32(payload) ^ Number(isSpoilt)) >>> 0, format.BLOCK_CHECKSUM);
  return Buffer.concat([header, payload]);
}

function fileOf(input: Uint8Array): Uint8Array {
  const rest = input.subarray(1);
  if (((input[0] ?? 0) & RAW) !== 0) return rest;
  const blocks = pieces(rest, BLOCKS_MAX).map(([kind, body]) => block(body, kind === 1));
  return Buffer.concat([preamble(), ...blocks]);
}

/** A recording's file as an input. */
function inputOf(file: Buffer): Uint8Array {
  const parts: [number, Uint8Array][] = [];
  for (let at = format.PREAMBLE_BYTES; at < file.length; ) {
    const start = at + format.BLOCK_HEADER_BYTES;
    const end = start + file.readUInt32LE(at);
    parts.push([0, file.subarray(start, end)]);
    at = end;
  }
  return Buffer.concat([Buffer.of(0), glued(...parts)]);
}

// --- Seeds: small recordings of real devices ----------------------------------------------------

type Devices = { [name: string]: [kind: number, config: Uint8Array] };

const BLK = encodeBlkConfig({ capacityBytes: 65536, readOnly: false, id: 'd', queueSize: 4 });
const RNG = encodeRngConfig({ queueSize: 4 });

/** Records what `drive` does to fresh devices. */
function recorded(
  files: Scratch,
  devices: Devices,
  drive: (cages: Record<string, Cage>, memory: ReturnType<typeof guestMemory>) => void,
): Uint8Array {
  const path = join(files.folder, 'recorded');
  const recorder = openRecording(path, []);
  const memory = guestMemory(RAM_BYTES);
  memory.log = recorder.log;
  recorder.setMemory(RAM_BYTES);
  const all = Object.entries(devices).map(([name, [kind, config]]) => {
    return { name, kind, config, place: recorder.addDevice(name, kind, config) };
  });
  const cages = all.map(({ name, kind, config, place }) => {
    return [name, recorder.watch(place, new Cage(kind, memory, config)) as unknown as Cage];
  });
  drive(Object.fromEntries(cages), memory);
  recorder.finish();
  return inputOf(readFileSync(path));
}

function seedsIn(files: Scratch): Uint8Array[] {
  const none = new Uint8Array(0);
  const ports = { serial: [KIND_SERIAL, none], rtc: [KIND_RTC, none] } satisfies Devices;
  const disk = { disk: [KIND_VIRTIO_BLK, BLK] } satisfies Devices;
  return [
    recorded(files, { rng: [KIND_VIRTIO_RNG, RNG] }, ({ rng }, memory) => {
      const queue = new Driver(rng, memory).bringUp({ queueSize: 4 });
      queue.offer(queue.chain([{ address: DATA, length: 16, write: true }]));
      rng.next(0);
      rng.complete(0, 0, 16);
      rng.fail();
    }),
    recorded(files, disk, ({ disk: cage }, memory) => {
      const queue = new Driver(cage, memory).bringUp({ queueSize: 4 });
      const data = { address: DATA + 0x1000, length: 512, write: true };
      const chain = [blkHeader(memory, DATA, BLK_T_IN), data, blkStatus(memory, DATA + 0x800)];
      queue.offer(queue.chain(chain));
      cage.next(0);
    }),
    recorded(files, ports, ({ serial, rtc }) => {
      serial.write(0, 1, 0x41);
      serial.next(0);
      serial.input(Buffer.from('typed'));
      rtc.read(1, 1);
    }),
  ].flatMap((input) => {
    const raw = Buffer.concat([Buffer.of(RAW), fileOf(input)]);
    return raw.length < 4096 ? [input, new Uint8Array(raw)] : [input];
  });
}

// --- Targets ------------------------------------------------------------------------------------

function readToEnd(path: string): void {
  const recording = new Recording(path);
  try {
    let before = new Uint8Array(0);
    for (const event of recording.events()) {
      const bytes = event.parsed.reduce((sum, { data }) => sum + data.length, 0);
      must(bytes <= event.accesses.length, 'accesses hold more than they came in');
      must(
        event.place >= 0 && event.place < recording.machine.devices.length,
        'an event of no device',
      );
      must(
        event.parsed.every(({ kind }) => KINDS.includes(kind)),
        'an access of no kind',
      );
      must(event.args.every(Number.isSafeInteger), 'an argument that is no number');
      firstDifference(before, event.accesses);
      before = new Uint8Array(event.accesses);
    }
    const { coreHash, devices } = recording.machine;
    must(coreHash.length === format.HASH_BYTES, 'a hash cut short');
    must(recording.stateChecksums.length === devices.length, 'checksums are missing');
  } finally {
    recording.close();
  }
}

/** Both targets refuse everything as what it is: a bad recording, or one that diverges. */
function guarded(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (error instanceof FaradayError) {
      must(['bad-recording', 'divergence'].includes(error.code), `refused as ${error.code}`);
    }
    throw error;
  }
}

function parserOf(act: (path: string) => void): () => Parser {
  return () => {
    const files = scratch();
    return {
      seeds: () => seedsIn(files),
      run: (input) => guarded(() => act(files.write('recording', fileOf(input)))),
      dictionary: [Buffer.from('8000000008', 'hex'), Buffer.from('8080808008', 'hex')],
      close: files.remove,
    };
  };
}

export const recordingParser = parserOf(readToEnd);
export const replayParser = parserOf((path) => {
  replay(path, 'v8');
});
