// One worker of a search: a process that fuzzes one target and tells its parent what it finds.
import type { Judge } from './judge.ts';
import { loadModules } from './load.ts';
import { NativeJudge } from './native-judge.ts';
import type { Program } from './program.ts';
import { ReferenceJudge } from './reference-judge.ts';
import { type Crash, type Progress, Session } from './session.ts';
import { deviceTarget } from './targets.ts';

export interface WorkerOrder {
  target: string;
  seed: number;
  timeMs: number;
  corpus: Program[];
}

/** From a worker: what is new since the last time it told. */
export interface WorkerNews {
  progress: Progress;
  coverage: Uint8Array;
  programs: Program[];
  crashes: Crash[];
}

const TELL_EVERY_MS = 1000;

/** The judges of a target. */
export function judgesOf(name: string): Judge[] {
  const target = deviceTarget(name);
  return [new NativeJudge(target), new ReferenceJudge(target)];
}

/** Searches until the time is over, and tells at least once a second. */
export async function work(
  order: WorkerOrder,
  tell: (news: WorkerNews) => void,
  others: Program[],
): Promise<void> {
  const target = deviceTarget(order.target);
  const { seed, corpus } = order;
  const session = new Session(loadModules(), target, {
    seed,
    corpus,
    judges: judgesOf(target.name),
  });
  const end = process.uptime() * 1000 + order.timeMs;
  let told = 0;
  let toldCrashes = 0;
  for (let done = false; !done; ) {
    session.step();
    const now = process.uptime() * 1000;
    done = now >= end || session.over;
    if (!done && now < told + TELL_EVERY_MS) continue;
    told = now;
    await new Promise((resolve) => setImmediate(resolve)); // lets messages in
    for (const program of others.splice(0)) session.consider(program);
    const { progress, coverage } = session;
    const programs = session.takeFresh();
    const crashes = session.crashes.slice(toldCrashes);
    tell({ progress, coverage, programs, crashes });
    toldCrashes = session.crashes.length;
  }
}
