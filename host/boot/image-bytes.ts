// A machine image as bytes, in the layout of image-format.ts. Pure: it opens and writes nothing.
import { ABI_VERSION } from '../../assembly/abi.ts';
import { FaradayError } from '../errors.ts';
import { virtioPlan } from '../virtio-plan.ts';
import { crc32 } from './crc32.ts';
import type {
  DiskDevice,
  HugePages,
  MachineImage,
  NetDevice,
  Segment,
  SegmentRegister,
  TokenBucket,
  VcpuRegisters,
  VirtioDevice,
} from './image.ts';
import * as format from './image-format.ts';
import { PAGE_BYTES } from './layout.ts';

/** A file which the image refers to: by path, or open already. */
export type ImageFile = { path: string } | { fd: number };

/** What stands behind the tables, at `offset` of the image. */
export type Piece =
  | { offset: number; bytes: Uint8Array }
  | { offset: number; path: string; fileOffset: number; lengthBytes: number };

export interface ImageBytes {
  tables: Buffer; // the first PAYLOAD bytes
  pieces: Piece[]; // by offset
  lengthBytes: number; // of the whole image: what lies between the pieces is zero
  files: ImageFile[]; // to be passed beside the image, the first as number 1
}

const HUGE_PAGES: Record<HugePages, number> = {
  off: format.HUGE_PAGES_OFF,
  transparent: format.HUGE_PAGES_TRANSPARENT,
  '2M': format.HUGE_PAGES_2M,
};

const pageCeil = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;

const lengthOf = (segment: Segment): number => {
  return 'bytes' in segment ? segment.bytes.length : segment.lengthBytes;
};

/** Puts an image together; `inside`: files are copied into it and disks found by their path. */
class Encoder {
  private readonly tables = Buffer.alloc(format.PAYLOAD);
  private readonly pieces: Piece[] = [];
  private readonly files: ImageFile[] = [];
  private readonly numbers = new Map<string | number, number>(); // of files, by path or descriptor
  private readonly inside: boolean;
  private end = format.PAYLOAD;

  constructor(inside: boolean) {
    this.inside = inside;
  }

  encode(image: MachineImage): ImageBytes {
    const segments = image.segments.filter((segment) => lengthOf(segment) > 0);
    if (segments.length > format.SEGMENT_COUNT_MAX) {
      const finding = `${segments.length} segments, more than ${format.SEGMENT_COUNT_MAX}`;
      throw new FaradayError('bad-kernel', `the kernel makes ${finding}; use another kernel`);
    }
    for (const [index, segment] of segments.entries()) this.segment(index, segment);
    for (const [index, device] of image.virtio.entries()) this.device(index, device);
    const lengthBytes = pageCeil(this.end);
    this.header(image, segments.length, lengthBytes);
    const { tables, pieces, files } = this;
    return { tables, pieces, lengthBytes, files };
  }

  private u32(offset: number, value: number): void {
    this.tables.writeUInt32LE(value, offset);
  }

  private u64(offset: number, value: number | bigint): void {
    this.tables.writeBigUInt64LE(BigInt(value), offset);
  }

  /** Room for a piece, from a page's start so that it can be mapped; returns where. */
  private place(lengthBytes: number): number {
    const offset = pageCeil(this.end);
    this.end = offset + lengthBytes;
    return offset;
  }

  /** The number under which a file is passed. */
  private file(key: string | number, file: ImageFile): number {
    const number = this.numbers.get(key) ?? this.files.push(file);
    this.numbers.set(key, number);
    return number;
  }

  private segment(index: number, segment: Segment): void {
    const at = format.SEGMENTS + index * format.SEGMENT_STRIDE;
    this.u64(at + format.SEGMENT_ADDRESS, segment.address);
    this.u64(at + format.SEGMENT_LENGTH, lengthOf(segment));
    if (!('bytes' in segment) && !this.inside) {
      this.u64(at + format.SEGMENT_OFFSET, segment.fileOffset);
      this.u32(at + format.SEGMENT_FILE, this.file(segment.path, { path: segment.path }));
      return;
    }
    const offset = this.place(lengthOf(segment));
    this.u64(at + format.SEGMENT_OFFSET, offset);
    if ('bytes' in segment) this.pieces.push({ offset, bytes: segment.bytes });
    else this.pieces.push({ ...segment, offset });
  }

  private device(index: number, device: VirtioDevice): void {
    const at = format.DEVICES + index * format.DEVICE_STRIDE;
    const { kind, queueCount, config } = virtioPlan(device);
    this.u32(at + format.DEVICE_KIND, kind);
    this.u32(at + format.DEVICE_PIN, device.slot.pin);
    this.u64(at + format.DEVICE_ADDRESS, device.slot.address);
    this.u32(at + format.DEVICE_QUEUE_COUNT, queueCount);
    this.u32(at + format.DEVICE_CONFIG_BYTES, config.length);
    this.tables.set(config, at + format.DEVICE_CONFIG);
    if (device.kind === 'virtio-blk') this.disk(at, device);
    if (device.kind === 'virtio-net') this.net(at, device);
  }

