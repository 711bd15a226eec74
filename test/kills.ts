// Killing a run at any moment: scenarios in which a guest says what it has put on its disk for
// good, host or cell is killed, and the disk is looked at afterwards. For suite and soak alike.

import { randomFrom } from '../testing/random.ts';
import type { Outcome, Scenario } from './lab/scenarios.ts';
import { IDLE_FOR_EVER, POWER_OFF, print, tinyKernel } from './tiny-kernel.ts';

const LIMIT_SECONDS = 120;
const DELAY_MS_MAX = 2500; // after the guest's first word
const hello = Buffer.from(tinyKernel(print('hello again'), POWER_OFF, IDLE_FOR_EVER));

// fsync of a new file makes its name durable too, on ext4.
const GUEST = `mkdir /files
number=0
while :; do
  number=$((number + 1))
  echo "content of $number" | dd of=/files/$number conv=fsync 2> /dev/null
  echo "GUEST fsynced $number"
done`;

const TARGETS = { host: "pgrep -f 'faraday.js run'", cell: 'pgrep -x faraday-cell' };

function scenario(target: keyof typeof TARGETS, delayMs: number, options: string): Scenario {
  return {
    host: `fresh_root
echo ${hello.toString('base64')} | base64 -d > hello
ls -A /tmp /dev/shm > before
boot --kernel $CLOUD --rootfs root.ext4${options} > keep/console 2> keep/errors &
await_text keep/console 'GUEST fsynced 1'
sleep ${(delayMs / 1000).toFixed(3)}
kill -KILL $(${TARGETS[target]})
wait $!
echo $? > keep/status-of-run
# The cell dies a moment after its host; what does not go is seen below.
for i in $(seq 100); do pgrep -x faraday-cell > keep/processes || break; sleep 0.1; done
ls -A /tmp /dev/shm | diff before - > keep/left-behind
e2fsck -fy root.ext4 > keep/e2fsck 2>&1
echo $? > keep/e2fsck-status
e2fsck -fn root.ext4 > /dev/null 2>&1
echo $? > keep/e2fsck-again
mkdir out
debugfs -R 'rdump /files out' root.ext4 2> /dev/null
grep -s . out/files/* | sed 's,^out/files/,,' > keep/files
faraday run --kernel hello --disk path=root.ext4 > keep/second 2>&1
echo $? > keep/status-of-second
exit 0`,
    guest: GUEST,
    limitSeconds: LIMIT_SECONDS,
  };
}

/** `count` scenarios, named after their number, target and moment, which `seed` decides. */
export function killScenarios(count: number, seed: number): Record<string, Scenario> {
  const random = randomFrom(seed);
  const scenarios: Record<string, Scenario> = {};
  for (let i = 0; i < count; i++) {
    const target = random(2) === 0 ? 'host' : 'cell';
    const delayMs = random(DELAY_MS_MAX);
    const options = random(2) === 0 ? '' : ',io-engine=io_uring';
    const engine = options ? 'uring' : 'sync';
    const number = String(i).padStart(2, '0');
    scenarios[`${number}-${target}-${engine}-${delayMs}-ms`] = scenario(target, delayMs, options);
  }
  return scenarios;
}

/** The names that a guest said it had put on its disk for good. */
export function announcedIn({ file }: Outcome): string[] {
  return [...file('console').matchAll(/^GUEST fsynced (\d+)\r?$/gm)].map((match) => match[1]!);
}

/** What a kill must not leave behind: what is wrong, in words; nothing where all is well. */
export function problemsOf(outcome: Outcome): string[] {
  const problems: string[] = [];
  const expect = (condition: boolean, problem: string) => {
    if (!condition) problems.push(problem);
  };
  const { file, status } = outcome;
  if (status !== 0) return [`status ${status}: ${outcome.output}`];
  const lines = (name: string) => file(name).replaceAll('\r', '').split('\n');
  expect(file('processes') === '', `processes ${file('processes')}`);
  expect(file('left-behind') === '', `left behind: ${file('left-behind')}`);
  const repaired = Number(file('e2fsck-status'));
  expect(repaired <= 1, `e2fsck ${repaired}: ${file('e2fsck')}`);
  expect(file('e2fsck-again').trim() === '0', 'not clean after its repair');
  const found = new Set(lines('files'));
  const announced = announcedIn(outcome);
  expect(announced.length > 0, 'nothing was announced');
  const missing = announced.filter((number) => !found.has(`${number}:content of ${number}`));
  expect(missing.length === 0, `lost: ${missing}`);
  expect(file('status-of-second').trim() === '0', `second start: ${file('second')}`);
  expect(file('second').includes('hello again'), `second start: ${file('second')}`);
  return problems;
}
