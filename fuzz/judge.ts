// A judge looks at a program again, by its trace: too dear for every one, so for those that reach
// something new and for one in 64.
import type { Trace, TracedCall } from './trace.ts';

export interface Judge {
  readonly name: string; // the kind of its findings
  /**
   * What is wrong with the program, or null. `machine` is the memory of the fuzz machine as the
   * program left it. A `deep` look takes in what no store of the program accounts for.
   */
  judge(trace: Trace, variant: number, machine: Uint8Array, deep: boolean): string | null;
}

const NAMES = 'none read write notify next complete input fail reset check'.split(' ');

/** A traced call in words. */
export function nameOf({ call, a, b, c }: TracedCall): string {
  const numbers = [a, b, c].map((value) => `0x${value.toString(16)}`);
  return `${NAMES[call] ?? call}(${numbers.join(', ')})`;
}
