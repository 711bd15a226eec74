// What a real kernel sees of a cell: its processors, its memory, its disks by either engine, and a
// disk that is taken away in the middle of its work.
// Time limit: 600 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Outcome, Scenario } from './lab/scenarios.ts';
import { outcomesOf } from './lab/scenarios.ts';

const IN_MEMORY = 'boot --kernel $CLOUD --initrd $IMAGES/initramfs';
const PROCESSORS = `
echo "GUEST nproc $(nproc)"
echo "GUEST online $(cat /sys/devices/system/cpu/online)"
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
  echo "GUEST core $(cat $cpu/topology/core_id) package $(cat $cpu/topology/physical_package_id)"
done
for cpu in $(seq 0 $(($(nproc) - 1))); do
  taskset -c $cpu true && echo "GUEST ran on $cpu"
done
`;

/** One round trip of random bytes through a whole disk. */
const roundTrip = (disk: string) => `
dd if=/dev/urandom of=/tmp/data bs=1M count=12 2> /dev/null
dd if=/tmp/data of=/dev/${disk} bs=256k conv=fsync 2> /dev/null
echo "GUEST ${disk} sent $(sha256sum < /tmp/data)"
echo 3 > /proc/sys/vm/drop_caches
echo "GUEST ${disk} back $(dd if=/dev/${disk} bs=64k iflag=direct 2> /dev/null | sha256sum)"
echo "GUEST ${disk} queues $(ls /sys/block/${disk}/mq | wc -l)"
echo "GUEST ${disk} cache $(cat /sys/block/${disk}/queue/write_cache)"
`;

const SCENARIOS: Record<string, Scenario> = {
  'one-cpu': { host: IN_MEMORY, guest: PROCESSORS },
  'two-cpus': { host: `${IN_MEMORY} --cpus 2`, guest: PROCESSORS },
  'four-cpus': { host: `${IN_MEMORY} --cpus 4`, guest: PROCESSORS },
  'mp-table': {
    host: `boot --kernel $GENERIC --initrd $IMAGES/initramfs --cpus 2 \\
  --cmdline "quiet job=$NAME acpi=off"`,
    guest: `${PROCESSORS}
reboot -f`,
  },
  'large-memory': {
    host: `${IN_MEMORY} --memory 4608M`,
    guest: 'grep MemTotal /proc/meminfo',
  },
  engines: {
    host: `fresh_root
truncate -s 12M sync.img uring.img
boot --kernel $CLOUD --rootfs root.ext4 --cpus 2 --boot-timer \\
  --disk path=sync.img,id=sync,cache=writethrough \\
  --disk path=uring.img,id=uring,io-engine=io_uring,num-queues=2
status=$?
sha256sum < sync.img > keep/vdb
sha256sum < uring.img > keep/vdc
exit $status`,
    guest: roundTrip('vdb') + roundTrip('vdc'),
  },
  'taken-away': {
    host: `fresh_root
yes words | head -c 8M > sync.img
cp sync.img uring.img
sha256sum < sync.img > keep/sum
boot --kernel $CLOUD --rootfs root.ext4 --cpus 2 --disk path=sync.img \\
  --disk path=uring.img,io-engine=io_uring`,
    guest: `for disk in vdb vdc; do
  device=$(basename $(readlink -f /sys/block/$disk/device))
  for round in 1 2 3 4 5 6; do
    (while dd if=/dev/$disk of=/dev/null bs=64k iflag=direct; do :; done) 2> /dev/null &
    (while dd if=/dev/$disk of=/dev/null bs=4k iflag=direct; do :; done) 2> /dev/null &
    sleep 0.2
    echo $device > /sys/bus/virtio/drivers/virtio_blk/unbind
    wait
    echo $device > /sys/bus/virtio/drivers/virtio_blk/bind
    until [ -e /dev/$disk ]; do sleep 0.1; done
  done
  echo "GUEST $disk after $round $(sha256sum < /dev/$disk)"
done`,
  },
};

const outcomeOf = outcomesOf('cell', SCENARIOS);

async function ended(name: string, cause = 'power-off'): Promise<Outcome> {
  const outcome = await outcomeOf(name);
  assert.is(outcome.status, 0, outcome.output);
  assert.is(outcome.report!.exit.cause, cause);
  assert.is(outcome.report!.engine, 'cell');
  assert.equal(outcome.report!.traps, {});
  return outcome;
}

