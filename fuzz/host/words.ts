// The words a parser knows, taken from its own sources: strings and numbers, as they would stand
// in a file. So the dictionary of a target is never behind its parser.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from '../../tools/cache.ts';

const WORD_BYTES_MAX = 32;
const STRING = /'((?:[^'\\\n]|\\.){1,40})'/g;
const NUMBER = /\b(0x[0-9a-fA-F]+|\d{2,})\b/g;
const NO_CODE = /^\s*(?:import|\/\/).*$|\bfrom '.*'/gm; // not what a file may hold

const ESCAPES: Record<string, string> = { n: '\n', r: '\r', t: '\t', '0': '\0' };

function unescaped(text: string): string {
  return text.replace(/\\(x[0-9a-f]{2}|.)/gi, (_, code: string) => {
    if (code.length === 3) return String.fromCharCode(Number.parseInt(code.slice(1), 16));
    return ESCAPES[code] ?? code;
  });
}

function littleEndian(text: string): Uint8Array {
  const value = BigInt(text);
  const width = value < 0x100n ? 1 : value < 0x10000n ? 2 : value < 0x100000000n ? 4 : 8;
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, value));
  return Uint8Array.from(bytes.subarray(0, width));
}

/** The words of the sources, each once, in the order in which they stand there. */
export function wordsOf(sources: readonly string[]): Uint8Array[] {
  const words = new Map<string, Uint8Array>();
  const add = (word: Uint8Array): void => {
    if (word.length === 0 || word.length > WORD_BYTES_MAX) return;
    words.set(Buffer.from(word).toString('latin1'), word);
  };
  for (const source of sources) {
    const code = readFileSync(join(REPOSITORY, source), 'utf8').replace(NO_CODE, '');
    for (const [, text] of code.matchAll(STRING)) add(Buffer.from(unescaped(text), 'latin1'));
    for (const [, number] of code.matchAll(NUMBER)) add(littleEndian(number));
  }
  return [...words.values()];
}
