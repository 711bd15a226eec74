// Unpacks a Debian kernel package: dpkg-deb hands out its tar stream, tar writes the parts that
// matter. What passes between them is counted, for the progress and for a limit.
import type { ChildProcess } from 'node:child_process';
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { FaradayError } from '../errors.ts';
import { spawnWithin } from './spawn.ts';

const UNPACKED_BYTES_MAX = 8 * 2 ** 30;
const TIME_LIMIT_MS = 600_000;

// Large folders in which nothing lies that a guest's disk or network needs. Of the network drivers
// those of real cards have folders of their own; virtio_net lies above these.
const LEFT_OUT = ['drivers/gpu', 'drivers/media', 'drivers/net/*', 'drivers/staging', 'sound'];

export interface UnpackedPackage {
  kernelPath: string;
  modulesRoot: string; // a folder to look for lib/modules/VERSION in
}

export interface UnpackOptions {
  progress: (message: string) => void;
  signal?: AbortSignal;
}

function damaged(path: string, finding: string): FaradayError {
  return new FaradayError('bad-kernel', `package ${path}: ${finding}`);
}

/** Resolves with the exit status and the lines of complaint. */
function finished(child: ChildProcess): Promise<{ status: number | null; complaints: string[] }> {
  let text = '';
  child.stderr!.on('data', (chunk: Buffer) => {
    if (text.length < 4096) text += chunk.toString('latin1');
  });
  return new Promise((resolve, reject) => {
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return reject(error);
      const program = child.spawnfile;
      const debianPackage = program === 'tar' ? 'tar' : 'dpkg';
      const fix = `install it: apt install ${debianPackage}`;
      const finding = `needs the program ${program}, which is missing`;
      reject(new FaradayError('host', `importing a Debian package: ${finding}; ${fix}`));
    });
    child.on('close', (status) => resolve({ status, complaints: text.trim().split('\n') }));
  });
}

function counter(path: string, progress: (message: string) => void): Transform {
  let total = 0;
  let shown = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      total += chunk.length;
      if (total > UNPACKED_BYTES_MAX) return done(damaged(path, 'unpacks to more than 8 GiB'));
      const mebibytes = Math.floor(total / 2 ** 20);
      if (mebibytes >= shown + 10) {
        shown = mebibytes;
        progress(`unpacking the package: ${mebibytes} MiB`);
      }
      done(null, chunk);
    },
  });
}

/** The one regular file boot/vmlinuz-* in `folder`. */
function findKernel(path: string, folder: string): string {
  const boot = join(folder, 'boot');
  let names: string[] = [];
  try {
    // A link could lead to the kernels of this host.
    const inside = lstatSync(boot).isDirectory() ? readdirSync(boot) : [];
    names = inside.filter((name) => /^vmlinu[xz]-/.test(name));
  } catch {
    // no boot folder: said below
  }
  const [name] = names;
  if (name === undefined) {
    const fix = 'name the package it depends on, linux-image-VERSION';
    throw damaged(path, `holds no kernel (boot/vmlinuz-*); ${fix}`);
  }
  // A link could point at any file of this host.
  if (!lstatSync(join(boot, name)).isFile()) throw damaged(path, `boot/${name} is no regular file`);
  return join(boot, name);
}

/** Unpacks what matters of a package into `folder`. Throws FaradayError. */
export async function unpackPackage(
  path: string,
  folder: string,
  options: UnpackOptions,
): Promise<UnpackedPackage> {
  const { progress, signal } = options;
  const excludes = LEFT_OUT.map((name) => `--exclude=*/kernel/${name}/*`);
  const target = ['-x', '-f', '-', '-C', folder, '--no-same-owner', '--no-same-permissions'];
  progress('unpacking the package');
  const reader = spawnWithin(TIME_LIMIT_MS, 'dpkg-deb', ['--fsys-tarfile', path], {
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
  });
  const writer = spawnWithin(TIME_LIMIT_MS, 'tar', [...target, ...excludes], {
    stdio: ['pipe', 'ignore', 'pipe'],
    signal,
  });
  const results = Promise.all([finished(reader), finished(writer)]);
  const copied = pipeline(reader.stdout!, counter(path, progress), writer.stdin!);
  const [outcome, copy] = await Promise.allSettled([results, copied]);
  signal?.throwIfAborted();
  if (outcome.status === 'rejected') throw outcome.reason;
  if (copy.status === 'rejected' && copy.reason instanceof FaradayError) throw copy.reason;
  const [read, written] = outcome.value;
  if (read.status !== 0) {
    const reason = read.complaints[0].replace(/^dpkg-deb: (?:error: )?/, '') || 'it took too long';
    throw damaged(path, `cannot be unpacked (${reason}); download it again`);
  }
  if (written.status !== 0) {
    const reason = written.complaints[0] || 'tar was stopped';
    throw new FaradayError('host', `${folder}: cannot be unpacked to (${reason}); free some space`);
  }
  return { kernelPath: findKernel(path, folder), modulesRoot: folder };
}
