// The host's parsers of files and bytes that come from others. A package's ar and tar are not
// here: dpkg-deb and tar read them (host/kernel/deb.ts), and so do xz, zstd and the like.
import type { HostTarget } from './target.ts';

const MIB = 2 ** 20;

const boot = (...names: string[]): string[] => names.map((name) => `host/boot/${name}.ts`);
const kernel = (...names: string[]): string[] => names.map((name) => `host/kernel/${name}.ts`);
const replayed = (...names: string[]): string[] => names.map((name) => `host/replay/${name}.ts`);

export const HOST_TARGETS: HostTarget[] = [
  {
    name: 'elf',
    describe: 'ELF kernels: headers, notes, what is kept of them, what they say of themselves',
    sources: [...boot('elf', 'file'), ...kernel('shrink', 'inspect')],
    inputBytesMax: 8192,
    allocationBytesMax: 16 * MIB, // 64 program headers over the same 8 KiB, each on its own page
    load: async () => (await import('./targets/kernel-file.ts')).elfParser,
  },
  {
    name: 'bzimage',
    describe: 'setup headers of bzImages, and what a file is that is no kernel',
    sources: boot('bzimage', 'sniff'),
    inputBytesMax: 8192,
    allocationBytesMax: 32 * MIB, // a payload unpacked to 1 MiB, and its segments
    load: async () => (await import('./targets/kernel-file.ts')).bzImageParser,
  },
  {
    name: 'initramfs',
    describe: 'kernel modules, the lists beside them, and the boot initramfs made of both',
    sources: [...boot('cpio', 'initrd'), ...kernel('modinfo', 'initramfs', 'module-folder')],
    inputBytesMax: 8192,
    allocationBytesMax: 8 * MIB,
    load: async () => (await import('./targets/initramfs.ts')).initramfsParser(),
  },
  {
    name: 'image',
    describe: 'a machine image composed of a hostile kernel: what is accepted is well formed',
    sources: [
      ...boot('compose', 'image-bytes', 'elf', 'initrd', 'e820', 'pvh', 'linux64', 'acpi'),
      ...boot('mptable', 'cmdline', 'sniff', 'registers', 'file'),
    ],
    inputBytesMax: 8192,
    allocationBytesMax: 16 * MIB,
    load: async () => (await import('./targets/image.ts')).imageParser(),
  },
  {
    name: 'config',
    describe: 'flags of a run and the file of --config',
    sources: [
      ...['config', 'settings', 'disk-config', 'net-config', 'net-address', 'net-limits'].map(
        (name) => `host/${name}.ts`,
      ),
      ...['confine-config', 'size', 'small-file', 'suggest', 'log'].map(
        (name) => `host/${name}.ts`,
      ),
      ...['host/cli/machine-options.ts', 'host/cli/confine-options.ts', 'host/boot/cmdline.ts'],
    ],
    inputBytesMax: 4096,
    allocationBytesMax: 16 * MIB, // readSmallFile() takes 1 MiB each time
    load: async () => (await import('./targets/config.ts')).configParser(),
  },
  {
    name: 'recording',
    describe: 'recordings of a run, read to their end',
    sources: replayed('recording', 'accesses', 'format'),
    inputBytesMax: 8192,
    allocationBytesMax: 16 * MIB,
    load: async () => (await import('./targets/recording.ts')).recordingParser(),
  },
  {
    name: 'replay',
    describe: 'recordings of a run, replayed in V8',
    sources: replayed('recording', 'accesses', 'format', 'replay', 'engines'),
    inputBytesMax: 8192,
    allocationBytesMax: 256 * MIB, // up to 255 devices, each a cage with memory of its own
    load: async () => (await import('./targets/recording.ts')).replayParser(),
  },
  {
    name: 'messages',
    describe: 'what a cell says on its control socket, and the report made of it',
    sources: [
      ...['host/engine/cell-messages.ts', 'host/engine/cell-report.ts', 'host/result.ts'],
      ...['host/confine/confined.ts', 'host/confine/landlock.ts', 'host/explain.ts'],
    ],
    inputBytesMax: 24 * 1024, // two reports
    allocationBytesMax: 8 * MIB,
    load: async () => (await import('./targets/messages.ts')).messagesParser,
  },
  {
    name: 'store',
    describe: 'meta.json of a stored kernel',
    sources: kernel('store', 'traits'),
    inputBytesMax: 2048,
    allocationBytesMax: 8 * MIB,
    load: async () => (await import('./targets/store.ts')).storeParser(),
  },
];
