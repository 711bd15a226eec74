// `faraday kernel`: import, list and remove stored kernels.
import { Command } from 'commander';
import type { FilesystemType } from '../boot/sniff.ts';
import { FaradayError } from '../errors.ts';
import { printError, printOutput } from '../log.ts';

const FILESYSTEMS: readonly FilesystemType[] = ['ext4', 'xfs', 'btrfs', 'squashfs', 'erofs'];
const SIGNAL_EXITS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

type Store = typeof import('../kernel/store.ts');

interface ImportFlags {
  modules?: string;
  name?: string;
  filesystem?: FilesystemType[];
}

function collectFilesystem(text: string, before: FilesystemType[] = []): FilesystemType[] {
  const known = FILESYSTEMS.find((name) => name === text);
  if (known) return [...before, known];
  const fix = `known are ${FILESYSTEMS.join(', ')}`;
  throw new FaradayError('bad-usage', `--filesystem ${text}: not a root file system; ${fix}`);
}

/** Shows one changing line on a terminal, nothing elsewhere. */
function progressLine(): { show: (message: string) => void; end: () => void } {
  const write = (text: string): void => {
    if (process.stderr.isTTY) printError(`\r\x1b[K${text}`);
  };
  return { show: (message) => write(`${message}...`), end: () => write('') };
}

/** Runs `work` so that a signal aborts it; then it cleans up and the exit code says which. */
async function untilSignal(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  const stop = (name: NodeJS.Signals): void => {
    process.exitCode = SIGNAL_EXITS[name as keyof typeof SIGNAL_EXITS];
    abort.abort();
  };
  const names = Object.keys(SIGNAL_EXITS) as NodeJS.Signals[];
  for (const name of names) process.once(name, stop);
  try {
    await work(abort.signal);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    for (const name of names) process.off(name, stop);
  }
}

async function runImport(source: string, flags: ImportFlags): Promise<void> {
  const line = progressLine();
  await untilSignal(async (signal) => {
    const { modules: modulesDir, name, filesystem: filesystems } = flags;
    try {
      const options = { source, modulesDir, name, filesystems, progress: line.show, signal };
      const { importKernel } = await import('../kernel/import.ts'); // heavy: see resolve.ts
      const kernel = await importKernel(options);
      line.end();
      const modules = kernel.modules.length > 0 ? kernel.modules.join(' ') : 'none needed';
      printOutput(`stored ${kernel.name}\nmodules: ${modules}\n`);
    } finally {
      line.end();
    }
  });
}

function kernelLine({ storedKernel }: Store, name: string): string {
  try {
    const kernel = storedKernel(name);
    const { version, filesystems, modules } = kernel!;
    const root = `root on ${filesystems.join(', ')}`;
    return `${name}  ${version ?? 'unknown version'}  ${root}  ${modules.length} modules\n`;
  } catch (error) {
    if (!(error instanceof FaradayError)) throw error;
    return `${name}  damaged: remove it and import it again\n`;
  }
}

function listAsJson({ storedKernel, storedNames }: Store): string {
  const kernels = storedNames().map((name) => {
    try {
      return storedKernel(name);
    } catch (error) {
      if (!(error instanceof FaradayError)) throw error;
      return { name, damaged: true };
    }
  });
  return `${JSON.stringify(kernels, null, 2)}\n`;
}

const importCommand = new Command('import')
  .description('store a kernel, with the modules a guest needs to reach its root disk')
  .argument('<source>', 'a Debian kernel package (.deb), a bzImage or a vmlinux')
  .helpOption('-h, --help', 'show help')
  .option('--modules <folder>', "the kernel's modules: a folder that holds lib/modules/VERSION")
  .option('--name <name>', "name in the store (default: the kernel's version)")
  .option(
    '--filesystem <type>',
    `root file system: ${FILESYSTEMS.join(', ')}; repeatable (default: ext4)`,
    collectFilesystem,
  )
  .action(runImport);

const listCommand = new Command('list')
  .description('show the stored kernels')
  .helpOption('-h, --help', 'show help')
  .option('--json', 'print everything known of them as JSON')
  .action(async (flags: { json?: boolean }) => {
    const store = await import('../kernel/store.ts');
    const lines = () => store.storedNames().map((name) => kernelLine(store, name));
    printOutput(flags.json ? listAsJson(store) : lines().join(''));
  });

const removeCommand = new Command('remove')
  .description('remove a stored kernel')
  .argument('<name>', 'its name in the store')
  .helpOption('-h, --help', 'show help')
  .action(async (name: string) => {
    const { removeKernel } = await import('../kernel/store.ts');
    removeKernel(name);
    printOutput(`removed ${name}\n`);
  });

export const kernelCommand = new Command('kernel')
  .description('import, list and remove stored kernels')
  .helpOption('-h, --help', 'show help')
  .helpCommand(false)
  .addCommand(importCommand)
  .addCommand(listCommand)
  .addCommand(removeCommand);
