// Every combination of layers on and off starts and runs a guest: with the release by its own
// switches, spawned and by hand, and with the attack build those that have no switch as well.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { describeConfinement, readConfined } from '../host/confine/confined.ts';
import {
  attack,
  isRoot,
  prepareWorld,
  type Switches,
  switches,
  type World,
} from './attack/attacker.ts';
import { LAYERS } from './attack/attacks.ts';
import { kvmMissing } from './bare-metal.ts';
import { testDisk, WINDOW } from './cell-disk.ts';
import {
  bareImage,
  cellTest,
  composeFolder,
  runFolder,
  runSpawned,
  startSpawned,
} from './cell-guest.ts';

const world: World | null = kvmMissing() ? null : await prepareWorld();
test.after(() => world?.end());

/** All ways to take one of each. */
function combinations(choices: string[][]): string[][] {
  return choices.reduce<string[][]>(
    (rows, words) => rows.flatMap((row) => words.map((word) => [...row, word])),
    [[]],
  );
}

const FLAGS = combinations([
  ['--seccomp enforce', '--seccomp log', '--seccomp off'],
  ['--landlock auto', '--landlock off'],
  ['--namespaces auto', '--namespaces off'],
  isRoot ? ['', '--user 0:0', '--user 65534:65534'] : [''],
]);

cellTest(`a guest runs with each of ${FLAGS.length} combinations of flags, both ways`, async () => {
  const slot = { address: WINDOW + 0x1000, pin: 6 };
  const open = testDisk({ ioUring: true });
  const alone = testDisk({ readOnly: true, id: 'readonly', slot });
  const image = (disk: typeof open) =>
    bareImage((code) => code.say('ran').powerOff(), { virtio: [disk.device] });
  const folder = composeFolder(image(alone));
  for (const flags of FLAGS) {
    const args = flags.flatMap((flag) => flag.split(' ').filter(Boolean));
    const both = await Promise.all([
      runSpawned(image(open), { args }),
      runFolder(folder, { args }),
    ]);
    for (const { status, output, errors } of both) {
      assert.equal([status, output.toString(), errors], [0, 'ran', ''], flags.join(' '));
    }
  }
  open.close();
  alone.close();
});

/** What the cell says of itself must be what was asked for. */
function assertSays(on: Switches, confinement: Awaited<ReturnType<typeof attack>>['confinement']) {
  const said = confinement!;
  assert.is(said.seccomp, on.seccomp ? 'enforce' : 'off');
  if (!on.landlock) assert.is(said.landlock.state, 'off');
  if (!on.namespaces) assert.equal(said.namespaces.own, []);
  if (isRoot) assert.is(said.user === 0, !on.user);
  assert.is(said.limits.files === 1, on.limits);
  if (isRoot && on.user) {
    const none = { held: false, ambient: false, bounding: false };
    assert.equal(said.capabilities, none, 'whether or not a user namespace gives the right to');
  }
}

const SETS = Array.from({ length: 2 ** LAYERS.length }, (_, bits) =>
  switches((layer) => ((bits >> LAYERS.indexOf(layer)) & 1) === 1),
).filter((on) => isRoot || on.user); // whose rights are nobody's but its own

cellTest(`a cell starts and says so with each of ${SETS.length} sets of layers`, async () => {
  for (const on of SETS) {
    const end = await attack({ name: 'write_own_disk', thread: 'vcpu', on }, world!);
    const what = LAYERS.filter((layer) => on[layer]).join() || 'none';
    assert.is(end.outcome, 'OK', what);
    assert.is(end.status, 0, what);
    assertSays(on, end.confinement);
  }
});

const LOST = [
  ['-setuid', (user: number, group: number) => user === 0 && group !== 0],
  ['-setgid', (user: number, group: number) => user !== 0 && group === 0],
  ['-setuid,-setgid', (user: number, group: number) => user === 0 && group === 0],
] as const;

for (const [lost, expected] of LOST) {
  const what = `root without ${lost}: the cell becomes what it may, and says that root is left`;
  if (!isRoot) test.skip(`${what} (skipped: only root has rights to lose)`, () => {});
  else {
    cellTest(what, async () => {
      const image = bareImage((code) => code.say('ran').powerOff());
      const cell = startSpawned(image, { wrap: ['/usr/bin/setpriv', '--bounding-set', lost] });
      assert.is((await cell.ended()).status, 0);
      const message = cell.messages.find(({ type }) => type === 'confined');
      const said = readConfined((message as { record: DataView }).record);
      assert.ok(expected(said.user, said.group), `${said.user}:${said.group}`);
      assert.match(describeConfinement(said), `STILL ROOT (${said.user}:${said.group})`);
    });
  }
}

test.run();