  private net(at: number, net: NetDevice): void {
    const vhost = net.vhostFds.length > 0 ? format.DEVICE_FLAG_VHOST : 0;
    const stream = net.stream ? format.DEVICE_FLAG_STREAM : 0;
    const macFilter = net.macFilter ? format.DEVICE_FLAG_MAC_FILTER : 0;
    this.u32(at + format.DEVICE_FLAGS, vhost | stream | macFilter);
    this.tables.write(net.id, at + format.DEVICE_NAME, format.DEVICE_NAME_BYTES - 1, 'latin1');
    this.u32(at + format.DEVICE_FILE, this.files.length + 1);
    for (const fd of [...net.fds, ...net.vhostFds]) this.files.push({ fd });
    this.limit(at, format.LIMIT_RX_BYTES, net.rx.bandwidth);
    this.limit(at, format.LIMIT_RX_FRAMES, net.rx.ops);
    this.limit(at, format.LIMIT_TX_BYTES, net.tx.bandwidth);
    this.limit(at, format.LIMIT_TX_FRAMES, net.tx.ops);
  }

  private limit(device: number, index: number, bucket: TokenBucket | undefined): void {
    const at = device + format.DEVICE_LIMITS + index * format.LIMIT_STRIDE;
    if (!bucket) return;
    this.u64(at + format.LIMIT_SIZE, bucket.size);
    this.u64(at + format.LIMIT_ONE_TIME_BURST, bucket.oneTimeBurst);
    this.u64(at + format.LIMIT_REFILL_MS, bucket.refillMs);
  }

  private disk(at: number, disk: DiskDevice): void {
    const readOnly = disk.readOnly ? format.DEVICE_FLAG_READ_ONLY : 0;
    const ioUring = disk.ioUring ? format.DEVICE_FLAG_IO_URING : 0;
    this.u32(at + format.DEVICE_FLAGS, readOnly | ioUring);
    this.u64(at + format.DEVICE_CAPACITY_BYTES, disk.capacityBytes);
    this.tables.write(disk.id, at + format.DEVICE_NAME, format.DEVICE_NAME_BYTES - 1, 'latin1');
    if (!this.inside) {
      this.u32(at + format.DEVICE_FILE, this.file(disk.fd, { fd: disk.fd }));
      return;
    }
    const bytes = Buffer.from(disk.path);
    const offset = this.place(bytes.length);
    this.u64(at + format.DEVICE_PATH_OFFSET, offset);
    this.u32(at + format.DEVICE_PATH_BYTES, bytes.length);
    this.pieces.push({ offset, bytes });
  }

  private register(at: number, register: SegmentRegister): void {
    const { tables } = this;
    this.u64(at + format.REGISTER_BASE, register.base);
    this.u32(at + format.REGISTER_LIMIT, register.limit);
    tables.writeUInt16LE(register.selector, at + format.REGISTER_SELECTOR);
    tables[at + format.REGISTER_TYPE] = register.type;
    tables[at + format.REGISTER_PRESENT] = register.present;
    tables[at + format.REGISTER_DPL] = register.dpl;
    tables[at + format.REGISTER_DB] = register.db;
    tables[at + format.REGISTER_S] = register.s;
    tables[at + format.REGISTER_L] = register.l;
    tables[at + format.REGISTER_G] = register.g;
  }

  private registers(registers: VcpuRegisters): void {
    const { rip, rsp, rbx, rsi, cr0, cr3, cr4, efer, gdtBase, idtBase } = registers;
    const words = [rip, rsp, rbx, rsi, cr0, cr3, cr4, efer, gdtBase, idtBase];
    for (const [index, word] of words.entries())
      this.u64(format.HEADER_REGISTERS + 8 * index, word);
    this.u32(format.HEADER_GDT_LIMIT, registers.gdtLimit);
    this.u32(format.HEADER_IDT_LIMIT, registers.idtLimit);
    this.register(format.HEADER_CODE, registers.code);
    this.register(format.HEADER_DATA, registers.data);
    this.register(format.HEADER_TASK, registers.task);
  }

  private header(image: MachineImage, segmentCount: number, lengthBytes: number): void {
    const bootTimer = image.bootTimer ? format.FLAG_BOOT_TIMER : 0;
    const prefault = image.prefault ? format.FLAG_PREFAULT : 0;
    this.u32(format.HEADER_MAGIC, format.MAGIC);
    this.u32(format.HEADER_VERSION, format.VERSION);
    this.u32(format.HEADER_ABI_VERSION, ABI_VERSION);
    this.u64(format.HEADER_MEMORY_BYTES, image.memoryBytes);
    this.u32(format.HEADER_CPU_COUNT, image.cpuCount);
    this.u32(format.HEADER_FLAGS, bootTimer | prefault);
    this.u32(format.HEADER_HUGE_PAGES, HUGE_PAGES[image.hugePages]);
    this.u32(format.HEADER_SEGMENT_COUNT, segmentCount);
    this.u32(format.HEADER_DEVICE_COUNT, image.virtio.length);
    this.u32(format.HEADER_FILE_COUNT, this.files.length);
    this.u64(format.HEADER_FILE_BYTES, lengthBytes);
    this.registers(image.registers);
    const checked = this.tables.subarray(format.CHECKED_START, format.TABLES_END);
    this.u32(format.HEADER_CHECKSUM, crc32(checked));
  }
}

/**
 * The image for a cell that gets its files as open descriptors. Throws FaradayError('bad-kernel')
 * for more segments than an image has room for.
 */
export function imageBeside(image: MachineImage): ImageBytes {
  return new Encoder(false).encode(image);
}

/** The image that holds everything but the disks, which it names by path. Throws as above. */
export function imageInside(image: MachineImage): ImageBytes {
  return new Encoder(true).encode(image);
}
