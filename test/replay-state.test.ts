// host/replay/state.ts against real devices: every offset is pinned by what a driven device shows,
// and `faraday replay --state` shows the state at the event that is asked for.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  KIND_ACPI_PM,
  KIND_I8042,
  KIND_RTC,
  KIND_SERIAL,
  STATE_BYTES,
  TAG_GENERATION_SHIFT,
  TAG_QUEUE_SHIFT,
} from '../assembly/abi.ts';
import { replay } from '../host/replay/replay.ts';
import { type DeviceState, decodeState } from '../host/replay/state.ts';
import { stateText } from '../host/replay/state-text.ts';
import { BLK_T_IN, blkHeader, blkStatus } from '../testing/block.ts';
import { REG } from '../testing/driver.ts';
import {
  NET_CTRL_MQ_VQ_PAIRS_SET,
  NET_DATA,
  NET_F_CTRL_VQ,
  netAck,
  netCommand,
} from '../testing/net.ts';
import { DATA } from '../testing/queue.ts';
import { randomFrom } from '../testing/random.ts';
import { parseRecord } from '../testing/requests.ts';
import { blkDevice, MAC, netDevice, portDevice, rngDevice } from './fixtures.ts';
import { recordBoot } from './recordings.ts';

const SEED = Number(process.env.SEED ?? 20240229);
const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;

const folder = mkdtempSync(join(tmpdir(), 'faraday-replay-state-'));
test.after(() => rmSync(folder, { recursive: true }));
const recorded = recordBoot(join(folder, 'boot.rec'));

const stateOf = (cage: { stateBytes(): Uint8Array }): DeviceState => decodeState(cage.stateBytes());

// --- Devices ------------------------------------------------------------------------------------

test('a disk: transport, queues, a request in flight, and its completion', () => {
  const { cage, driver, memory } = blkDevice({ queueCount: 3 });
  assert.equal(stateOf(cage).virtio?.status, []);
  driver.bringUp({ queueCount: 2 });
  driver.set(REG.DeviceFeaturesSel, 7);
  driver.set(REG.DriverFeaturesSel, 6);
  driver.set(REG.QueueSel, 2);
  const queue = driver.queues[1];
  const chain = () =>
    queue.chain([
      blkHeader(memory, DATA, BLK_T_IN, 1n),
      { address: DATA + 0x1000, length: 1024, write: true },
      blkStatus(memory, DATA + 0x20),
    ]);
  queue.offer(chain());
  queue.offer(chain());
  cage.notify(1);
  const { kind, incidents, virtio } = stateOf(cage);
  assert.equal([kind, incidents], ['virtio-blk', {}]);
  const { queues, ...transport } = virtio!;
  assert.equal(transport, {
    status: ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK'],
    driverFeatures: (
      'SEG_MAX BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES ' +
      'INDIRECT_DESC EVENT_IDX VERSION_1'
    ).split(' '),
    deviceFeaturesSel: 7,
    driverFeaturesSel: 6,
    featuresBeyond: false,
    queueSel: 2,
    interruptStatus: [],
    configGeneration: 0,
    writeback: true,
  });
  const base = { size: 16, ready: true, availNext: 0, usedNext: 0, inFlight: [] };
  const inFlight = [
    { head: 0, kind: 'BLK_IN', generation: 1, payloadBytes: 1024, statusAddress: 0x40020n },
  ];
  assert.equal(queues, [
    { ...base, index: 0, descTable: 0x10000n, availRing: 0x11000n, usedRing: 0x12000n },
    {
      ...{ ...base, index: 1, descTable: 0x14000n, availRing: 0x15000n, usedRing: 0x16000n },
      ...{ availNext: 1, inFlight },
    },
    {
      ...{ ...base, index: 2, size: 0, ready: false },
      ...{ descTable: 0n, availRing: 0n, usedRing: 0n },
    },
  ]);
  queue.setUsedEvent(0);
  cage.complete((1 << TAG_GENERATION_SHIFT) | (1 << TAG_QUEUE_SHIFT), 0, 1024);
  cage.write(0x100 + 32, 1, 0); // config.writeback
  cage.complete(12345, 0, 0);
  const after = stateOf(cage);
  assert.is(after.virtio!.queues[1].usedNext, 1);
  assert.equal(after.virtio!.queues[1].inFlight, []);
  assert.equal(after.virtio!.interruptStatus, ['used buffer']);
  assert.equal([after.virtio!.configGeneration, after.virtio!.writeback], [1, false]);
  assert.equal(after.incidents, { tag: 1 });
});

