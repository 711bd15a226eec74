// The reference's 16550A UART: PC16550D data sheet, sections 8.0 to 8.8. A test oracle for
// assembly/serial.ts. Left out, as there: baud rate, parity, framing, breaks, DMA.
import * as abi from '../assembly/abi.ts';
import type { Model } from './reference-answer.ts';
import { PortModel } from './reference-ports.ts';

// Interrupt sources, by priority, as IIR names them (8.5).
const LINE_STATUS = 6;
const RECEIVED = 4;
const TRANSMITTER_EMPTY = 2;
const MODEM_STATUS = 0;
const NONE = 1;
const TIME_OUT = 0x0c; // what RECEIVED reads below the trigger level

const LOOP = 0x10; // MCR
const OUT2 = 0x08; // MCR

interface Registers {
  ier: number;
  lcr: number;
  mcr: number;
  scratch: number;
  divisorLow: number;
  divisorHigh: number;
  fcr: number;
  overrun: boolean;
  modemDelta: number;
  transmitterEmpty: boolean; // an interrupt is due for it
  line: number; // the source that held the interrupt line after the last access
  received: number[];
  transmitted: number[];
}

const powerOn = (): Registers => ({
  ier: 0,
  lcr: 0,
  mcr: 0,
  scratch: 0,
  divisorLow: 12,
  divisorHigh: 0,
  fcr: 0,
  overrun: false,
  modemDelta: 0,
  transmitterEmpty: false,
  line: NONE,
  received: [],
  transmitted: [],
});

/** The UART of COM1. */
export class SerialModel extends PortModel {
  now = powerOn();

  reset(): void {
    this.now = powerOn();
  }

  copyFrom(other: Model): void {
    const { now } = other as SerialModel;
    this.now = { ...now, received: [...now.received], transmitted: [...now.transmitted] };
  }

  // Every access may move the interrupt line, so each ends by looking at it.
  override read(offset: number, width: number): void {
    super.read(offset, width);
    this.#updateLine();
  }

  override write(offset: number, width: number, value: number): void {
    super.write(offset, width, value);
    this.#updateLine();
  }

  override input(bytes: Uint8Array): void {
    const { now } = this;
    const room = now.mcr & LOOP ? 0 : this.#capacity() - now.received.length;
    const taken = bytes.subarray(0, room);
    now.received.push(...taken);
    this.ledger.value = taken.length;
    this.#updateLine();
  }

  override next(): void {
    const { now, ledger } = this;
    if (now.transmitted.length === 0) return;
    const bytes = Uint8Array.from(now.transmitted);
    const kind = abi.REQUEST_KIND_CONSOLE_OUT;
    const length = BigInt(bytes.length);
    ledger.record = { kind, tag: 0, offset: 0n, length, flags: 0, ranges: [], bytes };
    ledger.effects |= abi.EFFECT_REQUEST;
    this.#transmitterEmptied();
    this.#updateLine();
  }

  protected load(port: number): number | undefined {
    const { now } = this;
    const latch = now.lcr >= 0x80;
    switch (port) {
      case 0:
        return latch ? now.divisorLow : this.#receive();
      case 1:
        return latch ? now.divisorHigh : now.ier;
      case 2:
        return this.#identify();
      case 3:
        return now.lcr;
      case 4:
        return now.mcr;
      case 5:
        return this.#lineStatus();
      case 6: {
        const delta = now.modemDelta;
        now.modemDelta = 0; // reading clears it (8.8)
        return this.#modemLines() + delta;
      }
      case 7:
        return now.scratch;
      default:
        return undefined;
    }
  }

  protected store(port: number, wide: number): boolean {
    const { now } = this;
    const value = wide % 256;
    const latch = now.lcr >= 0x80;
    if (port === 0 && latch) now.divisorLow = value;
    else if (port === 0) this.#transmit(value);
    else if (port === 1 && latch) now.divisorHigh = value;
    else if (port === 1) this.#enableInterrupts(value % 16);
    else if (port === 2) this.#controlFifos(value);
    else if (port === 3) now.lcr = value;
    else if (port === 4) this.#controlModem(value % 32);
    else if (port === 7) now.scratch = value;
    return port < 8; // LSR and MSR take writes and do nothing with them
  }

  // --- Interrupts -------------------------------------------------------------------------------

