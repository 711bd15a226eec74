// What the tests of the conformance table start from: a device with its driver, brought to some
// stage, and the answers they look for. Each makes a fresh device; none knows a statement.
import * as assert from 'uvu/assert';
import { EFFECT_INCIDENT, EFFECT_IRQ, EFFECT_REQUEST, VALID } from '../../assembly/abi.ts';
import type { BlkConfig } from '../../host/device-config.ts';
import type { AccessKind, GuestMemory } from '../../host/guest-memory.ts';
import { blkHeader, blkStatus, STATUS_UNTOUCHED } from '../../testing/block.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  F_INDIRECT_DESC,
  F_VERSION_1,
  FEATURES_OK,
  REG,
  RUNNING,
} from '../../testing/driver.ts';
import { type GuestBuffer as Buffer, DATA, type DriverQueue } from '../../testing/queue.ts';
import {
  type Executor,
  everythingSucceeds,
  kick,
  type RequestRecord,
} from '../../testing/requests.ts';
import { blkDevice, type Fixture, rngDevice } from '../fixtures.ts';

export const TABLE = 0x80000; // of indirect descriptors
export const RAM_END = 0x100000;
export const PAYLOAD = DATA + 0x1000;
export const STATUS_BYTE = DATA + 0x100;
export const CONFIG_WRITEBACK = REG.Config + 32;

export const F_BLK_RO = 1n << 5n;
export const F_BLK_FLUSH = 1n << 9n;
export const F_BLK_CONFIG_WCE = 1n << 11n;
export const F_BLK_DISCARD = 1n << 13n;
export const F_BLK_WRITE_ZEROES = 1n << 14n;

/** The status after each step of initialisation (§3.1.1). */
export const STAGES = [
  0,
  ACKNOWLEDGE,
  ACKNOWLEDGE | DRIVER,
  ACKNOWLEDGE | DRIVER | FEATURES_OK,
  RUNNING,
];

/** A device whose first queue is in use. */
export interface Live extends Fixture {
  queue: DriverQueue;
}

/** An entropy device, which takes any writable buffer: for tests of the ring. */
export function ring(features = F_INDIRECT_DESC, queueSize = 16): Live {
  const device = rngDevice(queueSize);
  return { ...device, queue: device.driver.bringUp({ features, queueSize }) };
}

export function disk(config: Partial<BlkConfig> = {}, features?: bigint): Live {
  const device = blkDevice(config);
  return { ...device, queue: device.driver.bringUp({ features, queueSize: 64 }) };
}

/** A disk of which the first `steps` steps of initialisation are done, none of its queues. */
export function diskAt(steps: number, config: Partial<BlkConfig> = {}): Fixture {
  const device = blkDevice(config);
  for (const status of STAGES.slice(1, steps + 1)) {
    if (status === STAGES[3]) device.driver.acceptFeatures(F_VERSION_1);
    device.driver.set(REG.Status, status);
    assert.is(device.driver.get(REG.Status), status);
  }
  return device;
}

export const into = (length = 64, address: number | bigint = PAYLOAD): Buffer => ({
  address,
  length,
  write: true,
});
export const outOf = (length = 64, address: number | bigint = PAYLOAD): Buffer => ({
  address,
  length,
});

/** Offers a chain and returns its head. */
export function offer(device: Live, chain: Buffer[] = [into()]): number {
  const head = device.queue.chain(chain);
  device.queue.offer(head);
  return head;
}

/** The access was ignored and counted. */
export function ignored(effects: number): void {
  assert.is(effects, EFFECT_INCIDENT);
}

/** The chain comes back with no byte written, nothing reaches the host, and the queue goes on. */
export function refused(device: Live, head: number): void {
  assert.is(device.cage.notify(0) & (EFFECT_REQUEST | EFFECT_INCIDENT), EFFECT_INCIDENT);
  assert.equal(device.queue.takeUsed(), { id: head, length: 0 });
  assert.is(device.driver.get(REG.Status), RUNNING);
  const next = offer(device);
  assert.is(kick(device.cage, 0).requests.length, 1);
  assert.equal(device.queue.takeUsed(), { id: next, length: 64 });
}

/** The device says that it needs a reset, tells its driver so, and a reset brings it back. */
export function broken(device: Live): void {
  assert.is(device.cage.notify(0) & (EFFECT_IRQ | EFFECT_REQUEST), EFFECT_IRQ);
  assert.is(device.driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
  assert.is(device.driver.get(REG.InterruptStatus) & 2, 2);
  ignored(device.cage.notify(0));
  const again = { ...device, queue: device.driver.bringUp() };
  offer(again);
  assert.is(kick(again.cage, 0).requests.length, 1);
  assert.is(device.cage.check(), VALID);
}

export interface Answer {
  status: number;
  length: number; // what the used ring says
  requests: RequestRecord[];
  effects: number;
}

/** Has a disk carry out header, data and status as one chain. */
export function submit(
  device: Live,
  type: number,
  data: Buffer[] = [],
  sector = 0n,
  execute: Executor = everythingSucceeds,
): Answer {
  const header = blkHeader(device.memory, DATA, type, sector);
  return submitChain(device, [header, ...data, blkStatus(device.memory, STATUS_BYTE)], execute);
}

export function submitChain(device: Live, chain: Buffer[], execute?: Executor): Answer {
  const last = chain[chain.length - 1];
  const statusAt = Number(last.address) + last.length - 1;
  device.memory.view.setUint8(statusAt, STATUS_UNTOUCHED);
  const head = offer(device, chain);
  const { requests, effects } = kick(device.cage, 0, execute);
  const used = device.queue.takeUsed();
  assert.is(used?.id, head);
  return {
    status: device.memory.view.getUint8(statusAt),
    length: used?.length ?? -1,
    requests,
    effects,
  };
}

/** The core answered the request itself, with this status. */
export function answered(answer: Answer, status: number): void {
  assert.is(answer.requests.length, 0);
  assert.is(answer.status, status);
}

export interface Access {
  kind: AccessKind;
  address: number;
  lengthBytes: number;
}

/** What the core does to guest memory meanwhile. */
export function watched(memory: GuestMemory, run: () => void): Access[] {
  const accesses: Access[] = [];
  memory.observer = (kind, address, lengthBytes) => {
    accesses.push({ kind, address, lengthBytes });
  };
  run();
  memory.observer = null;
  return accesses;
}
