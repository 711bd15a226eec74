// The identity of a build of the core, by which a recording tells whether it was made with another.
import { createHash } from 'node:crypto';
import { coreBytes } from '../core.ts';

/** The SHA-256 of the module that both engines run. */
export function coreHash(): Uint8Array {
  return createHash('sha256').update(coreBytes()).digest();
}
