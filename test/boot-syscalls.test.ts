// What cells of real kernels ask of the host's kernel, seen by strace: nothing but what the tables
// allow, and the rows that bare-metal guests (cell-syscalls.test.ts) do not reach.
// Time limit: 600 s
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { findCommand } from '../tools/command.ts';
import type { Scenario } from './lab/scenarios.ts';
import { outcomesOf } from './lab/scenarios.ts';
import { ONLY_IN_BOOTS, readTrace, STRACE_FLAGS, Usage } from './syscall-trace.ts';

const GROUP = 'syscalls';
const CELL = '/tmp/program/build/faraday-cell';

// The cell's place is taken by a script that runs it under strace. Not with -D: what a cell leaves
// behind in its own process numbers ends with it, and strace would.
const STRACE = [findCommand('strace'), ...STRACE_FLAGS].join(' ');
const TRACED = `mv ${CELL} ${CELL}.traced
echo '#!/bin/sh' > ${CELL}
echo "exec ${STRACE} $PWD/keep/trace ${CELL}.traced" '"$@"' >> ${CELL}
chmod +x ${CELL}
trap 'mv ${CELL}.traced ${CELL}' EXIT`;

const SCENARIOS: Record<string, Scenario> = {
  load: {
    host: `${TRACED}
fresh_root
truncate -s 8M sync.img uring.img block.img
modprobe loop
busybox losetup /dev/loop0 block.img
boot --kernel $CLOUD --rootfs root.ext4 --cpus 2 --boot-timer \\
  --disk path=sync.img,cache=writethrough \\
  --disk path=uring.img,io-engine=io_uring,num-queues=2 \\
  --disk path=/dev/loop0
status=$?
busybox losetup -d /dev/loop0
exit $status`,
    guest: `
for disk in vdb vdc vdd; do
  dd if=/dev/urandom of=/dev/$disk bs=256k count=16 conv=fsync 2> /dev/null
  dd if=/dev/$disk of=/dev/null bs=64k iflag=direct 2> /dev/null
  device=$(basename $(readlink -f /sys/block/$disk/device))
  (while dd if=/dev/$disk of=/dev/null bs=4k iflag=direct; do :; done) 2> /dev/null &
  sleep 0.3
  echo $device > /sys/bus/virtio/drivers/virtio_blk/unbind
  wait
  echo $device > /sys/bus/virtio/drivers/virtio_blk/bind
  until [ -e /dev/$disk ]; do sleep 0.1; done
  echo "GUEST $disk is back"
done
dd if=/dev/hwrng of=/dev/null bs=64 count=1 2> /dev/null
echo "GUEST date $(date +%Y)"`,
    limitSeconds: 150,
  },
  reboot: {
    host: `${TRACED}
boot --kernel $CLOUD --initrd $IMAGES/initramfs --cpus 2`,
    guest: 'reboot -f',
  },
};

const outcomeOf = outcomesOf(GROUP, SCENARIOS);
const usage = new Usage();

/** Runs a scenario and takes its trace in. */
async function traced(name: string, cause: string): Promise<string> {
  const { status, output, report } = await outcomeOf(name);
  assert.is(status, 0, output);
  assert.is(report!.exit.cause, cause);
  assert.is(report!.confinement.cell!.seccomp, 'enforce');
  const path = join(REPOSITORY, 'build/boots', GROUP, 'results', name, 'trace');
  assert.equal(usage.add(readTrace(path)), [], 'calls that no row allows');
  return output;
}

test('a kernel under load, whose disks are taken away, makes a cell ask for no more', async () => {
  const output = await traced('load', 'power-off');
  for (const disk of ['vdb', 'vdc', 'vdd']) assert.match(output, `GUEST ${disk} is back`);
});

test('nor does one that reboots', async () => {
  await traced('reboot', 'reboot');
});

test('the traces show what such guests do, and the rows that only they use', () => {
  const rows = [
    ...['vcpu: ioctl KVM_RUN', 'vcpu: write', 'console: write', 'io: epoll_wait', 'io: preadv'],
    ...['io: pwritev', 'io: fdatasync', 'io: io_uring_enter NO_FLAGS', 'io: getrandom'],
  ];
  assert.equal(
    [...rows, ...ONLY_IN_BOOTS].filter((name) => !usage.has(name)),
    [],
  );
});

test.run();
