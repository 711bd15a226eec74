// Network devices of a cell, against a stream socket that the test speaks: what frames become in
// the guest's buffers and back, byte for byte, and what happens where buffers are missing.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { NET_FRAME_BYTES_MAX, NET_HEADER_BYTES } from '../assembly/abi.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import { cellTest, sleep } from './cell-guest.ts';
import {
  awaitUsed,
  BUFFERS,
  bringUp,
  buffers,
  chains,
  cut,
  echoing,
  echoSegments,
  F_MRG_RXBUF,
  frame,
  offer,
  outgoing,
  type Part,
  RX,
  ringsOf,
  TX,
  ZEROS,
} from './cell-net.ts';
import {
  assertIdle,
  countsOf,
  drops,
  end,
  NO_DROPS,
  served,
  start,
  untilUp,
} from './cell-net-peer.ts';
import type { Code } from './machine-code.ts';

const PIC = 0x20; // its command port
const PIC_READ_REQUESTS = 0x0a; // OCW3: the next read gives the IRR
const TRIES = 10;
const PROBE_BYTES = 16; // a header, and two bytes to make a frame of it

interface Sizes {
  lengths: number[];
  bufferBytes: number;
  parts: number; // descriptors of a buffer
  partBytes: number; // of what is sent
  features: number;
}

/**
 * Sends frames of these lengths in, each out again from where it lies, and the header before it as
 * a frame of its own; then the used ring. All must come back as it has to be.
 */
async function assertExact({ lengths, bufferBytes, parts, partBytes, features }: Sizes) {
  const needs = lengths.map((length) => Math.ceil((NET_HEADER_BYTES + length) / bufferBytes));
  const starts = needs.map((_, i) => needs.slice(0, i).reduce((sum, count) => sum + count, 0));
  const total = needs.reduce((sum, count) => sum + count, 0);
  const header: Part = { address: ZEROS, length: NET_HEADER_BYTES };
  const back = lengths.flatMap((length, i) => {
    const address = BUFFERS + starts[i]! * bufferBytes;
    const probe = [header, { address, length: PROBE_BYTES }];
    return [cut(address, NET_HEADER_BYTES + length, partBytes), probe];
  });
  const used: Part = { address: ringsOf(RX).used, length: 4 + 8 * total };
  const segments = [
    ...buffers(total, bufferBytes, parts),
    ...chains(TX, [...back, [header, used]]),
  ];
  const running = await start(segments, (code) => {
    offer(bringUp(code, features), RX, total).say('up');
    for (const [i, count] of needs.entries()) {
      awaitUsed(code, RX, starts[i]! + count);
      awaitUsed(offer(code, TX, 2 * i + 2), TX, 2 * i + 2);
    }
    awaitUsed(offer(code, TX, back.length + 1), TX, back.length + 1).powerOff();
  });
  const { cell, peer } = running;
  await untilUp(cell);
  const frames = lengths.map((length, i) => frame(length, i));
  for (const [i, sent] of frames.entries()) {
    peer.send(sent);
    const [plain, probe] = (await peer.until(2 * i + 2)).slice(2 * i);
    assert.ok(plain!.equals(sent), `${sent.length} bytes come back`);
    const front = Buffer.alloc(NET_HEADER_BYTES);
    front.writeUInt16LE(needs[i]!, 10); // num_buffers
    assert.equal(probe, Buffer.concat([front, sent]).subarray(0, PROBE_BYTES));
  }
  const ring = (await peer.until(back.length + 1))[back.length]!;
  assert.is(ring.readUInt16LE(2), total);
  const lastBytes = Array.from({ length: total }, (_, i) => ring.readUInt32LE(4 + 8 * i + 4));
  const wanted = lengths.flatMap((each) => cut(0, NET_HEADER_BYTES + each, bufferBytes));
  assert.equal(
    lastBytes,
    wanted.map((part) => part.length),
  );
  await end(running);
  const bytes = lengths.reduce((sum, length) => sum + length, 0);
  const counts = { frames: lengths.length, bytes, drops: NO_DROPS, gone: false };
  assert.equal(countsOf(cell, RX), counts);
  const probes = lengths.length * PROBE_BYTES + used.length;
  assert.equal(countsOf(cell, TX), { ...counts, frames: back.length + 1, bytes: bytes + probes });
}

const ALL = [14, 15, 60, 1514, 9014, NET_FRAME_BYTES_MAX, 14];

const WAYS: [what: string, sizes: Sizes][] = [
  [
    'in buffers of one page, sent in one piece',
    { lengths: ALL, bufferBytes: 4096, parts: 1, partBytes: 2 ** 20, features: F_MRG_RXBUF },
  ],
  [
    'in many small buffers, sent in pieces of 1,000 bytes',
    { lengths: ALL, bufferBytes: 512, parts: 1, partBytes: 1000, features: F_MRG_RXBUF },
  ],
  [
    'in buffers of four descriptors that cut the header, sent in pieces of 5 bytes',
    { lengths: [14, 60, 500], bufferBytes: 28, parts: 4, partBytes: 5, features: F_MRG_RXBUF },
  ],
  [
    // Not eight: the used ring would then look like a packet to nowhere, which does not leave.
    'in one buffer for each, of six descriptors',
    { lengths: ALL, bufferBytes: 66000, parts: 6, partBytes: 7000, features: 0 },
  ],
];

for (const [what, sizes] of WAYS) {
  cellTest(`frames of all sizes go in and out: ${what}`, () => assertExact(sizes));
}

// --- Frames for which there is no room ----------------------------------------------------------

