// Networks under a real driver: what guest and host say to each other arrives whole, whatever
// offloads, queues and backends are between them, and a network that fails takes nothing with it.
// Both sides are test/net-peer.c. Floods and transfers are a tenth here of what they are with
// FARADAY_NET_SOAK=1, that is in `npm run soak -- net`.
// Time limit: 1200 s
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REPOSITORY } from '../tools/cache.ts';
import { run } from '../tools/command.ts';
import { OUTSIDE, type Outcome, outcomesOf, type Scenario } from './lab/scenarios.ts';

const SOAKS = process.env.FARADAY_NET_SOAK === '1';
const SOAK_FACTOR = SOAKS ? 10 : 1;
const TRANSFER_BYTES = SOAKS ? 256 * 2 ** 20 : 16 * 2 ** 20;
const CONNECTIONS = 1000 * SOAK_FACTOR;
const FLOOD_MS = 6000 * SOAK_FACTOR;
const FLOOD_LEAST = 100; // datagrams each way in that time: far below any rate but a stall's
const READS_LEAST = 10; // of 64 KiB, likewise
const SEGMENT_BYTES = 1448; // what a TCP segment carries with an MTU of 1500
const DAY_MS = 86_400_000;
const ONE_TAP = '--net tap=tap0,ip=10.0.0.2/24,gateway=10.0.0.1';

const PEER = join(REPOSITORY, 'build/net-peer');
mkdirSync(join(REPOSITORY, 'build'), { recursive: true });
const source = fileURLToPath(new URL('net-peer.c', import.meta.url));
await run('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', PEER, source]);

// Waits too: the next scenario's servers have the same ports.
const PREPARE = `trap '{ kill $(jobs -p); wait; } 2> /dev/null' EXIT
no_network
fresh_root
cp ${OUTSIDE}${PEER} .
PATH=$PWD:$PATH
`;
const TAP = `${PREPARE}tap tap0 10.0.0.1/24 fd00::1/64
net-peer serve 7000 &
`;
// A guest's addresses of IPv6, which no word of the command line gives.
const GUEST6 = `echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip -6 address add fd00::2/64 dev eth0
`;
const LISTEN = `echo 'GUEST ready'
net-peer serve 7000
`;
// What is flooded must be there before: nobody sends those datagrams again. The server answers a
// question once it is.
const LISTEN_TO_FLOOD = `net-peer serve 7000 &
server=$!
net-peer counted 127.0.0.1 7000 > /dev/null
echo 'GUEST ready'
`;
// The guest asks for its address as distributions do.
const LEASE = `cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/24 dev $interface
[ -z "$router" ] || ip route add default via $router
echo "GUEST has $ip"
END
chmod +x /tmp/lease
ip link set eth0 up
udhcpc -i eth0 -n -q -t 10 -T 1 -s /tmp/lease`;
const boot = (flags: string) => `boot --kernel $CLOUD --rootfs root.ext4 ${flags}\n`;

/** Both directions of TCP, checked, with whoever serves at `address`. */
const transfers = (address: string, bytes = TRANSFER_BYTES) => `
net-peer upload ${address} 7000 ${bytes}
net-peer download ${address} 7000 ${bytes}
`;

/** Ends the guest's server, and so the guest. */
const inBackground = (work: string, address = '10.0.0.2') => `(
await_text output 'GUEST ready'
${work}
net-peer stop ${address} 7000
) > keep/host 2>&1 &
`;

// Not -c 3: busybox then gives the last answer one second, and when that is over while it prints
// what came of it, prints it twice.
const PING = 'busybox ping -c 1 -W 30';
const pings = (words: string) => `for n in 1 2 3; do ${PING} ${words}; done\n`;

/** What every backend must do: both sides ping and send. */
const conversation = (more = ''): Omit<Scenario, 'host'> => ({
  guest: `${GUEST6}${more}${pings('10.0.0.1')}${transfers('10.0.0.1')}
net-peer echo 10.0.0.1 7000 20
${LISTEN}`,
  limitSeconds: SOAKS ? 900 : 180,
});
const hostConversation = inBackground(`${pings('10.0.0.2')}${transfers('10.0.0.2')}
net-peer echo 10.0.0.2 7000 20`);

