// Frames of the reference's network device: virtio 1.2 §5.1.6.1 to §5.1.6.4, and docs/abi.md, 'A
// network device's queues'. A test oracle for assembly/virtio-net-frames.ts and
// assembly/virtio-net-receive.ts.
import * as abi from '../assembly/abi.ts';
import {
  bytesOf,
  cut,
  type Piece,
  readChain,
  storeBytes,
  storeUsed,
  totalBytes,
} from './reference-ring.ts';
import type { VirtioModel } from './reference-transport.ts';
import { INDIRECT_DESC } from './reference-type.ts';

const HEADER_BYTES = 12;
const NUM_BUFFERS = 10; // where it lies in the header

/** Numbers of feature bits (§5.1.3). */
const CSUM = 0;
const HOST_TSO4 = 11;
const HOST_TSO6 = 12;
const HOST_ECN = 13;
const HOST_UFO = 14;
const HOST_USO = 56;

// gso_type without ECN: the feature that each needs, and whether ECN goes with it.
const SEGMENTATION = new Map([
  [1, { feature: HOST_TSO4, tcp: true }],
  [3, { feature: HOST_UFO, tcp: false }],
  [4, { feature: HOST_TSO6, tcp: true }],
  [5, { feature: HOST_USO, tcp: false }],
]);

// --- Transmission -------------------------------------------------------------------------------

/** What is left of a header for the host to obey; nothing where it asks for too much. */
function settled(device: VirtioModel, header: DataView, frameBytes: number): DataView | undefined {
  const needsChecksum = header.getUint8(0) % 2 === 1; // other flags are not the driver's
  const gsoType = header.getUint8(1);
  const hdrLen = header.getUint16(2, true);
  const gsoSize = header.getUint16(4, true);
  const start = header.getUint16(6, true);
  const offset = header.getUint16(8, true);
  const segmented = gsoType !== 0;
  if (segmented && !needsChecksum) return undefined; // §5.1.6.2.1
  if (needsChecksum && (!device.has(CSUM) || start + offset + 2 > frameBytes)) return undefined;
  if (segmented) {
    const ecn = gsoType >= 128;
    const kind = SEGMENTATION.get(gsoType % 128);
    if (!kind || !device.has(kind.feature) || gsoSize === 0) return undefined;
    if (ecn && !(kind.tcp && device.has(HOST_ECN))) return undefined;
  }
  const result = new DataView(new ArrayBuffer(HEADER_BYTES));
  result.setUint8(0, needsChecksum ? 1 : 0);
  result.setUint8(1, gsoType);
  if (hdrLen <= frameBytes) result.setUint16(2, hdrLen, true); // a hint, which may be wrong
  if (segmented) result.setUint16(4, gsoSize, true);
  if (needsChecksum) {
    result.setUint16(6, start, true);
    result.setUint16(8, offset, true);
  }
  return result;
}

/** A chain on a transmit queue: header, then frame. */
export function serveTransmit(
  device: VirtioModel,
  queue: number,
  head: number,
  chain: Piece[],
): void {
  const refuse = (incident: number): void => {
    device.ledger.blame(incident);
    device.giveBack(queue, head, 0);
  };
  const frameBytes = totalBytes(chain) - HEADER_BYTES;
  const sized = frameBytes >= abi.NET_FRAME_BYTES_MIN && frameBytes <= abi.NET_FRAME_BYTES_MAX;
  if (!sized || chain.some((piece) => piece.write)) return refuse(abi.INCIDENT_REQUEST);
  const header = bytesOf(device.ram, chain, 0, HEADER_BYTES);
  if (!header) return refuse(abi.INCIDENT_MEMORY);
  const rest = settled(device, header, frameBytes);
  if (!rest) return refuse(abi.INCIDENT_REQUEST);
  const job = {
    kind: abi.REQUEST_KIND_NET_TX,
    offset: rest.getBigUint64(0, true),
    length: frameBytes,
    flags: rest.getUint32(8, true),
    ranges: cut(chain, HEADER_BYTES, frameBytes),
  };
  device.submit(queue, head, job, { payload: 0 });
}

// --- Receive ------------------------------------------------------------------------------------

/** A chain on a receive queue: a buffer that the host keeps until a frame comes. */
export function serveReceive(
  device: VirtioModel,
  queue: number,
  head: number,
  chain: Piece[],
): void {
  const length = Math.min(totalBytes(chain), HEADER_BYTES + abi.NET_FRAME_BYTES_MAX);
  if (length < HEADER_BYTES || chain.some((piece) => !piece.write)) {
    device.ledger.blame(abi.INCIDENT_REQUEST);
    device.giveBack(queue, head, 0);
    return;
  }
  const ranges = cut(chain, 0, length);
  const job = { kind: abi.REQUEST_KIND_NET_RX, offset: 0n, length, flags: 0, ranges };
  const parts = cut(chain, NUM_BUFFERS, 2);
  const status = parts.length === 1 ? parts[0].address : undefined;
  device.submit(queue, head, job, { payload: length, status });
  device.held[queue].push(head);
}

/** The host is done with a buffer: it could not use it, or a frame begins in it. */
export function receive(
  device: VirtioModel,
  mergeable: boolean,
  queue: number,
  head: number,
  result: number,
  bytes: number,
): void {
  if (result !== abi.RESULT_OK) {
    device.drop(queue, head);
    device.giveBack(queue, head, 0);
    return;
  }
  if (device.held[queue][0] !== head || bytes < HEADER_BYTES) {
    device.ledger.blame(abi.INCIDENT_TAG);
    return;
  }
  const address = device.flights.get(queue * 65536 + head)?.status;
  let left = bytes;
  let count = 0;
  for (const buffer of mergeable ? [...device.held[queue]] : [head]) {
    const payload = device.flights.get(queue * 65536 + buffer)?.payload ?? 0;
    const written = Math.min(left, payload);
    if (!storeUsed(device.ram, device.rings[queue], count, { head: buffer, written })) {
      device.breakDown(abi.INCIDENT_MEMORY);
      return;
    }
    device.drop(queue, buffer);
    left -= written;
    count += 1;
    if (left === 0) break;
  }
  if (!storeNumBuffers(device, queue, head, address, count)) {
    device.ledger.blame(abi.INCIDENT_MEMORY);
  }
  device.showUsed(queue, count);
}

// The place is that of the time when the buffer was handed out, unless two descriptors share the
// number: then they are read again, and may say anything by now (docs/abi.md).
function storeNumBuffers(
  device: VirtioModel,
  queue: number,
  head: number,
  address: bigint | undefined,
  count: number,
): boolean {
  const bytes = Uint8Array.of(count % 256, Math.floor(count / 256));
  if (address !== undefined) return storeBytes(device.ram, address, bytes);
  const chain = readChain(device.ram, device.rings[queue], head, device.has(INDIRECT_DESC));
  if (typeof chain === 'string') return false;
  const writable = chain.filter((piece) => piece.write);
  if (totalBytes(writable) < HEADER_BYTES) return false;
  let at = 0;
  for (const part of cut(writable, NUM_BUFFERS, 2)) {
    if (!storeBytes(device.ram, part.address, bytes.subarray(at, at + part.length))) return false;
    at += part.length;
  }
  return true;
}
