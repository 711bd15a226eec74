// Network devices of a cell on real taps, in a network namespace of their own: frames of raw
// sockets on the host's side, several queues, and a tap that goes down or away.
import { closeSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { NET_HEADER_BYTES } from '../assembly/abi.ts';
import type { BytesSegment, NetDevice } from '../host/boot/image.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { REG } from '../testing/driver.ts';
import { type RunningCell, startSpawned } from './cell-guest.ts';
import {
  awaitLinkDown,
  awaitUsed,
  BUFFERS,
  bringUp,
  buffers,
  CONTROL,
  chains,
  cut,
  echoing,
  echoSegments,
  F_CTRL_VQ,
  F_MQ,
  F_MRG_RXBUF,
  F_STATUS,
  frame,
  netImage,
  offer,
  outgoing,
  pairCommands,
  RX,
  ringsOf,
  TX,
  WINDOW,
} from './cell-net.ts';
import { assertIdle, countsOf, drops, NO_DROPS, untilUp } from './cell-net-peer.ts';
import type { Code } from './machine-code.ts';
import { NET_MAC, netDevice } from './machine-image.ts';
import { HostSide, ip, newTap, tapTests } from './net-namespace.ts';

const tapTest = tapTests(import.meta.filename);

interface Tapped {
  name: string;
  cell: RunningCell;
  host: HostSide;
}

async function start(
  segments: BytesSegment[],
  write: (code: Code) => void,
  change: Partial<NetDevice> = {},
): Promise<Tapped> {
  const { queuePairs = 1 } = change;
  const { name, fds } = newTap(queuePairs);
  ip('set', name, 'mtu', '9000', 'up');
  const host = await HostSide.open(name);
  const device = netDevice([...fds], change);
  const cell = startSpawned(netImage(device, segments, write), { input: 'pipe' });
  for (const fd of fds) closeSync(fd);
  return { name, cell, host };
}

async function end({ cell, host }: Tapped): Promise<void> {
  const { status } = await cell.ended();
  host.close();
  assert.is(status, 0);
}

tapTest('frames go in and out of a tap, byte for byte', async () => {
  const lengths = [14, 60, 1514, 9014];
  const running = await start(echoSegments(), echoing);
  await untilUp(running.cell);
  const sent = lengths.slice(0, 3).map((length, i) => frame(length, i));
  running.host.send(...sent);
  assert.equal(await running.host.until(3), sent);
  assert.is((await running.cell.stop()).status, 143);
  running.host.close();
  assert.equal(countsOf(running.cell, RX), {
    frames: 3,
    bytes: 1588,
    drops: NO_DROPS,
    gone: false,
  });
});

tapTest('a long frame goes in by many buffers, and out', async () => {
  const back = cut(BUFFERS, NET_HEADER_BYTES + 9014, 1000);
  const running = await start([...buffers(40, 512), ...chains(TX, [back])], (code) => {
    awaitUsed(offer(bringUp(code, F_MRG_RXBUF), RX, 40).say('up'), RX, 18);
    awaitUsed(offer(code, TX, 1), TX, 1)
      .receiveAl()
      .powerOff();
  });
  await untilUp(running.cell);
  const sent = frame(9014, 4);
  running.host.send(sent);
  assert.ok((await running.host.until(1))[0]!.equals(sent));
  running.cell.input.write('x');
  await end(running);
});

tapTest('frames that no buffer is there for wait in the tap', async () => {
  const running = await start(buffers(20, 2048), (code) => {
    bringUp(code, F_MRG_RXBUF).say('up').receiveAl();
    awaitUsed(offer(code, RX, 20), RX, 20).powerOff();
  });
  await untilUp(running.cell);
  running.host.send(...Array.from({ length: 20 }, (_, i) => frame(100, i)));
  await assertIdle(running.cell);
  running.cell.input.write('x');
  await end(running);
  assert.equal(countsOf(running.cell, RX).drops, NO_DROPS);
});

tapTest('a tap that is down drops what comes, and works again when it is up', async () => {
  const frames = Array.from({ length: 20 }, (_, i) => frame(100, i));
  const running = await start(outgoing(frames), (code) => {
    bringUp(code).say('up').receiveAl();
    awaitUsed(offer(code, TX, 10), TX, 10)
      .say('lost')
      .receiveAl();
    awaitUsed(offer(code, TX, 20), TX, 20)
      .receiveAl()
      .powerOff();
  });
  const { name, cell, host } = running;
  await untilUp(cell);
  ip('set', name, 'down');
  await assertIdle(cell);
  cell.input.write('x');
  await cell.untilSaid('lost');
  ip('set', name, 'up');
  cell.input.write('x');
  assert.equal(await host.until(10), frames.slice(10));
  cell.input.write('x');
  await end(running);
  const counts = countsOf(cell, TX);
  assert.equal(counts, {
    ...counts,
    frames: 10,
    drops: drops(10, protocol.NET_DROP_DOWN),
    gone: false,
  });
});

for (const count of [0, 4]) {
  tapTest(`a tap that is removed takes the link down (${count} buffers), no more`, async () => {
    const frames = Array.from({ length: 20 }, (_, i) => frame(100, i));
    const running = await start([...buffers(4, 2048), ...outgoing(frames)], (code) => {
      offer(bringUp(code, F_STATUS | F_MRG_RXBUF), RX, count).say('up');
      // Without a buffer for what comes, it takes a frame to learn of it.
      if (count === 0) offer(code.receiveAl(), TX, 20);
      awaitLinkDown(code);
      awaitUsed(offer(code, TX, 20), TX, 20)
        .say('lost')
        .receiveAl()
        .powerOff();
    });
    const { name, cell } = running;
    await untilUp(cell);
    ip('delete', name);
    await assertIdle(cell);
    if (count === 0) cell.input.write('x');
    await cell.untilSaid('lost');
    await assertIdle(cell);
    cell.input.write('x');
    await end(running);
    const counts = countsOf(cell, TX);
    assert.ok(counts.gone);
    assert.equal(counts.drops, drops(20, protocol.NET_DROP_DOWN));
    assert.is(cell.messages.filter(({ type }) => type === 'log').length, 1);
  });
}

tapTest('a tap spoofs no address where it is told so', async () => {
  const frames = ['02:00:00:00:00:09', NET_MAC].map((source, i) => frame(60, i, source));
  const running = await start(
    outgoing(frames, 16),
    (code) =>
      awaitUsed(offer(bringUp(code), TX, 2), TX, 2)
        .receiveAl()
        .powerOff(),
    { macFilter: true },
  );
  assert.equal(await running.host.until(1), [frames[1]]);
  running.cell.input.write('x');
  await end(running);
  assert.equal(countsOf(running.cell, TX).drops, drops(1, protocol.NET_DROP_SPOOFED));
});

// --- Two queue pairs ----------------------------------------------------------------------------

tapTest('a second pair is used when the driver says so, and left when it says so', async () => {
  const frames = [frame(60, 1), frame(61, 2)];
  const segments = [...pairCommands(), ...outgoing(frames), ...chains(3, [cut(0xf2000, 72, 100)])];
  const other = { name: 'other', address: 0xf2000 + NET_HEADER_BYTES, bytes: frame(60, 3) };
  const running = await start(
    [...segments, other],
    (code) => {
      bringUp(code, F_MQ | F_CTRL_VQ, 5).store16(ringsOf(CONTROL).available + 4, 2);
      awaitUsed(offer(code, CONTROL, 1), CONTROL, 1);
      awaitUsed(offer(code, TX, 1), TX, 1);
      awaitUsed(offer(code, 3, 1), 3, 1);
      code.store16(ringsOf(CONTROL).available + 6, 0);
      awaitUsed(offer(code, CONTROL, 2), CONTROL, 2);
      awaitUsed(offer(code, TX, 2), TX, 2)
        .receiveAl()
        .powerOff();
    },
    { queuePairs: 2 },
  );
  assert.equal(await running.host.until(3), [frames[0], other.bytes, frames[1]]);
  running.cell.input.write('x');
  await end(running);
  assert.equal(
    [TX, 3].map((queue) => countsOf(running.cell, queue).frames),
    [2, 1],
  );
});

tapTest('a driver that resets a device of two pairs may use one pair alone', async () => {
  const frames = [frame(60, 1)];
  const running = await start(
    [...pairCommands(), ...outgoing(frames)],
    (code) => {
      bringUp(code, F_MQ | F_CTRL_VQ, 5).store16(ringsOf(CONTROL).available + 4, 2);
      awaitUsed(offer(code, CONTROL, 1), CONTROL, 1).store(WINDOW + REG.Status, 0);
      awaitUsed(offer(bringUp(code), TX, 1), TX, 1)
        .receiveAl()
        .powerOff();
    },
    { queuePairs: 2 },
  );
  assert.equal(await running.host.until(1), frames);
  running.cell.input.write('x');
  await end(running);
});

test.run();
