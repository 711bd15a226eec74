// Starting the system tools that unpack things, each with a limit to its time.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';

/**
 * Like spawn(), but the child is killed after `limitMs`. Node's own `timeout` option keeps its
 * timer, and with it the whole process, waiting where the program does not exist.
 */
export function spawnWithin(
  limitMs: number,
  command: string,
  args: readonly string[],
  options: SpawnOptions,
): ChildProcess {
  const child = spawn(command, args, { killSignal: 'SIGKILL', ...options });
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
  timer.unref();
  child.once('close', () => clearTimeout(timer));
  return child;
}
