// What a device did to guest memory, access by access: what an assertion on 'never reads a
// descriptor twice' or 'writes nothing but the used ring' looks at.
import { AccessLog } from '../host/access-log.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { type Access, parseAccesses } from '../host/replay/accesses.ts';

/**
 * The accesses of every cage on `memory` while `action` runs, in their order, with the bytes they
 * moved. A log that was there before misses them. Throws what `action` throws.
 */
export function accessesDuring(memory: GuestMemory, action: () => void): Access[] {
  const before = memory.log;
  const log = new AccessLog();
  memory.log = log;
  try {
    action();
  } finally {
    memory.log = before;
  }
  return parseAccesses(log.entries());
}