  #pending(): number {
    const { ier, overrun, received, transmitterEmpty, modemDelta } = this.now;
    if ((ier & 4) !== 0 && overrun) return LINE_STATUS;
    if ((ier & 1) !== 0 && received.length > 0) return RECEIVED;
    if ((ier & 2) !== 0 && transmitterEmpty) return TRANSMITTER_EMPTY;
    if ((ier & 8) !== 0 && modemDelta !== 0) return MODEM_STATUS;
    return NONE;
  }

  // An edge for each source that takes the line over. OUT2 connects it, loop-back cuts it (8.6.4).
  #updateLine(): void {
    const { now } = this;
    const connected = (now.mcr & OUT2) !== 0 && (now.mcr & LOOP) === 0;
    const source = connected ? this.#pending() : NONE;
    if (source !== NONE && source !== now.line) this.ledger.effects |= abi.EFFECT_IRQ;
    now.line = source;
  }

  #identify(): number {
    const { now } = this;
    const source = this.#pending();
    if (source === TRANSMITTER_EMPTY) now.transmitterEmpty = false;
    if (now.fcr === 0) return source;
    const trigger = [1, 4, 8, 14][now.fcr >> 6];
    const early = source === RECEIVED && now.received.length < trigger;
    return 0xc0 + (early ? TIME_OUT : source);
  }

  #enableInterrupts(ier: number): void {
    const { now } = this;
    const enabled = (ier & 2) !== 0 && (now.ier & 2) === 0;
    if (enabled && now.transmitted.length === 0) now.transmitterEmpty = true;
    now.ier = ier;
  }

  // --- Data -------------------------------------------------------------------------------------

  #capacity(): number {
    return this.now.fcr === 0 ? 1 : 16;
  }

  #receive(): number {
    const { received } = this.now;
    const byte = received.shift();
    if (byte !== undefined && received.length === 0) {
      this.ledger.effects |= abi.EFFECT_INPUT_SPACE;
    }
    return byte ?? 0;
  }

  #lineStatus(): number {
    const { now } = this;
    const { overrun } = now;
    now.overrun = false; // reading clears it (8.3)
    const idle = now.transmitted.length === 0;
    return (idle ? 0x60 : 0) + (now.received.length ? 1 : 0) + (overrun ? 2 : 0);
  }

  #transmit(byte: number): void {
    const { now, ledger } = this;
    const looped = (now.mcr & LOOP) !== 0;
    const fifo = looped ? now.received : now.transmitted;
    // In loop-back mode the byte is gone at once, so the transmitter is empty again (8.6.4).
    now.transmitterEmpty = looped;
    if (!looped) ledger.effects |= abi.EFFECT_OUTPUT;
    if (fifo.length < this.#capacity()) {
      fifo.push(byte);
      return;
    }
    if (looped) now.overrun = true;
    ledger.blame(abi.INCIDENT_OVERRUN);
  }

  #transmitterEmptied(): void {
    this.now.transmitted = [];
    this.now.transmitterEmpty = true;
  }

  // Turning the FIFOs on or off empties both; the other bits count only while they are on (8.4).
  #controlFifos(value: number): void {
    const { now } = this;
    const on = value % 2 === 1;
    const toggled = on !== (now.fcr !== 0);
    now.fcr = on ? value & 0xc9 : 0;
    if (toggled || (on && (value & 2) !== 0)) {
      now.received = [];
      this.ledger.effects |= abi.EFFECT_INPUT_SPACE;
    }
    const clears = toggled || (on && (value & 4) !== 0);
    if (clears && now.transmitted.length > 0) this.#transmitterEmptied();
  }

  // --- Modem lines ------------------------------------------------------------------------------

  // CTS, DSR and DCD are up; in loop-back mode DTR, RTS, OUT1 and OUT2 show as DSR, CTS, RI, DCD.
  #modemLines(): number {
    const { mcr } = this.now;
    if ((mcr & LOOP) === 0) return 0xb0;
    const pairs = [
      [0x01, 0x20],
      [0x02, 0x10],
      [0x04, 0x40],
      [0x08, 0x80],
    ];
    return pairs.reduce((lines, [output, input]) => lines + (mcr & output ? input : 0), 0);
  }

  #controlModem(mcr: number): void {
    const { now } = this;
    const before = this.#modemLines();
    if ((now.mcr & LOOP) !== 0 && (mcr & LOOP) === 0) {
      this.ledger.effects |= abi.EFFECT_INPUT_SPACE;
    }
    now.mcr = mcr;
    const after = this.#modemLines();
    const changed = (before ^ after) >> 4; // CTS, DSR, RI, DCD from bit 0 on
    // Of the ring indicator only the end counts (8.8).
    now.modemDelta |= (after & 0x40) !== 0 ? changed & ~4 : changed;
  }
}
