// Network devices of a cell against all that goes wrong: another end that does not read, talks
// nonsense or is gone; a driver that resets its device or forges addresses; limits.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { NET_FRAME_BYTES_MAX, NET_HEADER_BYTES } from '../assembly/abi.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { REG } from '../testing/driver.ts';
import { cellTest } from './cell-guest.ts';
import {
  awaitLinkDown,
  awaitUsed,
  BUFFERS,
  bringUp,
  buffers,
  chains,
  cut,
  echoing,
  echoSegments,
  F_MRG_RXBUF,
  F_STATUS,
  frame,
  offer,
  outgoing,
  RX,
  TX,
  WINDOW,
} from './cell-net.ts';
import {
  assertIdle,
  countsOf,
  drops,
  end,
  NO_DROPS,
  type Running,
  start,
  untilUp,
} from './cell-net-peer.ts';
import type { Code } from './machine-code.ts';
import { NET_MAC } from './machine-image.ts';

const LARGE = 60_000;

/** Sends `count` frames of the same memory, without waiting for any. */
const same = (count: number, length: number) =>
  chains(
    TX,
    Array.from({ length: count }, () => cut(BUFFERS, NET_HEADER_BYTES + length, 2 ** 20)),
  );

// --- Another end that does not read -------------------------------------------------------------

cellTest('a full socket keeps no processor busy, and nothing is lost', async () => {
  const count = 200; // of 12 MB: more than any socket takes
  const lying = { name: 'frame', address: BUFFERS + NET_HEADER_BYTES, bytes: frame(LARGE, 5) };
  const running = await start([lying, ...same(count, LARGE)], (code) => {
    offer(bringUp(code), TX, count).say('up');
    awaitUsed(code, TX, count).receiveAl().powerOff();
  });
  const { cell, peer } = running;
  peer.ignore();
  await untilUp(cell);
  await cell.pause();
  await assertIdle(cell);
  await cell.resume();
  await assertIdle(cell);
  assert.ok(peer.frames.length < count);
  peer.listen();
  for (const each of await peer.until(count)) assert.ok(each.equals(lying.bytes));
  cell.input.write('x'); // its end would take the rest of a frame with it
  await end(running);
  const { frames, drops: dropped } = countsOf(cell, TX);
  assert.equal([frames, dropped], [count, NO_DROPS]);
});

cellTest('the end of a frame that a socket took in part follows by itself', async () => {
  for (let count = 1; count <= 8; count++) {
    const frames = Array.from({ length: count }, (_, i) => frame(LARGE, i));
    const running = await start(outgoing(frames), (code) => {
      offer(bringUp(code), TX, count).say('up');
      awaitUsed(code, TX, count).receiveAl().powerOff();
    });
    const { cell, peer } = running;
    peer.ignore();
    await untilUp(cell);
    peer.listen();
    const got = await peer.until(count);
    for (const [i, sent] of frames.entries()) assert.ok(got[i]!.equals(sent), `${i} of ${count}`);
    cell.input.write('x');
    await end(running);
  }
});

cellTest('frames come in while none can go out', async () => {
  const count = 60;
  const running = await start([...buffers(1, 2048), ...same(count, LARGE)], (code) => {
    offer(offer(bringUp(code), RX, 1), TX, count).say('up');
    awaitUsed(awaitUsed(code, RX, 1).say('in'), TX, count)
      .receiveAl()
      .powerOff();
  });
  const { cell, peer } = running;
  peer.ignore();
  await untilUp(cell);
  peer.send(frame(60));
  await cell.untilSaid('in');
  peer.listen();
  await peer.until(count);
  cell.input.write('x');
  await end(running);
});

// --- A driver that starts anew ------------------------------------------------------------------

const resetAll = (code: Code): Code => code.store(WINDOW + REG.Status, 0);
const stopBoth = (code: Code): Code => {
  for (const queue of [RX, TX]) {
    code.store(WINDOW + REG.QueueSel, queue).store(WINDOW + REG.QueueReady, 0);
  }
  return code;
};

