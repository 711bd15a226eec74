// Where the guest's init program lies: tools/build-guest.ts compiles guest/init.c into it.
// This file stands directly in host/, so that the address below holds in the bundle too.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from './errors.ts';

/** The bytes of build/init. Throws FaradayError('internal') where it was not built. */
export function guestInit(): Buffer {
  const path = join(import.meta.dirname, '../build/init');
  try {
    return readFileSync(path);
  } catch {
    throw new FaradayError('internal', `${path}: the guest's init is missing; run: npm run build`);
  }
}
