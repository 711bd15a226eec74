// A little assembler of 32-bit code for guests without an operating system: what they say to COM1,
// to registers in memory, and how the first vCPU starts the others.
import { le } from './bare-metal.ts';

export const COM1 = 0x3f8;
export const LINE_STATUS = COM1 + 5;
export const POWER_OFF_PORT = 0x600;

const THR_EMPTY = 0x20;
const DATA_READY = 0x01;
const APIC_COMMAND = 0xfee00300;
const INIT_ALL_OTHERS = 0xc4500;
const STARTUP_ALL_OTHERS = 0xc4600;
export const TRAMPOLINE = 0x8000; // real-mode code of the other vCPUs, in a page of its own
const TRAMPOLINE_GDT = 0x8100;
const STACKS = 0x20000; // one page for each vCPU, growing down from the next
const ARRIVALS = 0x8200; // u32: vCPUs that came up

/** Code under construction, to be loaded at `origin`. Its methods chain. */
export class Code {
  private readonly code: number[] = [];
  private readonly places = new Map<string, number>();
  private readonly gaps: { at: number; name: string; relative: boolean }[] = [];
  private readonly origin: number;
  private fresh = 0; // for labels of its own

  constructor(origin: number) {
    this.origin = origin;
  }

  /** Machine code as it is. */
  raw(...bytes: number[]): this {
    this.code.push(...bytes);
    return this;
  }

  label(name: string): this {
    this.places.set(name, this.code.length);
    return this;
  }

  private gap(name: string, relative: boolean): this {
    this.gaps.push({ at: this.code.length, name, relative });
    return this.raw(0, 0, 0, 0);
  }

  jump(name: string): this {
    return this.raw(0xe9).gap(name, true);
  }

  call(name: string): this {
    return this.raw(0xe8).gap(name, true);
  }

  jumpIfZero(name: string): this {
    return this.raw(0x0f, 0x84).gap(name, true);
  }

  jumpIfNotZero(name: string): this {
    return this.raw(0x0f, 0x85).gap(name, true);
  }

  /** After an unsigned comparison. */
  jumpIfBelow(name: string): this {
    return this.raw(0x0f, 0x82).gap(name, true);
  }

  /** mov eax, the address of a label */
  addressToEax(name: string): this {
    return this.raw(0xb8).gap(name, false);
  }

  /** mov al, value; out port, al */
  out(port: number, value: number): this {
    return this.raw(0x66, 0xba, ...le(port, 2), 0xb0, value, 0xee);
  }

  /** in al, port */
  in(port: number): this {
    return this.raw(0x66, 0xba, ...le(port, 2), 0xec);
  }

  /** mov dword [address], value */
  store(address: number, value: number): this {
    return this.raw(0xc7, 0x05, ...le(address, 4), ...le(value, 4));
  }

  /** mov word [address], value */
  store16(address: number, value: number): this {
    return this.raw(0x66, 0xc7, 0x05, ...le(address, 4), ...le(value, 2));
  }

  /** mov eax, [address] */
  load(address: number): this {
    return this.raw(0xa1, ...le(address, 4));
  }

  /** lock inc dword [address] */
  increment(address: number): this {
    return this.raw(0xf0, 0xff, 0x05, ...le(address, 4));
  }

  private await(mask: number): this {
    const name = `await ${this.fresh++}`;
    return this.label(name).in(LINE_STATUS).raw(0xa8, mask).jumpIfZero(name);
  }

  /** Sends al to COM1 once that has room. Uses edx and ah. */
  sendAl(): this {
    this.raw(0x88, 0xc4).await(THR_EMPTY); // mov ah, al
    return this.raw(0x88, 0xe0, 0x66, 0xba, ...le(COM1, 2), 0xee); // mov al, ah; out dx, al
  }

  say(text: string): this {
    for (const byte of Buffer.from(text, 'latin1')) this.raw(0xb0, byte).sendAl();
    return this;
  }

  /** Waits for a byte from COM1: in al. */
  receiveAl(): this {
    return this.await(DATA_READY).in(COM1);
  }

  /** cli; hlt, over and over. */
  idle(): this {
    const name = `idle ${this.fresh++}`;
    return this.label(name).raw(0xfa, 0xf4).jump(name);
  }

  /** ACPI's sleep control register: SLP_TYP 5, SLP_EN. */
  powerOff(): this {
    return this.out(POWER_OFF_PORT, 0x34).idle();
  }

  /**
   * Starts all other vCPUs by INIT and SIPI: each runs from its `entries` label, in the order in
   * which they come up, with a stack of its own. Waits until all have.
   */
  startOthers(entries: string[]): this {
    const waiting = `waiting ${this.fresh++}`;
    this.store(APIC_COMMAND, INIT_ALL_OTHERS);
    this.store(APIC_COMMAND, STARTUP_ALL_OTHERS | (TRAMPOLINE >> 12));
    this.label(waiting).load(ARRIVALS);
    this.raw(0x83, 0xf8, entries.length).jumpIfNotZero(waiting); // cmp eax, count
    const past = `past ${this.fresh++}`;
    this.jump(past).label('arrive');
    this.raw(0xb8, 1, 0, 0, 0, 0xf0, 0x0f, 0xc1, 0x05, ...le(ARRIVALS, 4)); // lock xadd
    this.raw(0x89, 0xc4, 0xc1, 0xe4, 12, 0x81, 0xc4, ...le(STACKS, 4)); // esp by arrival
    this.raw(0xff, 0x24, 0x85).gap('entries', false); // jmp [entries + 4 * eax]
    this.label('entries');
    for (const entry of entries) this.gap(entry, false);
    return this.label(past);
  }

  /** Where the trampoline jumps to: the address of the arrival code. */
  addressOf(name: string): number {
    return this.origin + this.places.get(name)!;
  }

  bytes(): Uint8Array {
    const bytes = Buffer.from(this.code);
    for (const { at, name, relative } of this.gaps) {
      const place = this.places.get(name);
      if (place === undefined) throw new Error(`no label '${name}'`);
      bytes.writeInt32LE(relative ? place - at - 4 : this.origin + place, at);
    }
    return bytes;
  }
}

/** Real-mode code at TRAMPOLINE that goes to flat 32-bit mode and jumps to `target`. */
export function trampoline(target: number): Uint8Array {
  const bytes = Buffer.alloc(0x200);
  const gdt = TRAMPOLINE_GDT - TRAMPOLINE;
  const code = [
    ...[0xfa, 0x31, 0xc0, 0x8e, 0xd8], // cli; xor ax, ax; mov ds, ax
    ...[0x0f, 0x01, 0x16, ...le(TRAMPOLINE_GDT + 0x20, 2)], // lgdt
    ...[0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= PE
    ...[0x66, 0xea, ...le(TRAMPOLINE + 0x40, 4), 8, 0], // jmp 8:flat
  ];
  const flat = [
    ...[0x66, 0xb8, 16, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // ds, es, ss
    ...[0xb8, ...le(target, 4), 0xff, 0xe0], // jmp target
  ];
  bytes.set(code);
  bytes.set(flat, 0x40);
  bytes.writeBigUInt64LE(0x00cf9b000000ffffn, gdt + 8);
  bytes.writeBigUInt64LE(0x00cf93000000ffffn, gdt + 16);
  bytes.writeUInt16LE(23, gdt + 0x20);
  bytes.writeUInt32LE(TRAMPOLINE_GDT, gdt + 0x22);
  return bytes;
}
