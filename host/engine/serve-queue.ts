// Serving one queue of a virtio device: execute, complete, ask for the next, until it is empty.
import { EFFECT_MORE, EFFECT_REQUEST } from '../../assembly/abi.ts';
import type { Device } from './device.ts';
import type { Executed } from './execute.ts';

const LOOK_EVERY = 256; // requests between two looks at what else has happened

export interface QueueServices {
  execute(record: Uint8Array): Executed;
  apply(effects: number): void; // what complete() and next() answer beside requests
  interrupted(): boolean; // the run is over: leave the rest
}

/**
 * The guest stands still meanwhile, and yet its ring need not be finite: a disk may hold a ring,
 * and a read put it over the one being served. So the loop looks up every now and then. No request
 * outlives the call, so EFFECT_CANCEL has nothing to cancel.
 */
export function serveQueue(
  device: Pick<Device, 'record' | 'complete' | 'next'>,
  first: number,
  queue: number,
  services: QueueServices,
): void {
  let effects = first;
  for (let served = 1; effects & (EFFECT_REQUEST | EFFECT_MORE); served++) {
    if (effects & EFFECT_REQUEST) {
      const record = device.record();
      if (!record) return; // the claim was a trap: the device starts anew, without requests
      const { tag, result, bytes } = services.execute(record);
      services.apply(device.complete(tag, result, bytes));
    }
    if (served % LOOK_EVERY === 0 && services.interrupted()) return;
    effects = device.next(queue);
    services.apply(effects);
  }
}
