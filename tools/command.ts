// Running system tools: found on PATH or in the system folders, output kept, failure in one line.
import { type SpawnOptions, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { FaradayError } from '../host/errors.ts';

/** An ordinary user's PATH often lacks these, and depmod, mkfs.ext4 and debugfs live there. */
export const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** The caller's PATH with the system folders appended. */
export function fullPath(): string {
  return [process.env.PATH ?? '/usr/bin:/bin', ...SYSTEM_FOLDERS].join(delimiter);
}

/** The path of a command, or undefined when it is not installed. */
export function findCommand(name: string): string | undefined {
  for (const folder of fullPath().split(delimiter)) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here: the next folder may have it.
    }
  }
  return undefined;
}

export interface RunOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string | Uint8Array;
  acceptStatus?: number[]; // beside 0
}

export interface RunResult {
  status: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a tool to its end and returns what it printed. Throws a FaradayError of code 'host' with the
 * tool's last line when it is missing or ends with a status that is not accepted.
 */
export async function run(
  name: string,
  args: string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const spawnOptions: SpawnOptions = {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', ...options.env, PATH: fullPath() },
    stdio: ['pipe', 'pipe', 'pipe'],
  };
  const child = spawn(name, args, spawnOptions);
  const output = { stdout: '', stderr: '' };
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text;
  });
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text;
  });
  // A tool that ends without reading its input must not end us with EPIPE.
  child.stdin!.on('error', () => {});
  child.stdin!.end(options.input ?? '');
  const status = await new Promise<number>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      const why = error.code === 'ENOENT' ? 'is not installed' : error.message;
      reject(new FaradayError('host', `${name} ${why}`));
    });
    child.once('close', (code, signal) => resolve(code ?? (signal ? 128 : 1)));
  });
  if (status !== 0 && !options.acceptStatus?.includes(status)) {
    const lines = `${output.stdout}\n${output.stderr}`.trim().split('\n');
    throw new FaradayError('host', `${name} failed (status ${status}): ${lines.at(-1)}`);
  }
  return { status, ...output };
}
