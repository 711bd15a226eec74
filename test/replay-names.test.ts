// What a trace says of a network device: host/replay/names.ts, virtio-registers.ts, request.ts and
// words.ts.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { bitNames, EFFECT_NAMES, featureNames, kindName } from '../host/replay/names.ts';
import { parseRequest } from '../host/replay/request.ts';
import { freshVirtio, virtioRegister } from '../host/replay/virtio-registers.ts';
import { requestText } from '../host/replay/words.ts';
import { REG } from '../testing/driver.ts';
import * as net from '../testing/net.ts';
import { netDevice } from './fixtures.ts';

const register = (offset: number, value = 0) =>
  virtioRegister(freshVirtio(abi.KIND_VIRTIO_NET), false, offset, value, true);

test('every feature of a network device has its name', () => {
  const names = Object.entries(net).filter(([name]) => name.startsWith('NET_F_'));
  assert.ok(names.length > 20);
  for (const [name, bit] of names) {
    assert.equal(featureNames(abi.KIND_VIRTIO_NET, bit as bigint), [name.slice('NET_F_'.length)]);
  }
});

test('every kind, effect and request of abi.ts has a name', () => {
  for (const [name, value] of Object.entries(abi)) {
    if (/^KIND_/.test(name)) assert.not.match(kindName(value), /^kind/, name);
    if (/^EFFECT_/.test(name)) assert.not.match(bitNames(value, EFFECT_NAMES).join(), /0x/, name);
    if (!/^REQUEST_KIND_/.test(name)) continue;
    const record = new Uint8Array(abi.REQUEST_RANGES);
    new DataView(record.buffer).setUint32(abi.REQUEST_KIND, value, true);
    assert.is(parseRequest(record)?.kind, name.slice('REQUEST_KIND_'.length));
  }
});

test('the configuration space is told by its fields', () => {
  const name = (offset: number) => register(REG.Config + offset).register;
  assert.equal(
    [0, 5, 6, 8, 10, 11, 12].map(name),
    ['mac', 'mac+5', 'status', 'max_virtqueue_pairs', 'mtu', 'mtu+1']
      .map((f) => `config.${f}`)
      .concat('config+12'),
  );
  assert.is(register(REG.DeviceID, 1).meaning, 'network');
});

test('requests are told without what is no offset and no flag', () => {
  const { cage, driver, memory } = netDevice();
  driver.bringUp({ queueCount: 3, features: net.NET_F_CSUM });
  const header = { flags: 1, csumStart: 34, csumOffset: 3 };
  const frame = { address: net.NET_DATA + 0x1000, length: 60 };
  const [rx, tx] = driver.queues;
  tx.offer(tx.chain([net.netHeader(memory, net.NET_DATA, header), frame]));
  rx.offer(rx.chain([{ ...frame, write: true }]));
  const text = (queue: number) => {
    cage.next(queue);
    return requestText(parseRequest(cage.record())!);
  };
  assert.is(text(1), 'NET_TX 60 bytes, queue 1 head 0 tag 0x108000, from 0x61000+60');
  assert.is(text(0), 'NET_RX 60 bytes, queue 0 head 0 tag 0x100000, into 0x61000+60');
});

test('the rings of a queue that the kernel serves are told', () => {
  const { cage, driver } = netDevice({ vhost: true });
  driver.bringUp();
  cage.next(0);
  const told = requestText(parseRequest(cage.record())!);
  const rings = 'rings 0x10000+256 0x11000+38 0x12000+134';
  assert.is(told, `NET_RINGS 428 bytes, queue 0 head 0 tag 0x0, ${rings}`);
});

test.run();
