// Where the initial RAM disk goes: page aligned, as high as it can be in the RAM below 3 GiB, so
// that the kernel can grow above itself.

import { FaradayError } from '../errors.ts';
import { withInput } from './file.ts';
import type { Segment } from './image.ts';
import { lowRamEnd, MIB, PAGE_BYTES } from './layout.ts';

export interface PlacedInitrd {
  address: number;
  lengthBytes: number;
  segment: Segment;
}

function initrdBytes(initrd: Uint8Array | string): number {
  if (typeof initrd !== 'string') return initrd.length;
  return withInput(initrd, 'initrd', 'bad-initrd', (file) => file.sizeBytes);
}

/**
 * Places an initrd, bytes or a path, above `kernelEnd`. Throws FaradayError('bad-initrd') where
 * it is empty, cannot be read or does not fit.
 */
export function placeInitrd(
  initrd: Uint8Array | string,
  kernelEnd: number,
  memoryBytes: number,
): PlacedInitrd {
  const name = typeof initrd === 'string' ? initrd : '(made by Faraday)';
  const lengthBytes = initrdBytes(initrd);
  if (lengthBytes === 0) {
    throw new FaradayError('bad-initrd', `initrd ${name}: is empty; leave it out or name another`);
  }
  const top = lowRamEnd(memoryBytes);
  const address = Math.floor((top - lengthBytes) / PAGE_BYTES) * PAGE_BYTES;
  if (address < kernelEnd) {
    const room = Math.max(0, (top - kernelEnd) / MIB).toFixed(1);
    const finding = `its ${(lengthBytes / MIB).toFixed(1)} MiB do not fit: ${room} MiB are free`;
    const where = `of ${Math.floor(memoryBytes / MIB)} MiB above the kernel (below 3 GiB)`;
    const fix = 'raise --memory or make it smaller';
    throw new FaradayError('bad-initrd', `initrd ${name}: ${finding} ${where}; ${fix}`);
  }
  const segment: Segment =
    typeof initrd === 'string'
      ? { name: 'initrd', address, path: initrd, fileOffset: 0, lengthBytes }
      : { name: 'initrd', address, bytes: initrd };
  return { address, lengthBytes, segment };
}
