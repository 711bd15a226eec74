// `faraday trace` and `faraday replay --state`: what a recording holds, by name.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { KIND_VIRTIO_RNG } from '../assembly/abi.ts';
import { encodeRngConfig } from '../host/device-config.ts';
import { EXIT_OK, EXIT_USAGE } from '../host/errors.ts';
import { parseAccesses } from '../host/replay/accesses.ts';
import { eventLine } from '../host/replay/list.ts';
import { Recording } from '../host/replay/recording.ts';
import { Tracer } from '../host/replay/trace.ts';
import { randomFrom } from '../testing/random.ts';
import { RecordedMachine, recordBoot } from './recordings.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const OUTPUT_BYTES_MAX = 64 * 2 ** 20;

const folder = mkdtempSync(join(tmpdir(), 'faraday-trace-'));
test.after(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

const recorded = recordBoot(at('boot.rec'));

function faraday(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [FARADAY, ...args], {
    cwd: folder,
    timeout: 30_000,
    killSignal: 'SIGKILL',
    encoding: 'utf8',
    maxBuffer: OUTPUT_BYTES_MAX,
  });
  return { status, stdout, stderr };
}

/** The lines of a trace that must succeed. */
function traced(...args: string[]): string[] {
  const { status, stdout, stderr } = faraday('trace', recorded, ...args);
  assert.equal([status, stderr], [EXIT_OK, '']);
  return stdout.split('\n').slice(0, -1);
}

interface JsonEvent {
  event: number;
  timeMs: number;
  device: string;
  kind: string;
  register: string | null;
  value: number;
  effects: string[];
  request: { kind: string; queue: number; head: number; ranges: { length: number }[] } | null;
  phase: string | null;
  accesses: { count: number; bytes: number; refused: number };
  accessList?: { kind: string; address: string; data: string; meaning: string | null }[];
}

const tracedJson = (...args: string[]): JsonEvent[] =>
  traced('--json', ...args).map((line) => JSON.parse(line) as JsonEvent);

// --- The list -----------------------------------------------------------------------------------

test('every event has a line with number, time, device, call, register and what it says', () => {
  const lines = traced();
  assert.is(lines.length, 157);
  lines.forEach((line, index) => {
    assert.match(line, new RegExp(`^ *${index + 1} +\\d+\\.\\d{3}  [\\w:-]+ +\\w+`));
  });
  const has = (pattern: RegExp) =>
    assert.ok(
      lines.some((line) => pattern.test(line)),
      `${pattern}`,
    );
  has(/^ +1 +1\.550 {2}serial +write +THR = 0x4c \('L'\) -> output \[first console output\]$/);
  has(/serial +next +output; CONSOLE_OUT 1 bytes 'L' -> request$/);
  has(/rtc +input +2023-11-14T22:13:20.000Z, took 8$/);
  has(/rtc +write +INDEX = 0x9 \(YEAR\)$/);
  has(/rtc +read +YEAR = 0x23$/);
  has(/disk:rootfs +write +Status = 0x0 \(reset\) -> cancel$/);
  has(/disk:rootfs +read +DeviceFeatures = 0x1 \(VERSION_1\)$/);
  has(/disk:rootfs +write +Status = 0xb \(ACKNOWLEDGE DRIVER FEATURES_OK\)$/);
  has(
    /QueueNotify = 0x0 \(queue 0\); BLK_OUT 512 bytes at 0, queue 0 head 0 tag 0x100000, from 0x/,
  );
  has(
    /; BLK_IN 512 bytes at 512, queue 0 head 3 tag 0x100003, into 0x41000\+512; 6 accesses of 68/,
  );
  has(/complete +queue 0 head 3: OK, 512 bytes; 5 accesses of 13 bytes -> irq$/);
  has(/complete +queue 0 head \d+: IOERR, 512 bytes/);
  has(/InterruptStatus = 0x1 \(used buffer\)$/);
  has(/boot-timer +write +MARKER = 0x7b \(user space\) -> marker \[user space\]$/);
  has(/acpi-pm +write +SLEEP_CONTROL = 0x34 \(SLP_TYP 5 SLP_EN\) -> power-off \[power off\]$/);
});

