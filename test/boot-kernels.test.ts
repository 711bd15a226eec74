// Stock kernels, every way in: booted in the nested lab, judged by what the guest itself says.
// Time limit: 600 s
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Outcome, Scenario } from './lab/scenarios.ts';
import { outcomesOf } from './lab/scenarios.ts';

// Says which kernel runs, and what its root is.
const INTRODUCE = `
echo "GUEST kernel $(uname -r) $(uname -m)"
echo "GUEST root $(grep ' / ' /proc/mounts | tail -1)"
echo "GUEST disk $(basename $(readlink /sys/block/vda/device/driver))"
echo 'VM READY'
`;

const SCENARIOS: Record<string, Scenario> = {
  'cloud-pvh': {
    host: 'fresh_root; boot --kernel $CLOUD --rootfs root.ext4 --boot-timer --entry pvh',
    guest: INTRODUCE,
  },
  'cloud-linux64': {
    host: 'fresh_root; boot --kernel $CLOUD --rootfs root.ext4 --boot-timer --entry linux64',
    guest: INTRODUCE,
  },
  'cloud-bzimage': {
    host: 'fresh_root; boot --kernel "$FILES"/boot/vmlinuz-* --rootfs root.ext4 --boot-timer',
    guest: INTRODUCE,
    limitSeconds: 120, // the kernel is extracted by the emulated processor
  },
  generic: {
    host: 'fresh_root; boot --kernel $GENERIC --rootfs root.ext4 --boot-timer',
    guest: INTRODUCE,
  },
  'no-network': {
    host: `fresh_root
boot --kernel $CLOUD --rootfs root.ext4 --boot-timer \\
  --cmdline "quiet job=$NAME ip=off ip=10.0.0.256 ip=dhcp"`,
    guest: `${INTRODUCE}
grep -q virtio_blk /proc/modules && echo 'GUEST disk driver'
grep -q virtio_net /proc/modules || echo 'GUEST no network driver'
ping -c 1 127.0.0.1 > /dev/null && echo 'GUEST loopback answers'
`,
  },
  'initramfs-only': {
    host: 'boot --kernel $CLOUD --initrd $IMAGES/initramfs',
    guest: `echo "GUEST root $(grep ' / ' /proc/mounts)"
ls /sys/block | grep -q vd || echo 'GUEST no disk'
echo 'VM READY'
`,
  },
  'eight-gib': {
    host: 'boot --kernel $CLOUD --initrd $IMAGES/initramfs --memory 8G',
    guest: `grep MemTotal /proc/meminfo
grep -i 'system ram' /proc/iomem
echo 'VM READY'
`,
  },
};

const outcomeOf = outcomesOf('kernels', SCENARIOS);

/** The outcome of a guest that must have come up and powered off. */
async function poweredOff(name: string): Promise<Outcome> {
  const outcome = await outcomeOf(name);
  assert.match(outcome.output, /VM READY/);
  assert.is(outcome.status, 0);
  assert.is(outcome.report!.exit.cause, 'power-off');
  assert.is(outcome.report!.exit.code, 0);
  assert.equal(outcome.report!.incidents, {});
  assert.equal(outcome.report!.traps, {});
  return outcome;
}

/** ... with its root on a virtio disk, and the marker reported. */
async function rootedOnDisk(name: string): Promise<Outcome> {
  const outcome = await poweredOff(name);
  assert.match(outcome.output, /GUEST root \S+ \/ ext4 rw/);
  assert.match(outcome.output, /GUEST disk virtio_blk/);
  const { milliseconds, disks } = outcome.report!;
  assert.ok(milliseconds.toMarker! > milliseconds.toFirstInstruction!);
  assert.ok(milliseconds.total > milliseconds.toMarker!);
  assert.is(disks.length, 1);
  assert.ok(disks[0]!.bytesRead > 0);
  assert.is(disks[0]!.errors, 0);
  return outcome;
}

test('the stock cloud kernel boots by PVH with its root on a virtio disk', async () => {
  const { output, report } = await rootedOnDisk('cloud-pvh');
  assert.match(output, /GUEST kernel \S*cloud\S* x86_64/);
  assert.is(report!.entry, 'pvh');
});

test('the stock cloud kernel boots by the 64-bit entry', async () => {
  const { output, report } = await rootedOnDisk('cloud-linux64');
  assert.match(output, /GUEST kernel \S*cloud\S* x86_64/);
  assert.is(report!.entry, 'linux64');
});

test('the stock cloud kernel boots as its bzImage, imported on the fly', async () => {
  const { output } = await rootedOnDisk('cloud-bzimage');
  assert.match(output, /GUEST kernel \S*cloud\S* x86_64/);
});

test('the stock generic kernel boots', async () => {
  const { output } = await rootedOnDisk('generic');
  assert.match(output, /GUEST kernel \S+ x86_64/);
  assert.not.match(output, /GUEST kernel \S*cloud/);
});

test('a guest without a network loads no driver for it, and a wrong ip= is a line', async () => {
  const { output } = await rootedOnDisk('no-network');
  assert.match(output, /GUEST disk driver\nGUEST no network driver\nGUEST loopback answers\n/);
  const lines = output.split('\n').filter((line) => line.startsWith('faraday-init: '));
  assert.equal(lines, [
    'faraday-init: ip= ignored: no IPv4 address: 10.0.0.256',
    'faraday-init: ip= ignored: only a static address is understood, not dhcp',
  ]);
});

test('a guest lives in an initramfs alone', async () => {
  const { output, report } = await poweredOff('initramfs-only');
  assert.match(output, /GUEST root rootfs \/ rootfs/);
  assert.match(output, /GUEST no disk/);
  assert.equal(report!.disks, []);
});

test('a guest of 8 GiB sees all of it, on both sides of the hole below 4 GiB', async () => {
  const { output } = await poweredOff('eight-gib');
  const [, kibibytes] = /MemTotal: +(\d+) kB/.exec(output)!;
  // The kernel keeps its own image and its page structures (1.6 %) out of the total.
  assert.ok(Number(kibibytes) > 0.97 * 8 * 2 ** 20, `${kibibytes} KiB`);
  assert.match(output, /00100000-bfffffff : System RAM/);
  assert.match(output, /100000000-23fffffff : System RAM/);
});

test.run();
