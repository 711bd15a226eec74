// A judge looks at a program again, by its trace: too dear for every one, so for those that reach
// something new and for one in 64.
import type { Trace } from './trace.ts';

export interface Judge {
  readonly name: string; // the kind of its findings
  /** What is wrong with the program, or null. `machine`: the memory of the fuzz machine. */
  judge(trace: Trace, variant: number, machine: Uint8Array): string | null;
}
