// What the boot initramfs is made from: kernel modules and the lists beside them. An input is a
// row of pieces (scratch.ts): modules (kind 0), modules.builtin (1), modules.builtin.modinfo (2).
import { cpioArchive } from '../../../host/boot/cpio.ts';
import { placeInitrd } from '../../../host/boot/initrd.ts';
import { bootInitramfs } from '../../../host/kernel/initramfs.ts';
import { readModuleInfo } from '../../../host/kernel/modinfo.ts';
import { openModuleFolder } from '../../../host/kernel/module-folder.ts';
import type { BootModule } from '../../../host/kernel/modules.ts';
import { kernelModule } from '../../../test/fake-kernel.ts';
import type { Random } from '../../../testing/random.ts';
import { spoilField } from '../mutate.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';
import { glued, pieces, scratch } from './scratch.ts';

const PIECES_MAX = 6;
const MODULE = 0;
const LISTS: Record<number, string> = { 1: 'modules.builtin', 2: 'modules.builtin.modinfo' };
const KERNEL_END = 0x1800000;
const MEMORY_BYTES = 64 * 2 ** 20;
const HEADER_BYTES = 110;

/** The names in a cpio archive, read as the kernel would, and nothing behind its trailer. */
function namesIn(archive: Buffer): string[] {
  const names: string[] = [];
  const hex = (at: number): number => Number.parseInt(archive.toString('latin1', at, at + 8), 16);
  for (let at = 0; ; ) {
    must(archive.toString('latin1', at, at + 6) === '070701', 'an entry without its magic number');
    const [size, nameBytes] = [hex(at + 54), hex(at + 94)];
    const name = archive.toString('latin1', at + HEADER_BYTES, at + HEADER_BYTES + nameBytes - 1);
    const body = Math.ceil((at + HEADER_BYTES + nameBytes) / 4) * 4;
    at = Math.ceil((body + size) / 4) * 4;
    if (name === 'TRAILER!!!') {
      must(at === archive.length, 'bytes behind the trailer');
      return names;
    }
    names.push(name);
  }
}

/** Spoils a field of a module's ELF header or of its section table, in the first piece. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  const [first] = pieces(bytes, 1);
  if (!first || first[1].length < 64) return bytes;
  const module = first[1];
  const view = Buffer.from(module.buffer, module.byteOffset, module.length);
  const table = Number(view.readBigUInt64LE(40));
  const fields = [
    ...[58, 60, 62].map((at) => [at, 2]),
    [40, 8],
    ...[0, 1, 2].flatMap((index) => {
      const at = table + 64 * index;
      return [[at, 4], ...[24, 32].map((offset) => [at + offset, 8])];
    }),
  ];
  const [at, width] = fields[random(fields.length)];
  if (at + width <= module.length) spoilField(module, at, width, random);
  return bytes;
}

export function initramfsParser(): Parser {
  const files = scratch();
  let isClean = true;

  const readLists = (lists: [number, Uint8Array][]): void => {
    if (lists.length === 0 && isClean) return;
    for (const name of Object.values(LISTS)) files.write(name, new Uint8Array(0));
    for (const [kind, body] of lists) files.write(LISTS[kind], body);
    isClean = lists.length === 0;
    const { builtIn } = openModuleFolder(files.folder);
    must(
      [...builtIn].every((name) => !/[\n/]/.test(name)),
      'a built-in driver with a path',
    );
  };

  const run = (input: Uint8Array): void => {
    const all = pieces(input, PIECES_MAX);
    readLists(all.filter(([kind]) => kind in LISTS));
    const modules: BootModule[] = [];
    for (const [kind, body] of all) {
      if (kind !== MODULE) continue;
      const info = readModuleInfo(Buffer.from(body), `m${modules.length}`);
      must(info.release !== '' && info.depends.every((name) => name !== ''), 'an empty name');
      const purposes = info.depends.length > 0 ? (['ext4', 'virtio:0x0001'] as const) : [];
      modules.push({
        name: `m${modules.length}`,
        bytes: Buffer.from(body),
        purposes: [...purposes],
      });
    }
    const archive = bootInitramfs(Buffer.from('init'), modules);
    const found = namesIn(archive).filter((name) => name.endsWith('.ko'));
    must(found.length === modules.length, 'a module is missing in the archive');
    const { address, lengthBytes } = placeInitrd(archive, KERNEL_END, MEMORY_BYTES);
    must(address >= KERNEL_END && address + lengthBytes <= MEMORY_BYTES, 'placed outside of RAM');
    must(namesIn(cpioArchive([])).length === 0, 'something in an empty archive');
  };

  const module = kernelModule({
    name: 'virtio-blk',
    depends: ['virtio', 'virtio-ring'],
    softdep: ['pre: crc32c libcrc32c post: zlib'],
    aliases: ['virtio:d00000002v*'],
  });
  const seeds = (): Uint8Array[] => [
    glued([MODULE, module]),
    glued([MODULE, kernelModule({ name: 'a' })], [MODULE, kernelModule({ name: 'b' })]),
    glued([1, Buffer.from('kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c-generic.ko\n')]),
    glued([2, Buffer.from('crc32c_generic.alias=crypto-crc32c\0ext4.license=GPL\0')]),
  ];
  return { seeds, run, mutate, close: files.remove };
}
