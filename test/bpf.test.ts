// The compiled filters against the tables they are made of: a small machine for classic BPF runs
// each program on calls of every kind, and a plain reading of the table says what must come out.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compile, type Program } from '../host/confine/bpf.ts';
import {
  CELL_ROLES,
  type Condition,
  DEADLY,
  NUMBERS,
  type NumberName,
  type Row,
  UNKNOWN,
} from '../host/confine/cell-policy.ts';
import { syscallName, syscallNumber } from '../host/confine/syscalls.ts';
import { randomFrom } from '../testing/random.ts';

const SEED = 7;
const NUMBERS_TRIED = 600;
const TABLES = 100; // made up by chance
const PROCESS = 4242;
const PROGRAM_LENGTH_MAX = 4095;

// linux/audit.h, linux/elf-em.h
const X86_64 = 0xc000003e;
const OTHERS = [0x40000003, 0xc00000b7, 0xc00000f3, 0x3e, 0x8000003e, 0]; // i386, aarch64, ...
const X32 = 0x40000000;

type Answer = 'ALLOW' | 'TRAP' | 'KILL' | 'ENOSYS';

interface Call {
  number: number;
  architecture: number;
  arguments: bigint[];
}

// --- The machine --------------------------------------------------------------------------------

const ANSWERS = new Map<number, Answer>([
  [0x7fff0000, 'ALLOW'],
  [0x00030000, 'TRAP'],
  [0x80000000, 'KILL'],
  [0x00050026, 'ENOSYS'],
]);

/** struct seccomp_data, as an x86-64 kernel lays it out. */
function seccompData({ number, architecture, arguments: values }: Call): DataView {
  const view = new DataView(new ArrayBuffer(64));
  view.setUint32(0, number, true);
  view.setUint32(4, architecture, true);
  view.setBigUint64(8, 0x7fff_dead_beefn, true); // instruction pointer
  for (const [i, value] of values.entries()) view.setBigUint64(16 + 8 * i, value, true);
  return view;
}

/** Runs a program as the kernel does (Documentation/networking/filter.rst). */
function execute({ instructions }: Program, data: DataView): number {
  let accumulator = 0;
  for (let at = 0; ; at++) {
    const instruction = instructions[at];
    if (!instruction) throw new Error(`left the program at ${at}`);
    const { code, jumpTrue, jumpFalse } = instruction;
    const k = instruction.k >>> 0;
    const jump = (condition: boolean) => {
      at += condition ? jumpTrue : jumpFalse;
    };
    if (code === 0x06) return k;
    else if (code === 0x05) at += k;
    else if (code === 0x20) accumulator = data.getUint32(k, true);
    else if (code === 0x15) jump(accumulator === k);
    else if (code === 0x35) jump(accumulator >= k);
    else if (code === 0x45) jump((accumulator & k) !== 0);
    else throw new Error(`instruction ${at} has code ${code}`);
  }
}

/** Fills in the number of the process, as the cell does when it installs a filter. */
function installed({ instructions, processAt }: Program): Program {
  const patched = instructions.map((each, i) => (i === processAt ? { ...each, k: PROCESS } : each));
  return { instructions: patched, processAt };
}

function answerOf(program: Program, call: Call): Answer {
  const value = execute(program, seccompData(call));
  const answer = ANSWERS.get(value);
  if (!answer) throw new Error(`answers 0x${value.toString(16)}`);
  return answer;
}

// --- A plain reading of the table ---------------------------------------------------------------

function holds(condition: Condition, values: readonly bigint[]): boolean {
  const low = values[condition.argument]! & 0xffff_ffffn;
  if ('is' in condition) return low === BigInt(NUMBERS[condition.is]);
  if ('without' in condition) return (low & BigInt(NUMBERS[condition.without])) === 0n;
  return low === BigInt(PROCESS);
}

function expected(rows: readonly Row[], call: Call): Answer {
  if (call.architecture !== X86_64 || call.number >= X32) return 'KILL';
  const name = syscallName(call.number);
  const own = rows.filter((row) => row.call === name);
  if (own.some(({ when = [] }) => when.every((each) => holds(each, call.arguments))))
    return 'ALLOW';
  if (own.length > 0) return 'TRAP';
  if (DEADLY.includes(name)) return 'KILL';
  return UNKNOWN.includes(name) ? 'ENOSYS' : 'TRAP';
}

// --- What is tried ------------------------------------------------------------------------------

const random = randomFrom(SEED);
const word = (): bigint => {
  return Array.from({ length: 4 }, () => BigInt(random(0x10000))).reduce(
    (all, n) => (all << 16n) | n,
  );
};
const words = (): bigint[] => Array.from({ length: 6 }, word);

const ZEROS = Array.from({ length: 6 }, () => 0n);
const ONES = Array.from({ length: 6 }, () => 2n ** 64n - 1n);

