// The block device's side of the reference: virtio 1.2 §5.2. A request is judged first, as one row
// of readable and one of writable bytes, and carried out or answered after that. A test oracle for
// assembly/virtio-blk.ts and assembly/virtio-blk-request.ts.
import * as abi from '../assembly/abi.ts';
import { WRITEBACK } from './reference-registers.ts';
import { bytesOf, cut, type Piece, storeBytes, totalBytes } from './reference-ring.ts';
import type { VirtioModel } from './reference-transport.ts';
import { COMMON_FEATURES, type DeviceType, type Flight, type Job } from './reference-type.ts';

/** Numbers of feature bits (§5.2.3). */
const SIZE_MAX = 1;
const SEG_MAX = 2;
const RO = 5;
const BLK_SIZE = 6;
const FLUSH = 9;
const TOPOLOGY = 10;
const CONFIG_WCE = 11;
const MQ = 12;
const DISCARD = 13;
const WRITE_ZEROES = 14;

const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

const HEADER_BYTES = 16;
const COMMAND_BYTES = 16; // of a discard or write zeroes command
const CONFIG_SPACE_BYTES = 60;

/** The configuration that init() takes, read once. */
interface Disk {
  capacity: bigint; // sectors
  readOnly: boolean;
  discard: boolean;
  writeZeroes: boolean;
  writeback: number;
  sizeMax: number;
  segMax: number;
  queueCount: number;
  queueSize: number;
  maxDiscard: number; // sectors
  maxWriteZeroes: number; // sectors
  id: Uint8Array;
}

function diskOf(config: Uint8Array): Disk {
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const flags = view.getUint32(abi.BLK_CONFIG_FLAGS, true);
  const id = abi.BLK_CONFIG_ID;
  return {
    capacity: view.getBigUint64(abi.BLK_CONFIG_CAPACITY, true),
    readOnly: (flags & abi.BLK_FLAG_RO) !== 0,
    discard: (flags & abi.BLK_FLAG_DISCARD) !== 0,
    writeZeroes: (flags & abi.BLK_FLAG_WRITE_ZEROES) !== 0,
    writeback: flags & abi.BLK_FLAG_WRITEBACK ? 1 : 0,
    sizeMax: view.getUint32(abi.BLK_CONFIG_SIZE_MAX, true),
    segMax: view.getUint32(abi.BLK_CONFIG_SEG_MAX, true),
    queueCount: view.getUint16(abi.BLK_CONFIG_QUEUE_COUNT, true),
    queueSize: view.getUint16(abi.BLK_CONFIG_QUEUE_SIZE, true),
    maxDiscard: view.getUint32(abi.BLK_CONFIG_MAX_DISCARD_SECTORS, true),
    maxWriteZeroes: view.getUint32(abi.BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, true),
    id: config.slice(id, id + abi.BLK_ID_BYTES),
  };
}

function featuresOf(disk: Disk): number[] {
  return [
    ...COMMON_FEATURES,
    ...[SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE],
    ...(disk.sizeMax ? [SIZE_MAX] : []),
    ...(disk.readOnly ? [RO] : []),
    ...(disk.queueCount > 1 ? [MQ] : []),
    ...(disk.discard ? [DISCARD] : []),
    ...(disk.writeZeroes ? [WRITE_ZEROES] : []),
  ];
}

/** The configuration space (§5.2.4); fields of features that are not offered are zero. */
function configSpaceOf(disk: Disk, config: Uint8Array): Uint8Array {
  const space = new Uint8Array(CONFIG_SPACE_BYTES);
  const copy = (to: number, from: number, bytes: number) =>
    space.set(config.subarray(from, from + bytes), to);
  copy(0, abi.BLK_CONFIG_CAPACITY, 8);
  copy(8, abi.BLK_CONFIG_SIZE_MAX, 4);
  copy(12, abi.BLK_CONFIG_SEG_MAX, 4);
  copy(20, abi.BLK_CONFIG_BLK_SIZE, 4);
  copy(24, abi.BLK_CONFIG_PHYSICAL_BLOCK_EXP, 1);
  copy(25, abi.BLK_CONFIG_ALIGNMENT_OFFSET, 1);
  copy(26, abi.BLK_CONFIG_MIN_IO_SIZE, 2);
  copy(28, abi.BLK_CONFIG_OPT_IO_SIZE, 4);
  if (disk.queueCount > 1) copy(34, abi.BLK_CONFIG_QUEUE_COUNT, 2);
  if (disk.discard) {
    copy(36, abi.BLK_CONFIG_MAX_DISCARD_SECTORS, 4);
    space[40] = 1; // max_discard_seg
    copy(44, abi.BLK_CONFIG_DISCARD_ALIGNMENT, 4);
  }
  if (disk.writeZeroes) {
    copy(48, abi.BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, 4);
    space[52] = 1; // max_write_zeroes_seg
    space[56] = 1; // write_zeroes_may_unmap
  }
  return space;
}

