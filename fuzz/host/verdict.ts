// Runs one input and says whether that was a crash: something thrown that is no refusal, too much
// memory, too much time.

import { getHeapStatistics } from 'node:v8';
import { Script } from 'node:vm';
import { FaradayError } from '../../host/errors.ts';
import type { HostTarget, Parser } from './target.ts';

export const SLOW_MS = 1000; // for one input
const HANG_MS = 3000; // after which a batch is broken off

/** What is wrong with an input. */
export interface Crash {
  message: string; // one line, with the first place in the host's sources
  kind: string; // the same without what varies: two crashes of one kind have one cause
}

const usedBytes = (): number => {
  const { used_heap_size: heap, external_memory: external } = getHeapStatistics();
  return heap + external;
};

function placeOf(error: Error): string {
  const lines = (error.stack ?? '').split('\n');
  const frames = lines.filter((line) => line.includes('/host/') && !line.includes('/must.ts'));
  const inParser = frames.find((line) => !line.includes('/fuzz/')) ?? frames[0];
  return /\/((?:host|fuzz)\/[^)]*?):\d+\)?$/.exec(inParser ?? '')?.[1] ?? 'unknown place';
}

function describe(error: unknown): Crash {
  if (!(error instanceof Error)) return { message: `threw ${String(error)}`, kind: 'no error' };
  const place = placeOf(error);
  const text = `${error.name}: ${error.message}`.replace(/\s+/g, ' ').slice(0, 200);
  const kind = `${text.replace(/['"].*?['"]|0x[0-9a-f]+|[\d.]+/g, '#')} ${place.split(':')[0]}`;
  return { message: `${text} (${place})`, kind };
}

function isClean(parser: Parser, error: unknown): boolean {
  if (error instanceof FaradayError && error.code !== 'internal') return true;
  return parser.isRefusal?.(error) ?? false;
}

/** One input, without a watch. */
function runOne(target: HostTarget, parser: Parser, input: Uint8Array): Crash | null {
  const before = usedBytes();
  const started = performance.now();
  let crash: Crash | null = null;
  try {
    parser.run(input);
  } catch (error) {
    if (!isClean(parser, error)) crash = describe(error);
  }
  if (crash) return crash;
  const grown = usedBytes() - before;
  if (grown > target.allocationBytesMax) {
    const message = `takes ${Math.ceil(grown / 2 ** 20)} MiB for ${input.length} bytes`;
    return { message, kind: 'memory' };
  }
  if (performance.now() - started < SLOW_MS || isQuick(parser, input)) return null;
  return { message: `takes more than ${SLOW_MS} ms`, kind: 'time' };
}

/** A second look at an input that took long: this host may have had other things to do. */
function isQuick(parser: Parser, input: Uint8Array): boolean {
  const before = process.cpuUsage();
  try {
    parser.run(input);
  } catch {
    // Only the time counts here.
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000 < SLOW_MS;
}

const work: { run: () => void } = { run: () => {} };
const CALL = new Script('globalThis[Symbol.for("faraday.fuzz")].run()');
Object.defineProperty(globalThis, Symbol.for('faraday.fuzz'), { value: work });

/** Runs `act` under a watch; false where it did not end in time. */
function endsInTime(act: () => void): boolean {
  work.run = act;
  try {
    CALL.runInThisContext({ timeout: HANG_MS });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return false;
    throw error;
  }
}

/**
 * Runs inputs one after the other; returns each crash with the input's index. A watch for each
 * would cost too much, so there is one for them all; an input during which the time is over has the
 * same time again for itself, and only then counts as one that hangs.
 */
export function runBatch(
  target: HostTarget,
  parser: Parser,
  inputs: readonly Uint8Array[],
): { crash: Crash; index: number }[] {
  const found: { crash: Crash; index: number }[] = [];
  let index = 0;
  const one = (): void => {
    const crash = runOne(target, parser, inputs[index]);
    if (crash) found.push({ crash, index });
  };
  const rest = (): void => {
    for (; index < inputs.length; index++) one();
  };
  // The time may also be over just behind the last input.
  for (; !endsInTime(rest) && index < inputs.length; index++) {
    if (!endsInTime(one)) found.push({ crash: { message: 'does not end', kind: 'hang' }, index });
  }
  return found;
}

/** One input under a watch of its own; null where it is fine. */
export function runAlone(target: HostTarget, parser: Parser, input: Uint8Array): Crash | null {
  return runBatch(target, parser, [input])[0]?.crash ?? null;
}
