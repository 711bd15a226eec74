// The entropy device: assembly/virtio-rng.ts on the release core (virtio 1.2 §5.4).
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EFFECT_INCIDENT,
  ENTROPY_BYTES_MAX,
  KIND_VIRTIO_RNG,
  REQUEST_KIND_ENTROPY,
  RESULT_IOERR,
  RESULT_OK,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { encodeRngConfig } from '../host/device-config.ts';
import { REG } from '../testing/driver.ts';
import { DATA, guestMemory } from '../testing/queue.ts';
import { kick } from '../testing/requests.ts';
import { rngDevice } from './fixtures.ts';

const buffer = (length: number, address = DATA) => ({ address, length, write: true });

function running() {
  const device = rngDevice();
  return { ...device, queue: device.driver.bringUp() };
}

test('a buffer becomes a request for as many random bytes', () => {
  const { cage, queue } = running();
  const head = queue.chain([buffer(8), buffer(16, DATA + 0x100)]);
  queue.offer(head);
  const { requests } = kick(cage, 0);
  assert.is(requests[0].kind, REQUEST_KIND_ENTROPY);
  assert.is(requests[0].length, 24n);
  assert.equal(requests[0].ranges, [
    { address: BigInt(DATA), length: 8 },
    { address: BigInt(DATA + 0x100), length: 16 },
  ]);
  assert.equal(queue.takeUsed(), { id: head, length: 24 });
});

test('the driver is told how many bytes the host had', () => {
  const { cage, queue } = running();
  queue.offer(queue.chain([buffer(64)]));
  kick(cage, 0, () => ({ result: RESULT_OK, bytes: 5 }));
  assert.is(queue.takeUsed()?.length, 5);
  queue.offer(queue.chain([buffer(64)]));
  kick(cage, 0, () => ({ result: RESULT_IOERR, bytes: 5 }));
  assert.is(queue.takeUsed()?.length, 0);
});

test('one request asks the host for a bounded number of bytes', () => {
  const { cage, queue } = running();
  queue.offer(queue.chain([buffer(ENTROPY_BYTES_MAX - 1), buffer(0xfff00000)]));
  const [request] = kick(cage, 0).requests;
  assert.is(request.length, BigInt(ENTROPY_BYTES_MAX));
  assert.equal(
    request.ranges.map((range) => range.length),
    [ENTROPY_BYTES_MAX - 1, 1],
  );
  assert.is(queue.takeUsed()?.length, ENTROPY_BYTES_MAX);
});

test('readable buffers and empty ones come back unfilled', () => {
  const { cage, queue } = running();
  const chains = [[{ address: DATA, length: 16 }], [{ address: DATA, length: 16 }, buffer(8)]];
  for (const chain of [...chains, [buffer(0)]]) {
    queue.offer(queue.chain(chain));
    const { effects, requests } = kick(cage, 0);
    assert.is(effects & EFFECT_INCIDENT, EFFECT_INCIDENT);
    assert.is(requests.length, 0);
    assert.is(queue.takeUsed()?.length, 0);
  }
  assert.is(cage.counters().request, 3);
});

test('there is one queue, of the size configured', () => {
  const { driver } = rngDevice(32);
  assert.is(driver.get(REG.QueueNumMax), 32);
  driver.set(REG.QueueSel, 1);
  assert.is(driver.get(REG.QueueNumMax), 0);
});

test('a queue size that is no power of two up to 256 is refused', () => {
  for (const queueSize of [0, 3, 257, 512]) {
    const make = () => new Cage(KIND_VIRTIO_RNG, guestMemory(), encodeRngConfig({ queueSize }));
    assert.throws(make, /answer 2/);
  }
});

test.run();
