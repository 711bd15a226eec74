// The tables of what a cell may ask of the kernel: small, without what nobody needs, and each row
// with a caller that exists.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  CELL_ROLES,
  DEADLY,
  NUMBERS,
  RECORDING,
  type Role,
  type Row,
  RUNNING_ROLES,
  UNKNOWN,
} from '../host/confine/cell-policy.ts';
import { ROLE_CONSOLE, ROLE_IO, ROLE_NAMES, ROLE_NET, ROLE_VCPU } from '../host/confine/roles.ts';
import { syscallNumber } from '../host/confine/syscalls.ts';

const SHIM = join(import.meta.dirname, '../shim');
const SOURCES = readdirSync(SHIM)
  .filter((name) => /\.[ch]$/.test(name))
  .map((name) => readFileSync(join(SHIM, name), 'utf8'))
  .join('\n');

// docs/sandbox.md promises these.
const VCPU_CALLS_MAX = 8;
const IO_CALLS_MAX = 20;
const NET_CALLS_MAX = 16;
const RUNNING_CALLS_MAX = 24;

const START = CELL_ROLES[0]!;

const callsOf = (...roles: Role[]): string[] => [
  ...new Set(roles.flatMap(({ rows }) => rows.map((row) => row.call))),
];

const ruleOf = ({ call, when }: Row): string => JSON.stringify([call, when]);

const everyRow = (check: (row: Row, name: string) => void): void => {
  for (const { name, rows } of CELL_ROLES) {
    for (const row of rows) check(row, `${name}: ${ruleOf(row)}`);
  }
};

test('the roles stand by number', () => {
  assert.equal(
    CELL_ROLES.map((role) => role.name),
    [...ROLE_NAMES],
  );
  assert.is(RUNNING_ROLES.length, 4);
  assert.not.ok(RUNNING_ROLES.includes(START));
});

test('the tables are no larger than was aimed at', () => {
  const size = (role: number) => callsOf(CELL_ROLES[role]!).length;
  assert.ok(size(ROLE_VCPU) <= VCPU_CALLS_MAX, `vcpu: ${size(ROLE_VCPU)}`);
  assert.ok(size(ROLE_IO) <= IO_CALLS_MAX, `io: ${size(ROLE_IO)}`);
  assert.ok(size(ROLE_CONSOLE) <= VCPU_CALLS_MAX, `console: ${size(ROLE_CONSOLE)}`);
  assert.ok(size(ROLE_NET) <= NET_CALLS_MAX, `net: ${size(ROLE_NET)}`);
  const running = callsOf(...RUNNING_ROLES).length;
  assert.ok(running <= RUNNING_CALLS_MAX, `all that run: ${running}`);
});

test('what follows the start only narrows it: a kernel obeys both filters', () => {
  const allowed = new Set(START.rows.map(ruleOf));
  for (const { name, rows } of RUNNING_ROLES) {
    const more = rows.map(ruleOf).filter((rule) => !allowed.has(rule));
    assert.equal(more, [], name);
  }
});

test('no row is there twice, and none beside one that allows all of its call', () => {
  for (const { name, rows } of CELL_ROLES) {
    const rules = rows.map(ruleOf);
    assert.is(new Set(rules).size, rules.length, name);
    for (const row of rows.filter(({ when }) => when === undefined)) {
      const others = rows.filter(({ call }) => call === row.call);
      assert.is(others.length, 1, `${name}: ${row.call}`);
    }
  }
});

test('calls with many faces are allowed by argument only', () => {
  const faces = ['ioctl', 'fcntl', 'futex', 'prctl', 'clone', 'mmap', 'mprotect', 'madvise'];
  const more = [
    'tgkill',
    'seccomp',
    'fallocate',
    'io_uring_register',
    'io_uring_enter',
    'prlimit64',
  ];
  everyRow((row, name) => {
    if ([...faces, ...more].includes(row.call)) assert.ok(row.when && row.when.length > 0, name);
  });
});

test('a guest that runs has nothing that opens, maps, starts or signals others', () => {
  const calls = callsOf(...RUNNING_ROLES);
  const never = [
    ...['open', 'openat', 'openat2', 'creat', 'socket', 'connect', 'sendmsg', 'recvmsg', 'dup'],
    ...['mmap', 'mprotect', 'mremap', 'munmap', 'brk', 'clone', 'fork', 'execve', 'kill', 'tkill'],
    ...['fcntl', 'prctl', 'seccomp', 'rt_sigaction', 'io_uring_setup', 'io_uring_register'],
    ...['pread64', 'preadv2', 'close', 'close_range', 'prlimit64', 'eventfd2', 'epoll_create1'],
  ];
  assert.equal(
    never.filter((call) => calls.includes(call)),
    [],
  );
  assert.equal(
    DEADLY.filter((call) => calls.includes(call)),
    [],
  );
});

test('calls that are answered without a table are real, and none has two answers', () => {
  const all = [...DEADLY, ...UNKNOWN];
  for (const call of all) syscallNumber(call);
  assert.is(new Set(all).size, all.length);
  everyRow((row, name) => assert.not.ok(UNKNOWN.includes(row.call), name));
});

test('every row has a reason, and a function of the cell that makes the call', () => {
  everyRow(({ caller, reason, keep }, name) => {
    assert.ok(reason.trim().length > 2, name);
    assert.ok(keep === undefined || keep.trim().length > 2, name);
    if (caller === 'the kernel') return;
    for (const word of caller.split(', ')) {
      assert.match(word, /^\w+$/, name);
      assert.ok(new RegExp(`\\b${word}\\(`).test(SOURCES), `${name}: no ${word}() in shim/`);
    }
  });
});

test('a recording needs no call that its threads may not make anyway', () => {
  for (const { call, when, caller } of RECORDING) {
    assert.ok(new RegExp(`\\b${caller}\\(`).test(SOURCES), caller);
    for (const { name, rows } of RUNNING_ROLES) {
      const allowed = rows.some((row) => row.call === call && row.when === undefined);
      assert.ok(allowed && when === undefined, `${name}: ${call}`);
    }
  }
});

test('rows that ordinary runs do not use are few', () => {
  const kept = new Map<string, string[]>();
  everyRow(({ call, keep }, name) => {
    if (keep !== undefined) kept.set(call, [...(kept.get(call) ?? []), name.split(':')[0]!]);
  });
  assert.equal(Object.fromEntries(kept), {
    clock_gettime: ['start', 'start', 'vcpu', 'vcpu', 'io', 'console', 'net'],
    // KVM_CREATE_PIT2, and vhost-net's, which not every host has
    ioctl: [...Array<string>(12).fill('start'), ...Array<string>(6).fill('net')],
    fstat: ['start'],
    newfstatat: ['start'],
    brk: ['start'],
  });
});

test('conditions look at arguments that exist, and every number is of a condition', () => {
  const used = new Set<string>();
  everyRow(({ when = [] }, name) => {
    for (const condition of when) {
      assert.ok(condition.argument >= 0 && condition.argument < 6, name);
      if ('is' in condition) used.add(condition.is);
      if ('without' in condition) used.add(condition.without);
    }
  });
  assert.equal(
    Object.keys(NUMBERS).filter((number) => !used.has(number)),
    [],
  );
  for (const number of Object.values(NUMBERS)) assert.ok(number >= 0 && number < 2 ** 32);
});

test.run();
