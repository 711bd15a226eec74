// A driver that changes its mind all the time: each change of a tap's queues or offloads takes a
// lock that the whole host shares, so few are carried out, and the last one counts.
import { closeSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { NUMBERS } from '../host/confine/cell-policy.ts';
import { NET_OFFLOADS } from '../host/device-config.ts';
import { findCommand } from '../tools/command.ts';
import { le } from './bare-metal.ts';
import { type RunningCell, scratchPath, sleep, startSpawned } from './cell-guest.ts';
import {
  awaitUsed,
  BUFFERS,
  bringUp,
  buffers,
  CONTROL,
  F_CTRL_VQ,
  F_MQ,
  frame,
  netImage,
  notify,
  offer,
  outgoing,
  pairCommands,
  RX,
  ringsOf,
} from './cell-net.ts';
import type { Code } from './machine-code.ts';
import { netDevice } from './machine-image.ts';
import { HostSide, ip, newTap, tapTests } from './net-namespace.ts';
import { strace } from './syscall-trace.ts';

const CHANGES = 300; // that each guest asks for
const CALLS_MAX = CHANGES / 2; // 32 at once, then four a second
const MOMENT = 3000; // rounds of two instructions, in which a change would be carried out
const OFTEN_MS = 10;
const ROUNDS = 8; // each makes two changes: not one is held back
const F_GUEST_CSUM = 1 << 1;

const STRACE = findCommand('strace')!;
const tapTest = tapTests(import.meta.filename);

/** mov ecx, MOMENT; a loop of that */
function pause(code: Code, name: string): Code {
  code.raw(0xb9, ...le(MOMENT, 4)).label(name);
  return code.raw(0x49).jumpIfNotZero(name); // dec ecx
}

/** Says the flags of the header in the first buffer, as a digit. */
function tellFlags(code: Code): Code {
  code.raw(0xa0, ...le(BUFFERS, 4)); // mov al, [flags]
  return code.raw(0x04, 0x30).sendAl().say('.'); // add al, '0'
}

/** Calls of a kind in a trace so far. */
function callsOf(path: string, request: 'TUNSETQUEUE' | 'TUNSETOFFLOAD'): number {
  const number = `0x${NUMBERS[request].toString(16)}`;
  const call = new RegExp(`ioctl\\(0x[0-9a-f]+, ${number},`, 'g');
  return readFileSync(path, 'latin1').match(call)?.length ?? 0;
}

/** A count of calls that is not the count of changes; some were made. */
function assertFew(calls: number): void {
  assert.ok(calls > 0 && calls < CALLS_MAX, `${calls} calls for ${CHANGES} changes`);
}

/** Sends again and again until the guest says so: what comes while it is held is for nobody. */
async function sendUntilSaid(cell: RunningCell, host: HostSide, text: string): Promise<void> {
  let said = false;
  const wait = cell.untilSaid(text).then(() => {
    said = true;
  });
  while (!said) {
    host.send(frame(60));
    await Promise.race([wait, sleep(OFTEN_MS)]);
  }
  await wait;
}

tapTest('a driver that takes and leaves its second pair all the time', async () => {
  const { name, fds } = newTap(2);
  ip('set', name, 'up');
  const host = await HostSide.open(name);
  const sent = frame(60, 3);
  const segments = [...pairCommands(), ...outgoing([sent], 2 ** 20, 3)];
  const image = netImage(netDevice([...fds], { queuePairs: 2 }), segments, (code) => {
    const { available, used } = ringsOf(CONTROL);
    bringUp(code, F_MQ | F_CTRL_VQ, 5).raw(0x31, 0xdb); // xor ebx, ebx: commands so far
    code.label('command').raw(0x66, 0x43); // inc bx
    notify(code.raw(0x66, 0x89, 0x1d, ...le(available + 2, 4)), CONTROL); // mov [], bx
    code.label('obeyed').raw(0x66, 0xa1, ...le(used + 2, 4)); // mov ax, [used index]
    code.raw(0x66, 0x39, 0xd8).jumpIfNotZero('obeyed'); // cmp ax, bx
    pause(code, 'moment');
    code.raw(0x66, 0x81, 0xfb, ...le(CHANGES, 2)).jumpIfNotZero('command'); // cmp bx, imm16
    awaitUsed(offer(code.say('done'), 3, 1), 3, 1)
      .receiveAl()
      .powerOff();
  });
  const path = scratchPath('trace');
  const cell = startSpawned(image, { input: 'pipe', wrap: strace(STRACE, path) });
  for (const fd of fds) closeSync(fd);
  await cell.untilSaid('done');
  // With one pair alone in use nobody would look at that queue.
  assert.equal(await host.until(1), [sent]);
  assertFew(callsOf(path, 'TUNSETQUEUE'));
  cell.input.write('x');
  assert.is((await cell.ended()).status, 0);
  host.close();
});

tapTest('a driver that is reset all the time, with offloads and without', async () => {
  const { name, fds } = newTap();
  ip('set', name, 'up');
  // Frames whose checksum is left to whoever takes them, where it can do that.
  const host = await HostSide.open(name, { partial: true });
  const device = netDevice([...fds], { offloads: NET_OFFLOADS.GUEST_CSUM });
  const receive = (code: Code, what: string) => {
    code.store16(ringsOf(RX).used + 2, 0).store16(ringsOf(RX).available + 2, 0);
    bringUp(code, what === 'with' ? F_GUEST_CSUM : 0);
    awaitUsed(offer(code.say(what), RX, 1), RX, 1);
    return tellFlags(code);
  };
  const image = netImage(device, buffers(1, 2048), (code) => {
    code.raw(0xbd, ...le(CHANGES / 2, 4)).label('again'); // mov ebp
    pause(bringUp(code, F_GUEST_CSUM), 'with them');
    pause(bringUp(code), 'without');
    code.raw(0x4d).jumpIfNotZero('again'); // dec ebp
    receive(receive(code, 'with'), 'plain').receiveAl().powerOff();
  });
  const path = scratchPath('trace');
  const cell = startSpawned(image, { input: 'pipe', wrap: strace(STRACE, path) });
  for (const fd of fds) closeSync(fd);
  await cell.untilSaid('with');
  await sendUntilSaid(cell, host, 'with1.'); // VIRTIO_NET_HDR_F_NEEDS_CSUM
  // Here the tap still does as for the driver before.
  await sendUntilSaid(cell, host, 'plain0.');
  assertFew(callsOf(path, 'TUNSETOFFLOAD'));
  cell.input.write('x');
  assert.is((await cell.ended()).status, 0);
  host.close();
});

tapTest('a driver that follows another at once gets no frame as that one wanted it', async () => {
  const { name, fds } = newTap();
  ip('set', name, 'up');
  const host = await HostSide.open(name, { partial: true });
  const device = netDevice([...fds], { offloads: NET_OFFLOADS.GUEST_CSUM });
  const image = netImage(device, buffers(1, 2048), (code) => {
    bringUp(code, F_GUEST_CSUM).raw(0xbd, ...le(ROUNDS, 4)); // mov ebp
    code.label('again').say('with').receiveAl();
    code.store16(ringsOf(RX).used + 2, 0).store16(ringsOf(RX).available + 2, 0);
    awaitUsed(offer(bringUp(code), RX, 1), RX, 1);
    tellFlags(code).store16(ringsOf(RX).available + 2, 0);
    pause(bringUp(code, F_GUEST_CSUM), 'moment');
    code.raw(0x4d).jumpIfNotZero('again').powerOff(); // dec ebp
  });
  const cell = startSpawned(image, { input: 'pipe' });
  for (const fd of fds) closeSync(fd);
  for (let round = 0; round < ROUNDS; round++) {
    const said = `${'with0.'.repeat(round)}with`;
    await cell.untilSaid(said);
    host.send(frame(60)); // waits in the tap
    await sleep(OFTEN_MS);
    cell.input.write('x');
    await sendUntilSaid(cell, host, `${said}0.`);
  }
  assert.is((await cell.ended()).status, 0);
  host.close();
});

test.run();