const SPOOF = `me=$(cat /sys/class/net/eth0/address)
${PING} 10.0.0.1 > /dev/null # a link that is not up yet takes no frames
net-peer frames eth0 02:00:00:00:00:99 20
net-peer frames eth0 $me 1
${PING} 10.0.0.1 > /dev/null # once that is back, the frames before it have left the guest
`;
const spoofed = (filter: string): Scenario => ({
  host: `${TAP}net-peer sniff tap0 06:00:00:00:00:01 > keep/sources &
await_text keep/sources 'net-peer sniffs'
${boot(`${ONE_TAP},mac=06:00:00:00:00:01,mac-filter=${filter}`)}
status=$?
wait %2
exit $status`,
  guest: SPOOF,
});

const SCENARIOS: Record<string, Scenario> = {
  conversation: {
    host: `${TAP}${inBackground(`${pings('10.0.0.2')}${pings('fd00::2')}
${transfers('10.0.0.2')}${transfers('fd00::2')}
net-peer echo 10.0.0.2 7000 20
net-peer echo fd00::2 7000 20
cat /sys/class/net/tap0/statistics/rx_packets > keep/packets`)}
${boot(`${ONE_TAP},mac=06:00:00:00:00:01`)}`,
    ...conversation(`echo "GUEST mac $(cat /sys/class/net/eth0/address)"
ip address show eth0
ip route
${pings('fd00::1')}${transfers('fd00::1')}
net-peer echo fd00::1 7000 20
`),
  },
  dhcp: {
    host: `${PREPARE}ip link add br0 type bridge
ip tuntap add dev tap0 mode tap
ip link set tap0 up master br0
ip netns add server
ip link add veth0 type veth peer name eth0 netns server
ip link set veth0 up master br0
ip link set br0 up
ip -netns server address add 10.0.0.1/24 dev eth0
ip -netns server link set eth0 up
ip -netns server link set lo up
printf '%s\\n' 'start 10.0.0.50' 'end 10.0.0.50' 'interface eth0' 'option subnet 255.255.255.0' \\
  "lease_file $PWD/leases" "pidfile $PWD/pid" > udhcpd.conf
: > leases
ip netns exec server busybox udhcpd -f udhcpd.conf &
ip netns exec server net-peer serve 7000 &
${boot('--net tap=tap0')}`,
    guest: `${LEASE}
${PING} 10.0.0.1
net-peer upload 10.0.0.1 7000 1048576
`,
  },
  jumbo: {
    host: `${TAP}ip link set tap0 mtu 9000
${inBackground(`${pings('-s 8000 10.0.0.2')}${transfers('10.0.0.2')}
grep '^Ip:' /proc/net/snmp > keep/ip`)}${boot(`${ONE_TAP},mtu=9000`)}`,
    guest: `echo "GUEST mtu $(cat /sys/class/net/eth0/mtu)"
${pings('-s 8000 10.0.0.1')}${transfers('10.0.0.1')}
grep '^Ip:' /proc/net/snmp | sed 's/^/GUEST /'
${LISTEN}`,
    limitSeconds: SOAKS ? 900 : 180,
  },
  'offloads-off': {
    host: `${TAP}${hostConversation}
${boot(ONE_TAP)}
status=$?
cat /sys/class/net/tap0/statistics/rx_packets > keep/packets
exit $status`,
    ...conversation(`for feature in rx-gro-hw tx-tcp-segmentation tx-tcp6-segmentation \\
  tx-generic-segmentation tx-checksum-ip-generic; do
  net-peer feature eth0 $feature off
done
`),
  },
  queues: {
    host: `TAP_FLAGS=multi_queue
${TAP}${inBackground(`net-peer upload 10.0.0.2 7000 ${TRANSFER_BYTES} &
net-peer download 10.0.0.2 7000 ${TRANSFER_BYTES}
wait $!`)}${boot(`${ONE_TAP},queues=2 --cpus 2`)}`,
    guest: `echo "GUEST queues $(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)"
taskset 1 net-peer upload 10.0.0.1 7000 ${TRANSFER_BYTES} &
taskset 2 net-peer download 10.0.0.1 7000 ${TRANSFER_BYTES}
wait $!
${LISTEN}`,
    limitSeconds: SOAKS ? 1200 : 180,
  },
  'down-and-up': {
    host: `${TAP}(
await_text output 'GUEST ready'
ip link set tap0 down
await_text output 'GUEST lost'
ip link set tap0 up) &
${boot(ONE_TAP)}`,
    guest: `${PING} 10.0.0.1 > /dev/null && echo 'GUEST ready'
while ping -c 1 -W 1 10.0.0.1 > /dev/null; do :; done
echo 'GUEST lost'
until ping -c 1 -W 1 10.0.0.1 > /dev/null; do :; done
echo 'GUEST back'
net-peer upload 10.0.0.1 7000 1048576
`,
  },
  removed: {
    host: `${TAP}(
await_text output 'GUEST ready'
ip link delete tap0) &
${boot(ONE_TAP)}`,
    guest: `${PING} 10.0.0.1 > /dev/null && echo 'GUEST ready'
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 0.1; done
echo 'GUEST no carrier'
ping -c 1 -W 1 10.0.0.1 > /dev/null || echo 'GUEST no answer'
sync
echo 'GUEST goes on'
`,
  },
  connections: {
    host: `${TAP}${boot(ONE_TAP)}`,
    guest: `net-peer connect 10.0.0.1 7000 ${CONNECTIONS}
`,
    limitSeconds: SOAKS ? 900 : 180,
  },
  flood: {
    host: `${TAP}${inBackground(`net-peer flood 10.0.0.2 7000 0 ${FLOOD_MS}
await_text output 'GUEST reads'
net-peer counted 127.0.0.1 7000 > keep/counted`)}${boot(ONE_TAP)}`,
    guest: `${LISTEN_TO_FLOOD}
while [ "$(net-peer counted 127.0.0.1 7000)" = 'net-peer counted 0' ]; do
  sleep 0.1
done
net-peer flood 10.0.0.1 7000 0 ${FLOOD_MS} &
flood=$!
reads=0
while kill -0 $flood 2> /dev/null; do
  dd if=/dev/vda of=/dev/null bs=64k count=1 skip=$((reads % 512)) iflag=direct 2> /dev/null &&
    reads=$((reads + 1))
done
net-peer counted 127.0.0.1 7000 | sed 's/^/GUEST /'
echo "GUEST reads $reads"
wait $server`,
    limitSeconds: 120 + FLOOD_MS / 500,
  },
  'mac-filter': spoofed('on'),
  'no-mac-filter': spoofed('off'),
  'vhost-net': {
    host: `${TAP}${hostConversation}${boot(`--net-backend vhost-net ${ONE_TAP}`)}`,
    ...conversation(),
  },
  macvtap: {
    host: `${PREPARE}ip link add veth0 type veth peer name veth1
ip address add 10.0.0.1/24 dev veth1
ip link set veth1 up
ip link set veth0 up
ip link add link veth0 name macvtap0 type macvtap mode bridge
ip link set macvtap0 up
net-peer serve 7000 &
${hostConversation}${boot(`--net-backend macvtap ${ONE_TAP.replace('tap0', 'macvtap0')}`)}`,
    ...conversation(),
  },
  // A bucket that does not fill again while the test runs is a count, whatever time it takes.
  'limited-bytes': {
    host: `${TAP}${boot(`${ONE_TAP},tx-bw-size=64K,tx-bw-refill-time=${DAY_MS}`)}
status=$?
cat /sys/class/net/tap0/statistics/rx_bytes > keep/bytes
exit $status`,
    guest: 'net-peer flood 10.0.0.1 7000 2000 0\n',
  },
  'limited-frames': {
    host: `${TAP}(
await_text output 'GUEST ready'
net-peer flood 10.0.0.2 7000 1000 0) &
${boot(`${ONE_TAP},rx-ops-size=100,rx-ops-refill-time=${DAY_MS}`)}`,
    guest: `${LISTEN_TO_FLOOD}
until [ "$(cat /sys/class/net/eth0/statistics/rx_packets)" -ge 100 ]; do
  sleep 0.1
done
sleep 2 # in which more would come
echo "GUEST $(net-peer counted 127.0.0.1 7000)"
`,
  },
  user: {
    host: `${PREPARE}ip link add dummy0 type dummy
ip address add 192.0.2.2/24 dev dummy0
ip link set dummy0 up
ip route add default via 192.0.2.1
mkdir www
yes page | head -c 1M > www/page
sha256sum < www/page > keep/sum
busybox httpd -f -p 8001 -h www &
(await_text output 'net-peer serves'
net-peer upload 127.0.0.1 8080 1048576
net-peer download 127.0.0.1 8080 1048576
net-peer stop 127.0.0.1 8080) > keep/host 2>&1 &
${boot('--net-backend user --publish 8080:7000')}`,
    guest: `${LEASE}
echo "GUEST page $(wget -q -O - http://192.0.2.2:8001/page | sha256sum)"
${LISTEN}`,
  },
};