function assertProcessors({ output }: Outcome, count: number): void {
  assert.match(output, new RegExp(`GUEST nproc ${count}$`, 'm'));
  assert.match(output, `GUEST online ${count === 1 ? '0' : `0-${count - 1}`}`);
  const places = [...output.matchAll(/GUEST core (\d+) package (\d+)/g)];
  const numbers = Array.from({ length: count }, (_, i) => String(i));
  assert.equal(places.map((place) => place[1]).sort(), numbers);
  assert.equal([...new Set(places.map((place) => place[2]))], ['0']);
  for (const number of numbers) assert.match(output, `GUEST ran on ${number}`);
}

for (const [name, count] of [
  ['one-cpu', 1],
  ['two-cpus', 2],
  ['four-cpus', 4],
] as const) {
  test(`a guest of ${name} has each as a core of one package and runs on it`, async () => {
    const outcome = await ended(name);
    assertProcessors(outcome, count);
    assert.equal(outcome.report!.incidents, {});
  });
}

test('a kernel without ACPI finds both processors in the MP table', async () => {
  assertProcessors(await ended('mp-table', 'reboot'), 2);
});

test('4.5 GiB are there, past the hole', async () => {
  const { output } = await ended('large-memory');
  const kib = Number(/MemTotal: +(\d+) kB/.exec(output)![1]);
  assert.ok(kib > 4.2 * 2 ** 20 && kib < 4.5 * 2 ** 20, `${kib}`);
});

test('either engine gives back what it took, and it is in the image', async () => {
  const { output, file } = await ended('engines');
  for (const disk of ['vdb', 'vdc']) {
    const sum = (word: string) => new RegExp(`GUEST ${disk} ${word} (\\w{64})`).exec(output)?.[1];
    assert.ok(sum('sent'));
    assert.is(sum('back'), sum('sent'), disk);
    assert.is(file(disk).slice(0, 64), sum('sent'), disk);
  }
});

test('a disk has the queues and the cache that its options say', async () => {
  const { output } = await ended('engines');
  assert.match(output, 'GUEST vdb queues 1');
  assert.match(output, 'GUEST vdb cache write through');
  assert.match(output, 'GUEST vdc queues 2');
  assert.match(output, 'GUEST vdc cache write back');
});

test('on an older kernel a guest works under all that this one has', async () => {
  const { report } = await ended('engines');
  const { seccomp, landlock, namespaces, capabilities, limits } = report!.confinement.cell!;
  assert.is(seccomp, 'enforce');
  // Linux 6.1: a domain, but one that knows nothing of what later kernels brought.
  assert.is(landlock.state, 'partial');
  assert.is(landlock.abi, 2);
  assert.match(landlock.missing.join(), /truncating files \(Linux 6\.2\),TCP/);
  assert.equal(namespaces.missing, []);
  assert.equal(capabilities, { held: false, ambient: false, bounding: false });
  assert.is(limits.files, 1);
  assert.is(limits.processes === 0, false); // io_uring's worker threads count
  const { report: bySync } = await ended('one-cpu');
  assert.is(bySync!.confinement.cell!.limits.processes, 0);
});

test('the report tells of phases, exits and each disk', async () => {
  const { report } = await ended('engines');
  const { composed, cellStarted, loaded, created, running } = report!.phases;
  const order = [composed, cellStarted, loaded, created, running, report!.milliseconds.toMarker];
  for (const [i, time] of order.entries()) assert.ok(i === 0 || time! > order[i - 1]!, `${order}`);
  assert.ok(report!.milliseconds.total > report!.milliseconds.toMarker!);
  const { byKind, byDevice, total } = report!.exits;
  const sum = Object.values(byKind).reduce((all, count) => all + count, 0);
  assert.is(sum, total);
  for (const device of ['serial', 'disk:rootfs', 'disk:sync', 'disk:uring'])
    assert.ok(byDevice[device]! > 0);
  assert.equal(
    report!.disks.map(({ id, engine, errors }) => [id, engine, errors]),
    [
      ['rootfs', 'sync', 0],
      ['sync', 'sync', 0],
      ['uring', 'io_uring', 0],
    ],
  );
  for (const { latencyMicroseconds, requests, bytesWritten } of report!.disks) {
    const { read, write } = latencyMicroseconds;
    const counted = [...Object.values(read), ...Object.values(write)];
    assert.is(
      counted.reduce((all, count) => all + count, 0),
      requests,
    );
    assert.ok(bytesWritten > 0);
  }
});

test('a disk that is taken away under load comes back whole, by either engine', async () => {
  const { output, file } = await ended('taken-away');
  for (const disk of ['vdb', 'vdc']) {
    assert.is(
      new RegExp(`GUEST ${disk} after 6 (\\w{64})`).exec(output)?.[1],
      file('sum').slice(0, 64),
    );
  }
});

test.run();