test('a network device: what was agreed on, and the buffers that the host holds', () => {
  const { cage, driver, memory } = netDevice({ queuePairs: 3, offloads: 3n, mtu: 1500 });
  assert.is(stateOf(cage).virtio!.queues.length, 2);
  driver.bringUp({ queueCount: 7 });
  const [rx, control] = [driver.queues[2], driver.queues[6]];
  for (const i of [0, 1, 2, 3]) {
    rx.offer(rx.chain([{ address: NET_DATA + 256 * i, length: 100, write: true }]));
    cage.next(2);
    if (i === 0) cage.complete(parseRecord(cage.record()).tag, 1, 0);
  }
  const command = netCommand(memory, NET_DATA + 0x8000, NET_CTRL_MQ_VQ_PAIRS_SET, [2, 0]);
  control.offer(control.chain([command, netAck(memory, NET_DATA + 0x9000)]));
  cage.notify(6);
  cage.input(Uint8Array.of(0, 1));
  const state = stateOf(cage);
  assert.is(state.kind, 'virtio-net');
  assert.equal(state.net, {
    offloads: ['GUEST_CSUM'],
    queuePairs: 2,
    linkUp: false,
    announce: true,
    mac: MAC,
  });
  const { queues, driverFeatures } = state.virtio!;
  assert.equal(
    driverFeatures.slice(0, 12).join(' '),
    'CSUM GUEST_CSUM CTRL_GUEST_OFFLOADS MTU MAC MRG_RXBUF STATUS CTRL_VQ CTRL_RX CTRL_VLAN ' +
      'CTRL_RX_EXTRA GUEST_ANNOUNCE',
  );
  assert.is(queues.length, 7);
  assert.equal(queues[2].held, [1, 2, 3]);
  assert.equal(queues[2].inFlight[0], {
    ...{ head: 1, kind: 'NET_RX', generation: 1, payloadBytes: 100 },
    statusAddress: BigInt(NET_DATA + 256 + 10),
  });
  const text = stateText('net:eth0', state);
  for (const line of [
    /^net:eth0 \(virtio-net\)$/m,
    /^ {2}address {13}02:00:00:aa:bb:cc$/m,
    /^ {2}link {16}down, to be announced$/m,
    /^ {2}queue pairs in use {2}2$/m,
    /^ {2}receive offloads {4}GUEST_CSUM$/m,
    /^ {4}in flight {9}head 3: NET_RX, generation 1, 100 bytes$/m,
    /^ {4}oldest first {6}heads 1 2 3$/m,
  ]) {
    assert.match(text, line);
  }
});

test('a network device of a driver that agreed to little', () => {
  const { cage, driver } = netDevice({ queuePairs: 3, mac: '02:01:02:03:04:05' });
  driver.bringUp({ features: NET_F_CTRL_VQ, queueCount: 3 });
  const { net, virtio } = stateOf(cage);
  assert.is(virtio!.queues.length, 3);
  assert.equal(net, {
    ...{ offloads: [], queuePairs: 1, linkUp: true, announce: false },
    mac: '02:01:02:03:04:05',
  });
  assert.match(stateText('net', stateOf(cage)), /^ {2}link {16}up$/m);
});

test('an entropy device: broken by its driver, and features past bit 63', () => {
  const { cage, driver } = rngDevice();
  driver.bringUp();
  driver.queues[0].setAvailIndex(100);
  cage.notify(0);
  const broken = stateOf(cage);
  assert.equal(broken.virtio!.status.slice(-1), ['DEVICE_NEEDS_RESET']);
  assert.equal(broken.virtio!.interruptStatus, ['configuration change']);
  assert.equal(broken.incidents, { availIndex: 1 });
  assert.is(broken.virtio!.queues.length, 1);
  driver.set(REG.Status, 0);
  driver.addStatus(1);
  driver.addStatus(2);
  driver.set(REG.DriverFeaturesSel, 2);
  driver.set(REG.DriverFeatures, 1);
  assert.is(stateOf(cage).virtio!.featuresBeyond, true);
});

test('COM1: registers, FIFOs in their order, what holds the interrupt line', () => {
  const cage = portDevice(KIND_SERIAL);
  const set = (offset: number, value: number) => cage.write(offset, 1, value);
  set(3, 0x83);
  set(0, 0x34);
  set(1, 0x12);
  set(3, 0x03);
  set(2, 0xc1);
  set(4, 0x10); // modem lines drop, and come back
  set(4, 0x1b); // loop-back: what is written comes in
  set(0, 0x61);
  set(0, 0x62);
  cage.read(0, 1);
  set(4, 0x0b);
  set(1, 0x05);
  set(7, 0x99);
  set(0, 0x63);
  set(0, 0x64);
  assert.equal(stateOf(cage).serial, {
    ier: 5,
    lcr: 3,
    mcr: 0x0b,
    scr: 0x99,
    divisor: 0x1234,
    fcr: 0xc1,
    overrun: false,
    msrDelta: 0x0b,
    thrEmptyPending: false,
    interruptSource: 4,
    receive: [0x62],
    transmit: [0x63, 0x64],
  });
  cage.read(6, 1);
  assert.is(stateOf(cage).serial!.msrDelta, 0);
});