// --- Judging a request --------------------------------------------------------------------------

interface Request {
  device: VirtioModel;
  disk: Disk;
  readable: Piece[];
  writable: Piece[];
  outBytes: number; // readable bytes past the header
  inBytes: number; // writable bytes before the status
}

/** Either a job for the host, or the answer. */
type Verdict =
  | { job: Job; payload: number }
  | { job?: undefined; status: number; incident?: number; written: number };

const MALFORMED: Verdict = { status: IOERR, incident: abi.INCIDENT_REQUEST, written: 0 };
const UNSUPPORTED: Verdict = { status: UNSUPP, incident: abi.INCIDENT_REQUEST, written: 0 };
const OUT_OF_RAM: Verdict = { status: IOERR, incident: abi.INCIDENT_MEMORY, written: 0 };

/** §5.2.6, by type. */
function judge(request: Request): Verdict {
  if (request.outBytes < 0) return MALFORMED; // no whole header
  const header = bytesOf(request.device.ram, request.readable, 0, HEADER_BYTES);
  if (!header) return OUT_OF_RAM;
  const type = header.getUint32(0, true);
  const sector = header.getBigUint64(8, true);
  if (type === 0) return judgeRead(request, sector);
  if (type === 1) return judgeWrite(request, sector);
  if (type === 4) {
    const job = { kind: abi.REQUEST_KIND_BLK_FLUSH, offset: 0n, length: 0, flags: 0, ranges: [] };
    return { job, payload: request.inBytes }; // none is asked for, and none will be written
  }
  if (type === 8) return giveId(request);
  if (type === 11) return judgeDiscard(request);
  if (type === 13) return judgeWriteZeroes(request);
  return UNSUPPORTED;
}

const onDisk = (disk: Disk, sector: bigint, count: number): boolean =>
  sector + BigInt(count) <= disk.capacity;

const wholeSectors = (disk: Disk, sector: bigint, bytes: number): boolean =>
  bytes > 0 && bytes % 512 === 0 && onDisk(disk, sector, bytes / 512);

// Limits hold for a driver that negotiated them (§5.2.4). A segment is what is left of a descriptor
// beside header and status.
function withinLimits({ device, disk }: Request, ranges: Job['ranges']): boolean {
  const tooMany = device.has(SEG_MAX) && ranges.length > disk.segMax;
  const tooLong = device.has(SIZE_MAX) && ranges.some((range) => range.length > disk.sizeMax);
  return !tooMany && !tooLong;
}

// A write is stable when it completes unless the driver flushes and the cache is on (§5.2.6.2). A
// host that chose no cache gets stable writes from a driver without CONFIG_WCE too.
function syncFlag({ device }: Request): number {
  const cached = device.now.writeback === 1 && (device.has(CONFIG_WCE) || device.has(FLUSH));
  return cached ? 0 : abi.REQUEST_FLAG_SYNC;
}

function judgeRead(request: Request, sector: bigint): Verdict {
  const { disk, writable, inBytes, outBytes } = request;
  if (outBytes !== 0 || !wholeSectors(disk, sector, inBytes)) return MALFORMED;
  const ranges = cut(writable, 0, inBytes);
  if (!withinLimits(request, ranges)) return MALFORMED;
  const kind = abi.REQUEST_KIND_BLK_IN;
  const job = { kind, offset: sector * 512n, length: inBytes, flags: 0, ranges };
  return { job, payload: inBytes };
}

function judgeWrite(request: Request, sector: bigint): Verdict {
  const { disk, readable, inBytes, outBytes } = request;
  const fits = inBytes === 0 && wholeSectors(disk, sector, outBytes);
  if (!fits || disk.readOnly) return MALFORMED;
  const ranges = cut(readable, HEADER_BYTES, outBytes);
  if (!withinLimits(request, ranges)) return MALFORMED;
  const kind = abi.REQUEST_KIND_BLK_OUT;
  const flags = syncFlag(request);
  return { job: { kind, offset: sector * 512n, length: outBytes, flags, ranges }, payload: 0 };
}

// The identity is short, so the device writes it itself, part by part.
function giveId({ device, disk, writable, inBytes }: Request): Verdict {
  if (inBytes < abi.BLK_ID_BYTES) return MALFORMED;
  let from = 0;
  for (const { address, length } of cut(writable, 0, abi.BLK_ID_BYTES)) {
    if (!storeBytes(device.ram, address, disk.id.subarray(from, from + length))) return OUT_OF_RAM;
    from += length;
  }
  return { status: OK, written: abi.BLK_ID_BYTES };
}

interface Command {
  sector: bigint;
  count: number;
  flags: number;
}

