// Reference models of the small port devices: i8042, RTC, boot timer, ACPI registers, pvpanic.
// Test oracles for the files of the same names in assembly/.
import * as abi from '../assembly/abi.ts';
import type { Ledger, Model } from './reference-answer.ts';

/** A device of byte-wide ports; one that knows neither queues nor requests. */
export abstract class PortModel implements Model {
  protected readonly ledger: Ledger;

  constructor(ledger: Ledger) {
    this.ledger = ledger;
  }

  /** The value of a port, or nothing where no read is possible. */
  protected abstract load(port: number): number | undefined;
  /** False: nothing takes that value there. */
  protected abstract store(port: number, value: number): boolean;
  abstract reset(): void;
  abstract copyFrom(other: Model): void;

  /** Whether a read of that width says anything about the port. */
  protected readable(width: number): boolean {
    return width === 1;
  }

  read(offset: number, width: number): void {
    const readable = this.readable(width);
    const value = readable ? this.load(offset) : undefined;
    if (value !== undefined) this.ledger.value = value;
    else this.ledger.refuseRead(readable ? abi.INCIDENT_REGISTER : abi.INCIDENT_WIDTH, width);
  }

  write(offset: number, width: number, value: number): void {
    if (width !== 1) this.ledger.blame(abi.INCIDENT_WIDTH);
    else if (!this.store(offset, value)) this.ledger.blame(abi.INCIDENT_REGISTER);
  }

  notify(): void {}

  next(): void {}

  complete(): void {
    this.ledger.blame(abi.INCIDENT_TAG);
  }

  input(_bytes: Uint8Array): void {
    this.ledger.value = 0;
  }

  fail(): void {}
}

/** Keyboard controller without a keyboard: port 0 is 0x60, port 4 is 0x64. */
export class I8042Model extends PortModel {
  now = { control: 0x64, data: 0, full: false, awaiting: 0, command: false };

  reset(): void {
    this.now = { control: 0x64, data: 0, full: false, awaiting: 0, command: false };
  }

  copyFrom(other: Model): void {
    this.now = { ...(other as I8042Model).now };
  }

  protected load(port: number): number | undefined {
    const { now } = this;
    if (port === 0) {
      now.full = false;
      return now.data;
    }
    // Self-test passed and not locked; then: a byte waits, the last write was a command.
    return port === 4 ? 0x14 + (now.full ? 1 : 0) + (now.command ? 8 : 0) : undefined;
  }

  protected store(port: number, value: number): boolean {
    if (port !== 0 && port !== 4) return false;
    const { awaiting } = this.now;
    this.now.command = port === 4;
    this.now.awaiting = 0;
    if (port === 4) return this.#command(value % 256);
    this.#dataFor(awaiting, value % 256);
    return true;
  }

  #reply(value: number): void {
    this.now.data = value;
    this.now.full = true;
  }

  #dataFor(command: number, value: number): void {
    if (command === 0x60) this.now.control = value;
    if (command === 0xd1 && value % 2 === 0) this.ledger.effects |= abi.EFFECT_REBOOT;
    if (command === 0xd2 || command === 0xd3) this.#reply(value);
  }

  #command(command: number): boolean {
    const { now } = this;
    if (command >= 0xf0) {
      // A pulse of the lines whose bits are 0; line 0 resets the machine.
      if (command % 2 === 0) this.ledger.effects |= abi.EFFECT_REBOOT;
    } else if ([0x60, 0xd1, 0xd2, 0xd3, 0xd4].includes(command)) now.awaiting = command;
    else if (command === 0x20) this.#reply(now.control);
    else if (command === 0xa9) this.#reply(1);
    else if (command === 0xaa) {
      now.control = 0x64;
      this.#reply(0x55);
    } else if (command === 0xab) this.#reply(0);
    else if (command === 0xad) now.control |= 0x10;
    else if (command === 0xae) now.control &= ~0x10;
    else if (command === 0xd0) this.#reply(3);
    else return command === 0xa7 || command === 0xa8;
    return true;
  }
}

const LAST_SECOND = 253402300799; // of the year 9999