test('times are those of the clock, however the events are spread over blocks', () => {
  const times = tracedJson('--device', 'disk:rootfs', '--kind', 'complete').map((e) => e.timeMs);
  const requests = tracedJson('--kind', 'request', '--device', 'disk:rootfs');
  const latencies = times.map((time, index) => time - requests[index].timeMs);
  assert.is(latencies.length, 20);
  assert.ok(Math.abs(latencies[1] - 0.2) < 0.002, `${latencies[1]}`);
  assert.ok(Math.abs(latencies[19] - 40) < 0.002, `${latencies[19]}`);
});

test('a clock that goes back, and a pause past 32 bits of microseconds, are no times', () => {
  const path = at('clock.rec');
  const machine = new RecordedMachine(path);
  const rng = machine.add('rng', KIND_VIRTIO_RNG, encodeRngConfig())();
  for (const ms of [0, 10, -5, 5, 5e6, 1]) {
    machine.pass(ms);
    rng.read(0, 4);
  }
  machine.recorder.finish();
  const recording = new Recording(path);
  const times = [...recording.events()].map((event) => event.timeUs);
  recording.close();
  assert.equal(times.slice(0, 4), [0, 10_000, 10_000, 10_000]);
  assert.is(times[4], 10_000 + 0xffffffff);
  assert.ok(times[5] > times[4] && times[5] <= 5_011_000_000);
});

test('each phase of a boot is told once, by the event that shows it', () => {
  const phases = tracedJson('--kind', 'phase').map(({ phase }) => phase);
  assert.equal(phases, [
    'first console output',
    'disk:rootfs driven',
    'first block request',
    'user space',
    'power off',
  ]);
});

test('accesses are told by what they are: rings, descriptors, header, status', () => {
  const [request, complete] = tracedJson('--accesses', '--from', '23.92', '--to', '24.15').filter(
    ({ accesses }) => accesses.count > 0,
  );
  const of = ({ accessList }: JsonEvent) =>
    accessList!.map(({ kind, address, meaning }) => `${kind} ${address} ${meaning}`);
  assert.equal(of(request), [
    'load16 0x11002 avail.idx = 2',
    'load16 0x11006 avail.ring[1] = 3',
    'read 0x10030 desc[3] = 0x40000, 16 bytes, NEXT, next 4',
    'read 0x10040 desc[4] = 0x41000, 512 bytes, NEXT WRITE, next 5',
    'read 0x10050 desc[5] = 0x40020, 1 bytes, WRITE',
    'read 0x40000 header = IN, sector 1',
  ]);
  assert.equal(of(complete), [
    'write 0x40020 status = OK',
    'write 0x1200c used.ring[1] = head 3, 513 bytes',
    'store16 0x12002 used.idx = 2',
    'fence 0x0 null',
    'load16 0x11024 avail.used_event = 1',
  ]);
  assert.is(complete.accessList![0].data, '00');
  const text = traced('--accesses', '--from', '23.92', '--to', '24.15').join('\n');
  assert.match(text, /^ {23}read {4}0x10030\+16 {2}desc\[3\] = 0x40000, 16 bytes, NEXT, next 4$/m);
});

test('filters keep what they name: device, kind, time', () => {
  const all = tracedJson();
  const only = (events: JsonEvent[], keep: (event: JsonEvent) => boolean) =>
    assert.equal(
      events.map(({ event }) => event),
      all.filter(keep).map(({ event }) => event),
    );
  only(tracedJson('--device', 'rtc'), ({ device }) => device === 'rtc');
  only(tracedJson('--device', 'rtc', '--device', 'serial'), ({ device }) =>
    ['rtc', 'serial'].includes(device),
  );
  only(tracedJson('--kind', 'complete'), ({ kind }) => kind === 'complete');
  only(tracedJson('--kind', 'irq', '--kind', 'input'), ({ kind, effects }) => {
    return kind === 'input' || effects.includes('irq');
  });
  only(tracedJson('--from', '11', '--to', '21.8'), ({ timeMs }) => timeMs >= 11 && timeMs <= 21.8);
  assert.equal(tracedJson('--kind', 'trap'), []);
  assert.ok(tracedJson('--kind', 'irq').length >= 20);
});

