// Disks under a real driver: what a guest writes is in the image, what it must not write is not,
// and a failing image is the guest's I/O error, not the end of its machine.
// Time limit: 600 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { findCommand } from '../tools/command.ts';
import type { Outcome, Scenario } from './lab/scenarios.ts';
import { outcomesOf, programFiles } from './lab/scenarios.ts';

const MIB = 2 ** 20;

const SCENARIOS: Record<string, Scenario> = {
  'written-file': {
    host: `fresh_root
boot --kernel $CLOUD --rootfs root.ext4
status=$?
debugfs -R 'cat /note' root.ext4 > keep/note
e2fsck -fn root.ext4 > keep/e2fsck 2>&1
echo $? > keep/e2fsck-status
exit $status`,
    guest: `echo 'written by the guest' > /note
sync`,
  },
  'read-only': {
    host: `fresh_root
yes secret | head -c 1M > data.img
sha256sum < data.img > keep/before
boot --kernel $CLOUD --rootfs root.ext4 --disk path=data.img,ro --disk path=root.ext4.copy
[ $? = 2 ] || exit 1
truncate -s 1M scratch.img
boot --kernel $CLOUD --rootfs root.ext4 --disk path=data.img,ro --disk path=scratch.img
status=$?
sha256sum < data.img > keep/after
head -c 7 scratch.img > keep/scratch
exit $status`,
    guest: `echo "GUEST vdb ro=$(cat /sys/block/vdb/ro) starts with $(head -c 6 /dev/vdb)"
dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync && echo 'GUEST vdb was written'
printf scratch | dd of=/dev/vdc conv=fsync && echo 'GUEST vdc was written'`,
  },
  'round-trip': {
    host: `fresh_root
truncate -s 256M second.img
boot --kernel $CLOUD --rootfs root.ext4 --disk path=second.img,id=second --memory 256M
status=$?
e2fsck -fn second.img > keep/e2fsck 2>&1
echo $? > keep/e2fsck-status
exit $status`,
    guest: `mkfs.ext4 -q /dev/vdb && mount -t ext4 /dev/vdb /mnt || echo 'GUEST mkfs failed'
dd if=/dev/urandom of=/mnt/data bs=1M count=64
echo "GUEST before $(sha256sum < /mnt/data)"
umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vdb /mnt
echo "GUEST after $(sha256sum < /mnt/data)"
umount /mnt`,
    limitSeconds: 120,
  },
  'lost-image': {
    host: `fresh_root
yes data | head -c 8M > data.img
(await_text output 'GUEST ready'; truncate -s 1M data.img; touch cut) &
boot --kernel $CLOUD --rootfs root.ext4 --disk path=data.img,id=data`,
    guest: `echo 'GUEST ready'
tries=0
while dd if=/dev/vdb of=/dev/null bs=4096 count=1 skip=1024 iflag=direct 2> /tmp/error; do
  tries=$((tries + 1))
  [ $tries = 300 ] && break
  sleep 0.1
done
cat /tmp/error
dd if=/dev/vdb of=/tmp/start bs=4096 count=1 iflag=direct 2> /dev/null
grep -q data /tmp/start && echo 'GUEST start readable'
echo 'GUEST goes on'`,
  },
  'full-host': {
    host: `fresh_root
mkdir small
mount -t tmpfs -o size=4m small small
truncate -s 64M small/data.img
boot --kernel $CLOUD --rootfs root.ext4 --disk path=small/data.img,id=data
status=$?
umount small
exit $status`,
    guest: `dd if=/dev/zero of=/dev/vdb bs=64k count=256 oflag=direct
dd if=/dev/vdb of=/dev/null bs=64k count=1 iflag=direct && echo 'GUEST reads'
echo 'GUEST goes on'`,
  },
};

const outcomeOf = outcomesOf('disks', SCENARIOS, await programFiles(findCommand('mkfs.ext4')!));

/** The outcome of a guest that must have powered off by itself. */
async function poweredOff(name: string): Promise<Outcome> {
  const outcome = await outcomeOf(name);
  assert.is(outcome.status, 0, outcome.output);
  assert.is(outcome.report!.exit.cause, 'power-off');
  return outcome;
}

test('a file written and synced in the guest is in a clean image', async () => {
  const { file, report } = await poweredOff('written-file');
  assert.is(file('note'), 'written by the guest\n');
  assert.is(file('e2fsck-status').trim(), '0', file('e2fsck'));
  assert.ok(report!.disks[0]!.bytesWritten > 0);
  assert.is(report!.disks[0]!.errors, 0);
});

test('a read-only disk refuses writes while the one beside it takes them', async () => {
  const { output, file, report } = await poweredOff('read-only');
  assert.match(output, 'GUEST vdb ro=1 starts with secret');
  assert.not.match(output, 'GUEST vdb was written');
  assert.match(output, 'GUEST vdc was written');
  assert.is(file('after'), file('before'));
  assert.is(file('scratch'), 'scratch');
  assert.equal(
    report!.disks.map((disk) => [disk.readOnly, disk.bytesWritten > 0]),
    [
      [false, true],
      [true, false],
      [false, true],
    ],
  );
});

test('64 MiB survive mkfs.ext4 and a round trip over a second disk', async () => {
  const { output, file, report } = await poweredOff('round-trip');
  const [, before] = /GUEST before (\w{64})/.exec(output)!;
  const [, after] = /GUEST after (\w{64})/.exec(output)!;
  assert.is(after, before);
  const second = report!.disks.find((disk) => disk.id === 'second')!;
  assert.ok(second.bytesWritten >= 64 * MIB);
  assert.ok(second.bytesRead >= 64 * MIB);
  assert.is(second.errors, 0);
  assert.is(file('e2fsck-status').trim(), '0', file('e2fsck'));
});

test('an image cut short while in use is an I/O error for the guest, which goes on', async () => {
  const { output, report } = await poweredOff('lost-image');
  assert.match(output, /dd: .*Input\/output error/);
  assert.match(output, 'GUEST start readable');
  assert.match(output, 'GUEST goes on');
  const data = report!.disks.find((disk) => disk.id === 'data')!;
  assert.ok(data.errors > 0);
});

test('a full host disk is an I/O error for the guest, which goes on', async () => {
  const { output, report } = await poweredOff('full-host');
  assert.match(output, /dd: .*Input\/output error/);
  assert.match(output, 'GUEST reads');
  assert.match(output, 'GUEST goes on');
  const data = report!.disks.find((disk) => disk.id === 'data')!;
  assert.ok(data.errors > 0);
  assert.is(data.lastError, 'ENOSPC');
});

test.run();