const FILES = { 'bin/net-peer': readFileSync(PEER) };
const together = outcomesOf('net', SCENARIOS, FILES);
// At full length each has a lab of its own: one that dies is then no loss to the others.
const apart = new Map(
  Object.entries(SCENARIOS).map(([name, scenario]) => {
    return [name, outcomesOf(`net-${name}`, { [name]: scenario }, FILES)];
  }),
);
const outcomeOf = SOAKS ? (name: string) => apart.get(name)!(name) : together;

/** The outcome of a guest that must have powered off by itself, with no talk that failed. */
async function poweredOff(name: string): Promise<Outcome> {
  const outcome = await outcomeOf(name);
  assert.is(outcome.status, 0, outcome.output);
  assert.is(outcome.report!.exit.cause, 'power-off');
  assert.not.match(outcome.output, /net-peer: |DAMAGED|REFUSED/);
  assert.equal(outcome.report!.traps, {});
  return outcome;
}

/** Asserts that the pings of pings() came back, as often as those were sent. */
function answered(text: string, times: number): void {
  assert.is(text.split('1 packets transmitted, 1 packets received').length - 1, 3 * times, text);
}

function intact(text: string, times: number): void {
  assert.is(text.split(`net-peer upload ${TRANSFER_BYTES} intact`).length - 1, times, text);
  assert.is(text.split(`net-peer download ${TRANSFER_BYTES} intact`).length - 1, times, text);
}