/** MC146818 clock and CMOS memory: port 0 takes the index, port 1 the data. */
export class RtcModel extends PortModel {
  now = { time: 0, index: 0, a: 0x26, b: 0x02 };
  readonly cmos = new Uint8Array(128);

  reset(): void {
    this.now = { time: this.now.time, index: 0, a: 0x26, b: 0x02 };
  }

  copyFrom(other: Model): void {
    this.now = { ...(other as RtcModel).now };
    this.cmos.set((other as RtcModel).cmos);
  }

  override input(bytes: Uint8Array): void {
    this.ledger.value = bytes.length === 8 ? 8 : 0;
    if (bytes.length !== 8) return;
    let seconds = 0; // past 2^53 inexact, but then far past the last second
    for (const byte of [...bytes].reverse()) seconds = 256 * seconds + byte;
    this.now.time = Math.min(seconds, LAST_SECOND);
  }

  protected load(port: number): number | undefined {
    if (port !== 1) return undefined;
    const { index, a, b } = this.now;
    const part = this.#timePart(index);
    if (part !== undefined) return b & 4 ? part : 16 * Math.floor(part / 10) + (part % 10);
    if (index === 0x0a) return a;
    if (index === 0x0b) return b;
    if (index === 0x0c) return 0;
    return index === 0x0d ? 0x80 : this.cmos[index];
  }

  #timePart(index: number): number | undefined {
    const date = new Date(this.now.time * 1000);
    const parts: Record<number, () => number> = {
      0: () => date.getUTCSeconds(),
      2: () => date.getUTCMinutes(),
      4: () => date.getUTCHours(),
      6: () => date.getUTCDay() + 1,
      7: () => date.getUTCDate(),
      8: () => date.getUTCMonth() + 1,
      9: () => date.getUTCFullYear() % 100,
      50: () => Math.floor(date.getUTCFullYear() / 100),
    };
    return parts[index]?.();
  }

  protected store(port: number, value: number): boolean {
    const { now } = this;
    const byte = value % 256;
    if (port === 0) now.index = byte % 128;
    else if (port !== 1) return false;
    else if (now.index === 0x0a) now.a = byte % 128;
    else if (now.index === 0x0b) now.b = (byte & 0x8f) | 2;
    else if (now.index !== 0x0c && now.index !== 0x0d && this.#timePart(now.index) === undefined) {
      this.cmos[now.index] = byte;
    }
    return true;
  }
}

/** The devices that remember nothing. */
abstract class StatelessModel extends PortModel {
  reset(): void {}

  copyFrom(): void {}
}

/** A write-only byte. */
export class BootTimerModel extends StatelessModel {
  // There is nothing to read, in whatever width: the width is never what is wrong.
  protected override readable(): boolean {
    return true;
  }

  protected load(): undefined {
    return undefined;
  }

  protected store(port: number, value: number): boolean {
    if (port !== 0) return false;
    this.ledger.value = value % 256;
    this.ledger.effects |= abi.EFFECT_MARKER;
    return true;
  }
}

/** Sleep control, sleep status and reset register. */
export class AcpiPmModel extends StatelessModel {
  protected load(port: number): number | undefined {
    return port === 0 || port === 1 ? 0 : undefined;
  }

  protected store(port: number, value: number): boolean {
    const sleeps = port === 0 && (value & 0x20) !== 0;
    const powersOff = sleeps && ((value >> 2) & 7) === abi.ACPI_S5_SLEEP_TYPE;
    const resets = port === 2 && value % 256 === abi.ACPI_RESET_VALUE;
    if (powersOff) this.ledger.effects |= abi.EFFECT_POWER_OFF;
    if (resets) this.ledger.effects |= abi.EFFECT_REBOOT;
    return powersOff || resets || port === 1 || (port === 0 && !sleeps);
  }
}

/** Two event bits: the guest panicked, or its crash kernel takes over. */
export class PvpanicModel extends StatelessModel {
  protected load(port: number): number | undefined {
    return port === 0 ? 3 : undefined;
  }

  protected store(port: number, value: number): boolean {
    if (port !== 0 || value > 3) return false;
    if (value % 2 === 0) return true;
    this.ledger.value = value;
    this.ledger.effects |= abi.EFFECT_PANIC;
    return true;
  }
}
