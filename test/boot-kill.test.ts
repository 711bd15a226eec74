// Host or cell is killed at a random moment while a guest writes: nothing runs on, no lock and no
// file stays, and what the guest was told is on its disk is there. `npm run soak -- kill` does it
// more often.
// Time limit: 600 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { killScenarios, problemsOf } from './kills.ts';
import { outcomesOf } from './lab/scenarios.ts';

const SEED = 1;
const COUNT = 3;

const scenarios = killScenarios(COUNT, SEED);
const outcomeOf = outcomesOf('kill', scenarios);

test('the moments of this seed kill a host and a cell, by either engine', () => {
  const names = Object.keys(scenarios).join();
  for (const word of ['host', 'cell', 'sync', 'uring']) assert.match(names, word);
});

for (const name of Object.keys(scenarios)) {
  test(`nothing is lost and nothing stays (seed ${SEED}: ${name})`, async () => {
    const outcome = await outcomeOf(name);
    assert.equal(problemsOf(outcome), []);
    const isHost = name.includes('host');
    assert.is(outcome.file('status-of-run').trim(), isHost ? '137' : '5');
    if (!isHost) assert.match(outcome.file('errors'), 'the cell ended by SIGKILL');
  });
}

test.run();
