// The machine image made of a hostile kernel and disk: whatever is accepted is an image that the
// cell takes. An input is one byte of choices, one of memory, then the kernel's ELF file.

import { NET_QUEUE_PAIRS_MAX } from '../../../assembly/abi.ts';
import { composeMachine, virtioSlots } from '../../../host/boot/compose.ts';
import { crc32 } from '../../../host/boot/crc32.ts';
import type { MachineImage, NetDevice, VirtioSlot } from '../../../host/boot/image.ts';
import { type ImageBytes, imageBeside, imageInside } from '../../../host/boot/image-bytes.ts';
import * as format from '../../../host/boot/image-format.ts';
import { sniffFilesystem } from '../../../host/boot/sniff.ts';
import { elf, KERNEL_BASE, vmlinux } from '../../../test/fake-kernel.ts';
import { diskDevice, netDevice } from '../../../test/machine-image.ts';
import type { Random } from '../../../testing/random.ts';
import type { Parser } from '../target.ts';
import { mutateElf } from './kernel-file.ts';
import { must } from './must.ts';
import { scratch } from './scratch.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const MEMORY = [16 * MIB, 64 * MIB, 3 * GIB, 5 * GIB];
const INITRDS = [undefined, new Uint8Array(1), new Uint8Array(5 * 4096)];
const LINUX64 = 1;
const NO_ACPI = 2;
const DISK = 4;

function inRam(address: number, length: number, memoryBytes: number): boolean {
  const end = address + length;
  if (address < 3 * GIB) return end <= Math.min(memoryBytes, 3 * GIB);
  return address >= 4 * GIB && end <= memoryBytes + GIB;
}

/** What shim/image.c asks of each segment, and that none lies over another. */
function checkSegments({ segments, memoryBytes }: MachineImage): void {
  const spans = segments.map((segment) => {
    const length = 'bytes' in segment ? segment.bytes.length : segment.lengthBytes;
    must(inRam(segment.address, length, memoryBytes), `${segment.name} lies outside of RAM`);
    return { ...segment, end: segment.address + length };
  });
  spans.sort((one, other) => one.address - other.address);
  for (let i = 1; i < spans.length; i++) {
    must(spans[i - 1].end <= spans[i].address, `${spans[i - 1].name} lies over ${spans[i].name}`);
  }
}

function checkBytes({ tables, pieces, lengthBytes }: ImageBytes): void {
  const checksum = crc32(tables.subarray(format.CHECKED_START, format.TABLES_END));
  must(tables.readUInt32LE(format.HEADER_CHECKSUM) === checksum, 'a wrong checksum');
  must(tables.readUInt32LE(format.HEADER_SEGMENT_COUNT) <= format.SEGMENT_COUNT_MAX, 'segments');
  let end = format.PAYLOAD;
  for (const piece of pieces) {
    must(piece.offset >= end, 'pieces overlap');
    end = piece.offset + ('bytes' in piece ? piece.bytes.length : piece.lengthBytes);
  }
  must(end <= lengthBytes, 'a piece leaves the image');
}

/** Spoils a field of the kernel, or makes other choices. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  if (random(4) === 0 && bytes.length > 2) bytes[random(2)] = random(256);
  else mutateElf(bytes.subarray(2), random);
  return bytes;
}

/** A network device of one of the kinds that there are. */
function net(choice: number, slot: VirtioSlot): NetDevice {
  const queuePairs = choice & 8 ? NET_QUEUE_PAIRS_MAX : 1;
  const fds = Array.from({ length: queuePairs }, (_, i) => 20 + i);
  const limit = { size: 2 ** 53, oneTimeBurst: 2 ** 53, refillMs: 2 ** 32 };
  return netDevice(fds, {
    ...{ slot, queuePairs, macFilter: (choice & 4) !== 0, mtu: choice & 4 ? 65535 : 0 },
    ...{ vhostFds: choice & 16 ? fds.map((fd) => fd + 10) : [], rx: { ops: limit } },
  });
}

export function imageParser(): Parser {
  const files = scratch();
  const run = (input: Uint8Array): void => {
    const [choices = 0, size = 0] = input;
    const kernelPath = files.write('kernel', input.subarray(2));
    sniffFilesystem(input.subarray(2));
    const [slot, second] = virtioSlots(2);
    const image = composeMachine({
      kernelPath,
      cmdline: 'console=ttyS0',
      memoryBytes: MEMORY[size % MEMORY.length],
      cpuCount: 1 + (choices >> 5),
      entry: choices & LINUX64 ? 'linux64' : 'auto',
      acpi: (choices & NO_ACPI) === 0,
      initrd: INITRDS[(choices >> 3) % INITRDS.length],
      bootTimer: true,
      virtio:
        choices & DISK
          ? [diskDevice(9, { slot }), net(size, second)]
          : [{ kind: 'virtio-rng', slot }],
    });
    checkSegments(image);
    checkBytes(imageBeside(image));
    checkBytes(imageInside(image));
  };
  const kernels = [
    vmlinux(),
    elf({ headers: [{ address: KERNEL_BASE, body: Buffer.alloc(64, 0x90), memoryBytes: 0x1000 }] }),
  ];
  const seeds = (): Uint8Array[] => {
    return kernels.flatMap((kernel) => {
      return [0, LINUX64, NO_ACPI | 8, DISK | 16, DISK, DISK].map((choices, i) => {
        const size = i < 4 ? i : 4 * (i - 3) + 8; // the kinds of networks
        return new Uint8Array(Buffer.concat([Buffer.of(choices, size), kernel]));
      });
    });
  };
  const dictionary = ['_BHRfS_M', 'XFSB', 'hsqs'].map((magic) => Buffer.from(magic));
  return { seeds, run, mutate, dictionary, close: files.remove };
}
