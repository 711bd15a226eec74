// The console, signals and every way a run can end, with a real kernel at the other end.
// Time limit: 600 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Outcome, Scenario } from './lab/scenarios.ts';
import { outcomesOf } from './lab/scenarios.ts';

const ON_DISK = 'fresh_root; boot --kernel $CLOUD --rootfs root.ext4';
const SHELL = 'PS1="guest> " sh -i';

/** Sends a signal once the guest is up, and waits for Faraday's own end. */
function signalled(signal: string): Scenario {
  return {
    host: `fresh_root
boot --kernel $CLOUD --rootfs root.ext4 > console &
await_text console 'GUEST up'
kill -${signal} $(pgrep -f 'faraday.js run')
wait $!
status=$?
cat console
exit $status`,
    guest: "echo 'GUEST up'\nsleep 1000",
  };
}

const SCENARIOS: Record<string, Scenario> = {
  pipe: {
    host: `fresh_root
(await_text console 'guest>'; echo 'echo answer $((6 * 7))'; await_text console 'answer 42'
 echo exit) | boot --kernel $CLOUD --rootfs root.ext4 > console
status=$?
cat console
exit $status`,
    guest: SHELL,
  },
  terminal: {
    // script(1) plays the terminal: it starts the command on a new one and types what it reads.
    host: `fresh_root
cat > on-terminal <<'END'
. "$LIBRARY"
stty -g > keep/before
boot --kernel $CLOUD --rootfs root.ext4
echo $? > keep/status
stty -g > keep/after
END
(await_text console 'guest>'; printf 'echo answer $((6 * 7))\\r'; await_text console 'answer 42'
 stty -F $(readlink /proc/$(pgrep -f 'faraday.js run')/fd/0) -a > keep/during
 printf '\\001x'; await_text keep/after :) |
  script --quiet --return --flush --command 'bash on-terminal' console`,
    guest: SHELL,
  },
  'no-reader': {
    host: `fresh_root
boot --kernel $CLOUD --rootfs root.ext4 --log-level error | head -c 10
exit \${PIPESTATUS[0]}`,
    guest: 'echo written > /note',
  },
  'power-off': { host: ON_DISK, guest: 'poweroff -f' },
  reboot: { host: ON_DISK, guest: 'reboot -f' },
  panic: { host: ON_DISK, guest: 'echo c > /proc/sysrq-trigger; sleep 1000' },
  'init-exits': { host: ON_DISK, guest: 'exit 3' },
  sigterm: signalled('TERM'),
  sigint: signalled('INT'),
  sighup: signalled('HUP'),
};

const outcomeOf = outcomesOf('console', SCENARIOS);

async function ended(name: string, status: number, cause: string): Promise<Outcome> {
  const outcome = await outcomeOf(name);
  assert.is(outcome.status, status, outcome.output);
  assert.is(outcome.report!.exit.cause, cause);
  assert.is(outcome.report!.exit.code, status);
  return outcome;
}

test("what comes in by a pipe reaches the guest's shell, whose answer comes back", async () => {
  assert.match((await ended('pipe', 0, 'power-off')).output, /^answer 42$/m);
});

test('Ctrl-A x leaves an interactive console and gives the terminal back as it was', async () => {
  const { output, file } = await ended('terminal', 0, 'console-quit');
  assert.match(output, /^answer 42$/m);
  assert.is(file('status').trim(), '0');
  assert.match(file('during'), '-icanon');
  assert.match(file('during'), '-echo ');
  assert.is(file('after'), file('before'));
});

test('a guest runs on to its end when nobody reads its console any more', async () => {
  const { report } = await ended('no-reader', 0, 'power-off');
  assert.ok(report!.disks[0]!.bytesWritten > 0);
});

test('a power off ends the run with 0', async () => {
  await ended('power-off', 0, 'power-off');
});

test('a reboot ends the run with 0', async () => {
  await ended('reboot', 0, 'reboot');
});

test('a panic is told from a reboot and ends the run with 4', async () => {
  const { output } = await ended('panic', 4, 'panic');
  assert.match(output, /Kernel panic - not syncing/);
});

test('an init that exits is a panic too', async () => {
  const { output } = await ended('init-exits', 4, 'panic');
  assert.match(output, /Attempted to kill init/);
});

for (const [name, status] of Object.entries({ SIGTERM: 143, SIGINT: 130, SIGHUP: 129 })) {
  test(`${name} stops a guest with ${status}, its report written`, async () => {
    const { report } = await ended(name.toLowerCase(), status, 'signal');
    assert.is(report!.exit.signal, name);
  });
}

test.run();
