// What users write: flags and the file of --config. An input is a row of arguments, each ended by
// a NUL, and behind an empty one the text of the file.
import { Command, CommanderError } from 'commander';
import { commandLine } from '../../../host/boot/cmdline.ts';
import { addConfineOptions } from '../../../host/cli/confine-options.ts';
import { addMachineOptions, settingsOf } from '../../../host/cli/machine-options.ts';
import { addNetOptions } from '../../../host/cli/net-options.ts';
import { MEMORY_MAX_BYTES, MEMORY_MIN_BYTES, SETTINGS, toRunConfig } from '../../../host/config.ts';
import { oneLine } from '../../../host/log.ts';
import type { NetRequest } from '../../../host/net-config.ts';
import type { Random } from '../../../testing/random.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';
import { scratch } from './scratch.ts';

const ARGUMENTS_MAX = 40;

/** The verb `run` without its action. */
function program(): Command {
  const command = addConfineOptions(addNetOptions(addMachineOptions(new Command('run'))));
  for (const flag of ['--engine', '--report', '--record', '--log-level']) {
    command.option(`${flag} <value>`);
  }
  return command
    .option('--detach')
    .exitOverride()
    .configureOutput({ writeOut: () => {}, writeErr: () => {} })
    .action(() => {});
}

function split(input: Uint8Array): [args: string[], file: string] {
  const args: string[] = [];
  for (let at = 0; at < input.length && args.length < ARGUMENTS_MAX; ) {
    const found = input.indexOf(0, at);
    const end = found < 0 ? input.length : found;
    const text = Buffer.from(input.subarray(at, end)).toString();
    at = end + 1;
    if (text === '') return [args, Buffer.from(input.subarray(at)).toString()];
    args.push(text);
  }
  return [args, ''];
}

function checkNet(net: NetRequest, cpus: number): void {
  const { id, mac = '02:', mtu = 1500, queuePairs, queueSize = 256, rx, tx } = net;
  must(/^[\x21-\x7e]{1,20}$/.test(id), 'a bad id of a network');
  must((Number.parseInt(mac, 16) & 1) === 0, 'the address of a group');
  must(mtu >= 68 && mtu <= 65535, 'an MTU out of range');
  must(queuePairs >= 1 && queuePairs <= 8 && queuePairs <= cpus, 'a bad number of queue pairs');
  must(queueSize >= 4 && queueSize <= 256 && (queueSize & (queueSize - 1)) === 0, 'queue size');
  for (const bucket of [rx.bandwidth, rx.ops, tx.bandwidth, tx.ops]) {
    const numbers = bucket ? Object.values(bucket) : [];
    must(numbers.every(Number.isSafeInteger) && bucket?.size !== 0, 'a bucket without a size');
  }
}

function check(command: Command, args: readonly string[]): void {
  command.parse(args, { from: 'user' });
  const [settings, configFile] = settingsOf(command);
  const config = toRunConfig({ kernel: 'vmlinux', ...settings }, configFile);
  const { memoryBytes, cpus, disks, nets, cmdline: append, cmdlineReplace: replace } = config;
  must(memoryBytes % 4096 === 0, 'memory that is no row of pages');
  must(memoryBytes >= MEMORY_MIN_BYTES && memoryBytes <= MEMORY_MAX_BYTES, 'memory out of range');
  must(Number.isInteger(cpus) && cpus >= 1 && cpus <= 32, 'too many processors, or too few');
  must(new Set(disks.map(({ id }) => id)).size === disks.length, 'two disks of one id');
  for (const { path, id, queueSize, queueCount } of disks) {
    must(typeof path === 'string' && path !== '' && !path.includes('\0'), 'a path that is none');
    must(typeof id === 'string' && /^[\x21-\x7e]{1,20}$/.test(id), 'a bad id');
    must(queueCount >= 1 && queueCount <= 8, 'a bad number of queues');
    must(queueSize >= 4 && queueSize <= 256 && (queueSize & (queueSize - 1)) === 0, 'queue size');
  }
  for (const net of nets) checkNet(net, cpus);
  const params = nets.flatMap(({ ip, gateway }) => (ip ? [{ device: 'eth0', ip, gateway }] : []));
  const text = commandLine({ append, replace, nets: params });
  must(!/\p{Cc}/u.test(text), 'a command line with control characters');
}

const words = (...args: string[]): Buffer => Buffer.from(`${args.join('\0')}\0`);
const withFile = (settings: object, ...args: string[]): Buffer => {
  const file = JSON.stringify(settings);
  return Buffer.concat([
    args.length > 0 ? words(...args) : Buffer.alloc(0),
    Buffer.from(`\0${file}`),
  ]);
};

const SEEDS: Buffer[] = [
  words('--kernel', 'k', '--memory', '1.5G', '--cpus', '4', '--cmdline', 'quiet'),
  words(
    '--rootfs',
    'a.img,ro,io-engine=io_uring',
    '--disk',
    'path=b,id=x,num-queues=2,cache=writeback',
  ),
  words('--seccomp', 'off', '--no-landlock', '--namespaces', 'required', '--entry', 'pvh'),
  words(
    '--landlock-rules',
    'path=/tmp,access=rw',
    '--landlock-allow-path',
    '/tmp,ro',
    '--user',
    '1:1',
  ),
  words('--engine', 'v8', '--record', 'r', '--report', 'p', '--log-level', 'debug', '--boot-timer'),
  words(
    '--cmdline-replace',
    'x',
    '--huge-pages',
    '2M',
    '--prefault',
    '--detach',
    '--net-backend',
    'none',
  ),
  words('--net', 'tap=t0,mac=02:0:0:0:0:1,ip=10.0.0.2/24,gateway=10.0.0.1', '--tap', 't1'),
  words('--cpus', '4', '--net', 'fd=5:6,mtu=9000,rx-bw-size=1M,rx-bw-refill-time=9'),
  words('--net-backend', 'user', '-p', '127.0.0.1:8080:80/udp', '--mac', '02:00:00:00:00:01'),
  words('--user', 'root', '--disk', 'path=a,,b,queue-size=64'),
  withFile({
    kernel: 'k',
    memory: '64M',
    cpus: 2,
    disk: ['a', { path: 'b', ro: true }],
    prefault: true,
  }),
  withFile({
    rootfs: { path: 'r', 'queue-size': 8, id: 'q' },
    'landlock-rules': ['path=/,access=r'],
  }),
  withFile({ 'no-seccomp': true, 'boot-timer': false, 'huge-pages': 'off' }, '--memory', '2048K'),
  Buffer.from('\0{"memroy": 1}'),
];

