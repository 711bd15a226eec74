// Where the guest's init program lies: tools/build-guest.ts compiles guest/init.c into it.
// This file stands directly in host/, so that the address below holds in the bundle too.
import { readFileSync } from 'node:fs';
import { FaradayError } from './errors.ts';

/** The bytes of build/init. Throws FaradayError('internal') where it was not built. */
export function guestInit(): Buffer {
  const path = new URL('../build/init', import.meta.url).pathname;
  try {
    return readFileSync(path);
  } catch {
    throw new FaradayError('internal', `${path}: the guest's init is missing; run: npm run build`);
  }
}
