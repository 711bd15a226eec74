// Recorded boots of a stock kernel, in each engine: every call into every device replays in both.
// Time limit: 900 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { outcomesOf, type Scenario } from './lab/scenarios.ts';

const WRITES = `echo 'GUEST writes'
dd if=/dev/urandom of=/note bs=64k count=16 2> /dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
cat /note > /dev/null`;

const SCENARIOS: Record<string, Scenario> = {
  recorded: {
    host: `fresh_root
boot --engine v8 --kernel $CLOUD --rootfs root.ext4 || exit 1
mv keep/guest-1.rec boot.rec
stat -c '%a %s' boot.rec > keep/recording
faraday replay boot.rec > keep/v8 2>&1 || exit 2
faraday replay boot.rec --engine cell > keep/cell 2>&1 || exit 3
cp boot.rec keep/boot.rec
size=$(stat -c %s boot.rec)
truncate -s $((size - 1)) boot.rec
faraday replay boot.rec > keep/cut 2>&1
echo $? > keep/cut-status`,
    guest: WRITES,
    limitSeconds: 300,
  },
  'recorded-cell': {
    host: `fresh_root
boot --kernel $CLOUD --rootfs root.ext4 --cpus 2 --record boot.rec || exit 1
faraday replay boot.rec > keep/v8 2>&1 || exit 2
faraday replay boot.rec --engine cell > keep/cell 2>&1 || exit 3`,
    guest: WRITES,
    limitSeconds: 300,
  },
};

const outcomeOf = outcomesOf('replay', SCENARIOS);

/** Both replays of a boot found nothing different. */
async function assertReplays(scenario: string): Promise<void> {
  const { status, output, file, report } = await outcomeOf(scenario);
  assert.is(status, 0, output);
  assert.match(output, 'GUEST writes');
  assert.is(report!.exit.cause, 'power-off');
  for (const engine of ['v8', 'cell']) {
    const line = new RegExp(
      `^identical in engine ${engine}: (\\d+) events of 7 devices, \\d+ guest`,
    );
    const events = Number(line.exec(file(engine))?.[1]);
    // Each exit to a device is a call into it, and so is most of what follows from one.
    const exits = Object.entries(report!.exits.byDevice).filter(([name]) => name !== 'unclaimed');
    const sum = exits.reduce((total, [, count]) => total + count, 0);
    assert.ok(events >= sum, `${events} events, ${sum} exits: ${file(engine)}`);
  }
}

test('a boot with a block root, recorded in V8, replays in V8 and in native code', () =>
  assertReplays('recorded'));

test('and so does one with two vCPUs that was recorded in a cell', () =>
  assertReplays('recorded-cell'));

test("the recording is its owner's alone, and one byte less of it is exit code 2", async () => {
  const { file } = await outcomeOf('recorded');
  assert.match(file('recording'), /^600 \d+$/m);
  assert.is(file('cut-status'), '2\n');
  assert.match(file('cut'), /^faraday: recording 'boot.rec' ends early[^\n]*\n$/);
});

test.run();
