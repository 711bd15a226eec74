// A program of the fuzz machine, in memory and as text: one action a line, so that a corpus entry
// or a crash can be read, changed by hand and compared.
import * as shared from './machine/shared.ts';

export interface Program {
  variant: number;
  bytes: Uint8Array; // as it stands in the machine's memory: header and actions
}

const OPS = [
  'descriptor',
  'offer',
  'notify',
  'next',
  'complete',
  'read',
  'write',
  'poke',
  'avail-index',
  'event',
  'header',
  'request',
  'bring-up',
  'input',
  'time',
  'reset',
  'fail',
  'state',
  'table',
  'frame',
  'buffers',
  'command',
  'receive',
  'restore',
] as const;

const SHOWN_MAX = 60; // characters of a line that is refused

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A program of `count` actions, all zero. */
function emptyProgram(variant: number, count: number): Program {
  const bytes = new Uint8Array(shared.ENTRY_ACTIONS + count * shared.ACTION_BYTES);
  const view = viewOf(bytes);
  view.setUint32(shared.ENTRY_COUNT, count, true);
  view.setUint32(shared.ENTRY_VARIANT, variant, true);
  return { variant, bytes };
}

export function actionCount({ bytes }: Program): number {
  return (bytes.length - shared.ENTRY_ACTIONS) / shared.ACTION_BYTES;
}

/** The program without `count` actions from `index` on. */
export function without(program: Program, index: number, count: number): Program {
  const shorter = emptyProgram(program.variant, actionCount(program) - count);
  const from = shared.ENTRY_ACTIONS + index * shared.ACTION_BYTES;
  shorter.bytes.set(program.bytes.subarray(shared.ENTRY_ACTIONS, from), shared.ENTRY_ACTIONS);
  shorter.bytes.set(program.bytes.subarray(from + count * shared.ACTION_BYTES), from);
  return shorter;
}

/** One line per action: its name, then a, b, c, d in hexadecimal. */
export function printProgram({ variant, bytes }: Program): string {
  const view = viewOf(bytes);
  const lines = [`variant ${variant}`];
  for (let at = shared.ENTRY_ACTIONS; at < bytes.length; at += shared.ACTION_BYTES) {
    const numbers = [
      view.getUint8(at + shared.ACTION_A),
      view.getUint16(at + shared.ACTION_B, true),
      view.getUint32(at + shared.ACTION_C, true),
      view.getBigUint64(at + shared.ACTION_D, true),
    ].map((value) => value.toString(16));
    while (numbers.at(-1) === '0') numbers.pop();
    const op = bytes[at];
    lines.push([OPS[op] ?? `op-${op}`, ...numbers].join(' '));
  }
  return `${lines.join('\n')}\n`;
}

/** The program that a text describes. Throws a SyntaxError with the line that is wrong. */
export function parseProgram(text: string): Program {
  const lines = text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '');
  const first = /^variant (\d)$/.exec(lines.shift() ?? '');
  if (!first) throw new SyntaxError("a program begins with 'variant N'");
  if (lines.length > shared.ACTIONS_MAX) throw new SyntaxError('a program of too many actions');
  const program = emptyProgram(Number(first[1]), lines.length);
  lines.forEach((line, index) => {
    parseAction(line, program.bytes, shared.ENTRY_ACTIONS + index * shared.ACTION_BYTES);
  });
  return program;
}

/** A line of a file for a message: short, and without what a terminal would obey. */
function shown(line: string): string {
  const plain = line.replace(/[^ -~]/g, '.');
  return plain.length > SHOWN_MAX ? `${plain.slice(0, SHOWN_MAX)}...` : plain;
}

function parseAction(line: string, bytes: Uint8Array, at: number): void {
  const [name, ...words] = line.split(/\s+/);
  const other = /^op-(\d{1,3})$/.exec(name);
  const op = other ? Number(other[1]) : OPS.indexOf(name as (typeof OPS)[number]);
  const numbers = words.map((word) => (/^[0-9a-f]{1,16}$/.test(word) ? BigInt(`0x${word}`) : -1n));
  const [a = 0n, b = 0n, c = 0n, d = 0n, more] = numbers;
  const fits = a < 0x100n && b < 0x10000n && c < 0x100000000n;
  if (op < 0 || op > 255 || !fits || more !== undefined || numbers.includes(-1n)) {
    throw new SyntaxError(`no action: '${shown(line)}'`);
  }
  const view = viewOf(bytes);
  view.setUint8(at, op);
  view.setUint8(at + shared.ACTION_A, Number(a));
  view.setUint16(at + shared.ACTION_B, Number(b), true);
  view.setUint32(at + shared.ACTION_C, Number(c), true);
  view.setBigUint64(at + shared.ACTION_D, d, true);
}
