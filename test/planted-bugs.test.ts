// A compromised cage: the core is built with each of eleven planted bugs, and a guest exploits it.
// Whatever the bug, no byte of the process changes but the device's own memory and guest RAM, disks
// keep what they held, the other devices work on, and what happened is counted. The core as it is
// shows none of the bug's effects on the same guest. docs/compromised-cage.md has the results.
//
// Twelve builds of the core take most of the time, all of both processors.
// Time limit: 600 s
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { coreBytes } from '../host/core.ts';
import { type Disks, Guest, SECTORS, summary } from './cage-script.ts';
import { DISK_BYTE, PLANTED_BUGS, type PlantedBug } from './planted-bugs.ts';
import {
  type Edit,
  type Ended,
  edited,
  plantedCore,
  plantedProgram,
  runScript,
  scratch,
} from './planted-core.ts';

const DISK_BYTES = SECTORS * 512;
const OTHER_BYTE = 0x22;
const STATUS_ESCAPE = 3;

// --- Builds, a few at a time --------------------------------------------------------------------

const waiting: (() => Promise<void>)[] = [];

async function work(): Promise<void> {
  for (let next = waiting.shift(); next; next = waiting.shift()) await next();
}

/** The program, once it is its turn; a build that fails concerns the test that wants it. */
function planned(coreEdits: Edit[], shimEdits: Edit[] = []): Promise<string> {
  const built = new Promise<string>((resolve, reject) => {
    waiting.push(() => plantedProgram(coreEdits, shimEdits).then(resolve, reject));
  });
  built.catch(() => {});
  return built;
}

const bugOf = (id: string) => PLANTED_BUGS.find((bug) => bug.id === id)!;

// Walls of the shim, each taken out for a bug that it stops: then this test must fail.
const WALLS = [
  {
    name: "the accessors' check of the cage's side",
    bug: bugOf('overflow'),
    edit: {
      file: 'shim/core-accessors.h',
      from: 'return *ram && (uint64_t)offset + length <= ABI_CAGE_MEMORY_BYTES;',
      to: 'return *ram != NULL;',
    },
    isSeen: (ended: Ended) => ended.signal === 'SIGSEGV',
  },
  {
    name: "the accessors' check of the guest's side",
    bug: bugOf('status'),
    edit: {
      file: 'shim/core-accessors.h',
      from: '*ram = memory_at(&guest->memory, address, length);',
      to: '*ram = guest->memory.base + address;',
    },
    isSeen: (ended: Ended) => ended.signal === 'SIGSEGV',
  },
  {
    name: 'the bounds of generated code',
    bug: bugOf('chain'),
    edit: {
      file: 'shim/cage.c',
      from: '#define size size * 0 + ABI_CAGE_MEMORY_BYTES',
      to: '#define size size * 0 + (UINT64_C(1) << 40)',
    },
    isSeen: (ended: Ended) => ended.signal === 'SIGSEGV',
  },
  {
    name: 'the check of rights on a disk',
    bug: bugOf('overflow'),
    edit: {
      file: 'shim/block.c',
      from: 'return disk->read_only && writes(request->kind) ? EROFS : 0;',
      to: 'return disk->read_only && writes(request->kind) ? 0 : 0;',
    },
    isSeen: (_: Ended, disks: Disks) => !readFileSync(disks.victim.path).equals(full(DISK_BYTE)),
  },
];

const good = planned([]);
const bad = PLANTED_BUGS.map((bug) => planned([bug.edit]));
const open = WALLS.map(({ bug, edit }) => planned([bug.edit], [edit]));
for (let i = 0; i < Math.min(2, availableParallelism()); i++) void work();

// --- Runs ---------------------------------------------------------------------------------------

const full = (byte: number) => Buffer.alloc(DISK_BYTES, byte);
let runs = 0;

function newDisks(readOnly: boolean): Disks {
  const path = (name: string) => join(scratch, `${name}-${runs}`);
  runs++;
  const disks = { victim: { path: path('victim'), readOnly }, other: path('other') };
  writeFileSync(disks.victim.path, full(DISK_BYTE));
  writeFileSync(disks.other, full(OTHER_BYTE));
  return disks;
}

function scriptFor(bug: PlantedBug): { guest: Guest; disks: Disks } {
  const disks = newDisks(bug.readOnly ?? false);
  const guest = new Guest(disks);
  guest.work();
  bug.attack(guest);
  guest.work();
  return { guest, disks };
}

/** Lets the bug's guest loose on a program, asserts what must hold in any case: what it came to. */
async function attack(program: string, bug: PlantedBug): Promise<Record<string, unknown>> {
  const { guest, disks } = scriptFor(bug);
  const ended = await runScript(program, guest.script());
  assert.equal([ended.status, ended.signal, ended.errors], [0, null, ''], 'nothing escapes');
  const outcome = guest.outcome(ended.output);
  const other = full(OTHER_BYTE);
  for (const round of [0, 1]) Guest.pattern(round).copy(other, 512 * round);
  assert.ok(readFileSync(disks.other).equals(other), 'the other disk has what was written to it');
  assert.ok(readFileSync(disks.victim.path).equals(full(DISK_BYTE)), 'its own disk is unchanged');
  return summary(outcome);
}

// --- Tests --------------------------------------------------------------------------------------

test('there are eleven bugs, of eleven classes', () => {
  assert.is(new Set(PLANTED_BUGS.map(({ id }) => id)).size, 11);
});

test('a copy without a bug is the core that guests run on, byte for byte', async () => {
  const copy = readFileSync(join(await plantedCore([]), 'core.wasm'));
  assert.ok(copy.equals(coreBytes()));
});

test('a bug that cannot be planted fails its build', () => {
  const edit = { file: 'assembly/a.ts', from: 'one', to: 'other' };
  assert.is(edited('this one here', edit), 'this other here');
  assert.throws(() => edited('none', { ...edit, from: 'two' }), /a\.ts has 0 times: two/);
  assert.throws(() => edited('one one', edit), /a\.ts has 2 times: one/);
});

for (const [i, bug] of PLANTED_BUGS.entries()) {
  test(`${bug.name}: contained, and the core without it shows nothing`, async () => {
    assert.equal(await attack(await good, bug), bug.good, 'the core as it is');
    assert.equal(await attack(await bad[i]!, bug), bug.bad, 'the core with the bug');
    assert.not.equal(bug.bad, bug.good);
  });
}

for (const [i, { name, bug, isSeen }] of WALLS.entries()) {
  test(`without ${name} an escape is seen`, async () => {
    const { guest, disks } = scriptFor(bug);
    const ended = await runScript(await open[i]!, guest.script());
    assert.ok(isSeen(ended, disks), JSON.stringify(ended));
  });
}

// Of test/cage-escape.c, in the order in which it numbers them.
const STRAYS = [
  "another device's memory",
  'the instance around the memory',
  "the device's own rights",
  "another device's count of traps",
  'the I/O thread',
  'data',
  'zeroed data',
  'the heap',
  'the stack',
];

for (const [place, name] of STRAYS.entries()) {
  test(`a byte changed in ${name} is seen`, async () => {
    const guest = new Guest(newDisks(false));
    guest.work();
    guest.stray(place);
    const ended = await runScript(await good, guest.script());
    assert.is(ended.status, STATUS_ESCAPE);
    assert.match(ended.errors, /^escape: a call into device 0 changed a byte of /);
  });
}

test.run();
