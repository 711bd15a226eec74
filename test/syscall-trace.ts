// The system calls of a real cell, seen by strace(1) and held against the tables: which rows a run
// used, and which calls no row allows.
//
// A call counts for the filter under which its thread made it: the first thread's first filter is
// that of the start, which threads inherit until they install their own.
import { readFileSync } from 'node:fs';
import {
  CELL_ROLES,
  type Condition,
  NUMBERS,
  type Role,
  type Row,
  RUNNING_ROLES,
  UNKNOWN,
} from '../host/confine/cell-policy.ts';
import { ROLE_CONSOLE, ROLE_IO, ROLE_NET, ROLE_START, ROLE_VCPU } from '../host/confine/roles.ts';

/** Rows that bare-metal guests do not reach: boot-syscalls.test.ts shows that they are used. */
export const ONLY_IN_BOOTS: readonly string[] = ['start: ioctl BLKGETSIZE64'];

// Arguments as plain numbers: the cell lets nobody look into its memory.
export const STRACE_FLAGS = ['-f', '-e', 'raw=all', '-o'];

/**
 * What runs a command under strace, which writes to `path`. With -D it is the command that is the
 * caller's child; strace keeps its descriptors open until the trace is complete.
 */
export function strace(program: string, path: string): string[] {
  return [program, '-D', ...STRACE_FLAGS, path];
}

interface Call {
  name: string;
  arguments: bigint[];
}

export interface Trace {
  calls: { role: Role; call: Call }[]; // under a filter
  process: bigint; // as the cell sees its own number
}

/** How a row is named in findings: 'io: fallocate PUNCH_HOLE'. */
export function nameOf(role: Role, { call, when = [] }: Row): string {
  const words = when.map((condition) => {
    if ('is' in condition) return condition.is;
    return 'without' in condition ? `without ${condition.without}` : 'own process';
  });
  return [`${role.name}: ${call}`, ...words].join(' ');
}

// --- Reading ------------------------------------------------------------------------------------

interface Line {
  thread: string;
  name: string;
  values: string | undefined; // of a call that begins
  result: string | undefined; // of one that ends
}

const BEGINS = /^(\d+) +(\w+)\((.*?)(?: <unfinished \.\.\.>|\) += (\S+).*)$/;
const RESUMES = /^(\d+) +<\.\.\. (\w+) resumed>.*\) += (\S+).*$/;
const NO_CALL = /^\d+ +(---|\+\+\+) /; // a signal, an end

/** Takes apart what strace has written. Throws for a whole line that it does not understand. */
function linesOf(text: string): Line[] {
  const whole = text.split('\n').slice(0, -1);
  const lines = whole.filter((line) => !NO_CALL.test(line));
  return lines.map((line) => {
    const begins = BEGINS.exec(line);
    const found = begins ?? RESUMES.exec(line);
    if (!found) throw new Error(`strace wrote '${line}'`);
    const [, thread, name] = found as unknown as [string, string, string];
    return { thread, name, values: begins?.[3], result: begins ? begins[4] : found[3] };
  });
}

export function readTrace(path: string): Trace {
  const lines = linesOf(readFileSync(path, 'utf8'));
  const first = lines[0]?.thread;
  const started = lines.filter(({ name, result }) => name === 'clone' && result !== undefined);
  const numbers = started.map(({ result }) => String(Number(result)));
  const console = numbers[0]; // the first thread that a cell starts
  // The last one, where there is a network: it waits for events as the first thread does.
  const epolls = lines.filter(({ name, result }) => name === 'epoll_create1' && result);
  const net = epolls.length > 1 ? numbers.at(-1) : undefined;
  const roles = new Map<string, number>();
  const install = (thread: string) => {
    const own = thread === console ? ROLE_CONSOLE : thread === net ? ROLE_NET : ROLE_VCPU;
    roles.set(thread, thread !== first ? own : roles.has(thread) ? ROLE_IO : ROLE_START);
  };
  const trace: Trace = { calls: [], process: -1n };
  for (const { thread, name, values, result } of lines) {
    const role = roles.get(thread) ?? (thread === first ? undefined : ROLE_START);
    if (values !== undefined && role !== undefined) {
      const all = values === '' ? [] : values.split(', ');
      trace.calls.push({ role: CELL_ROLES[role]!, call: { name, arguments: all.map(BigInt) } });
    }
    if (name === 'seccomp' && result === '0') install(thread);
    if (name === 'getpid' && result !== undefined) trace.process = BigInt(result);
  }
  return trace;
}

// --- Against the tables -------------------------------------------------------------------------

function holds(condition: Condition, call: Call, process: bigint): boolean {
  const low = (call.arguments[condition.argument] ?? 0n) & 0xffff_ffffn;
  if ('is' in condition) return low === BigInt(NUMBERS[condition.is]);
  if ('without' in condition) return (low & BigInt(NUMBERS[condition.without])) === 0n;
  return low === process;
}

const isOf = (row: Row, call: Call, process: bigint): boolean =>
  row.call === call.name && (row.when ?? []).every((each) => holds(each, call, process));

/** What runs used of the tables, over any number of traces. */
export class Usage {
  private readonly used = new Set<string>();

  /** Takes a trace in; returns the calls that no row allows. */
  add({ calls, process }: Trace): string[] {
    const refused = new Set<string>();
    for (const { role, call } of calls) {
      const row = role.rows.find((each) => isOf(each, call, process));
      if (row) this.used.add(nameOf(role, row));
      else if (!UNKNOWN.includes(call.name)) {
        const values = call.arguments.map((value) => `0x${value.toString(16)}`);
        refused.add(`${role.name}: ${call.name} ${values.join(' ')}`);
      }
    }
    return [...refused];
  }

  has(name: string): boolean {
    return this.used.has(name);
  }

  /** Rows that nothing used and that do not say why they stay. */
  unneeded(): string[] {
    return CELL_ROLES.flatMap((role) =>
      ownRows(role)
        .filter(({ keep }) => keep === undefined)
        .map((row) => nameOf(role, row))
        .filter((name) => !this.used.has(name)),
    );
  }
}

/** The start's filter has to allow all that later filters do: that is not its own need. */
function ownRows(role: Role): readonly Row[] {
  if (role !== CELL_ROLES[ROLE_START]) return role.rows;
  const rule = ({ call, when }: Row) => JSON.stringify([call, when]);
  const later = new Set(RUNNING_ROLES.flatMap(({ rows }) => rows.map(rule)));
  return role.rows.filter((row) => !later.has(rule(row)));
}
