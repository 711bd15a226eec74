// The shim's watcher: kicks out of an idle guest, console input and output, signals.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EVENT_INPUT,
  EVENT_SIGHUP,
  EVENT_SIGINT,
  EVENT_SIGTERM,
  EXIT_IO_READ,
  EXIT_IO_WRITE,
  EXIT_KICKED,
  shim,
  type Vm,
  type Watcher,
  type WatcherOptions,
} from '../host/shim.ts';
import { answer, assemble, boot, failureOf, IDLE, kvmTest, realMode, step } from './bare-metal.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-watch-'));
test.after(() => rmSync(folder, { recursive: true }));

const SPIN = assemble([0xeb, 0xfe]); // jmp to itself
const WRITE_FOR_EVER = assemble([0xe6, 0x10], [0xeb, 0xfc]); // out 0x10, al; jmp back

/** Runs `body` with a guest and its watcher, and closes both. */
function watched(
  code: Uint8Array,
  options: Partial<WatcherOptions>,
  body: (vm: Vm, watcher: Watcher) => void,
): void {
  const vm = boot(code, realMode());
  const watcher = shim().createWatcher(vm, {
    inputFd: -1,
    outputFd: -1,
    signals: false,
    ...options,
  });
  try {
    body(vm, watcher);
  } finally {
    watcher.close();
    vm.close();
  }
}

/** A pipe with a name, open at both ends in this process. */
function fifo(name: string): number {
  const path = join(folder, name);
  spawnSync('mkfifo', [path]);
  return openSync(path, 'r+');
}

/** Has another process run a shell command in a moment, while this one is inside the guest. */
function meanwhile(command: string): void {
  spawn('sh', ['-c', `sleep 0.2; ${command}`], { cwd: folder, stdio: 'ignore' });
}

/** Runs until events come; only kicks may happen on the way. */
function runToEvents(vm: Vm, watcher: Watcher): number {
  for (;;) {
    assert.is(vm.run(), EXIT_KICKED);
    const events = watcher.takeEvents();
    if (events !== 0) return events;
  }
}

for (const [what, code] of [
  ['an idle', assemble(IDLE)],
  ['a spinning', SPIN],
] as const) {
  for (const [name, event] of [
    ['INT', EVENT_SIGINT],
    ['TERM', EVENT_SIGTERM],
    ['HUP', EVENT_SIGHUP],
  ] as const) {
    kvmTest(`SIG${name} from another process kicks ${what} guest out`, () => {
      watched(code, { signals: true }, (vm, watcher) => {
        meanwhile(`kill -${name} ${process.pid}`);
        assert.is(runToEvents(vm, watcher), event);
        assert.is(watcher.takeEvents(), 0);
      });
    });
  }

  kvmTest(`input on a pipe kicks ${what} guest out`, () => {
    const inputFd = fifo(`input ${what}`);
    watched(code, { inputFd }, (vm, watcher) => {
      assert.is(watcher.readInput(100), null);
      meanwhile(`printf hello > 'input ${what}'`);
      assert.is(runToEvents(vm, watcher), EVENT_INPUT);
      assert.is(Buffer.from(watcher.readInput(3)!).toString(), 'hel');
      assert.is(Buffer.from(watcher.readInput(100)!).toString(), 'lo');
      assert.is(watcher.readInput(100), null);
    });
    closeSync(inputFd);
  });
}

kvmTest('a kick before run is not lost, 200 times over', () => {
  watched(assemble(IDLE), { signals: true }, (vm, watcher) => {
    for (let i = 0; i < 200; i++) {
      process.kill(process.pid, 'SIGINT');
      assert.is(runToEvents(vm, watcher), EVENT_SIGINT);
    }
  });
});

kvmTest('bytes that trickle in while the guest idles all arrive', () => {
  const inputFd = fifo('trickle');
  watched(assemble(IDLE), { inputFd }, (vm, watcher) => {
    meanwhile('i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done > trickle');
    let text = '';
    while (!text.endsWith('\n299\n')) {
      assert.is(runToEvents(vm, watcher), EVENT_INPUT);
      const bytes = watcher.readInput(7);
      if (bytes) text += Buffer.from(bytes).toString();
      watcher.watchInput();
    }
    assert.equal(
      text.trim().split('\n').map(Number),
      Array.from({ length: 300 }, (_, i) => i),
    );
  });
  closeSync(inputFd);
});

