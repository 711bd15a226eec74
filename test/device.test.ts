// What happens when a cage traps, and the console's input side: host/engine/.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { EFFECT_IRQ, EFFECT_MORE, EFFECT_REBOOT, EFFECT_REQUEST } from '../assembly/abi.ts';
import { EscapeParser, OutputBuffer, PendingInput } from '../host/engine/console.ts';
import { type CageCalls, Device } from '../host/engine/device.ts';
import { serveQueue } from '../host/engine/serve-queue.ts';

const FAIL_EFFECTS = 7;

/** A cage that works until `trap` is set, then traps at every read. */
class FakeCage implements CageCalls {
  static made = 0;
  trap = false;
  constructor() {
    FakeCage.made++;
  }
  read(): number {
    if (this.trap) throw new WebAssembly.RuntimeError('unreachable');
    return 1;
  }
  write = () => 2;
  next = () => 0;
  complete = () => 0;
  input = () => 0;
  fail = () => FAIL_EFFECTS;
  value = () => 0x5a;
  record = () => new Uint8Array(0);
  outputBytes = () => 0;
  counters = () => ({ WIDTH: 3, CHAIN: 0 });
}

function setUp() {
  let clockMs = 0;
  const cages: FakeCage[] = [];
  const traps: boolean[] = [];
  const device = new Device({
    name: 'disk',
    pin: 5,
    rights: 0xff,
    create: () => {
      cages.push(new FakeCage());
      return cages.at(-1)!;
    },
    now: () => clockMs,
    onTrap: (_device, dead) => traps.push(dead),
  });
  const read = () => device.read(0, 4);
  const advance = (ms: number) => {
    clockMs += ms;
  };
  return { device, cages, traps, read, advance };
}

test('a trap restarts the instance and answers the effects of fail()', () => {
  const { device, cages, traps, read } = setUp();
  assert.is(read(), 1);
  cages[0].trap = true;
  assert.is(read(), FAIL_EFFECTS);
  assert.is(cages.length, 2);
  assert.equal(traps, [false]);
  assert.is(read(), 1, 'the fresh instance works');
  assert.is(device.traps, 1);
});

test('a second trap within a second makes the device dead: all ones, writes ignored', () => {
  const { device, cages, traps, read, advance } = setUp();
  cages[0].trap = true;
  read();
  advance(999);
  cages[1].trap = true;
  assert.is(read(), 0);
  assert.equal(traps, [false, true]);
  assert.is(device.value(), 0xffffffff);
  assert.is(device.write(0, 4, 1), 0);
  assert.is(cages.length, 2, 'no third instance');
});

test('a second trap after a second restarts again', () => {
  const { device, cages, read, advance } = setUp();
  cages[0].trap = true;
  read();
  advance(1000);
  cages[1].trap = true;
  assert.is(read(), FAIL_EFFECTS);
  assert.is(device.dead, false);
});

test('a cage may answer only the effects its kind of device has a right to', () => {
  const cage = new FakeCage();
  cage.write = () => EFFECT_IRQ | EFFECT_REBOOT;
  const rights = EFFECT_IRQ | EFFECT_REQUEST;
  const options = { name: 'disk', pin: 5, rights, now: () => 0, onTrap: () => {} };
  const device = new Device({ ...options, create: () => cage });
  assert.is(device.write(0, 4, 1), EFFECT_IRQ);
});

test('a queue that never empties still lets the run be interrupted', () => {
  let served = 0;
  const endless = {
    record: () => new Uint8Array(0),
    complete: () => 0,
    next: () => EFFECT_REQUEST | EFFECT_MORE,
  };
  serveQueue(endless, EFFECT_REQUEST, 0, {
    execute: () => ({ tag: served++, result: 0, bytes: 0 }),
    apply: () => {},
    interrupted: () => served > 1000,
  });
  assert.ok(served > 1000 && served < 2000, `${served}`);
});

test('incidents of an instance lost to a trap are kept', () => {
  const { device, cages, read } = setUp();
  cages[0].trap = true;
  read();
  assert.equal(device.incidents(), { WIDTH: 6 });
});

test('an error that is no trap is our own fault and passes through', () => {
  const { device, cages } = setUp();
  cages[0].write = () => {
    throw new TypeError('ours');
  };
  assert.throws(() => device.write(0, 4, 1), 'ours');
  assert.is(device.traps, 0);
});

function type(parser: EscapeParser, text: string): [string, boolean] {
  const { bytes, quit } = parser.parse(Buffer.from(text, 'latin1'));
  return [Buffer.from(bytes).toString('latin1'), quit];
}

test('Ctrl-A x leaves; what was typed before it still reaches the guest', () => {
  assert.equal(type(new EscapeParser(), 'ls\r\x01xmore'), ['ls\r', true]);
});

test('Ctrl-A x leaves when the two keys come in separate reads', () => {
  const parser = new EscapeParser();
  assert.equal(type(parser, 'a\x01'), ['a', false]);
  assert.equal(type(parser, 'x'), ['', true]);
});

test('Ctrl-A twice sends one; Ctrl-A and another key sends both', () => {
  assert.equal(type(new EscapeParser(), '\x01\x01b'), ['\x01b', false]);
  assert.equal(type(new EscapeParser(), '\x01e'), ['\x01e', false]);
});

test('pending input is offered until the device takes no more, and nothing is lost', () => {
  const pending = new PendingInput();
  const taken: number[] = [];
  let room = 3;
  const take = (bytes: Uint8Array) => {
    const count = Math.min(room, 2, bytes.length);
    taken.push(...bytes.subarray(0, count));
    room -= count;
    return count;
  };
  pending.add(Uint8Array.of(1, 2, 3, 4, 5));
  pending.offer(take);
  assert.equal(taken, [1, 2, 3]);
  assert.is(pending.empty, false);
  room = 10;
  pending.offer(take);
  assert.equal(taken, [1, 2, 3, 4, 5]);
  assert.is(pending.empty, true);
});

/** An output buffer over a reader that takes `room` bytes at a time. */
function outputTo(written: string[], reader: { room: number }, reminders: number[]): OutputBuffer {
  return new OutputBuffer({
    remind: (milliseconds) => reminders.push(milliseconds),
    writeOutput: (bytes) => {
      const taken = bytes.subarray(0, reader.room);
      written.push(Buffer.from(taken).toString('latin1'));
      return taken.length;
    },
  });
}

function send(output: OutputBuffer, text: string): void {
  output.added(Buffer.from(text).copy(output.bytes, output.length));
}

test('output goes out by lines; a rest of a line after one reminder', () => {
  const written: string[] = [];
  const reminders: number[] = [];
  const output = outputTo(written, { room: 1000 }, reminders);
  for (const byte of 'ab\nc') send(output, byte);
  assert.equal(written, ['ab\n']);
  assert.is(reminders.length, 1, 'one reminder until it came');
  output.onReminder();
  assert.equal(written, ['ab\n', 'c']);
  send(output, 'd');
  assert.is(reminders.length, 2);
});

test('what a slow reader does not take stays, in order, and fills the buffer', () => {
  const written: string[] = [];
  const reader = { room: 2 };
  const output = outputTo(written, reader, []);
  send(output, 'abcde\n');
  assert.equal(written, ['ab']);
  assert.is(output.length, 4);
  while (!output.full) send(output, 'x');
  reader.room = 5000;
  output.flush();
  assert.ok(written[1].startsWith('cde\nxxx'));
  assert.is(output.length, 0);
  assert.is(output.full, false);
});

test.run();
