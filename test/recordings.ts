// Recordings of small machines for tests: real cages, driven as a guest does, with a clock that
// only moves where the test says so.
import { openSync } from 'node:fs';
import {
  EFFECT_MORE,
  EFFECT_REQUEST,
  KIND_ACPI_PM,
  KIND_BOOT_TIMER,
  KIND_RTC,
  KIND_SERIAL,
  KIND_VIRTIO_BLK,
  RESULT_IOERR,
  RESULT_OK,
} from '../assembly/abi.ts';
import { Cage } from '../host/core.ts';
import { encodeBlkConfig } from '../host/device-config.ts';
import type { CageCalls } from '../host/engine/device.ts';
import type { GuestMemory } from '../host/guest-memory.ts';
import { Recorder } from '../host/replay/recorder.ts';
import { BLK_T_IN, BLK_T_OUT, blkHeader, blkStatus } from '../testing/block.ts';
import { Driver, REG } from '../testing/driver.ts';
import { DATA, type DriverQueue, guestMemory } from '../testing/queue.ts';
import { parseRecord } from '../testing/requests.ts';

const RAM_BYTES = 0x100000;
const HEADER = DATA;
const STATUS = DATA + 0x20;
const PAYLOAD = DATA + 0x1000;

/** A machine whose every call into a device is recorded. */
export class RecordedMachine {
  readonly memory: GuestMemory = guestMemory(RAM_BYTES);
  readonly recorder: Recorder;
  private nowMs = 5; // the recording's times are differences
  private readonly added: [place: number, kind: number, config: Uint8Array][] = [];

  constructor(path: string) {
    this.recorder = new Recorder(path, openSync(path, 'w', 0o600), () => this.nowMs);
    this.recorder.setMemory(RAM_BYTES);
    this.memory.log = this.recorder.log;
  }

  pass(ms: number): void {
    this.nowMs += ms;
  }

  /** To be called for every device before any is used. */
  add(name: string, kind: number, config: Uint8Array = new Uint8Array(0)): () => CageCalls {
    const index = this.added.length;
    this.added.push([this.recorder.addDevice(name, kind, config), kind, config]);
    return () => this.make(index);
  }

  private make(index: number): CageCalls {
    const [place, kind, config] = this.added[index];
    return this.recorder.watch(place, new Cage(kind, this.memory, config));
  }
}

export const CAPACITY_BYTES = 0x100000;

/** Reads or writes one sector: offered, kicked, executed after a time, completed, acknowledged. */
function transfer(
  machine: RecordedMachine,
  disk: CageCalls,
  queue: DriverQueue,
  request: { type: number; sector: number; latencyMs: number; fails?: boolean },
): void {
  const { memory } = machine;
  const write = request.type === BLK_T_IN;
  queue.offer(
    queue.chain([
      blkHeader(memory, HEADER, request.type, BigInt(request.sector)),
      { address: PAYLOAD, length: 512, write },
      blkStatus(memory, STATUS),
    ]),
  );
  let effects = disk.write(REG.QueueNotify, 4, queue.index);
  while (effects & (EFFECT_REQUEST | EFFECT_MORE)) {
    if (effects & EFFECT_REQUEST) {
      machine.pass(request.latencyMs);
      const { tag } = parseRecord(disk.record());
      disk.complete(tag, request.fails ? RESULT_IOERR : RESULT_OK, write ? 512 : 0);
    }
    machine.pass(0.01);
    effects = disk.next(queue.index);
  }
  machine.pass(0.02);
  disk.read(REG.InterruptStatus, 4);
  disk.write(REG.InterruptACK, 4, 1);
}

function print(machine: RecordedMachine, serial: CageCalls, text: string): void {
  for (const character of text) {
    machine.pass(0.05);
    serial.write(0, 1, character.charCodeAt(0));
    serial.next(0);
  }
}

/**
 * A small boot: console, clock, a disk with `requests` transfers (every seventh fails, the last is
 * by far the slowest), the boot timer's marker, power off.
 */
export function recordBoot(path: string, requests = 20): string {
  const machine = new RecordedMachine(path);
  const disk = { capacityBytes: CAPACITY_BYTES, readOnly: false, id: 'rootfs' };
  const makers = {
    serial: machine.add('serial', KIND_SERIAL),
    rtc: machine.add('rtc', KIND_RTC),
    acpi: machine.add('acpi-pm', KIND_ACPI_PM),
    timer: machine.add('boot-timer', KIND_BOOT_TIMER),
    disk: machine.add('disk:rootfs', KIND_VIRTIO_BLK, encodeBlkConfig(disk)),
  };
  const [serial, rtc, acpi, timer, blk] = Object.values(makers).map((make) => make());
  machine.pass(1.5);
  print(machine, serial, 'Linux\n');
  machine.pass(10);
  rtc.input(Uint8Array.of(0, 0xf1, 0x53, 0x65, 0, 0, 0, 0)); // 2023-11-14T22:13:20Z
  rtc.write(0, 1, 9);
  rtc.read(1, 1);
  machine.pass(10);
  const driver = new Driver(blk as unknown as Cage, machine.memory);
  const queue = driver.bringUp();
  queue.setUsedEvent(0);
  for (let index = 0; index < requests; index++) {
    machine.pass(1);
    queue.setUsedEvent(index & 0xffff);
    transfer(machine, blk, queue, {
      type: index % 3 ? BLK_T_IN : BLK_T_OUT,
      sector: index % 64,
      latencyMs: index === requests - 1 ? 40 : 0.1 + (index % 5) / 10,
      fails: index % 7 === 6,
    });
  }
  timer.write(0, 1, 123);
  machine.pass(3);
  print(machine, serial, 'done\n');
  acpi.write(0, 1, 0x34);
  machine.recorder.finish();
  return path;
}
