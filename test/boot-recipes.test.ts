// The recipes of docs/networking.md, taken from the page itself and followed in the lab, from a
// host without any tap: what they promise a guest is what a stock kernel then finds.
// Time limit: 600 s
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Scenario } from './lab/scenarios.ts';
import { outcomesOf } from './lab/scenarios.ts';

const PAGE = readFileSync(new URL('../docs/networking.md', import.meta.url), 'utf8');

/** The commands after the marker `<!-- recipe: NAME -->`. */
function recipe(name: string): string {
  const found = new RegExp(`<!-- recipe: ${name} -->\n\`\`\`sh\n([^]*?)\`\`\`\n`).exec(PAGE);
  assert.ok(found, `docs/networking.md has no recipe ${name}`);
  return found![1]!;
}

// Whoever follows a recipe is root already here; the guest must be told its job.
const READER = `fresh_root
# By name: a name space takes its end of eth1 with it only some time after it went.
trap '{ kill $(jobs -p); wait; ip link del eth1; ip netns del far; } 2> /dev/null' EXIT
sudo() { "$@"; }
faraday() {
  local verb=$1
  shift
  [ "$verb" = run ] && set -- --cmdline "quiet job=$NAME" --report report.json "$@"
  "$NODE" "$FARADAY" "$verb" "$@"
}
mkdir www
echo 'served to a guest' > www/index.html
`;

/** Another machine, a namespace of its own, at the far end of eth1. */
function neighbour(address: string): string {
  return `ip netns add far
ip link add eth1 type veth peer name eth0 netns far
ip -n far addr add ${address} dev eth0
ip -n far link set eth0 up
ip -n far link set lo up
ip netns exec far busybox httpd -f -vv -p 8000 -h www 2> keep/log &
`;
}

const SHOW_LEFT = `
echo "left: $(ls /sys/class/net | grep -v '^lo$\\|^eth1$' | tr '\\n' ' ')$(nft list tables)"`;

const fetchFrom = (address: string) => `wget -q -O - http://${address}:8000/`;

const SCENARIOS: Record<string, Scenario> = {
  rootless: {
    // busybox nc serves one connection, which ends the guest.
    host: `${READER}ip addr add 198.51.100.1/32 dev lo
busybox httpd -f -p 198.51.100.1:8000 -h www &
(until busybox nc -w 5 127.0.0.1 8080 < /dev/null 2> /dev/null |
  tee keep/answer | grep -q guest; do
  sleep 0.2
done) &
fetched=$!
${recipe('rootless')}
wait $fetched
while pgrep passt > /dev/null; do sleep 0.2; done # the limit ends it where it stays
echo "left: $(pgrep passt)"`,
    guest: `${fetchFrom('198.51.100.1')}\necho 'out of the guest' | nc -l -p 80`,
  },
  bridge: {
    host: `${READER}${neighbour('192.0.2.1/24')}${recipe('bridge')}${SHOW_LEFT}`,
    guest: fetchFrom('192.0.2.1'),
  },
  nat: {
    host: `${READER}${neighbour('203.0.113.1/24')}ip addr add 203.0.113.9/24 dev eth1
ip link set dev eth1 up
ip -n far route add 10.213.0.0/24 via 203.0.113.9
(until busybox ping -c 1 -W 1 10.213.0.2 > /dev/null; do sleep 0.2; done
 echo 'host: reached' > keep/inwards
 ip netns exec far busybox ping -c 2 -W 2 10.213.0.2 > /dev/null &&
   echo 'far: reached' >> keep/inwards
 echo go > www/go) &
${recipe('nat')}${SHOW_LEFT}`,
    guest: `${fetchFrom('203.0.113.1')}
until ${fetchFrom('203.0.113.1')}go 2> /dev/null; do sleep 0.2; done`,
  },
};

const outcomeOf = outcomesOf('recipes', SCENARIOS);

test('rootless: a guest gets out, a forwarded port leads in, and passt is gone after', async () => {
  const { output, file, report } = await outcomeOf('rootless');
  assert.match(output, /^served to a guest$/m);
  assert.is(file('answer'), 'out of the guest\n', output);
  assert.match(output, /^left: $/m);
  assert.is(report!.exit.cause, 'power-off');
});

test('bridge: a guest is on the network of the interface that the bridge has', async () => {
  const { output, file } = await outcomeOf('bridge');
  assert.match(output, /^served to a guest$/m);
  assert.match(file('log'), /192\.0\.2\.50.*200/);
  assert.match(output, /^left: $/m);
});

test('nat: a guest gets out as this host, nobody gets in, nothing is left', async () => {
  const { output, file } = await outcomeOf('nat');
  assert.match(output, /^served to a guest$/m);
  assert.match(file('log'), /203\.0\.113\.9.*200/);
  assert.is(file('inwards'), 'host: reached\n');
  assert.match(output, /^left: $/m);
});

test.run();
