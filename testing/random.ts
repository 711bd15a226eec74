// Random numbers that one seed repeats, for fuzzing.

/** An integer from 0 to limit - 1. */
export type Random = (limit: number) => number;

/** Marsaglia's xorshift with the shifts 13, 17, 5, from a seed of 32 bits. */
export function randomFrom(seed: number): Random {
  let state = (seed ^ 0x9e3779b9) | 1; // never 0, where the generator would stay
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}
