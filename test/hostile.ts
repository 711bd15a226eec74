// What a hostile driver writes into its rings: for tests that hold the core, or two engines of it,
// to their word.
import * as abi from '../assembly/abi.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { BLK_T_IN, blkHeader } from '../testing/block.ts';
import { DATA, type DriverQueue } from '../testing/queue.ts';
import type { Random } from '../testing/random.ts';
import { CAPACITY_SECTORS } from './fixtures.ts';

export const RAM_BYTES = 0x80000;

/** Numbers at which checks go wrong, as often as any others. */
export function nasty(random: Random): number {
  const edges = [0, 1, 15, 16, 17, 255, 256, 511, 512, 0xfff, 0x10000, RAM_BYTES - 1, RAM_BYTES];
  const high = [0x7fffffff, 0x80000000, 0xc0000000, 0xfffffff0, 0xfffffffe, 0xffffffff];
  const all = [...edges, ...high];
  return random(3) === 0 ? random(2 ** 32 - 1) : all[random(all.length)];
}

export function nastyAddress(random: Random): bigint {
  const low = random(2) ? BigInt(random(RAM_BYTES)) : BigInt(nasty(random));
  return random(8) ? low : low | (BigInt(nasty(random)) << 32n);
}

/** Spoils one thing in the rings, or sets up something half sensible. */
export function spoilRings(random: Random, queue: DriverQueue): void {
  const table = random(3) ? queue.descTable : DATA + 0x8000;
  const buffer = {
    address: random(3) ? DATA + random(0x8000) : nastyAddress(random),
    length: random(3) ? 16 * random(64) : nasty(random),
    write: random(2) === 0,
  };
  const flags = random(4) ? random(2) : random(8);
  const next = random(8) ? random(queue.size) : random(0x10000);
  queue.setDescriptor(random(queue.size), buffer, flags, next, table);
  if (random(60) === 0) queue.setAvailIndex(random(0x10000));
  if (random(12) === 0) queue.offer(random(16) ? random(queue.size) : random(0x10000));
  if (random(16) === 0) queue.setUsedEvent(random(0x10000));
}

/** Offers a request that is nearly right, so that the deep paths are reached too. */
export function offerNearlyRight(random: Random, memory: GuestMemory, queue: DriverQueue): void {
  const type = random(8) ? random(2) : random(4) ? random(15) : nasty(random);
  const sector = random(8) ? BigInt(random(CAPACITY_SECTORS + 2)) : nastyAddress(random);
  const header = blkHeader(memory, DATA, type, sector);
  const write = (type === BLK_T_IN) === random(8) > 0;
  const length = random(8) ? 512 * (1 + random(8)) : random(80);
  const data = { address: DATA + 0x1000, length, write };
  const status = { address: DATA + 0x800, length: random(8) ? 1 : random(3), write: true };
  const chain = [header, data, status].slice(random(8) ? 0 : 1);
  const head = random(2)
    ? queue.chain(chain)
    : queue.indirectChain(chain, DATA + 0x9000 + random(2));
  queue.offer(head);
}

/** The devices behind ports, with the effects that enough calls bring out of each. */
export const PORT_DEVICES: [name: string, kind: number, effects: number][] = [
  ['UART', abi.KIND_SERIAL, abi.EFFECT_IRQ | abi.EFFECT_OUTPUT | abi.EFFECT_INPUT_SPACE],
  ['i8042', abi.KIND_I8042, abi.EFFECT_REBOOT],
  ['clock', abi.KIND_RTC, 0],
  ['boot timer', abi.KIND_BOOT_TIMER, abi.EFFECT_MARKER],
  ['ACPI device', abi.KIND_ACPI_PM, abi.EFFECT_POWER_OFF | abi.EFFECT_REBOOT],
  ['pvpanic', abi.KIND_PVPANIC, abi.EFFECT_PANIC],
];
