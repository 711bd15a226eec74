// The guest of test/cage-escape.c, written down: what its drivers do becomes lines of a script, and
// what the program says in the end is read back.
//
// Four devices are there. The first is attacked; the others do a round of honest work before and
// after, which must come out right.
import * as assert from 'node:assert/strict';
import * as abi from '../assembly/abi.ts';
import type { Cage } from '../host/core.ts';
import { encodeBlkConfig, encodeRngConfig } from '../host/device-config.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { INCIDENT_NAMES } from '../host/incident-names.ts';
import { BLK_T_IN, BLK_T_OUT, blkHeader, blkStatus } from '../testing/block.ts';
import { DRIVER_OK, Driver, F_INDIRECT_DESC, REG } from '../testing/driver.ts';
import { DriverQueue, type GuestBuffer } from '../testing/queue.ts';

export const RAM_BYTES = 0x100000;
export const SECTORS = 64;
export const QUEUE_SIZE = 16;

const VICTIM = 0;
const DISK = 1;
const SERIAL = 2;
const RNG = 3;
const DISK_AREA = 0x80000; // rings and buffers of the devices that are left alone
const RNG_AREA = 0x90000;
const SECTOR = 512;

/** What a device came to; those of a cell are in its report. */
export interface DeviceOutcome {
  traps: number;
  trapReports: number;
  dead: boolean;
  stateRefused: boolean; // check() refused what was restored
  waiting: boolean; // still has work, after several turns of the I/O thread
  requests: number; // that reached the shim
  errors: number; // of them
  lastError: string;
  interrupts: number;
  incidents: number[];
}

export interface Outcome {
  devices: DeviceOutcome[];
  looks: Record<string, string>; // name: hexadecimal
}

/** All there is to know about the attacked device, without what is as in a quiet one. */
export function summary({ devices, looks }: Outcome): Record<string, unknown> {
  const { incidents, interrupts, requests, trapReports, ...rest } = devices[VICTIM]!;
  assert.equal(trapReports, rest.traps, 'every trap is told');
  const counted = incidents.flatMap((count, i) =>
    count ? [[INCIDENT_NAMES[i] ?? `counter ${i}`, count]] : [],
  );
  const said = Object.entries(rest).filter(([, value]) => value !== 0 && value && value !== '');
  return {
    ...Object.fromEntries(said),
    ...(counted.length ? { incidents: Object.fromEntries(counted) } : {}),
    ...looks,
  };
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex') || '-';

/** Guest RAM whose writes become lines. */
class RecordedView extends DataView<ArrayBuffer> {
  readonly #lines: string[];

  constructor(lines: string[]) {
    super(new ArrayBuffer(RAM_BYTES));
    this.#lines = lines;
  }

  #record(offset: number, length: number): void {
    this.#lines.push(`ram ${offset} ${hex(new Uint8Array(this.buffer, offset, length))}`);
  }

  override setUint8(offset: number, value: number): void {
    super.setUint8(offset, value);
    this.#record(offset, 1);
  }

  override setUint16(offset: number, value: number, little: boolean): void {
    super.setUint16(offset, value, little);
    this.#record(offset, 2);
  }

  override setUint32(offset: number, value: number, little: boolean): void {
    super.setUint32(offset, value, little);
    this.#record(offset, 4);
  }

  override setBigUint64(offset: number, value: bigint, little: boolean): void {
    super.setBigUint64(offset, value, little);
    this.#record(offset, 8);
  }
}

export interface Disks {
  victim: { path: string; readOnly: boolean };
  other: string;
}

/** Registers of one device; reads are answered as by a device that accepts every step. */
function registers(lines: string[], device: number) {
  let status = 0;
  let read = 0;
  return {
    read(offset: number): number {
      read = offset;
      return 0;
    },
    write(offset: number, width: number, value: number): number {
      lines.push(`write ${device} ${offset} ${width} ${value >>> 0}`);
      if (offset === REG.Status) status = value;
      return 0;
    },
    value: () => (read === REG.Status ? status : 0),
  };
}

