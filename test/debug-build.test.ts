// The core without the optimiser: the debug build must answer as the release build does, call for
// call. AssemblyScript's loader instantiates both, so that nothing but the compiler differs. The
// seed is printed when a run fails; SEED=n in the environment repeats it.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Imports, instantiateSync } from '@assemblyscript/loader';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../assembly/abi.ts';
import { encodeBlkConfig, encodeRngConfig } from '../host/device-config.ts';
import { REG, RUNNING } from '../testing/driver.ts';
import { guestMemory } from '../testing/queue.ts';
import { type Random, randomFrom } from '../testing/random.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const ACTIONS = 5_000;
const RAM_BYTES = 0x4000;
const QUEUE_SIZE = 16;
const [TABLE, AVAIL, USED] = [0x1000, 0x2000, 0x3000];
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const PORT_KINDS = [
  abi.KIND_SERIAL,
  abi.KIND_I8042,
  abi.KIND_RTC,
  abi.KIND_BOOT_TIMER,
  abi.KIND_ACPI_PM,
  abi.KIND_PVPANIC,
];

type Core = Record<string, (...args: number[]) => number>;
type Call = [name: string, ...args: number[]];

interface Instance {
  core: Core;
  bytes: Buffer; // the cage's memory
  ram: Buffer; // the guest's
}

function compileDebug(): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-debug-'));
  try {
    const wasm = join(folder, 'core.wasm');
    const asc = join(ROOT, 'node_modules/assemblyscript/bin/asc.js');
    const flags = ['assembly/index.ts', '--target', 'debug', '--outFile', wasm];
    execFileSync(process.execPath, [asc, ...flags], { cwd: ROOT });
    return readFileSync(wasm);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const BUILDS = [compileDebug(), readFileSync(join(ROOT, 'build/core.wasm'))];

function instance(wasm: Buffer, kind: number, config: Uint8Array): Instance {
  const guest = guestMemory(RAM_BYTES);
  let view: DataView | undefined;
  const imports = { guest: guest.importsFor(() => view as DataView) } as Imports;
  const { exports } = instantiateSync(wasm, imports);
  const { buffer } = exports.memory as WebAssembly.Memory;
  view = new DataView(buffer);
  const core = exports as unknown as Core;
  const bytes = Buffer.from(buffer);
  bytes.set(config, abi.INBOX);
  assert.is(core.init(kind), abi.VALID);
  return { core, bytes, ram: Buffer.from(guest.view.buffer) };
}

/** What the host may see of a cage: its outbox's value and record, and its state. */
function visible({ bytes, ram }: Instance): Buffer[] {
  const record = bytes.subarray(abi.OUTBOX, abi.REQUEST + abi.REQUEST_BYTES_MAX);
  return [record, bytes.subarray(abi.STATE, abi.STATE + abi.STATE_BYTES), ram];
}

/** Makes the calls that `act` thinks of in both builds. Returns all effects seen. */
function compare(
  kind: number,
  config: Uint8Array,
  act: (random: Random, both: Instance[]) => Call,
): number {
  const random = randomFrom(SEED + kind);
  const both = BUILDS.map((wasm) => instance(wasm, kind, config));
  let seen = 0;
  for (let action = 0; action < ACTIONS; action++) {
    const [name, ...args] = act(random, both);
    const [debug, release] = both.map(({ core }) => core[name](...args));
    const where = `SEED=${SEED} kind ${kind} action ${action}: ${name}(${args})`;
    assert.is(debug, release, where);
    const [one, other] = both.map(visible);
    if (!one.every((part, i) => part.equals(other[i]))) assert.unreachable(where);
    seen |= debug;
  }
  return seen;
}

for (const kind of PORT_KINDS) {
  test(`debug and release agree on a port device of kind ${kind}`, () => {
    compare(kind, new Uint8Array(0), (random) => {
      const offset = random(9);
      const width = random(8) ? 1 : random(9);
      const calls: Call[] = [
        ['read', offset, width],
        ['write', offset, width, random(256)],
        ['input', random(20)],
        ['next', 0],
      ];
      return calls[random(calls.length)];
    });
  });
}

/** The driver's half of §3.1.1, as register writes. */
const BRING_UP: readonly (readonly [register: number, value: number])[] = [
  [REG.Status, 1],
  [REG.Status, 3],
  [REG.DriverFeaturesSel, 1],
  [REG.DriverFeatures, 1],
  [REG.Status, 11],
  [REG.QueueNum, QUEUE_SIZE],
  [REG.QueueDescLow, TABLE],
  [REG.QueueDriverLow, AVAIL],
  [REG.QueueDeviceLow, USED],
  [REG.QueueReady, 1],
  [REG.Status, RUNNING],
];

/** Writes one chain of random descriptors into every RAM, and offers it. */
function offer(random: Random, both: Instance[], index: number): void {
  const head = random(QUEUE_SIZE);
  const fields = [0, 1, 2].map((i) => {
    const flags = (i < 2 ? 1 : 0) | ((i > 0 ? random(8) : random(2)) ? 2 : 0);
    return { at: (head + i) % QUEUE_SIZE, length: [16, 512, 1][i], flags, type: random(10) };
  });
  for (const { ram } of both) {
    for (const { at, length, flags, type } of fields) {
      const place = TABLE + 16 * at;
      ram.writeBigUInt64LE(BigInt(0x200 * at), place);
      ram.writeUInt32LE(length, place + 8);
      ram.writeUInt16LE(flags, place + 12);
      ram.writeUInt16LE((at + 1) % QUEUE_SIZE, place + 14);
      ram.writeUInt32LE(type, 0x200 * at); // as a request header it names the request's type
    }
    ram.writeUInt16LE(head, AVAIL + 4 + 2 * (index % QUEUE_SIZE));
    ram.writeUInt16LE((index + 1) & 0xffff, AVAIL + 2);
  }
}

const VIRTIO: [name: string, kind: number, config: Uint8Array][] = [
  [
    'block',
    abi.KIND_VIRTIO_BLK,
    encodeBlkConfig({ capacityBytes: 2 ** 20, readOnly: false, id: 'disk', queueSize: QUEUE_SIZE }),
  ],
  ['entropy', abi.KIND_VIRTIO_RNG, encodeRngConfig({ queueSize: QUEUE_SIZE })],
];

for (const [name, kind, config] of VIRTIO) {
  test(`debug and release agree on a virtio ${name} device, guest memory included`, () => {
    let step = 0;
    let offered = 0;
    const effects = compare(kind, config, (random, both) => {
      if (random(200) === 0) step = 0; // the driver starts over
      if (step === 0) {
        step++;
        offered = 0;
        for (const { ram } of both) ram.fill(0);
        return ['write', REG.Status, 4, 0];
      }
      const next = BRING_UP[step - 1];
      if (next) {
        step++;
        return ['write', next[0], 4, next[1]];
      }
      const lastTag = both[0].bytes.readUInt32LE(abi.REQUEST + abi.REQUEST_TAG);
      switch (random(5)) {
        case 0:
          offer(random, both, offered++);
          return ['notify', 0];
        case 1:
          return ['next', 0];
        case 2:
          return ['complete', random(4) ? lastTag : random(2 ** 24), random(3), random(600)];
        case 3:
          return ['read', 4 * random(80), 4];
        default:
          return ['write', REG.InterruptACK, 4, 3];
      }
    });
    const wanted = abi.EFFECT_REQUEST | abi.EFFECT_IRQ | abi.EFFECT_INCIDENT;
    assert.is(effects & wanted, wanted, 'the calls reach what there is to reach');
  });
}

test.run();