/** Both halves of a conversation, `times` over (once for each address). */
function conversed({ output, file }: Outcome, times = 1): void {
  for (const text of [output, file('host')]) {
    answered(text, times);
    intact(text, times);
    assert.is(text.split('net-peer echoes 20').length - 1, times, text);
  }
}

const numberAfter = (text: string, what: string): number => {
  return Number(new RegExp(`${what} (\\d+)`).exec(text)?.[1] ?? Number.NaN);
};

test('guest and host ping each other, and TCP and UDP arrive whole, by IPv4 and IPv6', async () => {
  const outcome = await poweredOff('conversation');
  conversed(outcome, 2);
  const [network] = outcome.report!.networks;
  assert.is(network!.gone, false);
  const total = (queues: { frames: number; bytes: number }[]) => {
    return queues.reduce((sum, queue) => sum + queue.bytes, 0);
  };
  assert.ok(total(network!.receive) > 4 * TRANSFER_BYTES);
  assert.ok(total(network!.transmit) > 4 * TRANSFER_BYTES);
});

test('the guest has the addresses that --net gives it', async () => {
  const { output } = await poweredOff('conversation');
  assert.match(output, 'GUEST mac 06:00:00:00:00:01');
  assert.match(output, /inet 10\.0\.0\.2\/24 .*eth0/);
  assert.match(output, /default via 10\.0\.0\.1 dev eth0/);
});

test('a guest on a bridge gets its address by DHCP from another network name space', async () => {
  const { output } = await poweredOff('dhcp');
  assert.match(output, 'GUEST has 10.0.0.50');
  assert.match(output, '1 packets received');
  assert.match(output, 'net-peer upload 1048576 intact');
});

test('frames of 9000 bytes pass, and nobody takes them apart', async () => {
  const { output, file } = await poweredOff('jumbo');
  assert.match(output, 'GUEST mtu 9000');
  for (const text of [output, file('host')]) {
    answered(text, 1);
    intact(text, 1);
  }
  for (const text of [output, file('ip')]) {
    const [names, counts] = [...text.matchAll(/Ip: (.*)/g)].map((match) => match[1]!.split(' '));
    for (const name of ['FragCreates', 'ReasmReqds']) {
      assert.is(counts![names!.indexOf(name)], '0', name);
    }
  }
});

