// Decompression: gzip by Node, the rest by the system's own tools, each with a limit on what it
// may write and how long it may take. What goes in is hostile.
import type { ChildProcess } from 'node:child_process';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { Compression } from '../boot/bzimage.ts';
import { FaradayError } from '../errors.ts';
import { spawnWithin } from './spawn.ts';

const TIME_LIMIT_MS = 120_000;

interface Tool {
  command: string;
  args: string[];
  debianPackage: string;
}

const XZ = ['--decompress', '--stdout', '--memlimit-decompress=1GiB'];
const TOOLS: Record<Exclude<Compression, 'gzip' | 'none'>, Tool> = {
  xz: { command: 'xz', args: ['--format=xz', ...XZ], debianPackage: 'xz-utils' },
  lzma: { command: 'xz', args: ['--format=lzma', ...XZ], debianPackage: 'xz-utils' },
  // Kernels are packed with a window of up to 2 GiB, which zstd by itself refuses.
  zstd: { command: 'zstd', args: ['-d', '-c', '-q', '--long=31'], debianPackage: 'zstd' },
  lz4: { command: 'lz4', args: ['-d', '-c', '-q'], debianPackage: 'lz4' },
  bzip2: { command: 'bzip2', args: ['-d', '-c', '-q'], debianPackage: 'bzip2' },
  lzo: { command: 'lzop', args: ['-d', '-c', '-q'], debianPackage: 'lzop' },
};

export interface DecompressOptions {
  limitBytes: number; // more output than this is an error
  label: string; // starts each message: 'kernel /boot/vmlinuz'
  signal?: AbortSignal;
}

function corrupt(options: DecompressOptions, reason: string): FaradayError {
  const fix = 'copy or download it again';
  return new FaradayError(
    'bad-kernel',
    `${options.label}: its payload is corrupt (${reason}); ${fix}`,
  );
}

function missing(tool: Tool, label: string): FaradayError {
  const { command, debianPackage } = tool;
  const fix = `install it: apt install ${debianPackage}`;
  return new FaradayError(
    'host',
    `${label}: needs the program ${command}, which is missing; ${fix}`,
  );
}

function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0].slice(0, 120);
}

/** Collects standard output up to the limit; past it the tool is stopped. */
function collectOutput(child: ChildProcess, limitBytes: number): () => Buffer | null {
  const chunks: Buffer[] = [];
  let total = 0;
  child.stdout!.on('data', (chunk: Buffer) => {
    total += chunk.length;
    if (total > limitBytes) child.kill('SIGKILL');
    else chunks.push(chunk);
  });
  return () => (total > limitBytes ? null : Buffer.concat(chunks));
}

function runTool(tool: Tool, input: Uint8Array, options: DecompressOptions): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawnWithin(TIME_LIMIT_MS, tool.command, tool.args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      signal: options.signal,
    });
    const output = collectOutput(child, options.limitBytes);
    let complaint = '';
    child.stderr!.on('data', (chunk: Buffer) => {
      if (complaint.length < 4096) complaint += chunk.toString('latin1');
    });
    child.on('error', (error: NodeJS.ErrnoException) => {
      reject(error.code === 'ENOENT' ? missing(tool, options.label) : error);
    });
    child.on('close', (status, signal) => {
      const bytes = output();
      if (bytes === null) reject(corrupt(options, `more than ${options.limitBytes} bytes`));
      else if (signal !== null) reject(corrupt(options, `${tool.command} took too long`));
      else if (status !== 0) {
        reject(corrupt(options, firstLine(complaint) || `${tool.command} failed`));
      } else resolve(bytes);
    });
    // A tool that gives up closes its input early: its status says why.
    child.stdin!.on('error', () => {});
    child.stdin!.end(input);
  });
}

async function inflate(input: Uint8Array, options: DecompressOptions): Promise<Buffer> {
  try {
    return await promisify(gunzip)(input, { maxOutputLength: options.limitBytes });
  } catch (error) {
    throw corrupt(options, firstLine((error as Error).message));
  }
}

/**
 * Decompresses `input`. Throws FaradayError: 'bad-kernel' where it is corrupt or too large,
 * 'host' where the tool for it is not installed. An abort rejects with the signal's reason.
 */
export async function decompress(
  compression: Compression,
  input: Uint8Array,
  options: DecompressOptions,
): Promise<Buffer> {
  options.signal?.throwIfAborted();
  if (compression === 'none') return Buffer.from(input);
  if (compression === 'gzip') return inflate(input, options);
  return runTool(TOOLS[compression], input, options);
}
