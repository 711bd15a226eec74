// A network namespace for a test file: the file starts itself again in one, and what it makes there
// goes with it. Taps in it, and frames on their other side.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { test } from 'uvu';
import { type OpenInterface, openTap } from '../host/net/tap.ts';
import { cellTest, within } from './cell-guest.ts';

const TUN = '/dev/net/tun';
const INSIDE = 'FARADAY_TEST_NET_NAMESPACE';
const FRAMES = new URL('./net-frames.py', import.meta.url).pathname;

/** Why this file has no network namespace with taps, or undefined: it runs in one. */
export function enterNamespace(file: string): string | undefined {
  if (process.env[INSIDE]) {
    // The host would ask for neighbours and routers on each interface that it brings up.
    writeFileSync('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    return undefined;
  }
  const probe = spawnSync('unshare', ['-n', 'sh', '-c', `: <> ${TUN}`]);
  if (probe.status !== 0) return `no network namespace with ${TUN} here`;
  const env = { ...process.env, [INSIDE]: '1' };
  const words = ['-n', process.execPath, ...process.execArgv, file];
  const { status } = spawnSync('unshare', words, { stdio: 'inherit', env });
  process.exit(status ?? 1);
}

const must = (...words: string[]): void => {
  const { status, stderr } = spawnSync(words[0]!, words.slice(1), { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${words.join(' ')}: ${stderr}`);
};

let count = 0;

/** A new tap with so many queues; it goes with its last descriptor. */
export function newTap(queuePairs = 1): OpenInterface {
  return openTap(`test${count++}`, queuePairs, () => {});
}

export const ip = (...words: string[]): void => must('ip', 'link', ...words);

const open = new Set<ChildProcess>();

/** For the end of a test file: a test that fails leaves its helper behind. */
export function closeAll(): void {
  for (const child of open) child.kill('SIGKILL');
}

/** What defines the tests of a file that need taps; they are skipped where there are none. */
export function tapTests(file: string): typeof cellTest {
  const missing = enterNamespace(file);
  test.after(closeAll);
  if (!missing) return cellTest;
  return (name) => test.skip(`${name} (skipped: ${missing})`, () => {});
}

/** The host's side of an interface: raw frames of the tests' own type. */
export class HostSide {
  readonly frames: Buffer[] = [];
  private readonly child: ChildProcess;
  private rest = '';
  private readonly waiting: (() => void)[] = [];

  private constructor(child: ChildProcess) {
    this.child = child;
    child.stdout!.setEncoding('latin1').on('data', (text: string) => {
      const lines = (this.rest + text).split('\n');
      this.rest = lines.pop()!;
      this.frames.push(...lines.map((line) => Buffer.from(line, 'hex')));
      for (const wake of this.waiting.splice(0)) wake();
    });
  }

  /** `partial`: their checksums are left to the guest, if it can. */
  static async open(name: string, { partial = false } = {}): Promise<HostSide> {
    const words = [FRAMES, name, ...(partial ? ['partial'] : [])];
    const child = spawn('/usr/bin/python3', words, { stdio: ['pipe', 'pipe', 'inherit'] });
    open.add(child);
    const side = new HostSide(child);
    await side.until(1); // an empty one: it listens
    side.frames.length = 0;
    return side;
  }

  async until(frames: number): Promise<Buffer[]> {
    const wait = async () => {
      while (this.frames.length < frames) {
        await new Promise<void>((resolve) => {
          this.waiting.push(resolve);
        });
      }
    };
    await within(wait(), `${frames} frames`);
    return this.frames;
  }

  send(...frames: Buffer[]): void {
    for (const frame of frames) this.child.stdin!.write(`${frame.toString('hex')}\n`);
  }

  close(): void {
    open.delete(this.child);
    this.child.kill('SIGKILL');
  }
}