test('with its offloads off the guest sends each segment by itself, and all arrive', async () => {
  const on = await poweredOff('conversation');
  const off = await poweredOff('offloads-off');
  assert.match(off.output, 'net-peer tx-checksum-ip-generic off');
  conversed(off);
  // With them, four uploads and downloads; without, two.
  const segments = (2 * TRANSFER_BYTES) / SEGMENT_BYTES;
  assert.ok(Number(off.file('packets')) > segments, off.file('packets'));
  assert.ok(Number(on.file('packets')) < 2 * segments, on.file('packets'));
});

test('a guest with two processors uses two queues', async () => {
  const { output, file, report } = await poweredOff('queues');
  assert.match(output, 'GUEST queues 2');
  for (const text of [output, file('host')]) intact(text, 1);
  const [network] = report!.networks;
  assert.is(network!.transmit.length, 2);
  for (const queue of network!.transmit) assert.ok(queue.frames > 0);
});

test('a tap that goes down and up again is used again', async () => {
  const { output } = await poweredOff('down-and-up');
  assert.match(output, /GUEST ready.*GUEST lost.*GUEST back/s);
  assert.match(output, 'net-peer upload 1048576 intact');
});

test('a tap removed while the guest runs is a lost carrier, and the guest goes on', async () => {
  const { output, report } = await poweredOff('removed');
  assert.match(output, /GUEST no carrier.*GUEST no answer.*GUEST goes on/s);
  assert.is(report!.networks[0]!.gone, true);
});

test(`${CONNECTIONS} connections are made and used`, async () => {
  const { output } = await poweredOff('connections');
  assert.match(output, `net-peer connections ${CONNECTIONS}\n`);
});

test('a flood both ways starves neither the network nor the disk', async () => {
  const { output, file } = await poweredOff('flood');
  assert.ok(numberAfter(output, 'GUEST net-peer counted') > FLOOD_LEAST, output);
  assert.ok(numberAfter(file('counted'), 'counted') > FLOOD_LEAST, file('counted'));
  assert.ok(numberAfter(output, 'GUEST reads') > READS_LEAST, output);
});

test('mac-filter=on lets no frame out that bears another sender', async () => {
  const sources = async (name: string) => {
    const { file, output } = await poweredOff(name);
    assert.match(output, 'net-peer frames 20');
    return [...file('sources').matchAll(/frame from (\S+)/g)].map((match) => match[1]);
  };
  const own = '06:00:00:00:00:01';
  assert.equal(await sources('mac-filter'), [own]);
  assert.equal(await sources('no-mac-filter'), [...Array(20).fill('02:00:00:00:00:99'), own]);
});

test('the same conversation by vhost-net', async () => {
  const outcome = await poweredOff('vhost-net');
  conversed(outcome);
  assert.is(outcome.report!.networks[0]!.backend, 'vhost-net');
});

test('the same conversation by macvtap', async () => {
  conversed(await poweredOff('macvtap'));
});

test('what the guest sends over its limit of bytes waits', async () => {
  const { output, file } = await poweredOff('limited-bytes');
  assert.ok(numberAfter(output, 'net-peer flood') > 0);
  const bytes = Number(file('bytes'));
  assert.ok(bytes > 32 * 1024 && bytes <= 65 * 1024, `${bytes} bytes`);
});

test('what is sent to the guest over its limit of frames waits', async () => {
  const { output, report } = await poweredOff('limited-frames');
  const counted = numberAfter(output, 'GUEST net-peer counted'); // its socket may lose some
  assert.ok(counted > 0 && counted <= 100, `${counted} datagrams`);
  assert.is(report!.networks[0]!.receive[0]!.frames, 100);
});

test("with passt the guest reaches the host's network, and a published port it", async () => {
  const { output, file } = await poweredOff('user');
  assert.match(output, `GUEST page ${file('sum').trim()}`);
  assert.match(file('host'), /upload 1048576 intact\nnet-peer download 1048576 intact/);
});

test.run();
