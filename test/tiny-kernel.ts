// Kernels of a few bytes, for tests of the whole command: an ELF file with a PVH note around
// 32-bit machine code that talks to ports.
import { assemble, le } from './bare-metal.ts';

const LOAD_ADDRESS = 0x100000;
const ELF_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

// --- Machine code -------------------------------------------------------------------------------

/** mov dx, port; mov al, value; out dx, al */
export function out(port: number, value: number): number[] {
  return [0x66, 0xba, ...le(port, 2), 0xb0, value, 0xee];
}

/** Sends a text to COM1 without waiting: the engine fetches each byte before the next. */
export function print(text: string): number[] {
  return [...Buffer.from(text, 'latin1')].flatMap((byte) => out(0x3f8, byte));
}

export const POWER_OFF = out(0x600, 0x34); // SLP_EN with S5's type
export const ACPI_RESET = out(0x602, 0x42);
export const KEYBOARD_RESET = out(0x64, 0xfe);
export const PANICKED = out(0x505, 1);
export const MARKER = out(0x3f0, 123);
export const IDLE_FOR_EVER = [0xf4, 0xeb, 0xfd]; // hlt; jmp back
export const TRIPLE_FAULT = [0x0f, 0x0b]; // ud2 with no interrupt table

/** Sends one byte for ever: out dx, al; jmp back. */
export const FLOOD = [...out(0x3f8, 0x2e), 0xee, 0xeb, 0xfd];

/** The same, but it waits for the transmitter before each byte, as a kernel does. */
export const PATIENT_FLOOD = [
  ...[0x66, 0xba, ...le(0x3fd, 2)], //  0: mov dx, LSR
  ...[0xec, 0xa8, 0x20, 0x74, 0xfb], //  4: in al, dx; test al, THRE; jz back to the in
  ...[...out(0x3f8, 0x2e), 0xeb, 0xee], //  9: send a byte; jmp 0
];

/** Sends back what comes in on COM1 until a 'q'; then goes on behind it. */
export const ECHO_UNTIL_Q = [
  ...[0x66, 0xba, ...le(0x3fd, 2)], //  0: mov dx, LSR
  ...[0xec, 0xa8, 0x01, 0x74, 0xfb], //  4: in al, dx; test al, 1; jz back to the in
  ...[0x66, 0xba, ...le(0x3f8, 2)], //  9: mov dx, RBR
  ...[0xec, 0xee, 0x3c, 0x71, 0x75, 0xed], // 13: in, out; cmp al, 'q'; jne 0
];

/** Reads a port and sends what it held: mov dx, port; in al, dx; mov dx, 0x3f8; out dx, al. */
export function printPort(port: number): number[] {
  return [0x66, 0xba, ...le(port, 2), 0xec, 0x66, 0xba, ...le(0x3f8, 2), 0xee];
}

// --- The file around it -------------------------------------------------------------------------

function elfHeader(): number[] {
  return [
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[...le(2, 2), ...le(62, 2), ...le(1, 4)], // ET_EXEC, EM_X86_64, EV_CURRENT
    ...[...le(LOAD_ADDRESS, 8), ...le(ELF_HEADER_BYTES, 8), ...le(0, 8), ...le(0, 4)],
    ...[...le(ELF_HEADER_BYTES, 2), ...le(PROGRAM_HEADER_BYTES, 2), ...le(2, 2)],
    ...[...le(64, 2), ...le(0, 2), ...le(0, 2)],
  ];
}

function programHeader(type: number, offset: number, address: number, length: number): number[] {
  const place = [...le(offset, 8), ...le(address, 8), ...le(address, 8)];
  return [...le(type, 4), ...le(5, 4), ...place, ...le(length, 8), ...le(length, 8), ...le(4, 8)];
}

/** An ELF vmlinux whose PVH entry runs `instructions`. */
export function tinyKernel(...instructions: number[][]): Uint8Array {
  const code = assemble(...instructions);
  const name = [...Buffer.from('Xen\0')];
  const note = [...le(4, 4), ...le(4, 4), ...le(XEN_ELFNOTE_PHYS32_ENTRY, 4), ...name];
  note.push(...le(LOAD_ADDRESS, 4));
  const noteOffset = ELF_HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
  const codeOffset = noteOffset + note.length;
  return Uint8Array.from([
    ...elfHeader(),
    ...programHeader(1, codeOffset, LOAD_ADDRESS, code.length), // PT_LOAD
    ...programHeader(4, noteOffset, 0, note.length), // PT_NOTE
    ...note,
    ...code,
  ]);
}
