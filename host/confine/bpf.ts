// Compiles a role's table into a classic BPF program for seccomp(2). Layout of the input: struct
// seccomp_data (linux/seccomp.h); of an instruction: struct sock_filter (linux/filter.h).
//
// A program first looks at the architecture, then finds the block of the call's number in a tree of
// comparisons: the kernel tries a new filter with every number there is, and a filter that asked
// for one number after the other would take a third of a millisecond to install.

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
const JUMP = 0x05; // BPF_JMP | BPF_JA
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
const OWN = 0xffff_ffff; // the number of no process, until the filter is installed
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
  const k = 'is' in condition ? NUMBERS[condition.is] : OWN;
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

/** The rows of one call as a block that answers whatever the arguments are. */
function compileCall(call: string, rows: readonly Row[]): Instruction[] {
  const own = rows.filter((row) => row.call === call);
  const open = own.some((row) => row.when === undefined);
  return open ? [answer(ALLOW)] : [...own.flatMap(compileRow), answer(TRAP)];
}

/** From `number` on, up to the next range, this block answers. */
interface Range {
  number: number;
  block: Instruction[];
}

const REFUSED: readonly Instruction[] = [answer(TRAP)];

const isSame = (one: readonly Instruction[], other: readonly Instruction[]): boolean =>
  JSON.stringify(one) === JSON.stringify(other);

/** All numbers in ranges, in order; neighbours with the same answer are one. */
function rangesOf(blocks: ReadonlyMap<number, Instruction[]>): Range[] {
  const numbers = [...blocks.keys()].sort((one, other) => one - other);
  const all = numbers.flatMap((number) => [
    { number, block: blocks.get(number)! },
    ...(blocks.has(number + 1) ? [] : [{ number: number + 1, block: [...REFUSED] }]),
  ]);
  const ranges: Range[] = numbers[0] === 0 ? [] : [{ number: 0, block: [...REFUSED] }];
  for (const range of all) {
    const last = ranges.at(-1);
    if (!last || !isSame(last.block, range.block)) ranges.push(range);
  }
  return ranges;
}

/** A conditional jump reaches 255 instructions, an unconditional one everything. */
function tree(ranges: readonly Range[]): Instruction[] {
  if (ranges.length === 1) return ranges[0].block;
  const middle = ranges.length >> 1;
  const low = tree(ranges.slice(0, middle));
  const high = tree(ranges.slice(middle));
  const k = ranges[middle].number;
  if (low.length <= JUMP_MAX) {
    return [{ code: IF_AT_LEAST, jumpTrue: low.length, jumpFalse: 0, k }, ...low, ...high];
  }
  const test = { code: IF_AT_LEAST, jumpTrue: 0, jumpFalse: 1, k };
  const jump = { code: JUMP, jumpTrue: 0, jumpFalse: 0, k: low.length };
  return [test, jump, ...low, ...high];
}

/** Compiles the table of a role. */
export function compile({ rows }: Pick<Role, 'rows'>): Program {
  const blocks = new Map<number, Instruction[]>();
  for (const call of DEADLY) blocks.set(syscallNumber(call), [answer(KILL)]);
  for (const call of UNKNOWN) blocks.set(syscallNumber(call), [answer(NO_SUCH_CALL)]);
  for (const call of new Set(rows.map((row) => row.call))) {
    blocks.set(syscallNumber(call), compileCall(call, rows));
  }
  const instructions = [
    load(OFFSET_ARCHITECTURE),
    { code: IF_EQUAL, jumpTrue: 1, jumpFalse: 0, k: AUDIT_ARCH_X86_64 },
    answer(KILL),
    load(OFFSET_NUMBER),
    { code: IF_AT_LEAST, jumpTrue: 0, jumpFalse: 1, k: X32_BIT },
    answer(KILL),
    ...tree(rangesOf(blocks)),
  ];
  if (instructions.length > INSTRUCTIONS_MAX) throw new Error('the filter is too long');
  return { instructions, processAt: findProcess(instructions) };
}

/** The test whose `k` stands for the own process. */
function findProcess(instructions: readonly Instruction[]): number {
  const places = instructions.flatMap(({ code, k }, i) =>
    code === IF_EQUAL && k === OWN ? [i] : [],
  );
  if (places.length > 1) throw new Error('one row at most may name the own process');
  return places[0] ?? -1;
}
