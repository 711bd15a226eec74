// What a new user sees first: quickstart, on a host whose KVM runs Linux and on this one.
// Time limit: 300 s
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cacheFolder, REPOSITORY } from '../tools/cache.ts';
import { run } from '../tools/command.ts';
import { kernelPackages } from '../tools/distribution.ts';
import { runInLab } from './lab/lab.ts';

const QUICKSTART = ['--import', 'tsx', 'tools/quickstart.ts'];

/** What must be on the screen, whoever booted the guest. */
function showsGuest(output: string): void {
  assert.match(output, /^\[ {4}0\.000000\] Linux version /m);
  assert.match(output, /\/ is on \/dev\/vda, a virtio_blk disk\r?\n(.*\n)*VM READY\r?\n/);
  const last = output.trimEnd().split('\n').at(-1)!;
  assert.match(last, /^quickstart: the guest took \d+\.\d\d s to reach user space$/);
}

test('quickstart boots a guest on this machine, by KVM or in the lab', async () => {
  const { stdout, stderr } = await run(process.execPath, QUICKSTART, { cwd: REPOSITORY });
  showsGuest(stdout);
  assert.match(stderr, 'quickstart: making a root file system: done');
});

test('quickstart boots a guest by KVM itself where KVM runs Linux', async () => {
  await kernelPackages('cloud');
  const packages = `/run/lab/outside${join(cacheFolder(), 'packages/cloud')}`;
  // In memory: the lab's disk should not be a file of this machine.
  const script = `mkdir -p build/quickstart /tmp/cache/faraday/packages
mount -t tmpfs tmpfs build/quickstart
cp -r '${packages}' /tmp/cache/faraday/packages/
XDG_CACHE_HOME=/tmp/cache "$0" "$@"
status=$?
grep -q '"power-off"' build/quickstart/report.json || cat build/quickstart/report.json
exit $status`;
  const result = await runInLab({
    command: ['bash', '-c', script, process.execPath, ...QUICKSTART],
    workFolder: REPOSITORY,
    timeoutSeconds: 120,
  });
  assert.is(result.status, 0, result.output);
  showsGuest(result.output);
  assert.not.match(result.output, 'nested lab');
});

test.run();