for (const [what, stop] of [
  ['reset', resetAll],
  ['stopped queue by queue', stopBoth],
] as const) {
  cellTest(`a device with frames both ways that is ${what} works again`, async () => {
    const rings = [RX, TX].flatMap((queue) => [0x1000, 0x2000].map((at) => [queue, at] as const));
    const running = await start([...buffers(2, 512), ...same(40, LARGE)], (code) => {
      // A frame waits for buffers, others for the socket.
      offer(offer(bringUp(code, F_MRG_RXBUF), RX, 2), TX, 40)
        .say('up')
        .receiveAl();
      stop(code);
      for (const [queue, at] of rings) code.store(0x100000 + 0x4000 * queue + at, 0);
      bringUp(code, F_MRG_RXBUF).say('again').receiveAl();
      offer(code, RX, 2).say('on');
      awaitUsed(code, RX, 1);
      awaitUsed(offer(code, TX, 1), TX, 1).powerOff();
    });
    const { cell, peer } = running;
    peer.ignore();
    await untilUp(cell);
    peer.send(frame(3000));
    cell.input.write('x');
    await cell.untilSaid('again');
    await assertIdle(cell);
    cell.input.write('x');
    await cell.untilSaid('on');
    await assertIdle(cell);
    peer.send(frame(100, 9));
    const sent = countOf(running);
    peer.listen();
    await end(running);
    assert.is(countsOf(cell, RX).frames, 1);
    const { drops: dropped } = countsOf(cell, RX);
    assert.is(dropped[protocol.NET_DROP_STALE]! + dropped[protocol.NET_DROP_OVERSIZE]!, 1);
    await sent; // every frame that came was whole: the framing outlives a reset
  });
}

async function countOf({ peer }: Running): Promise<void> {
  await peer.until(1);
  for (const each of peer.frames) assert.is(each.length, LARGE);
}

// --- Another end that talks nonsense or goes away -----------------------------------------------

const length = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

const FAULTS: [what: string, act: (running: Running) => void][] = [
  ['a length of 0', ({ peer }) => peer.raw(length(0))],
  ['a frame of 13 bytes', ({ peer }) => peer.raw(Buffer.concat([length(13), Buffer.alloc(13)]))],
  ['a frame of one byte too many', ({ peer }) => peer.raw(length(NET_FRAME_BYTES_MAX + 1))],
  ['a length of 4 GiB', ({ peer }) => peer.raw(length(0xffffffff))],
  [
    'half a frame and its end',
    ({ peer }) => {
      peer.raw(Buffer.concat([length(1000), Buffer.alloc(500)]));
      peer.finish();
    },
  ],
  [
    'two bytes of a length and its end',
    ({ peer }) => {
      peer.raw(Buffer.alloc(2));
      peer.finish();
    },
  ],
  ['its end', ({ peer }) => peer.finish()],
  ['its death', ({ peer }) => peer.close()],
  [
    'good frames, then garbage without end',
    ({ peer }) => {
      peer.send(frame(60));
      peer.raw(Buffer.alloc(2 ** 20, 0xff));
    },
  ],
];

async function assertLost(what: string, act: (running: Running) => void, count: number) {
  // Nobody looks at what comes while there is no buffer; a death tells itself.
  const later = count === 0 && what !== 'its death';
  const sent = 250;
  const running = await start([...buffers(4, 2048), ...same(sent, 1000)], (code) => {
    offer(bringUp(code, F_MRG_RXBUF | F_STATUS), RX, count).say('up');
    if (later) offer(code.receiveAl(), RX, 4);
    awaitLinkDown(code);
    awaitUsed(offer(code, TX, sent), TX, sent)
      .say('sent')
      .receiveAl()
      .powerOff();
  });
  const { cell } = running;
  await untilUp(cell);
  act(running);
  if (later) {
    await assertIdle(cell);
    cell.input.write('x');
  }
  await cell.untilSaid('sent');
  await assertIdle(cell);
  await cell.pause();
  await cell.resume();
  cell.input.write('x');
  await end(running);
  const counts = countsOf(cell, TX);
  assert.ok(counts.gone);
  assert.equal(counts.drops, drops(sent, protocol.NET_DROP_DOWN));
  assert.is(cell.messages.filter(({ type }) => type === 'log').length, 1);
}

for (const [what, act] of FAULTS) {
  for (const count of [0, 4]) {
    const name = `${what} takes the link down (${count} buffers), and no more`;
    cellTest(name, () => assertLost(what, act, count));
  }
}

cellTest('an end that is dead before the driver comes is seen at once', async () => {
  const running = await start([...buffers(4, 2048)], (code) => {
    code.say('first').receiveAl();
    awaitLinkDown(bringUp(code, F_STATUS)).powerOff();
  });
  const { cell, peer } = running;
  await cell.untilSaid('first');
  peer.close();
  await cell.untilTold('log');
  await assertIdle(cell);
  cell.input.write('x');
  await end(running);
});

