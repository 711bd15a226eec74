// The fuzz machine's exports. tools/build-fuzz.ts joins this module with the instrumented core.
import { COMPARISONS, COMPARISONS_MAX, ENTRY_VARIANT, PROGRAM } from "./places";
import { RUN_DONE, RUN_NEW, RUN_VIOLATION } from "./shared";
import { perform } from "./actions";
import { demandValidState } from "./core";
import { clearEdges, newCoverage, resetCoverage } from "./coverage";
import { beginRun } from "./heads";
import { atSnapshot, loadSnapshot, restoreDirty, takeSnapshot } from "./memory";
import { makeProgram, setCounts, setTarget } from "./mutate";
import { seed } from "./random";
import { endTrace, startTrace } from "./trace";
import { forgive, violated } from "./violation";

export { outside, bulkFill, bulkCopy } from "./memory";
export { guestRead, guestWrite, guestLoad16, guestStore16, guestFence } from "./walker";
export { violation, violationAt, violationDetail } from "./violation";
export { atSnapshot, loadSnapshot, resetCoverage, takeSnapshot, seed, setCounts, setTarget };

let variant: u32 = 0;
let queueSize: u32 = 16;
let executions: u32 = 0;

/** Goes to the starting point of a variant, whose queues have `size` descriptors. */
export function useVariant(which: u32, size: u32): void {
  variant = which;
  queueSize = size;
  loadSnapshot(which);
}

/** Runs the program in PROGRAM from the starting point; leaves the memory as it ends. */
function runOnce(): void {
  restoreDirty(variant);
  clearEdges();
  forgive();
  beginRun();
  executions++;
  perform(queueSize);
}

function answer(): u32 {
  if (violated()) return RUN_VIOLATION;
  return newCoverage() ? RUN_NEW : RUN_DONE;
}

/** Runs the program that stands in PROGRAM. RUN_*. */
export function runProgram(): u32 {
  runOnce();
  return answer();
}

/** Makes programs and runs them, up to `count`, or the first that is worth a look. RUN_*. */
export function run(count: u32): u32 {
  for (let left = count; left > 0; left--) {
    makeProgram();
    store<u32>(PROGRAM, variant, ENTRY_VARIANT);
    runOnce();
    const found = answer();
    if (found != RUN_DONE) return found;
  }
  return RUN_DONE;
}

/** How many programs were run since the last time it was asked. */
export function takeExecutions(): u32 {
  const count = executions;
  executions = 0;
  return count;
}

/** The dearest of the oracles, after a run: the state loads again. RUN_DONE or RUN_VIOLATION. */
export function checkState(): u32 {
  demandValidState();
  return violated() ? RUN_VIOLATION : RUN_DONE;
}

/** Runs the program in PROGRAM with a trace; its length in bytes, 0 where there was no room. */
export function traceProgram(): u32 {
  startTrace();
  runOnce();
  return endTrace();
}

/** Puts the memory back, as the next run would. */
export function rewind(): void {
  restoreDirty(variant);
}

let comparisons: u32 = 0;

/**
 * Both operands of a comparison, where that pair was not seen yet; only the module that looks at
 * them calls it.
 */
export function compare(left: u64, right: u64): void {
  if (left == right || comparisons == COMPARISONS_MAX) return;
  const end = COMPARISONS + (<usize>comparisons << 4);
  for (let at = COMPARISONS; at < end; at += 16) {
    if (load<u64>(at) == left && load<u64>(at, 8) == right) return;
  }
  store<u64>(end, left);
  store<u64>(end, right, 8);
  comparisons++;
}

/** How many pairs stand in COMPARISONS since the last time it was asked. */
export function takeComparisons(): u32 {
  const count = comparisons;
  comparisons = 0;
  return count;
}
