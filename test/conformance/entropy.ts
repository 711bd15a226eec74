// Virtio 1.2 §5.4: the entropy device.
import * as assert from 'uvu/assert';
import { EFFECT_IRQ, REQUEST_KIND_ENTROPY, RESULT_IOERR } from '../../assembly/abi.ts';
import { kick } from '../../testing/requests.ts';
import { into, offer, outOf, PAYLOAD, refused, ring } from './setup.ts';
import { OWN_READING, type Section } from './statement.ts';

export const ENTROPY: Section[] = [
  {
    number: '5.4.6.1',
    title: 'Device operation',
    side: 'driver',
    rows: [
      {
        level: 'MUST NOT',
        says: 'Offers no buffer that is for reading.',
        answer: 'the chain comes back with length 0',
        test() {
          const device = ring();
          refused(device, offer(device, [outOf()]));
          refused(device, offer(device, [outOf(), into()]));
        },
      },
      {
        level: 'MUST',
        says: 'Goes by the used length for how many random bytes it got.',
        unseen: OWN_READING,
      },
    ],
  },
  {
    number: '5.4.6.2',
    title: 'Device operation',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Places one random byte or more into the buffer.',
        test() {
          const device = ring();
          for (const chain of [[into(1)], [into(0), into(40)], [into(7), into(9, PAYLOAD + 64)]]) {
            const size = chain.reduce((sum, { length }) => sum + length, 0);
            offer(device, chain);
            const { requests, effects } = kick(device.cage, 0);
            assert.is(requests[0].kind, REQUEST_KIND_ENTROPY);
            assert.is(requests[0].length, BigInt(size));
            assert.is(effects & EFFECT_IRQ, EFFECT_IRQ);
            assert.is(device.queue.takeUsed()?.length, size);
          }
          // A buffer outside RAM is the one that the host cannot fill, and it says so.
          offer(device, [into(8, 0x10000000)]);
          kick(device.cage, 0, () => ({ result: RESULT_IOERR, bytes: 0 }));
          assert.is(device.queue.takeUsed()?.length, 0);
        },
        also: 'shim-block.test.ts: entropy fills its ranges with bytes that differ each time',
      },
      {
        level: 'MAY',
        says: 'Fills less than the whole buffer.',
        test() {
          const device = ring();
          offer(device, [into(0x80000, 0)]);
          const { requests } = kick(device.cage, 0);
          assert.is(requests[0].length, 0x10000n);
          assert.is(device.queue.takeUsed()?.length, 0x10000);
        },
        also: 'shim-block.test.ts: one entropy request gives no more than its bound',
      },
    ],
  },
];