cellTest('a socket that dies while it is full gives all frames back', async () => {
  const count = 200;
  const running = await start(same(count, LARGE), (code) => {
    offer(bringUp(code), TX, count).say('up');
    awaitUsed(code, TX, count).powerOff();
  });
  running.peer.ignore();
  await untilUp(running.cell);
  running.peer.close();
  await end(running);
  const { frames, drops: dropped } = countsOf(running.cell, TX);
  assert.is(frames + dropped[protocol.NET_DROP_DOWN]!, count);
});

cellTest('frames that wait for a full socket are dropped when it is lost otherwise', async () => {
  const count = 60;
  const running = await start([...buffers(1, 2048), ...same(count, LARGE)], (code) => {
    offer(offer(bringUp(code), RX, 1), TX, count).say('up');
    awaitUsed(code, TX, count).powerOff();
  });
  running.peer.ignore();
  await untilUp(running.cell);
  running.peer.raw(length(0));
  await end(running);
});

cellTest('a flood from the other end keeps neither pause nor stop waiting', async () => {
  const running = await start(echoSegments(), echoing);
  const { cell, peer } = running;
  await untilUp(cell);
  const flood = Buffer.concat(
    Array.from({ length: 5000 }, () => length(60)).flatMap((each) => [each, frame(60)]),
  );
  for (let i = 0; i < 20; i++) peer.raw(flood);
  for (let i = 0; i < 10; i++) {
    await cell.pause();
    await cell.resume();
  }
  assert.is((await cell.stop()).status, 143);
  peer.close();
});

// --- Addresses and limits -----------------------------------------------------------------------

for (const partBytes of [1, 7, 12, 13, 18, 19, 25, 26, 2000]) {
  cellTest(`only its own address gets out, cut into ${partBytes} bytes`, async () => {
    const other = '02:00:00:00:00:03';
    const last = '02:00:00:00:00:00';
    const all = [NET_MAC, other, last, NET_MAC].map((source, i) => frame(20, i, source));
    const running = await start(
      outgoing(all, partBytes),
      (code) => {
        awaitUsed(offer(bringUp(code), TX, all.length), TX, all.length).powerOff();
      },
      { macFilter: true },
    );
    assert.equal(await running.peer.until(2), [all[0], all[3]]);
    await end(running);
    const { frames, drops: dropped } = countsOf(running.cell, TX);
    assert.equal([frames, dropped], [2, drops(2, protocol.NET_DROP_SPOOFED)]);
  });
}

const FOREVER_MS = 2 ** 32; // to fill a bucket: it does not while a test runs

const LIMITS: [
  what: string,
  limit: NonNullable<Parameters<typeof start>[2]>['tx'],
  pass: number,
][] = [
  ['10 frames', { ops: { size: 10, oneTimeBurst: 0, refillMs: FOREVER_MS } }, 10],
  ['10 frames and 5 at first', { ops: { size: 10, oneTimeBurst: 5, refillMs: FOREVER_MS } }, 15],
  [
    '2,500 bytes: the third is taken ahead',
    { bandwidth: { size: 2500, oneTimeBurst: 0, refillMs: FOREVER_MS } },
    3,
  ],
];

for (const [what, limit, pass] of LIMITS) {
  cellTest(`a limit of ${what}, out and in`, async () => {
    const frames = Array.from({ length: 20 }, (_, i) => frame(1000, i));
    const running = await start(
      [...buffers(40, 2048), ...outgoing(frames)],
      (code) => {
        offer(offer(bringUp(code), RX, 40), TX, 20).say('up');
        awaitUsed(awaitUsed(code, TX, pass), RX, pass)
          .say('so far')
          .receiveAl()
          .powerOff();
      },
      { tx: limit!, rx: limit! },
    );
    const { cell, peer } = running;
    await peer.until(pass);
    peer.send(...frames);
    await cell.untilSaid('so far');
    cell.input.write('x');
    await end(running);
    assert.is(peer.frames.length, pass);
    for (const queue of [RX, TX]) {
      const { frames: count, drops: dropped } = countsOf(cell, queue);
      assert.equal([count, dropped], [pass, NO_DROPS]);
    }
  });
}

cellTest('a limit that fills again lets all through', async () => {
  const frames = Array.from({ length: 20 }, (_, i) => frame(1000, i));
  const limit = { ops: { size: 1, oneTimeBurst: 0, refillMs: 5 } };
  const running = await start(
    outgoing(frames),
    (code) => awaitUsed(offer(bringUp(code), TX, 20), TX, 20).powerOff(),
    { tx: limit },
  );
  assert.equal(await running.peer.until(20), frames);
  await end(running);
});

test.run();
