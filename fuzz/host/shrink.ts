// Makes a crashing input small while it crashes in the same way: whole blocks away, then bytes to
// zero. What is left is what the crash needs.
import { copyOf, splice } from './mutate.ts';

const TRIES_MAX = 4000;
const NOTHING = new Uint8Array(0);

/** A smaller input for which `holds`, or the same one. `holds` must be true of `input`. */
export function shrink(input: Uint8Array, holds: (candidate: Uint8Array) => boolean): Uint8Array {
  let best = input;
  let tries = 0;
  const keep = (candidate: Uint8Array): boolean => {
    if (tries++ >= TRIES_MAX || !holds(candidate)) return false;
    best = candidate;
    return true;
  };
  for (let length = best.length; length >= 1; length = Math.floor(length / 2)) {
    for (let at = best.length - length; at >= 0; at -= length) {
      keep(splice(best, at, Math.min(at + length, best.length), NOTHING));
    }
  }
  for (let length = best.length; length >= 1; length = Math.floor(length / 2)) {
    for (let at = 0; at < best.length; at += length) {
      const candidate = copyOf(best);
      candidate.fill(0, at, at + length);
      if (Buffer.compare(candidate, best) !== 0) keep(candidate);
    }
  }
  return best;
}