kvmTest('input at its end is told once, and again only when asked', () => {
  const inputFd = openSync('/dev/null', 'r');
  watched(WRITE_FOR_EVER, { inputFd }, (vm, watcher) => {
    const kicks = (count: number) => {
      let kicked = 0;
      for (let i = 0; i < count; i++) if (vm.run() === EXIT_KICKED) kicked++;
      return kicked;
    };
    while (watcher.takeEvents() === 0) vm.run();
    assert.is(watcher.readInput(10)!.length, 0);
    kicks(10); // the kick that belongs to the event, if it was not taken yet
    assert.is(kicks(2000), 0);
    watcher.watchInput();
    while (watcher.takeEvents() === 0) vm.run();
  });
  closeSync(inputFd);
});

kvmTest('a kick loses neither an answer nor an element of a string instruction', () => {
  const code = assemble(
    [0xba, 0x10, 0x05], // mov dx, 0x510
    [0xbf, 0x00, 0x20], // mov di, 0x2000
    [0xb9, 0x03, 0x00], // mov cx, 3
    [0xf3, 0x6c], // rep insb
    [0xec, 0xee], // in al, dx; out dx, al
    IDLE,
  );
  watched(code, { signals: true }, (vm, watcher) => {
    const next = () => {
      process.kill(process.pid, 'SIGTERM'); // a kick that meets the pending answer
      let exit = step(vm);
      while (exit.kind === EXIT_KICKED) exit = step(vm);
      return exit;
    };
    for (const data of [5n, 6n, 7n, 0x5an]) {
      assert.is(next().kind, EXIT_IO_READ);
      answer(vm, data);
    }
    const exit = next();
    assert.equal([exit.kind, exit.data], [EXIT_IO_WRITE, 0x5an]);
    assert.equal([...new Uint8Array(vm.memory, 0x2000, 4)], [5, 6, 7, 0]);
    while (watcher.takeEvents() === 0) vm.run();
  });
});

kvmTest('a closed watcher gives the signals back and kicks no more', () => {
  const vm = boot(WRITE_FOR_EVER, realMode());
  const options = { inputFd: -1, outputFd: -1, signals: true };
  let seen = 0;
  const onSignal = () => seen++;
  process.on('SIGHUP', onSignal);
  const first = shim().createWatcher(vm, options);
  assert.is(
    failureOf(() => shim().createWatcher(vm, options)),
    'createWatcher EINVAL',
  );
  const other = boot(assemble(IDLE), realMode());
  assert.is(
    failureOf(() => shim().createWatcher(other, options)),
    'createWatcher EBUSY',
  );
  other.close();
  first.close();
  process.kill(process.pid, 'SIGHUP');
  assert.is(vm.run(), EXIT_IO_WRITE);
  assert.is(
    failureOf(() => first.takeEvents()),
    'takeEvents EBADF',
  );
  const second = shim().createWatcher(vm, options);
  second.close();
  vm.close();
  return new Promise<void>((resolve) => {
    setImmediate(() => {
      process.off('SIGHUP', onSignal);
      assert.is(seen, 1, "Node's own handler is back");
      resolve();
    });
  });
});

kvmTest('a watcher outlives its machine without harm', () => {
  const inputFd = fifo('orphan');
  const vm = boot(assemble(IDLE), realMode());
  const watcher = shim().createWatcher(vm, { inputFd, outputFd: -1, signals: true });
  vm.close();
  process.kill(process.pid, 'SIGINT');
  spawnSync('sh', ['-c', 'echo x > orphan; sleep 0.2'], { cwd: folder });
  assert.is(watcher.takeEvents(), EVENT_INPUT | EVENT_SIGINT);
  watcher.close();
  closeSync(inputFd);
});

