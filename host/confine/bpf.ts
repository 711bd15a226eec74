// Compiles a role's table into a classic BPF program for seccomp(2). Layout of the input: struct
// seccomp_data (linux/seccomp.h); of an instruction: struct sock_filter (linux/filter.h).
//
// A program reads from top to bottom as the table does: first the architecture, then for each call
// a test of its number, which skips the block of its rows if it is another's.

import { type Condition, DEADLY, NUMBERS, type Role, type Row, UNKNOWN } from './cell-policy.ts';
import { syscallNumber } from './syscalls.ts';

export interface Instruction {
  code: number;
  jumpTrue: number; // how many instructions to skip
  jumpFalse: number;
  k: number;
}

export interface Program {
  instructions: readonly Instruction[];
  /** The one whose `k` is to become the number of the process that installs it; or -1. */
  processAt: number;
}

// struct seccomp_data
const OFFSET_NUMBER = 0;
const OFFSET_ARCHITECTURE = 4;
const OFFSET_ARGUMENTS = 16; // eight bytes each, the low half first

const AUDIT_ARCH_X86_64 = 0xc000003e;
const X32_BIT = 0x40000000; // calls of the x32 ABI

// linux/bpf_common.h
const LOAD = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_BITS = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN = 0x06; // BPF_RET | BPF_K

// linux/seccomp.h
export const KILL = 0x80000000; // SECCOMP_RET_KILL_PROCESS
export const TRAP = 0x00030000; // SECCOMP_RET_TRAP
export const ALLOW = 0x7fff0000; // SECCOMP_RET_ALLOW
const ERRNO = 0x00050000; // SECCOMP_RET_ERRNO
const ENOSYS = 38;
export const NO_SUCH_CALL = ERRNO | ENOSYS;

const JUMP_MAX = 255;
const INSTRUCTIONS_MAX = 4096; // BPF_MAXINSNS

const load = (offset: number): Instruction => ({
  code: LOAD,
  jumpTrue: 0,
  jumpFalse: 0,
  k: offset,
});
const answer = (k: number): Instruction => ({ code: RETURN, jumpTrue: 0, jumpFalse: 0, k });

/** The test of a condition; `otherwise`: how many instructions to skip where it does not hold. */
function test(condition: Condition, otherwise: number): Instruction {
  if ('without' in condition) {
    return { code: IF_BITS, jumpTrue: otherwise, jumpFalse: 0, k: NUMBERS[condition.without] };
  }
  const k = 'is' in condition ? NUMBERS[condition.is] : 0;
  return { code: IF_EQUAL, jumpTrue: 0, jumpFalse: otherwise, k };
}

/** One row: falls through to what follows where a condition does not hold. */
function compileRow(row: Row): Instruction[] {
  const conditions = row.when ?? [];
  const length = 2 * conditions.length + 1;
  const tests = conditions.flatMap((condition, i) => [
    load(OFFSET_ARGUMENTS + 8 * condition.argument),
    test(condition, length - (2 * i + 2)),
  ]);
  return [...tests, answer(ALLOW)];
}

function block(call: string, body: Instruction[]): Instruction[] {
  if (body.length > JUMP_MAX) throw new Error(`the rows of ${call} are too many for one jump`);
  const skip = body.length;
  return [{ code: IF_EQUAL, jumpTrue: 0, jumpFalse: skip, k: syscallNumber(call) }, ...body];
}

function rowsOf(call: string, rows: readonly Row[]): Instruction[] {
  const own = rows.filter((row) => row.call === call);
  const open = own.some((row) => row.when === undefined);
  // What follows the last row: no alternative fits. The number is loaded anew for nobody.
  return open ? [answer(ALLOW)] : [...own.flatMap(compileRow), answer(TRAP)];
}

/** Compiles the table of a role. */
export function compile({ rows }: Pick<Role, 'rows'>): Program {
  const calls = [...new Set(rows.map((row) => row.call))];
  const deadly = DEADLY.filter((call) => !calls.includes(call));
  const instructions = [
    load(OFFSET_ARCHITECTURE),
    { code: IF_EQUAL, jumpTrue: 1, jumpFalse: 0, k: AUDIT_ARCH_X86_64 },
    answer(KILL),
    load(OFFSET_NUMBER),
    { code: IF_AT_LEAST, jumpTrue: 0, jumpFalse: 1, k: X32_BIT },
    answer(KILL),
    ...calls.flatMap((call) => block(call, rowsOf(call, rows))),
    ...deadly.flatMap((call) => block(call, [answer(KILL)])),
    ...UNKNOWN.flatMap((call) => block(call, [answer(NO_SUCH_CALL)])),
    answer(TRAP),
  ];
  if (instructions.length > INSTRUCTIONS_MAX) throw new Error('the filter is too long');
  return { instructions, processAt: processAt(instructions, rows) };
}

/** Where the own process is compared with: the tests of such a row carry 0. */
function processAt(instructions: readonly Instruction[], rows: readonly Row[]): number {
  const own = rows.filter((row) => row.when?.some((condition) => 'isOwnProcess' in condition));
  if (own.length === 0) return -1;
  if (own.length > 1) throw new Error('one row at most may name the own process');
  const [{ call, when }] = own;
  const start = instructions.findIndex(
    ({ code, k }) => code === IF_EQUAL && k === syscallNumber(call),
  );
  const position = when!.findIndex((condition) => 'isOwnProcess' in condition);
  return start + 2 * position + 2;
}
