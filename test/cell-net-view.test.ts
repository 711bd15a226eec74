// What a driver sees of its network device's registers without an exit (shim/view.c), and frames
// that a cell does not let out.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as protocol from '../host/engine/cell-protocol.ts';
import { EXIT_MMIO_READ, EXIT_MMIO_WRITE } from '../host/shim.ts';
import { REG, RUNNING } from '../testing/driver.ts';
import { le } from './bare-metal.ts';
import { cellTest, type RunningCell } from './cell-guest.ts';
import {
  awaitUsed,
  bringUp,
  F_CTRL_VQ,
  F_MRG_RXBUF,
  FRAMES,
  frame,
  offer,
  outgoing,
  TX,
  WINDOW,
} from './cell-net.ts';
import { countsOf, drops, end, start } from './cell-net-peer.ts';
import { netDevice } from './fixtures.ts';
import type { Code } from './machine-code.ts';
import { NET_MAC } from './machine-image.ts';

const HEADER_BYTES = 12;
const SHOWN = [
  ...[REG.MagicValue, REG.Version, REG.DeviceID, REG.VendorID, REG.DeviceFeatures],
  ...[REG.QueueNumMax, REG.QueueReady, REG.InterruptStatus, REG.Status],
  ...[REG.SHMLenLow, REG.SHMLenHigh, REG.ConfigGeneration],
  ...[REG.Config, REG.Config + 4, REG.Config + 8],
];
const VRING = 1; // of the interrupt status

/** What is written before the registers are looked at, and whether the driver is up by then. */
const STEPS: [register: number, value: number][] = [
  [REG.QueueSel, 2],
  [REG.DeviceFeaturesSel, 1],
  [REG.QueueSel, 7],
  [REG.Status, 0],
];

function exitsOf({ messages }: RunningCell, kind: number): number {
  const ended = messages.find(({ type }) => type === 'ended');
  if (ended?.type !== 'ended') throw new Error('no report');
  return Number(ended.report.getBigUint64(protocol.REPORT_EXITS + 8 * kind, true));
}

/** Copies all that is shown to the frame's memory, from so many words on. */
function look(code: Code, round: number): Code {
  for (const [index, register] of SHOWN.entries()) {
    const at = FRAMES + HEADER_BYTES + 4 * (round * SHOWN.length + index);
    code.load(WINDOW + register).raw(0xa3, ...le(at, 4)); // mov [at], eax
  }
  return code;
}

cellTest('a driver reads its registers without an exit, and finds what the cage says', async () => {
  const rounds = STEPS.length + 2;
  const features = F_MRG_RXBUF | F_CTRL_VQ;
  const running = await start(outgoing([Buffer.alloc(4 * rounds * SHOWN.length)]), (code) => {
    look(code, 0);
    look(bringUp(code, features), 1);
    for (const [index, [register, value]] of STEPS.entries()) {
      look(code.store(WINDOW + register, value), 2 + index);
    }
    code.store(WINDOW + REG.InterruptACK, VRING);
    awaitUsed(offer(bringUp(code, features), TX, 1), TX, 1).powerOff();
  });
  const [seen] = await running.peer.until(1);
  await end(running);

  const { driver } = netDevice({ mac: NET_MAC, offloads: 0n });
  const expected: number[] = [];
  const note = () => {
    const running = driver.get(REG.Status) === RUNNING;
    for (const register of SHOWN) {
      const value = driver.get(register);
      // Acknowledgements are not waited for, so it says so at all times.
      expected.push(register === REG.InterruptStatus && running ? value | VRING : value);
    }
  };
  note();
  driver.bringUp({ features: BigInt(features), queueCount: 2, queueSize: 256 });
  driver.set(REG.DriverFeaturesSel, 0);
  driver.set(REG.QueueSel, TX);
  note();
  for (const [register, value] of STEPS) {
    driver.set(register, value);
    note();
  }
  const words = Array.from({ length: expected.length }, (_, i) => seen!.readUInt32LE(4 * i));
  assert.equal(words, expected);
  assert.is(exitsOf(running.cell, EXIT_MMIO_READ), 0);
  assert.ok(exitsOf(running.cell, EXIT_MMIO_WRITE) > 0);
});

// --- Frames that stay inside --------------------------------------------------------------------

/** An IPv4 packet to that address; only what is looked at is there. */
function packet(destination: number[], fill: number): Buffer {
  const bytes = frame(60, fill);
  bytes.writeUInt16BE(0x0800, 12);
  Buffer.from(destination).copy(bytes, 30);
  return bytes;
}

for (const partBytes of [2 ** 20, 7]) {
  cellTest(`no frame to the host's loopback leaves, in parts of ${partBytes} bytes`, async () => {
    const good = [packet([10, 0, 2, 2], 1), packet([128, 0, 0, 1], 2), frame(14, 3)];
    const bad = [packet([127, 0, 0, 1], 4), packet([0, 0, 0, 0], 5)];
    const all = [good[0]!, bad[0]!, good[1]!, bad[1]!, good[2]!];
    const running = await start(outgoing(all, partBytes), (code) => {
      awaitUsed(offer(bringUp(code), TX, all.length), TX, all.length).powerOff();
    });
    assert.equal(await running.peer.until(good.length), good);
    await end(running);
    const { frames, drops: dropped } = countsOf(running.cell, TX);
    assert.equal([frames, dropped], [3, drops(2, protocol.NET_DROP_REFUSED)]);
  });
}

test.run();
