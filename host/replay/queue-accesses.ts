// What each access of a virtio device to guest memory is: a field of a ring, a descriptor, a
// request header, a status byte. Virtio 1.2 §2.7.5 to §2.7.8 (layout), §5.2.6 (block requests).
import { KIND_VIRTIO_BLK } from '../../assembly/abi.ts';
import type { Access } from './accesses.ts';
import { type BitNames, bitNames, hexNumber, printable } from './names.ts';
import type { QueueSetup, VirtioContext } from './virtio-registers.ts';

const DESC_BYTES = 16;
const USED_BYTES = 8;
const FLAGS = 0n;
const IDX = 2n;
const ENTRIES = 4n;
const DESC_F_INDIRECT = 4;

const DESC_FLAGS: BitNames = [
  [1, 'NEXT'],
  [2, 'WRITE'],
  [4, 'INDIRECT'],
];

const BLK_TYPES: Record<number, string> = {
  0: 'IN',
  1: 'OUT',
  4: 'FLUSH',
  8: 'GET_ID',
  11: 'DISCARD',
  13: 'WRITE_ZEROES',
};

const BLK_STATUS: Record<number, string> = { 0: 'OK', 1: 'IOERR', 2: 'UNSUPP' };

interface Table {
  address: bigint;
  count: number;
  name: string;
}

const viewOf = ({ data }: Access): DataView =>
  new DataView(data.buffer, data.byteOffset, data.byteLength);

const isWhole = (access: Access, length: number): boolean =>
  access.allowed && access.data.length === length;

function descriptor(access: Access): string {
  const view = viewOf(access);
  const flags = view.getUint16(12, true);
  const names = bitNames(flags, DESC_FLAGS);
  const next = flags & 1 ? `, next ${view.getUint16(14, true)}` : '';
  const address = hexNumber(view.getBigUint64(0, true));
  return `${address}, ${view.getUint32(8, true)} bytes, ${names.join(' ') || 'no flags'}${next}`;
}

/** Names the accesses of one call, in their order. */
export class AccessNamer {
  private readonly context: VirtioContext;
  private indirect: Table | null = null;
  private reads = 0; // of buffers, since the last head was taken

  constructor(context: VirtioContext) {
    this.context = context;
  }

  /** What the access is; empty where it is nothing known. */
  name(access: Access): string {
    if (access.kind === 'fence') return '';
    for (const [index, queue] of this.context.queues) {
      const named = queue.size > 0 ? this.inQueue(queue, access) : '';
      if (named) return this.context.queues.size > 1 ? `queue ${index} ${named}` : named;
    }
    return this.inBuffers(access);
  }

  private inQueue(queue: QueueSetup, access: Access): string {
    const { size } = queue;
    return (
      this.inAvailRing(access, access.address - queue.availRing, size) ||
      this.inUsedRing(access, access.address - queue.usedRing, size) ||
      this.inTable(access, { address: queue.descTable, count: size, name: 'desc' })
    );
  }

  private inAvailRing(access: Access, at: bigint, size: number): string {
    if (access.length !== 2 || at < 0n || at > ENTRIES + 2n * BigInt(size)) return '';
    const value = isWhole(access, 2) ? ` = ${viewOf(access).getUint16(0, true)}` : '';
    if (at === FLAGS) return `avail.flags${value}`;
    if (at === IDX) return `avail.idx${value}`;
    const slot = Number(at - ENTRIES) / 2;
    if (slot === size) return `avail.used_event${value}`;
    this.reads = 0;
    this.indirect = null;
    return `avail.ring[${slot}]${value}`;
  }

  private inUsedRing(access: Access, at: bigint, size: number): string {
    if (at < 0n || at > ENTRIES + BigInt(USED_BYTES * size)) return '';
    if (access.length === USED_BYTES && at >= ENTRIES) {
      const slot = Number(at - ENTRIES) / USED_BYTES;
      if (!isWhole(access, USED_BYTES)) return `used.ring[${slot}]`;
      const view = viewOf(access);
      const [id, length] = [view.getUint32(0, true), view.getUint32(4, true)];
      return `used.ring[${slot}] = head ${id}, ${length} bytes`;
    }
    if (access.length !== 2) return '';
    const value = isWhole(access, 2) ? ` = ${viewOf(access).getUint16(0, true)}` : '';
    if (at === IDX) return `used.idx${value}`;
    return at === ENTRIES + BigInt(USED_BYTES * size) ? `used.avail_event${value}` : '';
  }

  private inTable(access: Access, { address, count, name }: Table): string {
    const at = access.address - address;
    if (access.length !== DESC_BYTES || at < 0n || at >= BigInt(count * DESC_BYTES)) return '';
    const index = Number(at) / DESC_BYTES;
    if (!isWhole(access, DESC_BYTES)) return `${name}[${index}]`;
    const view = viewOf(access);
    if (view.getUint16(12, true) & DESC_F_INDIRECT) {
      const length = view.getUint32(8, true);
      const table = view.getBigUint64(0, true);
      this.indirect = { address: table, count: Math.floor(length / DESC_BYTES), name: 'indirect' };
    }
    return `${name}[${index}] = ${descriptor(access)}`;
  }

  private inBuffers(access: Access): string {
    const inTable = this.indirect ? this.inTable(access, this.indirect) : '';
    if (inTable || this.context.kind !== KIND_VIRTIO_BLK) return inTable;
    if (access.kind === 'read') return this.readOfBlk(access);
    if (access.length === 1 && isWhole(access, 1)) {
      const status = access.data[0];
      return `status = ${BLK_STATUS[status] ?? status}`;
    }
    return isWhole(access, 20) ? `identity = '${printable(access.data)}'` : '';
  }

  /** The header comes first, then what discard and write zeroes are about. */
  private readOfBlk(access: Access): string {
    const first = this.reads++ === 0;
    if (!isWhole(access, 16)) return first ? 'part of a header' : '';
    const view = viewOf(access);
    if (first) {
      const type = view.getUint32(0, true);
      return `header = ${BLK_TYPES[type] ?? `type ${type}`}, sector ${view.getBigUint64(8, true)}`;
    }
    return `segment = sector ${view.getBigUint64(0, true)}, ${view.getUint32(8, true)} sectors`;
  }
}
