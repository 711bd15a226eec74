// What the engine needs to know of a parser to fuzz it.
import type { Random } from '../../testing/random.ts';

/** A parser, loaded. */
export interface Parser {
  /** Inputs to begin with: small, right in form, one for each thing the parser knows. */
  seeds(): Uint8Array[];
  /**
   * Parses. Returning is fine, and so is a FaradayError of any code but 'internal': that is how
   * hostile input is refused. Anything else thrown is a crash.
   */
  run(input: Uint8Array): void;
  /** True for an error that is a refusal too, though it is none by the rule above. */
  isRefusal?(error: unknown): boolean;
  /** A change that knows the format, for what bytes changed blindly seldom get past. */
  mutate?(input: Uint8Array, random: Random): Uint8Array;
  /** Words beside the constants of the sources, which are found by themselves. */
  dictionary?: Uint8Array[];
  close?(): void;
}

export interface HostTarget {
  name: string;
  describe: string;
  sources: readonly string[]; // the parser's files, from the repository's root: what is covered
  inputBytesMax: number; // no longer input is made
  allocationBytesMax: number; // one input that makes the heap grow by more is a crash
  load(): Promise<Parser>; // nothing of the parser may be loaded before: see coverage.ts
}
