// The network queues of a cell around a cage that answers whatever it likes, and around a driver
// that changes its frames while they are sent; and the token buckets. No KVM: test/net-hostile.c.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { run } from '../tools/command.ts';
import { scratchPath } from './cell-guest.ts';

const ROUNDS = 4000;
const SEEDS = [1, 2, 3];
// Those that a network thread is made of; net.c is part of net-hostile.c.
const SOURCES = ['net-queue', 'net-receive', 'net-transmit', 'tap', 'stream', 'vhost', 'limit'];

const program = scratchPath('net-hostile');
await run(
  'gcc',
  [
    ...['-std=gnu17', '-O1', '-g', '-D_GNU_SOURCE', '-fsanitize=address,undefined'],
    ...['-fno-sanitize-recover=all', '-Ishim', '-Ibuild', '-o', program],
    ...['test/net-hostile.c', 'test/net-hostile-vhost.c', '-Wl,--wrap=ioctl'],
    ...[...SOURCES, 'request'].map((name) => `shim/${name}.c`),
    '-lpthread',
  ],
  { cwd: REPOSITORY },
);

for (const seed of SEEDS) {
  test(`no answer of a cage does harm, no frame is forged (seed ${seed})`, async () => {
    const { stdout: output } = await run(program, ['hostile', String(seed), String(ROUNDS)]);
    const [answers, records, out, received, spoofed] = output.trim().split(' ').map(Number);
    assert.ok(answers! > 10 * ROUNDS && records! > ROUNDS, output);
    assert.ok(out! > 20 && received! > 100 && spoofed! > 100, `enough was tried: ${output}`);
  });
}

for (const seed of SEEDS) {
  test(`the kernel gets no ring outside guest RAM (seed ${seed})`, async () => {
    const { stdout: output } = await run(program, ['vhost', String(seed), String(ROUNDS)]);
    const [records, lent] = output.trim().split(' ').map(Number);
    assert.ok(records! > ROUNDS / 2 && lent! > 100 && lent! < records! / 2, output);
  });
}

test('a cage that only promises, or wants a look for ever, is heard at each bell', async () => {
  assert.is((await run(program, ['promises'])).stdout, '1 1 1\n1 1 1\n1 1 1\n');
});

test('a bucket: its size at once, the burst once, whole tokens, debts', async () => {
  const lines = (await run(program, ['bucket'])).stdout.trim().split('\n');
  assert.equal(lines, [
    'none 1000',
    'plain 10 0 1 2 10',
    'burst 15 0 1 2 10',
    'debt 1 0 1 0 1',
    'often 110',
    'huge 1 0',
  ]);
});

test.run();
