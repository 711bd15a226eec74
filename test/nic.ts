// A network device with its driver and its host, for the tests of its frames.
import type { NetConfig } from '../host/device-config.ts';
import { NET_DATA } from '../testing/net.ts';
import { NetHost } from '../testing/net-host.ts';
import type { DriverQueue, GuestBuffer, UsedElement } from '../testing/queue.ts';
import { type Fixture, netDevice } from './fixtures.ts';

/** Where the receive buffers lie, and where RAM ends. */
export const RX = NET_DATA + 0x20000;
export const RAM_END = 0x100000;

export interface Nic extends Fixture {
  rx: DriverQueue;
  tx: DriverQueue;
  host: NetHost;
}

/** A running device of one pair of queues. */
export function nic(features: bigint, config: Partial<NetConfig> = {}, queueSize = 16): Nic {
  const device = netDevice(config);
  const rx = device.driver.bringUp({ features, queueCount: 2, queueSize });
  const host = new NetHost(device.cage, device.memory);
  return { ...device, rx, tx: device.driver.queues[1], host };
}

export const buffer = (length: number, address: number | bigint = RX): GuestBuffer => ({
  address,
  length,
  write: true,
});

/** Offers receive buffers of one descriptor each, 4 KiB apart, and lets the host take them. */
export function stock({ rx, host }: Nic, lengths: number[]): void {
  for (const [i, length] of lengths.entries()) {
    rx.offer(rx.chain([buffer(length, RX + 0x1000 * i)]));
  }
  host.fetch();
}

/** A frame of so many bytes, a header of zeros among them. */
export const received = (length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i < 12 ? 0 : 1 + (i % 250)));

/** The number of buffers in the header at an address. */
export const numBuffers = ({ memory }: Fixture, at = RX): number =>
  memory.view.getUint16(at + 10, true);

/** All elements of the used ring that were not taken before. */
export function usedOf(queue: DriverQueue): UsedElement[] {
  const found: UsedElement[] = [];
  for (let used = queue.takeUsed(); used; used = queue.takeUsed()) found.push(used);
  return found;
}