/** A number, its neighbours, each bit of it turned, and the same with something above 32 bits. */
function around(number: number): bigint[] {
  const low = [
    number,
    number + 1,
    number - 1,
    ...Array.from({ length: 32 }, (_, bit) => {
      return number ^ (1 << bit);
    }),
  ].map((each) => BigInt(each >>> 0));
  return [...low, ...low.slice(0, 3).map((each) => each | (1n << 32n) | (1n << 63n))];
}

function probes(condition: Condition): bigint[] {
  if ('is' in condition) return around(NUMBERS[condition.is]);
  if ('isOwnProcess' in condition) return [...around(PROCESS), 0n, 1n];
  const bits = NUMBERS[condition.without];
  return [...around(bits), ...around(0), BigInt(~bits >>> 0), 0xffff_ffffn];
}

/** Calls whose arguments lie around all limits that the rows of this call have. */
function limits(call: string, rows: readonly Row[]): Call[] {
  const own = rows.filter((row) => row.call === call);
  const conditions = own.flatMap(({ when = [] }) => when);
  const meeting = own.map(({ when = [] }) => {
    const values = words();
    for (const condition of when) values[condition.argument] = probes(condition)[0]!;
    for (const each of when) if ('without' in each) values[each.argument] = 0n;
    return values;
  });
  // Each limit with everything else as one of the rows wants it, and with nothing so.
  const sets = [...meeting, words()].flatMap((values) =>
    conditions.flatMap((condition) =>
      probes(condition).map((probe) => {
        return values.map((value, i) => (i === condition.argument ? probe : value));
      }),
    ),
  );
  return [...meeting, ...sets, ZEROS, ONES].map((values) => {
    return { number: syscallNumber(call), architecture: X86_64, arguments: values };
  });
}

/** Every call by number, of every kind, with arguments of no importance. */
function everyNumber(): Call[] {
  const numbers = Array.from({ length: NUMBERS_TRIED + 1 }, (_, number) => number);
  const strange = [X32 - 1, 0x7fffffff, 0x80000000, 0xffffffff];
  const x32 = numbers.map((number) => number + X32);
  const native = [...numbers, ...strange, ...x32].flatMap((number) =>
    [ZEROS, ONES, words()].map((values) => {
      return { number, architecture: X86_64, arguments: values };
    }),
  );
  const other = OTHERS.flatMap((architecture) =>
    numbers.map((number) => ({ number, architecture, arguments: words() })),
  );
  return [...native, ...other];
}

function assertSame(name: string, rows: readonly Row[], calls: readonly Call[]): Set<Answer> {
  const program = installed(compile({ rows }));
  const seen = new Set<Answer>();
  for (const call of calls) {
    const answer = answerOf(program, call);
    const right = expected(rows, call);
    seen.add(right);
    if (answer === right) continue;
    const values = call.arguments.map((value) => `0x${value.toString(16)}`).join(' ');
    const what = `${syscallName(call.number)} of 0x${call.architecture.toString(16)}`;
    assert.unreachable(`${name}: ${what} ${values}: ${answer}, not ${right}`);
  }
  return seen;
}

/** What the kernel asks of a program, and that nothing in it is in vain. */
function assertSound({ instructions }: Program): void {
  assert.ok(instructions.length <= PROGRAM_LENGTH_MAX, `${instructions.length}`);
  const reached = new Set([0]);
  for (const [at, { code, jumpTrue, jumpFalse, k }] of instructions.entries()) {
    assert.ok(reached.has(at), `instruction ${at} is never reached`);
    if (code === 0x06) continue;
    const jumps = code === 0x20 ? [0] : code === 0x05 ? [k] : [jumpTrue, jumpFalse];
    for (const jump of jumps) {
      assert.ok(Number.isInteger(jump) && jump >= 0, `jump of ${jump} at ${at}`);
      if (code !== 0x05) assert.ok(jump <= 255, `jump of ${jump} at ${at}`);
      assert.ok(at + 1 + jump < instructions.length, `instruction ${at} leaves the program`);
      reached.add(at + 1 + jump);
    }
    if (code === 0x20) assert.ok(k % 4 === 0 && k >= 0 && k < 64, `load of ${k} at ${at}`);
  }
}

// --- The tests ----------------------------------------------------------------------------------

