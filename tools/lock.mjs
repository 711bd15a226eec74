// A lock between processes that is gone the moment its holder is, however it ends.
// flock(1) holds the file; it waits on a pipe from us, which the kernel closes when we die.
// Plain JavaScript, because tools/setup.mjs runs before anything is installed.
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

const NOTE_AFTER_MILLISECONDS = 1000;

/**
 * Runs `work` while this process alone holds the lock file `path`.
 * @template T
 * @param {string} path created when it is not there; its folder too
 * @param {() => Promise<T>} work
 * @param {() => void} [onWait] called once when somebody else holds the lock for a while
 * @returns {Promise<T>}
 */
export async function withLock(path, work, onWait) {
  mkdirSync(dirname(path), { recursive: true });
  const holder = spawn('flock', ['-x', path, 'sh', '-c', 'echo held; cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const waiting = setTimeout(() => onWait?.(), NOTE_AFTER_MILLISECONDS);
  try {
    await new Promise((resolve, reject) => {
      holder.once('error', reject);
      holder.once('exit', () => reject(new Error(`cannot lock ${path}`)));
      holder.stdout.once('data', resolve);
    });
  } finally {
    clearTimeout(waiting);
  }
  try {
    return await work();
  } finally {
    holder.removeAllListeners('exit');
    holder.stdin.end();
    await new Promise((resolve) => holder.once('exit', resolve));
  }
}