test('a time is met to the microsecond, whatever binary fractions make of it', () => {
  const path = at('exact.rec');
  const machine = new RecordedMachine(path);
  const rng = machine.add('rng', KIND_VIRTIO_RNG, encodeRngConfig())();
  machine.pass(1.005);
  rng.read(0, 4);
  machine.recorder.finish();
  const { status, stdout } = faraday('trace', path, '--from', '1.005', '--to', '1.005');
  assert.is(status, EXIT_OK);
  assert.match(stdout, /^ +1 +1\.005 .*\n$/);
});

test('JSON has every name that docs/replay.md documents, and no other', () => {
  const page = readFileSync(new URL('../docs/replay.md', import.meta.url), 'utf8');
  const events = tracedJson('--accesses', '--kind', 'request');
  const names = new Set<string>();
  const collect = (prefix: string, value: unknown): void => {
    if (Array.isArray(value)) for (const each of value) collect(`${prefix}[]`, each);
    else if (value !== null && typeof value === 'object') {
      for (const [name, inner] of Object.entries(value)) {
        names.add(prefix ? `${prefix}.${name}` : name);
        collect(prefix ? `${prefix}.${name}` : name, inner);
      }
    }
  };
  for (const event of events) collect('', event);
  const table = /### JSON\n(.*?)\n###/s.exec(page)![1];
  const rows = [...table.matchAll(/^\| (`.*?) \|/gm)].map(([, row]) => row);
  const documented = rows.flatMap((row) => [...row.matchAll(/`([^`]+)`/g)].map(([, name]) => name));
  assert.equal([...names].sort(), documented.sort());
});

// --- Bad input ----------------------------------------------------------------------------------

test('each mistake is one line that says the fix, exit code 2', () => {
  writeFileSync(at('text'), 'no recording at all');
  const cases: [string[], RegExp][] = [
    [['trace'], /missing required argument/],
    [['trace', at('none')], /recording '.*none' cannot be read \(ENOENT\)/],
    [['trace', at('text')], /is no recording; name a file of faraday run --record/],
    [['trace', recorded, '--device', 'disk'], /--device 'disk' is unknown; known are serial, rtc/],
    [['trace', recorded, '--kind', 'reads'], /--kind 'reads' is unknown; known are read, write,/],
    [['trace', recorded, '--from', 'now'], /--from 'now' is no time; give milliseconds, such as/],
    [['trace', recorded, '--to', '-1'], /--to '-1' is no time/],
    [['trace', recorded, '--from', '2', '--to', '1'], /--from 2 is after --to 1; exchange them/],
    [['trace', recorded, '--html', at('x'), '--json'], /--html shows a whole .* leave --json out/],
    [['trace', recorded, '--html', folder], /--html '.*' is a directory; name a file/],
    [['trace', recorded, '--html', recorded], /would overwrite '.*boot.rec', which this run reads/],
    [['trace', recorded, '--html', '/dev/null'], /is no regular file/],
    [['replay', recorded, '--until', 'x'], /--until 'x' is no number of an event/],
    [['replay', recorded, '--until', '158', '--state'], /has 157 events; --until 158 is past its/],
    [['replay', recorded, '--json'], /--json is for --state; add it/],
    [['replay', recorded, '--device', 'rtc'], /--device is for --state; add it/],
    [['replay', recorded, '--state', '--device', 'x'], /--device 'x' is unknown; known are serial/],
  ];
  for (const [args, message] of cases) {
    const { status, stdout, stderr } = faraday(...args);
    assert.equal([status, stdout], [EXIT_USAGE, ''], args.join(' '));
    assert.match(stderr, /^faraday: [^\n]+\n$/);
    assert.match(stderr, message);
  }
});

test('a recording that was cut is listed as far as it goes, then said to be cut', () => {
  const path = at('cut.rec');
  writeFileSync(path, readFileSync(recordBoot(at('long.rec'), 2000)));
  truncateSync(path, readFileSync(path).length - 1);
  const { status, stdout, stderr } = faraday('trace', path);
  assert.is(status, EXIT_USAGE);
  assert.ok(stdout.split('\n').length > 1000, 'the whole blocks are listed');
  assert.match(stderr, /^faraday: recording '.*cut.rec' ends early, [^\n]+\n$/);
  const last = Number(/(\d+) .*\n$/.exec(stdout)![1]);
  assert.is(faraday('replay', path, '--until', String(last), '--state').status, EXIT_OK);
});

test('what stands before a damaged place is listed, however little it is', () => {
  const path = at('short.rec');
  const machine = new RecordedMachine(path);
  const rng = machine.add('rng', KIND_VIRTIO_RNG, encodeRngConfig())();
  for (let count = 0; count < 3; count++) rng.read(0, 4);
  machine.recorder.begin(0x77, 0); // no known call
  machine.recorder.finish();
  const { status, stdout, stderr } = faraday('trace', path);
  assert.is(status, EXIT_USAGE);
  assert.match(stdout, /^( +\d .*MagicValue.*\n){3}$/);
  assert.match(stderr, /^faraday: recording '.*short.rec' is damaged: no known call in event 4\n$/);
});

/** What a reader makes of the list of a long recording. */
function readBy(reader: string): string {
  const command = `set -o pipefail; "${process.execPath}" "${FARADAY}" trace long.rec | ${reader}`;
  const options = { cwd: folder, timeout: 30_000, encoding: 'utf8' } as const;
  const { status, stdout, stderr } = spawnSync('bash', ['-c', command], options);
  assert.equal([status, stderr], [0, ''], reader);
  return stdout;
}

test('a reader that leaves ends the list, and a slow one gets all of it', () => {
  assert.match(readBy('head -1'), /^ +1 .*\n$/);
  assert.match(
    readBy('(sleep 0.3; while read -r -N 30000; do sleep 0.01; done; echo done)'),
    'done',
  );
  assert.is(readBy('(sleep 0.3; wc -l)').trim(), '10057');
});

test('hostile events make lines, whatever their numbers are', () => {
  const random = randomFrom(SEED);
  const devices = [1, 2, 3, 4, 5, 6, 16, 17, 99].map((kind) => ({
    kind,
    name: 'x\u001b[2J\u202e',
    config: new Uint8Array(0),
  }));
  const tracer = new Tracer(devices);
  const u32 = () => (random(2) ? random(0x120) : random(2 ** 31) * 2 + random(2));
  for (let round = 0; round < 5000; round++) {
    const accesses = Uint8Array.from({ length: 32 }, () => random(256));
    const kinds = [1, 2, 3, 4, 5, 0x101];
    new DataView(accesses.buffer).setUint32(0, kinds[random(kinds.length)], true);
    new DataView(accesses.buffer).setUint32(4, random(2) ? 2 : 16, true);
    let parsed: ReturnType<typeof parseAccesses> = [];
    try {
      parsed = parseAccesses(accesses);
    } catch {
      // No accesses then: such a file would not have come this far.
    }
    const event = {
      call: 1 + random(8),
      place: random(devices.length),
      timeUs: round,
      args: [u32(), u32(), u32()],
      input: accesses.subarray(0, random(33)),
      effects: random(3) ? random(0x800) : 0x80000000,
      value: u32(),
      record: Uint8Array.from({ length: random(2) ? 32 + 16 * random(4) : 0 }, () => random(256)),
      accesses,
      parsed,
    };
    const line = eventLine(tracer.take(event), 8);
    assert.ok(line.length < 2000, line);
    for (const name of tracer.accessNames(event)) assert.type(name, 'string');
  }
});

const STEERING = /(?!\n)\p{Cc}|\u202e/u;

test('what a file calls a device cannot steer the terminal', () => {
  const path = at('name.rec');
  const machine = new RecordedMachine(path);
  const name = 'a\u001b[2J\u009bb\u202e';
  machine.add(name, KIND_VIRTIO_RNG, encodeRngConfig())().read(0, 4);
  machine.recorder.finish();
  for (const args of [
    ['trace', path],
    ['replay', path, '--state'],
  ]) {
    const { status, stdout } = faraday(...args);
    assert.is(status, EXIT_OK);
    assert.match(stdout, 'a\\x1b[2J\\x9bb\\u202e');
    assert.not.match(stdout, STEERING);
  }
  for (const args of [
    ['trace', path, '--json'],
    ['replay', path, '--state', '--json'],
  ]) {
    const { status, stdout } = faraday(...args);
    assert.is(status, EXIT_OK);
    assert.not.match(stdout, STEERING);
    const [{ device }] = [JSON.parse(stdout)].flat() as { device: string }[];
    assert.is(device, name);
  }
});

test.run();
