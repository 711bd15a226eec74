// The bundle: host/ and commander in one file, and V8's compiled form of it beside it.
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build as bundle, type Plugin } from 'esbuild';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { run } from './command.ts';

const target = join(REPOSITORY, 'build/faraday.cjs');
const cacheTarget = join(REPOSITORY, 'build/faraday.cjs.cache');

/** commander needs child processes for verbs that are programs of their own: Faraday has none. */
const withoutChildProcesses: Plugin = {
  name: 'without-child-processes',
  setup(build) {
    build.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      importer.includes('/node_modules/commander/')
        ? { path: 'none', namespace: 'without-child-processes' }
        : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: 'without-child-processes' }, () => ({ contents: '' }));
  },
};

// The function around a CommonJS module, in the file: bin/faraday.js would copy the text to add it.
const HEAD = '(function (exports, require, module, __filename, __dirname) {';

/**
 * CommonJS, because Node's loader of ES modules costs more at start than all of Faraday's own code,
 * and because what is imported on demand then loads Node's modules on demand too.
 */
async function writeBundle(path: string): Promise<void> {
  try {
    const { warnings } = await bundle({
      absWorkingDir: REPOSITORY,
      entryPoints: ['host/main.ts'],
      outfile: path,
      bundle: true,
      // Less to read and to keep: it saves the collection of garbage before a guest starts.
      minify: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20',
      logLevel: 'silent',
      plugins: [withoutChildProcesses],
      define: { 'import.meta.dirname': '__dirname' },
      banner: { js: HEAD },
      footer: { js: '})' },
    });
    // Such as import.meta.url, which is nothing in CommonJS.
    if (warnings.length > 0) throw new Error(warnings.map(({ text }) => text).join('\n'));
  } catch (error) {
    throw new FaradayError('internal', `the host does not bundle:\n${(error as Error).message}`);
  }
}

/** The smallest file that passes for a kernel: an ELF header, one segment, the note of PVH. */
function smallestKernel(): Buffer {
  const bytes = Buffer.alloc(512); // a sector, as it plays a disk too
  bytes.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  bytes.writeUInt16LE(2, 16); // e_type: ET_EXEC
  bytes.writeUInt16LE(62, 18); // e_machine: x86-64
  bytes.writeUInt32LE(0x100000, 24); // e_entry
  bytes.writeUInt32LE(64, 32); // e_phoff
  bytes.writeUInt16LE(64, 52); // e_ehsize
  bytes.writeUInt16LE(56, 54); // e_phentsize
  bytes.writeUInt16LE(2, 56); // e_phnum
  const header = (at: number, type: number, offset: number, length: number): void => {
    bytes.writeUInt32LE(type, at);
    bytes.writeUInt32LE(offset, at + 8);
    bytes.writeUInt32LE(0x100000, at + 16); // virtual and physical address
    bytes.writeUInt32LE(0x100000, at + 24);
    bytes.writeUInt32LE(length, at + 32); // in the file and in memory
    bytes.writeUInt32LE(length, at + 40);
  };
  header(64, 1, 0, 256); // PT_LOAD
  header(120, 4, 176, 20); // PT_NOTE
  bytes.writeUInt32LE(4, 176); // namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY
  bytes.writeUInt32LE(4, 180);
  bytes.writeUInt32LE(18, 184);
  bytes.write('Xen\0', 188, 'latin1');
  bytes.writeUInt32LE(0x100000, 192);
  return bytes;
}

/**
 * What V8 compiles until a guest starts, kept so that it is not compiled at each start. Another
 * Node than this one does not take it, and starts a little slower.
 */
async function writeCodeCache(path: string, temporary: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-code-cache-'));
  try {
    const kernel = join(folder, 'kernel');
    writeFileSync(kernel, smallestKernel());
    mkdirSync(join(folder, 'build'));
    const script = fileURLToPath(new URL('code-cache.mjs', import.meta.url));
    const env = { ...process.env, XDG_CACHE_HOME: join(folder, 'cache') };
    await run(process.execPath, [script, path, kernel, temporary], { env });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Makes build/faraday.cjs and build/faraday.cjs.cache. Throws FaradayError('internal'). */
export async function buildBundle(): Promise<void> {
  const temporary = `${target}.${process.pid}`;
  const temporaryCache = `${cacheTarget}.${process.pid}`;
  try {
    await writeBundle(temporary);
    await writeCodeCache(temporary, temporaryCache);
    renameSync(temporary, target);
    renameSync(temporaryCache, cacheTarget);
  } finally {
    for (const path of [temporary, temporaryCache]) rmSync(path, { force: true });
  }
}