for (const { name, rows } of CELL_ROLES) {
  test(`${name}: every call by number is answered as the table says`, () => {
    const seen = assertSame(name, rows, everyNumber());
    assert.equal([...seen].sort(), ['ALLOW', 'ENOSYS', 'KILL', 'TRAP']);
  });

  test(`${name}: arguments around every limit are answered as the table says`, () => {
    for (const call of new Set(rows.map((row) => row.call))) {
      const seen = assertSame(name, rows, limits(call, rows));
      const limited = rows.filter((row) => row.call === call).every((row) => row.when);
      assert.equal([...seen].sort(), limited ? ['ALLOW', 'TRAP'] : ['ALLOW'], call);
    }
  });

  test(`${name}: a call is carried out only with what its row names`, () => {
    const program = installed(compile({ rows }));
    const of = (call: string, ...values: number[]) => {
      const all = ZEROS.map((_, i) => BigInt(values[i] ?? 0));
      const number = syscallNumber(call);
      return answerOf(program, { number, architecture: X86_64, arguments: all });
    };
    const starts = name === 'start';
    assert.is(of('tgkill', PROCESS, 1, 34), starts || name === 'io' ? 'ALLOW' : 'TRAP');
    assert.is(of('tgkill', PROCESS + 1, 1, 34), 'TRAP');
    assert.is(of('ioctl', 3, 0xae80), starts || name === 'vcpu' ? 'ALLOW' : 'TRAP');
    assert.is(of('ioctl', 3, 0x5412), 'TRAP'); // TIOCSTI
    assert.is(of('mmap', 0, 4096, 3), starts ? 'ALLOW' : 'TRAP');
    for (const prot of [4, 5, 6, 7, 12]) assert.is(of('mmap', 0, 4096, prot), 'TRAP');
    for (const prot of [4, 5, 6, 7, 12]) assert.is(of('mprotect', 0, 4096, prot), 'TRAP');
    assert.is(of('openat', 0), 'TRAP');
    assert.is(of('execve', 0), 'KILL');
    assert.is(of('clone3', 0), 'ENOSYS');
  });

  test(`${name}: no jump leaves the program, and no instruction is never reached`, () => {
    assertSound(compile({ rows }));
  });
}

const NAMES = Object.keys(NUMBERS) as NumberName[];
const CALLS = [
  'read',
  'ioctl',
  'tgkill',
  'mmap',
  'execve',
  'clone3',
  'close_range',
  'io_uring_setup',
];
const pick = <T>(from: readonly T[]): T => from[random(from.length)]!;

function someCondition(): Condition {
  const argument = random(6);
  return random(3) === 0 ? { argument, without: pick(NAMES) } : { argument, is: pick(NAMES) };
}

/** A table by chance; at most one row names the own process, anywhere among the others. */
function someRows(): Row[] {
  const rows: Row[] = Array.from({ length: 1 + random(12) }, () => {
    const when = Array.from({ length: random(4) }, someCondition);
    const base = { call: pick(CALLS), caller: 'x', reason: 'x' };
    return when.length > 0 || random(4) === 0 ? { ...base, when } : base;
  });
  const { when, ...row } = pick(rows);
  const own: Condition = { argument: random(6), isOwnProcess: true };
  const conditions = [...(when ?? []).slice(0, 1), own, ...(when ?? []).slice(1)];
  return random(2) === 0 ? rows : [...rows, { ...row, when: conditions }];
}

test(`${TABLES} tables by chance are compiled to what they say`, () => {
  for (let i = 0; i < TABLES; i++) {
    const rows = someRows();
    const name = `seed ${SEED}, table ${i}: ${JSON.stringify(rows)}`;
    const calls = [...new Set([...CALLS, 'mount', 'openat'])].flatMap((call) => limits(call, rows));
    assertSame(name, rows, calls);
  }
});

test('tables that are longer than a jump reaches are compiled all the same', () => {
  const row = { caller: 'x', reason: 'x' };
  const last: Row = { ...row, call: 'read', when: [{ argument: 1, is: 'KVM_RUN' }] };
  for (const [call, count] of [70, 80, 82, 83, 84, 85, 86, 90, 170, 1000].flatMap((rows) =>
    ['read', 'epoll_wait', 'io_uring_setup'].map((name) => [name, rows] as const),
  )) {
    const when = [{ argument: 0, is: 'PROT_EXEC' }] as const;
    const many = Array.from({ length: count }, () => ({ ...row, call, when }));
    const rows = [...many, { ...last, call }, { ...row, call: 'write' }];
    assertSound(compile({ rows }));
    const others = [...CALLS, 'write', 'open', 'mount', 'memfd_secret'];
    const calls = others.map((name) => limits(name, []).slice(-1)[0]!);
    assertSame(`${count} rows`, rows, [...calls, ...limits(call, rows.slice(-3))]);
  }
});

test('what cannot be compiled is refused', () => {
  const row = (change: Partial<Row>): Row => ({
    call: 'read',
    caller: 'x',
    reason: 'x',
    ...change,
  });
  const own = row({ when: [{ argument: 0, isOwnProcess: true }] });
  assert.throws(() => compile({ rows: [own, own] }), /own process/);
  assert.throws(() => compile({ rows: [row({ call: 'reed' })] }), /'reed'/);
  const limited = row({ when: [{ argument: 0, is: 'PROT_EXEC' }] });
  const many = (count: number) => compile({ rows: Array.from({ length: count }, () => limited) });
  assert.throws(() => many(2000), /too long/);
  many(1000);
});

test('only the row of the own process is left open, for the process to fill in', () => {
  for (const { name, rows } of CELL_ROLES) {
    const { instructions, processAt } = compile({ rows });
    const own = rows.some(({ when = [] }) => when.some((each) => 'isOwnProcess' in each));
    assert.is(processAt >= 0, own, name);
    if (own) assert.is(instructions[processAt]!.k, 0xffff_ffff); // no process has it
  }
});

test.run();