// Values by flag, good ones and bad ones; every other flag takes OTHER.
const OTHER = ['', 'x', 'off', 'auto', 'required', '0', 'a\nb', 'x'.repeat(3000)];
const VALUES: Record<string, readonly string[]> = {
  memory: ['16M', '15M', '16T', '17T', '4097K', '0.3K', '1', '99999999999T', '1.5g', 'M'],
  cpus: ['1', '2', '32', '33', '0', 'one', '999999999'],
  engine: ['v8', 'cell', 'x'],
  'huge-pages': ['off', '2M', 'transparent', '4K'],
  seccomp: ['off', 'log', 'enforce', 'x'],
  namespaces: ['off', 'auto', 'required'],
  user: ['root', '0:0', '1:1:1', 'nobody', '4294967295:1', ':', 'a b'],
  rootfs: ['r', 'r,ro', 'r,ro,ro', 'r,ro=1', 'r,cache', 'r,id=x', ',,', 'r,io-engine=io_uring', ''],
  disk: ['path=a', 'a', 'ro', 'path=a,id=rootfs', 'path=,ro', 'path=a,num-queues=x', 'path=a,id='],
  'net-backend': ['none', 'tap', 'vhost-net', 'macvtap', 'user'],
  net: ['tap=a', 'tap=b,queues=2', 'fd=3', 'fd=4:5,mac-filter=on', 'tap=a,mac=03:00:00:00:00:00'],
  tap: ['a', 'a/b', 'a'.repeat(16), '%d'],
  mac: ['02:00:00:00:00:01', '00:00:00:00:00:00', '01:00:5e:00:00:01'],
  publish: ['80:80', '[::1]:1:2/udp', '0:1', '1.2.3:1:1', '80:80/tcp'],
  record: ['r', ''],
  report: ['r', ''],
  'landlock-rules': ['path=/,access=r', 'path=/,access=x', 'path=/', 'path=/no,access=r', '='],
  'landlock-allow-path': ['/,ro', '/', '/no', '/,rw', ''],
};
const ODD: readonly unknown[] = [
  ...[null, true, false, 0, 1, -1, 1.5, 1e300, '', 'v8', 'required', [], {}, [1], ['a', 'a']],
  ...[{ path: 'a', id: 'b' }, { ro: true }, [{ path: '' }], [{ path: 'a', 'num-queues': 9 }]],
  ...[['tap=a'], [{ tap: 'a', ip: '10.0.0.2/31' }], [{ fd: '3', 'tx-ops-size': 1 }], ['80:80']],
  ...[[{ path: 'a', 'queue-size': 5 }], { path: 'a\0' }, { path: 'a', x: 1 }, { path: 1 }],
];

/** Adds a flag, or a setting to the file. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  const [args, file] = split(bytes);
  const keys = Object.keys(SETTINGS);
  const key = keys[random(keys.length)];
  const value = (VALUES[key] ?? OTHER)[random((VALUES[key] ?? OTHER).length)];
  if (random(2)) {
    const isAlone = SETTINGS[key] === 'boolean';
    args.splice(random(args.length + 1), 0, `--${key}${isAlone ? '' : `=${value}`}`);
    return Buffer.from(`${args.join('\0')}\0\0${file}`);
  }
  let settings: object = {};
  try {
    const parsed: unknown = JSON.parse(file);
    if (typeof parsed === 'object' && parsed !== null) settings = parsed;
  } catch {
    // Begun anew.
  }
  const changed = { ...settings, [key]: random(2) ? value : ODD[random(ODD.length)] };
  return Buffer.from(`${args.map((text) => `${text}\0`).join('')}\0${JSON.stringify(changed)}`);
}

export function configParser(): Parser {
  const files = scratch();
  const command = program(); // each parse() begins from what was there before the first
  const run = (input: Uint8Array): void => {
    const [args, file] = split(input);
    const more = file === '' ? [] : ['--config', files.write('vm.json', Buffer.from(file))];
    try {
      check(command, [...args, ...more]);
    } catch (error) {
      must(!/[\p{Cc}\u2028]/u.test(oneLine((error as Error).message)), 'an error of two lines');
      throw error;
    }
  };
  const keys = Object.keys(SETTINGS).flatMap((key) => [`--${key}\0`, `"${key}":`]);
  const more = [
    'path=',
    'id=',
    'ro',
    'num-queues=',
    '__proto__',
    'null',
    '[]',
    '{}',
    '1e999',
    ',,',
  ];
  return {
    seeds: () => SEEDS,
    run,
    mutate,
    isRefusal: (error) => error instanceof CommanderError,
    dictionary: [...keys, ...more].map((text) => Buffer.from(text)),
    close: files.remove,
  };
}
