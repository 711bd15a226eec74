// An ELF program of a few bytes: it says one thing on standard error and ends. 64-bit code without
// libraries, so that it runs under whatever limits.
import { le } from '../bare-metal.ts';

const LOAD_ADDRESS = 0x400000;
const HEADERS_BYTES = 64 + 56; // Ehdr, one Phdr
const SYS_WRITE = 1;
const SYS_EXIT_GROUP = 231;

export function tinyProgram(text: string): Uint8Array {
  const syscall = [0x0f, 0x05];
  const tail = [...syscall, 0x31, 0xff, 0xb8, ...le(SYS_EXIT_GROUP, 4), ...syscall]; // xor edi, edi
  const code = [
    ...[0xb8, ...le(SYS_WRITE, 4), 0xbf, ...le(2, 4)], // mov eax; mov edi
    ...[0x48, 0x8d, 0x35, ...le(5 + tail.length, 4)], // lea rsi, text: behind the code
    ...[0xba, ...le(text.length, 4), ...tail], // mov edx
  ];
  const bytes = HEADERS_BYTES + code.length + text.length;
  return Uint8Array.from([
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[...le(2, 2), ...le(62, 2), ...le(1, 4)], // ET_EXEC, EM_X86_64, EV_CURRENT
    ...[...le(LOAD_ADDRESS + HEADERS_BYTES, 8), ...le(64, 8), ...le(0, 8), ...le(0, 4)],
    ...[64, 56, 1, 0, 0, 0].flatMap((value) => le(value, 2)),
    ...[...le(1, 4), ...le(5, 4), ...le(0, 8)], // PT_LOAD, readable and executable, from offset 0
    ...[...le(LOAD_ADDRESS, 8), ...le(LOAD_ADDRESS, 8), ...le(bytes, 8), ...le(bytes, 8)],
    ...le(4096, 8),
    ...code,
    ...Buffer.from(text, 'latin1'),
  ]);
}