/** The one segment of a discard or write zeroes command, or what is wrong with it. */
function commandOf(
  request: Request,
  feature: number,
  knownFlags: number,
  maxSectors: number,
): Command | Verdict {
  const { device, disk, readable, inBytes, outBytes } = request;
  if (!device.has(feature)) return UNSUPPORTED;
  if (inBytes !== 0 || outBytes !== COMMAND_BYTES) return MALFORMED;
  const bytes = bytesOf(device.ram, readable, HEADER_BYTES, COMMAND_BYTES);
  if (!bytes) return OUT_OF_RAM;
  const sector = bytes.getBigUint64(0, true);
  const count = bytes.getUint32(8, true);
  const flags = bytes.getUint32(12, true);
  if ((flags & ~knownFlags) !== 0) return UNSUPPORTED; // §5.2.6.2
  const fits = count > 0 && count <= maxSectors && onDisk(disk, sector, count);
  return fits ? { sector, count, flags } : MALFORMED;
}

function judgeDiscard(request: Request): Verdict {
  const command = commandOf(request, DISCARD, 0, request.disk.maxDiscard);
  if (!('count' in command)) return command;
  const kind = abi.REQUEST_KIND_BLK_DISCARD;
  const place = { offset: command.sector * 512n, length: command.count * 512 };
  return { job: { kind, ...place, flags: 0, ranges: [] }, payload: 0 };
}

function judgeWriteZeroes(request: Request): Verdict {
  const command = commandOf(request, WRITE_ZEROES, 1, request.disk.maxWriteZeroes);
  if (!('count' in command)) return command;
  const kind = abi.REQUEST_KIND_BLK_WRITE_ZEROES;
  const flags = syncFlag(request) + (command.flags === 1 ? abi.REQUEST_FLAG_UNMAP : 0);
  const place = { offset: command.sector * 512n, length: command.count * 512 };
  return { job: { kind, ...place, flags, ranges: [] }, payload: 0 };
}

// --- The device type ----------------------------------------------------------------------------

function serve(disk: Disk, device: VirtioModel, queue: number, head: number, chain: Piece[]): void {
  const readable = chain.filter((piece) => !piece.write);
  const writable = chain.filter((piece) => piece.write);
  const last = writable.at(-1);
  // The last descriptor must hold the status byte: an empty one after it is taken for its absence.
  if (!last || last.length === 0) {
    device.ledger.blame(abi.INCIDENT_REQUEST);
    device.giveBack(queue, head, 0);
    return;
  }
  const status = last.address + BigInt(last.length - 1);
  const outBytes = totalBytes(readable) - HEADER_BYTES;
  const inBytes = totalBytes(writable) - 1;
  const verdict = judge({ device, disk, readable, writable, outBytes, inBytes });
  if (verdict.job) {
    device.submit(queue, head, verdict.job, { payload: verdict.payload, status });
    return;
  }
  if (verdict.incident !== undefined) device.ledger.blame(verdict.incident);
  writeStatus(device, queue, head, status, verdict.status, verdict.written, inBytes);
}

// The used length is a run of written bytes from the first writable one (§2.7.8.2): the status ends
// it where all the data before it is there.
function writeStatus(
  device: VirtioModel,
  queue: number,
  head: number,
  address: bigint,
  status: number,
  written: number,
  dataBytes: number,
): void {
  const stored = storeBytes(device.ram, address, Uint8Array.of(status));
  if (!stored) device.ledger.blame(abi.INCIDENT_MEMORY);
  const run = written === dataBytes ? written + 1 : written;
  device.giveBack(queue, head, stored ? run : 0);
}

function writeConfig(device: VirtioModel, offset: number, width: number, value: number): boolean {
  const mode = value % 256;
  if (offset !== WRITEBACK || width !== 1 || mode > 1 || !device.has(CONFIG_WCE)) return false;
  changeMode(device, mode);
  return true;
}

function changeMode(device: VirtioModel, mode: number): void {
  if (device.now.writeback !== mode) device.now.configGeneration += 1; // §4.2.2.1
  device.now.writeback = mode;
}

/** The device type, from the configuration that init() takes. */
export function blkType(config: Uint8Array): DeviceType {
  const disk = diskOf(config);
  return {
    id: 2,
    queueCount: disk.queueCount,
    queueSize: disk.queueSize,
    features: featuresOf(disk),
    configSpace: configSpaceOf(disk, config),
    serve: (device, queue, head, chain) => serve(disk, device, queue, head, chain),
    finish(device, queue, head, flight: Flight, result, written) {
      const known = [OK, IOERR, UNSUPP].includes(result);
      const address = flight.status as bigint;
      writeStatus(device, queue, head, address, known ? result : IOERR, written, flight.payload);
    },
    writeConfig,
    restart(device) {
      device.now.writeback = disk.writeback;
    },
    agreed(device) {
      // A driver that could not flush starts without a cache (§5.2.5.2).
      if (device.has(CONFIG_WCE) && !device.has(FLUSH)) changeMode(device, 0);
    },
  };
}