export class Guest {
  readonly #lines: string[] = [];
  readonly #says: string[] = []; // what each answer of the program is
  readonly memory = { view: new RecordedView(this.#lines) } as unknown as GuestMemory;
  readonly driver = this.#driver(VICTIM);
  #rounds = 0;
  #disk?: DriverQueue;
  #rng?: DriverQueue;

  constructor({ victim, other }: Disks) {
    const capacityBytes = SECTORS * SECTOR;
    const common = { capacityBytes, queueSize: QUEUE_SIZE };
    const disk = (id: string, path: string, readOnly: boolean) =>
      `device ${abi.KIND_VIRTIO_BLK} ${hex(encodeBlkConfig({ ...common, id, readOnly }))} ` +
      `${path} ${capacityBytes} ${readOnly ? 1 : 0}`;
    this.#lines.push(disk('victim', victim.path, victim.readOnly), disk('other', other, false));
    this.#lines.push(`device ${abi.KIND_SERIAL} -`);
    const rng = encodeRngConfig({ queueSize: QUEUE_SIZE });
    this.#lines.push(`device ${abi.KIND_VIRTIO_RNG} ${hex(rng)}`);
  }

  newQueue(): DriverQueue {
    return new DriverQueue(this.memory, 0, QUEUE_SIZE);
  }

  /** Sets a queue up after negotiate(), and starts the device. */
  start(queue = this.newQueue(), driver = this.driver): DriverQueue {
    driver.configureQueue(queue);
    driver.set(REG.QueueReady, 1);
    driver.addStatus(DRIVER_OK);
    return queue;
  }

  #driver(device: number): Driver {
    return new Driver(registers(this.#lines, device) as unknown as Cage, this.memory);
  }

  // --- The attacked device ----------------------------------------------------------------------

  bringUp(): DriverQueue {
    return this.driver.bringUp({ features: F_INDIRECT_DESC, queueSize: QUEUE_SIZE });
  }

  write(offset: number, value: number): void {
    this.driver.set(offset, value);
  }

  fill(address: number, bytes: Uint8Array): void {
    this.#lines.push(`ram ${address} ${hex(bytes)}`);
  }

  /** Puts a chain on the ring and rings the doorbell. */
  request(queue: DriverQueue, chain: GuestBuffer[]): void {
    queue.offer(queue.chain(chain));
    this.serve();
  }

  serve(): void {
    this.#lines.push(`serve ${VICTIM} 0`);
  }

  /** Rings the doorbell; the request then is in flight until finish(). */
  hold(): void {
    this.#lines.push(`hold ${VICTIM} 0`);
  }

  finish(): void {
    this.#lines.push('finish');
  }

  /** Has the device restored with a state in which these bytes are changed. */
  restore(coreAddress: number, bytes: Uint8Array): void {
    this.#lines.push(`spoil ${VICTIM} ${coreAddress} ${hex(bytes)}`, `check ${VICTIM}`);
  }

  /** Writes what is none of the device's; see test/cage-escape.c. */
  stray(place: number): void {
    this.#lines.push(`stray ${place}`);
  }

  /** The outcome will have these bytes of guest RAM, as they are now, under that name. */
  look(name: string, address: number, length: number): void {
    this.#says.push(name);
    this.#lines.push(`peek ${address} ${length}`);
  }

  lookAtStatus(): void {
    this.#says.push('deviceStatus');
    this.#lines.push(`read ${VICTIM} ${REG.Status} 4`);
  }

  // --- The others -------------------------------------------------------------------------------

  #bringUpOther(device: number, area: number): DriverQueue {
    const driver = this.#driver(device);
    driver.negotiate(0n);
    const queue = this.newQueue();
    queue.descTable = area;
    queue.availRing = area + 0x1000;
    queue.usedRing = area + 0x2000;
    return this.start(queue, driver);
  }

  /** What the round with this number writes to its own sector. */
  static pattern(round: number): Buffer {
    return Buffer.alloc(SECTOR, `round ${round}, `);
  }

  /** Honest work on the other three devices; `workedWell()` then judges it. */
  work(): void {
    const round = this.#rounds++;
    this.#disk ??= this.#bringUpOther(DISK, DISK_AREA);
    this.#rng ??= this.#bringUpOther(RNG, RNG_AREA);
    const [from, to] = [DISK_AREA + 0x4000, DISK_AREA + 0x4000 + SECTOR * (round + 1)];
    const [header, status] = [DISK_AREA + 0x3000, DISK_AREA + 0x3100];
    this.fill(from, Guest.pattern(round));
    for (const type of [BLK_T_OUT, BLK_T_IN]) {
      const read = type === BLK_T_IN;
      const data = { address: read ? to : from, length: SECTOR, write: read };
      const ends = [blkHeader(this.memory, header, type, BigInt(round)), data];
      this.#disk.offer(this.#disk.chain([...ends, blkStatus(this.memory, status)]));
      this.#lines.push(`serve ${DISK} 0`);
      this.look(`${round} status of ${read ? 'read' : 'write'}`, status, 1);
    }
    this.look(`${round} data`, to, SECTOR);
    this.#lines.push(`write ${SERIAL} 2 1 1`); // FIFOs on
    for (const byte of `line ${round}`) {
      this.#lines.push(`write ${SERIAL} 0 1 ${byte.charCodeAt(0)}`);
    }
    this.#says.push(`${round} console`);
    this.#lines.push(`output ${SERIAL}`);
    const target = RNG_AREA + 0x3000 + 64 * round;
    this.#rng.offer(this.#rng.chain([{ address: target, length: 32, write: true }]));
    this.#lines.push(`serve ${RNG} 0`);
    this.look(`${round} used by rng`, this.#rng.usedRing + 4 + 8 * round + 4, 4);
    this.look(`${round} random`, target, 32);
  }

  script(): string {
    return `${this.#lines.join('\n')}\n`;
  }

  /** Reads the program's output; judges the honest work on the way. */
  outcome(output: string): Outcome {
    const { said, devices } = JSON.parse(output);
    const looks = Object.fromEntries(this.#says.map((name, i) => [name, said[i] as string]));
    for (let round = 0; round < this.#rounds; round++) {
      const take = (name: string) => {
        const value = looks[`${round} ${name}`];
        delete looks[`${round} ${name}`];
        return value;
      };
      assert.equal(take('status of write'), '00');
      assert.equal(take('status of read'), '00');
      assert.equal(take('data'), hex(Guest.pattern(round)));
      assert.equal(Buffer.from(take('console') ?? '', 'hex').toString(), `line ${round}`);
      assert.equal(take('used by rng'), '20000000');
      assert.ok(new Set(take('random')?.match(/../g)).size > 8, 'random bytes');
    }
    for (const device of (devices as DeviceOutcome[]).slice(1)) {
      assert.equal(
        [device.traps, device.errors, ...device.incidents].join(),
        Array(2 + abi.COUNTER_COUNT)
          .fill(0)
          .join(),
      );
    }
    return { devices, looks };
  }
}