test('COM1: an overrun in loop-back, and a full FIFO that goes round', () => {
  const cage = portDevice(KIND_SERIAL);
  cage.write(2, 1, 0x01);
  cage.write(4, 1, 0x10);
  for (let byte = 0; byte < 10; byte++) cage.write(0, 1, byte);
  for (let byte = 0; byte < 10; byte++) cage.read(0, 1);
  for (let byte = 20; byte < 37; byte++) cage.write(0, 1, byte);
  const { serial, incidents } = stateOf(cage);
  assert.equal(
    serial!.receive,
    Array.from({ length: 16 }, (_, index) => 20 + index),
  );
  assert.equal([serial!.overrun, serial!.thrEmptyPending], [true, true]);
  assert.equal(incidents, { overrun: 1 });
  cage.read(5, 1); // LSR gives its errors up, not what the transmitter waits for
  const after = stateOf(cage).serial!;
  assert.equal([after.overrun, after.thrEmptyPending], [false, true]);
});

test('the clock and the keyboard controller', () => {
  const rtc = portDevice(KIND_RTC);
  rtc.inputTime(2 ** 32 + 5);
  for (const [index, value] of [
    [0x0a, 0x21],
    [0x0b, 0x06],
    [0x50, 0x77],
    [0x33, 0x00],
  ]) {
    rtc.write(0, 1, index);
    rtc.write(1, 1, value);
  }
  const { cmos, ...rest } = stateOf(rtc).rtc!;
  assert.equal(rest, { unixSeconds: 4294967301n, index: 0x33, registerA: 0x21, registerB: 6 });
  assert.equal(
    cmos.flatMap((byte, at) => (byte ? [at] : [])),
    [0x50],
  );
  const i8042 = portDevice(KIND_I8042);
  i8042.write(4, 1, 0xaa);
  i8042.write(4, 1, 0x60);
  assert.equal(stateOf(i8042).i8042, {
    ...{ control: 0x64, data: 0x55, full: true },
    ...{ pendingCommand: 0x60, lastWasCommand: true },
  });
  i8042.write(0, 1, 0x65);
  i8042.read(0, 1);
  assert.equal(stateOf(i8042).i8042, {
    ...{ control: 0x65, data: 0x55, full: false },
    ...{ pendingCommand: 0, lastWasCommand: false },
  });
  assert.equal(stateOf(portDevice(KIND_ACPI_PM)), { kind: 'acpi-pm', incidents: {} });
});

test('any bytes decode, and to text', () => {
  const random = randomFrom(SEED);
  for (let round = 0; round < 50; round++) {
    const state = Uint8Array.from({ length: STATE_BYTES }, () => (random(4) ? 0 : random(256)));
    new DataView(state.buffer).setUint32(0x40, [1, 2, 3, 4, 16, 17, 18, 99][random(8)], true);
    assert.match(stateText('device', decodeState(state)), /^device \(/);
  }
});

test('states and traces are taken apart without any module of Node', async () => {
  const entryPoints = ['state', 'state-text', 'trace', 'list', 'parse'].map(
    (name) => new URL(`../host/replay/${name}.ts`, import.meta.url).pathname,
  );
  const options = { entryPoints, bundle: true, write: false, outdir: folder } as const;
  const { outputFiles } = await build({ ...options, platform: 'browser', logLevel: 'silent' });
  assert.is(outputFiles.length, 5);
});

// --- At an event --------------------------------------------------------------------------------

test('the state is that after the event asked for, in both engines', () => {
  for (const engine of ['v8', 'cell'] as const) {
    const inFlight = (until: number) => {
      const { states } = replay(recorded, engine, until);
      return states.find(({ name }) => name === 'disk:rootfs')!.state.virtio!.queues[0];
    };
    assert.is(replay(recorded, engine, 0).events, 0);
    assert.equal(inFlight(45).inFlight, []);
    assert.equal(
      inFlight(46).inFlight.map(({ kind, head }) => [kind, head]),
      [['BLK_OUT', 0]],
    );
    assert.equal([inFlight(47).inFlight, inFlight(47).usedNext], [[], 1]);
    assert.is(replay(recorded, engine).states.length, 5);
  }
});

test('--state prints it for people and, with --json, for programs', () => {
  const run = (...args: string[]) => {
    const all = [FARADAY, 'replay', recorded, '--until', '46', '--state', ...args];
    const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' });
    assert.equal([status, stderr], [0, '']);
    return stdout;
  };
  const text = run('--device', 'disk:rootfs');
  for (const line of [
    /^disk:rootfs \(virtio-blk\)$/m,
    /^ {2}status {14}ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK$/m,
    /^ {2}queue 0 {13}size 16, ready$/m,
    /^ {4}available ring {4}0x11000, next index 1$/m,
    /^ {4}in flight {9}head 0: BLK_OUT, generation 1, 0 bytes, status at 0x40020$/m,
    /^ {2}incidents {11}none$/m,
  ]) {
    assert.match(text, line);
  }
  assert.not.match(text, 'serial');
  const states = JSON.parse(run('--json')) as { device: string; virtio?: { status: string[] } }[];
  assert.equal(
    states.map(({ device }) => device),
    ['serial', 'rtc', 'acpi-pm', 'boot-timer', 'disk:rootfs'],
  );
  assert.ok(states[4].virtio!.status.includes('DRIVER_OK'));
});

test.run();
