// Starting a cell: everything it will ever need is opened here and handed over as descriptors, in
// the order of cell-protocol.ts; the cell itself opens nothing.
import { closeSync, constants, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { MachineImage } from '../boot/image.ts';
import { type ImageBytes, type ImageFile, imageBeside } from '../boot/image-bytes.ts';
import { FaradayError } from '../errors.ts';
import { explainKvmOpen } from '../explain.ts';
import { CHILD_CONTROL, CHILD_NULL, type NativeError, shim } from '../shim.ts';
import { temporaryFolder } from '../temporary-folder.ts';
import { changedFile, writeImage } from '../write-image.ts';
import { CellProcess } from './cell-process.ts';

const KVM_PATH = '/dev/kvm';
// Node does not name it: a file in this folder that never gets a name. Linux, uapi/asm/fcntl.h.
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;
const UNNAMED = constants.O_RDWR | constants.O_EXCL | O_TMPFILE;
const MODE = 0o600;

/** Where the console goes: standard descriptors are inherited or /dev/null. */
export interface CellStreams {
  input: 'inherit' | 'ignore';
  output: 'inherit' | 'ignore';
  errors: 'inherit' | 'ignore';
}

export interface SpawnOptions extends CellStreams {
  program: string;
  detached: boolean; // a session of its own, which outlives this process
  confinement: CellWish;
  recording?: number; // a descriptor, for the recording cell
}

/** How the cell is to be confined: its own flags. */
export interface CellWish {
  seccomp: 'enforce' | 'log' | 'off';
  landlock: 'auto' | 'required' | 'off';
  namespaces: 'auto' | 'required' | 'off';
  user?: { user: number; group: number };
}

function wishWords({ seccomp, landlock, namespaces, user }: CellWish): string[] {
  const words = ['--seccomp', seccomp, '--landlock', landlock, '--namespaces', namespaces];
  return user ? [...words, '--user', `${user.user}:${user.group}`] : words;
}

/** A file that is unlinked at once, where the file system has none without a name. */
function openAndUnlink(): number {
  const path = join(temporaryFolder(), `.faraday-image-${process.pid}-${process.hrtime.bigint()}`);
  const fd = openSync(path, 'wx+', MODE);
  unlinkSync(path);
  return fd;
}

/** An open file that holds `image` and goes away by itself: in memory where that has room. */
function imageFile(image: ImageBytes): number {
  const unnamed = (folder: string) => openSync(folder, UNNAMED, MODE);
  const places = [() => unnamed('/dev/shm'), () => unnamed(temporaryFolder()), openAndUnlink];
  let problem: unknown;
  for (const open of places) {
    let fd = -1;
    try {
      fd = open();
      writeImage(fd, image);
      return fd;
    } catch (error) {
      problem = error;
      if (fd >= 0) closeSync(fd);
    }
  }
  if ((problem as NodeJS.ErrnoException).code === 'EFBIG') {
    const fix = "a limit on file sizes is in the way: 'ulimit -f unlimited'";
    throw new FaradayError('host', `the machine image cannot be written; ${fix}`);
  }
  throw problem;
}

function openKvm(): number {
  try {
    return openSync(KVM_PATH, constants.O_RDWR);
  } catch (error) {
    throw explainKvmOpen((error as NodeJS.ErrnoException).code ?? 'unknown error') ?? error;
  }
}

function openPath(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EMFILE' || code === 'ENFILE') throw error;
    throw changedFile(path); // it was read a moment ago
  }
}

/** What a program that did not start means. */
function notStarted(program: string, error: NativeError): Error {
  const fix = "run 'npm run build' in Faraday's folder";
  const { code } = error;
  if (code === 'ENOENT') return new FaradayError('host', `${program} is missing; ${fix}`);
  if (code === 'EACCES') return new FaradayError('host', `${program} may not be executed; ${fix}`);
  return Object.assign(error, { path: program });
}

const inherited = (stream: 'inherit' | 'ignore', fd: number): number => {
  return stream === 'inherit' ? fd : CHILD_NULL;
};

function start(options: SpawnOptions, passed: readonly number[]): CellProcess {
  const { program, detached, input, output, errors } = options;
  const streams = [inherited(input, 0), inherited(output, 1), inherited(errors, 2)];
  const { confinement } = options;
  const mode = ['--spawned', ...(detached ? ['--detached'] : [])];
  const words = [program, ...mode, ...wishWords(confinement)];
  const namespaces = confinement.namespaces !== 'off';
  try {
    const child = shim().startChild(
      words,
      [...streams, CHILD_CONTROL, ...passed],
      detached,
      namespaces,
    );
    return new CellProcess(child);
  } catch (error) {
    throw notStarted(program, error as NativeError);
  }
}

/**
 * Spawns the cell that runs `image`. The descriptors of disks and recording stay the caller's;
 * everything else is closed here again. Throws FaradayError or the system's errors.
 */
export function spawnCell(image: MachineImage, options: SpawnOptions): CellProcess {
  const bytes = imageBeside(image);
  const own: number[] = [];
  const keep = (fd: number): number => {
    own.push(fd);
    return fd;
  };
  const fdOf = (file: ImageFile): number => ('fd' in file ? file.fd : keep(openPath(file.path)));
  try {
    const { recording } = options;
    const last = recording === undefined ? [] : [recording];
    const passed = [keep(imageFile(bytes)), keep(openKvm()), ...bytes.files.map(fdOf), ...last];
    return start(options, passed);
  } finally {
    for (const fd of own) closeSync(fd);
  }
}
