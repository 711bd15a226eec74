// A judge looks at a program again, by its trace: too dear for every one, so for those that reach
// something new and for one in 64.
import * as shared from './machine/shared.ts';
import type { Trace, TracedCall } from './trace.ts';

export interface Judge {
  readonly name: string; // the kind of its findings
  /**
   * What is wrong with the program, or null. `machine` is the memory of the fuzz machine as the
   * program left it. A `deep` look takes in what no store of the program accounts for.
   */
  judge(trace: Trace, variant: number, machine: Uint8Array, deep: boolean): string | null;
}

/** What both engines and the reference offer alike; T is what a call answers. */
interface Calls<T> {
  read(offset: number, width: number): T;
  write(offset: number, width: number, value: number): T;
  notify(queue: number): T;
  next(queue: number): T;
  complete(tag: number, result: number, bytes: number): T;
  fail(): T;
  reset(): T;
}

/** Makes a traced call again; inputs and checks, which differ, are the judge's own. */
export function repeat<T>(device: Calls<T>, { call, a, b, c }: TracedCall): T {
  switch (call) {
    case shared.CALL_READ:
      return device.read(a, b);
    case shared.CALL_WRITE:
      return device.write(a, b, c);
    case shared.CALL_NOTIFY:
      return device.notify(a);
    case shared.CALL_NEXT:
      return device.next(a);
    case shared.CALL_COMPLETE:
      return device.complete(a, b, c);
    case shared.CALL_FAIL:
      return device.fail();
    default:
      return device.reset();
  }
}

const NAMES = 'none read write notify next complete input fail reset check'.split(' ');

/** A traced call in words. */
export function nameOf({ call, a, b, c }: TracedCall): string {
  const numbers = [a, b, c].map((value) => `0x${value.toString(16)}`);
  return `${NAMES[call] ?? call}(${numbers.join(', ')})`;
}