kvmTest('wrong descriptors and foreign objects are refused', () => {
  const vm = boot(assemble(IDLE), realMode());
  const memory = shim().createMemory(4096) as Vm;
  const none = { inputFd: -1, outputFd: -1, signals: false };
  const create = (options: Partial<WatcherOptions>, target: Vm = vm) =>
    failureOf(() => shim().createWatcher(target, { ...none, ...options }));
  assert.is(create({ inputFd: 1 << 20 }), 'fcntl EBADF');
  assert.is(create({ outputFd: 1 << 20, signals: true }), 'fcntl EBADF');
  assert.is(create({ inputFd: -2 }), 'createWatcher EINVAL');
  assert.is(create({}, { ...vm }), 'createWatcher EINVAL');
  assert.is(create({}, memory), 'createWatcher EINVAL');
  memory.close();
  // None of these failures kept the signals, or the machine's place for a watcher.
  shim()
    .createWatcher(vm, { ...none, signals: true })
    .close();
  vm.close();
  assert.is(create({}), 'createWatcher EINVAL');
});

kvmTest('output goes out whole, and waits for a slow reader', () => {
  const outputFd = fifo('slow');
  watched(assemble(IDLE), { outputFd }, (_vm, watcher) => {
    const bytes = new Uint8Array(200_000).map((_, i) => i % 253);
    meanwhile('head -c 200000 slow > copy; mv copy copied');
    assert.is(watcher.writeOutput(bytes), bytes.length);
    spawnSync('sh', ['-c', 'while ! [ -e copied ]; do sleep 0.05; done'], { cwd: folder });
    assert.ok(Buffer.from(bytes).equals(readFileSync(join(folder, 'copied'))));
  });
  closeSync(outputFd);
});

kvmTest('an event ends the wait for a reader that never reads', () => {
  const outputFd = fifo('stuck');
  watched(assemble(IDLE), { outputFd, signals: true }, (_vm, watcher) => {
    meanwhile(`kill -TERM ${process.pid}`);
    const written = watcher.writeOutput(new Uint8Array(200_000));
    assert.ok(written > 0 && written < 200_000, `${written}`);
    assert.is(watcher.writeOutput(new Uint8Array(1)), 0, 'still pending: no waiting at all');
    assert.is(watcher.takeEvents(), EVENT_SIGTERM);
    // With room again, an event in waiting does not hold back what can go out.
    readSync(outputFd, Buffer.alloc(65536));
    assert.is(watcher.writeOutput(new Uint8Array(4096)), 4096);
  });
  closeSync(outputFd);
});

kvmTest('a reader that is gone swallows output, other errors are thrown', () => {
  const reader = fifo('gone');
  const outputFd = openSync(join(folder, 'gone'), 'w');
  closeSync(reader);
  watched(assemble(IDLE), { outputFd }, (_vm, watcher) => {
    assert.is(watcher.writeOutput(new Uint8Array(100_000)), 100_000);
  });
  closeSync(outputFd);
  const full = openSync('/dev/full', 'w');
  watched(assemble(IDLE), { outputFd: full }, (_vm, watcher) => {
    assert.is(
      failureOf(() => watcher.writeOutput(new Uint8Array(1))),
      'write ENOSPC',
    );
  });
  closeSync(full);
  watched(assemble(IDLE), {}, (_vm, watcher) => {
    assert.is(watcher.writeOutput(new Uint8Array(10)), 10, 'no output: dropped');
  });
});

kvmTest('a worker that ends with machine and watcher open leaves the process sound', async () => {
  const addon = new URL('../build/faraday.node', import.meta.url).pathname;
  const source = `
    const shim = require(${JSON.stringify(addon)});
    const vm = shim.createVm({ memoryBytes: 1048576, cpuCount: 1 });
    globalThis.keep = [vm, shim.createWatcher(vm, { inputFd: -1, outputFd: -1, signals: true })];
    require('node:worker_threads').parentPort.postMessage(vm.memory.byteLength);
  `;
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(source, { eval: true });
    const bytes = await new Promise((resolve, reject) => {
      worker.once('message', resolve).once('error', reject);
    });
    assert.is(bytes, 1048576);
    await worker.terminate();
  }
  // The signals are free again, which shows that the cleanup hook ran.
  watched(assemble(IDLE), { signals: true }, (vm, watcher) => {
    process.kill(process.pid, 'SIGINT');
    assert.is(runToEvents(vm, watcher), EVENT_SIGINT);
  });
});

test.run();
