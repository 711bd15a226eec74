// The nested lab itself: what a command in it sees, and what is known of it afterwards.
// Time limit: 600 s
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { run } from '../tools/command.ts';
import { type LabOptions, runInLab } from './lab/lab.ts';

const LIMIT_SECONDS = 60;

/** Runs a bash script in the lab, with a fresh work folder. */
async function inLab(script: string, more: Partial<LabOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'faraday lab, '));
  try {
    writeFileSync(join(folder, 'given'), 'from outside\n');
    const command = ['bash', '-c', script];
    const notes: string[] = [];
    const options = { command, workFolder: folder, timeoutSeconds: LIMIT_SECONDS };
    const onNote = (text: string) => notes.push(text);
    const result = await runInLab({ ...options, ...more, onNote });
    const made = join(folder, 'made');
    return { ...result, notes, made: existsSync(made) ? readFileSync(made, 'utf8') : undefined };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test('a command sees a KVM that runs Linux, and its status and output come back', async () => {
  const result = await inLab(`
    ls /sys/module | grep kvm_amd; [ -c /dev/kvm ] && echo 'has kvm'
    [ -c /dev/net/tun ] && [ -c /dev/vhost-net ] && echo 'has tun'
    modprobe loop && echo 'loads modules'
    echo 'to stderr' >&2
    exit 7`);
  assert.is(result.status, 7);
  assert.not(result.labDied);
  assert.not(result.timedOut);
  const expected = ['kvm_amd', 'has kvm', 'has tun', 'loads modules', 'to stderr', ''];
  assert.is(result.output, expected.join('\n'));
});

test('a command makes networks: bridges, pairs, name spaces, macvtaps, translation', async () => {
  const result = await inLab(`
    ip link add br0 type bridge && ip netns add other || exit 1
    ip link add veth0 type veth peer name veth1 netns other || exit 1
    ip link set veth0 master br0 && ip link add link br0 name mac0 type macvtap || exit 1
    ip link add dummy0 type dummy && ip tuntap add dev tap0 mode tap || exit 1
    [ -c "/dev/tap$(cat /sys/class/net/mac0/ifindex)" ] || exit 1
    nft -f - << 'END' || exit 1
      table ip nat {
        chain out { type nat hook postrouting priority 100; ip saddr 10.0.0.0/24 masquerade; }
        chain in { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.0.0.2; }
      }
      table inet filter {
        chain forward { type filter hook forward priority 0; ct state new accept; }
      }
END
    ls -d /sys/module/nft_chain_nat`);
  assert.is(result.status, 0, result.output);
});

test('the work folder is shared both ways, and nothing else can be changed', async () => {
  const marker = join(REPOSITORY, 'lab-was-here');
  const result = await inLab(
    `
    cat given; cat > made
    touch '${marker}' '/run/lab/outside${marker}' 2> /dev/null`,
    {
      input: 'through stdin\n',
    },
  );
  assert.is(result.output, 'from outside\n');
  assert.is(result.made, 'through stdin\n');
  assert.not(existsSync(marker));
});

test('what a command leaves running does not hold the lab up', async () => {
  const result = await inLab('sleep 1000 & echo done');
  assert.is(result.status, 0);
  assert.is(result.output, 'done\n');
});

test('a command past its time limit is stopped, which is no death of the lab', async () => {
  const result = await inLab("trap '' TERM; echo before; while :; do sleep 1; done", {
    timeoutSeconds: 6, // enough to say something
  });
  assert.ok(result.timedOut);
  assert.not(result.labDied);
  assert.is(result.deaths, 0);
  assert.match(result.output, /^before/);
});

test('a lab that dies is started once more', async () => {
  const result = await inLab(
    '[ -e died ] && exit 5; touch died; sync; echo c > /proc/sysrq-trigger',
    { deathExpected: true },
  );
  assert.is(result.status, 5);
  assert.is(result.deaths, 1);
  assert.not(result.labDied);
  assert.match(result.notes.at(-1)!, /died \(Kernel panic.*starting it again/);
});

test('a lab that dies twice has no result', async () => {
  const result = await inLab('echo c > /proc/sysrq-trigger', { deathExpected: true });
  assert.ok(result.labDied);
  assert.is(result.deaths, 2);
  assert.is(result.status, -1);
  assert.match(result.kernelLog, /Kernel panic/);
});

test('the command line ends with the status of its command, or says what is wrong', async () => {
  const call = (args: string[]) =>
    run(process.execPath, ['--import', 'tsx', 'test/lab/main.ts', ...args], {
      cwd: REPOSITORY,
      acceptStatus: [2, 3],
    });
  mkdirSync(join(REPOSITORY, 'build'), { recursive: true });
  const good = await call(['--timeout', '60', '--', 'sh', '-c', 'echo hello; exit 3']);
  assert.is(good.status, 3);
  assert.is(good.stdout, 'hello\n');
  for (const bad of [[], ['--frob', '1', 'true'], ['--memory', '0', 'true'], ['--cpus']]) {
    const { status, stderr } = await call(bad);
    assert.is(status, 2, bad.join(' '));
    assert.match(stderr, /^lab: /);
  }
});

test.run();