for (const [what, features] of [
  ['of its buffer', 0],
  ['of all buffers together', F_MRG_RXBUF],
] as const) {
  cellTest(`a frame over the size ${what} is dropped, and the next comes through`, async () => {
    const back = cut(BUFFERS, NET_HEADER_BYTES + 100, 4096);
    const running = await start([...buffers(4, 2048), ...chains(TX, [back])], (code) => {
      awaitUsed(offer(bringUp(code, features), RX, 4).say('up'), RX, 1);
      awaitUsed(offer(code, TX, 1), TX, 1).powerOff();
    });
    const { cell, peer } = running;
    await untilUp(cell);
    const small = frame(100, 7);
    peer.send(frame(NET_FRAME_BYTES_MAX, 1), frame(9014, 2), small);
    assert.equal((await peer.until(1))[0], small);
    await end(running);
    const counts = { frames: 1, bytes: 100, gone: false };
    assert.equal(countsOf(cell, RX), { ...counts, drops: drops(2, protocol.NET_DROP_OVERSIZE) });
  });
}

/** Sends a frame, then gives it its buffers. Whether it was still there: it waits for 0.1 s. */
async function waitsForBuffers(): Promise<boolean> {
  const length = 9014;
  const back = cut(BUFFERS, NET_HEADER_BYTES + length, 4096);
  const running = await start([...buffers(8, 2048), ...chains(TX, [back])], (code) => {
    offer(bringUp(code, F_MRG_RXBUF), RX, 2).say('up').receiveAl();
    awaitUsed(offer(code, RX, 8), RX, 5);
    awaitUsed(offer(code, TX, 1), TX, 1).powerOff();
  });
  const { cell, peer } = running;
  await untilUp(cell);
  const large = frame(length, 3);
  await served(cell, () => peer.send(large));
  cell.input.write('x');
  await Promise.race([peer.until(1), sleep(1000)]);
  const waited = peer.frames.length > 0;
  if (!waited) peer.send(large);
  assert.ok((await peer.until(1))[0]!.equals(large));
  await end(running);
  if (waited) assert.equal(countsOf(cell, RX).drops, NO_DROPS);
  return waited;
}

cellTest('a frame that needs more buffers than there are waits for them', async () => {
  // A machine that is busy elsewhere may give the guest no turn in that time: not every time.
  for (let tries = 1; !(await waitsForBuffers()); tries++) assert.ok(tries < TRIES);
});

cellTest('frames wait where no buffer is left, and nothing else happens meanwhile', async () => {
  const times = 20;
  const running = await start([...buffers(256, 2048)], (code) => {
    bringUp(code, F_MRG_RXBUF).say('up');
    for (let i = 1; i <= times; i++) {
      code.receiveAl();
      awaitUsed(offer(code, RX, 2 * i), RX, 2 * i).say('.');
    }
    code.receiveAl().powerOff();
  });
  const { cell, peer } = running;
  await untilUp(cell);
  peer.send(...Array.from({ length: 2 * times }, (_, i) => frame(100 + i, i)));
  for (let i = 1; i <= times; i++) {
    if (i < 4) await assertIdle(cell);
    cell.input.write('x');
    await cell.until(() => cell.output.length >= 2 + i, `two buffers more, round ${i}`);
  }
  await assertIdle(cell);
  cell.input.write('x');
  await end(running);
  const { frames, drops: dropped } = countsOf(cell, RX);
  assert.equal([frames, dropped], [2 * times, NO_DROPS]);
});

// --- Interrupts ---------------------------------------------------------------------------------

/** Waits for an interrupt of pin 5, which the PIC remembers while nobody takes it. */
function awaitInterrupt(code: Code, name: string): Code {
  code.label(name).out(PIC, PIC_READ_REQUESTS).in(PIC);
  return code.raw(0xa8, 1 << 5).jumpIfZero(name); // test al, imm8
}

for (const [what, queue] of [
  ['that went out', TX],
  ['that came in', RX],
] as const) {
  cellTest(`a driver is interrupted for a frame ${what}, though nothing else happens`, async () => {
    const running = await start([...buffers(1, 2048), ...outgoing([frame(60)])], (code) => {
      offer(bringUp(code), queue, 1).say('up');
      awaitInterrupt(awaitUsed(code, queue, 1), 'interrupt').powerOff();
    });
    if (queue === RX) {
      await untilUp(running.cell);
      running.peer.send(frame(60));
    } else assert.equal(await running.peer.until(1), [frame(60)]);
    await end(running);
  });
}

// --- Pauses -------------------------------------------------------------------------------------

cellTest('traffic goes on after every pause, and no frame is lost or doubled', async () => {
  const rounds = 50;
  const perRound = 40; // fewer than there are buffers
  const running = await start(echoSegments(), echoing);
  const { cell, peer } = running;
  await untilUp(cell);
  for (let round = 0; round < rounds; round++) {
    const frames = Array.from({ length: perRound }, (_, i) => frame(20 + i, round * perRound + i));
    peer.send(...frames.slice(0, perRound / 2));
    await cell.pause();
    peer.send(...frames.slice(perRound / 2));
    if (round < 3) await assertIdle(cell);
    await cell.resume();
    const back = (await peer.until((round + 1) * perRound)).slice(-perRound);
    for (const [i, sent] of frames.entries()) assert.equal(back[i], sent, `${round}, ${i}`);
  }
  await cell.pause();
  assert.is((await cell.stop()).status, 143);
  peer.close();
  assert.is(countsOf(cell, RX).frames, rounds * perRound);
  assert.equal(countsOf(cell, RX).drops, NO_DROPS);
});

test.run();
