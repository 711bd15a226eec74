// Cells with a network for test/cell-syscalls.test.ts: all that makes their network thread call the
// kernel.
import { closeSync } from 'node:fs';
import type { MachineImage } from '../host/boot/image.ts';
import * as protocol from '../host/engine/cell-protocol.ts';
import type { RunningCell } from './cell-guest.ts';
import {
  bringUp,
  buffers,
  echoing,
  echoSegments,
  frame,
  netImage,
  offer,
  outgoing,
  RX,
  TX,
} from './cell-net.ts';
import { StreamPeer, untilUp } from './cell-net-peer.ts';
import { netDevice } from './machine-image.ts';
import { HostSide, ip, newTap } from './net-namespace.ts';

interface Traced {
  cell: RunningCell;
}

type Start<T extends Traced> = (image: MachineImage) => T;

/** Two pairs of a tap, of which the driver uses one; then the tap is removed. */
export async function tapTraced<T extends Traced>(
  start: Start<T>,
  meanwhile: (traced: T) => Promise<void>,
): Promise<T> {
  const { name, fds } = newTap(2);
  ip('set', name, 'up');
  const host = await HostSide.open(name);
  const device = netDevice([...fds], { queuePairs: 2 });
  const traced = start(netImage(device, echoSegments(), echoing));
  for (const fd of fds) closeSync(fd);
  await untilUp(traced.cell);
  host.send(frame(60));
  await host.until(1);
  await meanwhile(traced);
  ip('delete', name);
  await traced.cell.untilTold('log');
  traced.cell.command(protocol.COMMAND_STOP, 15);
  host.close();
  return traced;
}

/** A guest that has sent more than its socket takes at once. */
export async function withStream<T extends Traced>(start: Start<T>): Promise<T> {
  const peer = await StreamPeer.create();
  const device = netDevice([peer.fd], { stream: true });
  const frames = Array.from({ length: 8 }, (_, i) => frame(60_000, i));
  const image = netImage(device, [...buffers(4, 2048), ...outgoing(frames)], (code) => {
    offer(offer(bringUp(code), RX, 4), TX, 8)
      .say('up')
      .label('spin')
      .jump('spin');
  });
  const traced = start(image);
  peer.handedOver().ignore();
  await traced.cell.untilSaid('up');
  peer.listen();
  await peer.until(8);
  return traced;
}

export async function streamTraced<T extends Traced>(start: Start<T>): Promise<T> {
  const traced = await withStream(start);
  traced.cell.command(protocol.COMMAND_STOP, 15);
  return traced;
}
