// The shim's machines from creation to close: memory of every size, errors, what is left behind.
import { readdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  EXIT_IO_WRITE,
  EXIT_RECORD_BYTES,
  shim,
  WINDOW_OVERLAP,
  WINDOW_STRIDE,
} from '../host/shim.ts';
import {
  assemble,
  boot,
  failureOf,
  GIB,
  kvmTest,
  le,
  longMode,
  longModeTables,
  realMode,
  step,
  TABLES,
} from './bare-metal.ts';

const HLT = [0xf4];

kvmTest('a guest of 8 GiB reads at 5 GiB what was loaded there', () => {
  const code = assemble(
    [0x48, 0xb8, ...le(5 * GIB + 8, 8)], // mov rax, 5 GiB + 8
    [0x8b, 0x00], // mov eax, [rax]
    [0xe7, 0x51], // out 0x51, eax
  );
  const vm = boot(code, longMode(), 8 * GIB);
  vm.loadBytes(longModeTables(6), TABLES);
  vm.loadBytes(Uint8Array.of(1, 2, 3, 4), 5 * GIB + 8);
  assert.is(vm.windows.length, 3);
  // RAM has no hole in its windows: 1 GiB less than the guest-physical address.
  const offset = 4 * GIB + 8 - WINDOW_STRIDE;
  assert.is(new DataView(vm.windows[1]!).getUint32(offset, true), 0x04030201);
  const { kind, data } = step(vm);
  assert.equal([kind, data], [EXIT_IO_WRITE, 0x04030201n]);
  vm.close();
});

kvmTest('a guest of 64 GiB has its last byte and nothing behind it', () => {
  const vm = shim().createVm({ memoryBytes: 64 * GIB, cpuCount: 1 });
  vm.loadBytes(Uint8Array.of(0x5a), 65 * GIB - 1);
  const last = new Uint8Array(vm.windows.at(-1)!);
  assert.is(last.at(-1), 0x5a);
  assert.is((vm.windows.length - 1) * WINDOW_STRIDE + last.length, 64 * GIB);
  assert.is(
    failureOf(() => vm.loadBytes(new Uint8Array(2), 65 * GIB - 1)),
    'loadBytes ERANGE',
  );
  vm.close();
});

test('windows overlap: an access lies in the window where it begins', () => {
  for (const memoryBytes of [4096, 4 * GIB, 4 * GIB + 4096, 2 * WINDOW_STRIDE, 12 * GIB]) {
    const memory = shim().createMemory(memoryBytes);
    const { windows } = memory;
    assert.is(windows[0], memory.memory);
    assert.is((windows.length - 1) * WINDOW_STRIDE + windows.at(-1)!.byteLength, memoryBytes);
    for (const window of windows.slice(0, -1)) {
      assert.is(window.byteLength, WINDOW_STRIDE + WINDOW_OVERLAP);
    }
    if (windows.length > 1) {
      new DataView(windows[0]!).setUint8(WINDOW_STRIDE + 5, 99);
      assert.is(new DataView(windows[1]!).getUint8(5), 99);
    }
    memory.close();
  }
});

kvmTest('the hole below 4 GiB takes no bytes, and neither does its edge', () => {
  const vm = shim().createVm({ memoryBytes: 4 * GIB, cpuCount: 1 });
  const load = (address: number) => failureOf(() => vm.loadBytes(new Uint8Array(2), address));
  assert.is(load(3 * GIB - 2), 'nothing thrown');
  for (const address of [3 * GIB - 1, 3 * GIB, 0xd0000000, 4 * GIB - 1]) {
    assert.is(load(address), 'loadBytes ERANGE', `0x${address.toString(16)}`);
  }
  assert.is(load(4 * GIB), 'nothing thrown');
  vm.close();
});

kvmTest('creation fails with the errno and the call that gave it', () => {
  const create = (memoryBytes: number, kvmPath?: string) =>
    failureOf(() => shim().createVm({ memoryBytes, cpuCount: 1, kvmPath }));
  assert.is(create(2 ** 50), 'mmap ENOMEM');
  assert.is(create(4097), 'mmap EINVAL');
  assert.is(create(0), 'mmap EINVAL');
  assert.is(create(-4096), 'createVm EINVAL');
  assert.is(create(4096.5), 'createVm EINVAL');
  assert.is(create(2 ** 20, '/dev/does-not-exist'), 'open ENOENT');
  assert.is(create(2 ** 20, '/dev/null'), 'KVM_GET_API_VERSION ENOTTY');
  const cpus = (cpuCount: number) =>
    failureOf(() => shim().createVm({ memoryBytes: 2 ** 20, cpuCount }));
  assert.is(cpus(0), 'createVm EINVAL');
  assert.is(cpus(256), 'createVm EINVAL');
});

kvmTest('wrong arguments are refused, naming the field', () => {
  const vm = boot(assemble(HLT), realMode());
  const message = (action: () => unknown) => {
    try {
      action();
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  };
  assert.match(
    message(() => vm.setRegisters({ ...realMode(), rip: -1n })),
    'rip',
  );
  assert.match(
    message(() => vm.setRegisters({ ...realMode(), gdtLimit: 65536 })),
    'gdtLimit',
  );
  assert.match(
    message(() => vm.setRegisters({ ...realMode(), task: undefined as never })),
    'task',
  );
  assert.match(
    message(() => vm.pulseIrq(24)),
    'pin',
  );
  assert.match(
    message(() => vm.loadBytes([1] as never, 0)),
    'bytes',
  );
  assert.is(
    failureOf(() => vm.setRegisters({ ...realMode(), cr0: 1n << 40n })),
    'KVM_SET_SREGS EINVAL',
  );
  vm.close();
});

kvmTest('a closed machine refuses everything and its buffers are empty', () => {
  const vm = boot(assemble(HLT), realMode());
  const { memory, exit } = vm;
  const view = new DataView(memory);
  vm.close();
  vm.close();
  assert.equal([memory.byteLength, exit.byteLength], [0, 0]);
  assert.throws(() => view.getUint8(0), TypeError);
  assert.is(
    failureOf(() => vm.run()),
    'run EBADF',
  );
  assert.is(
    failureOf(() => vm.setRegisters(realMode())),
    'setRegisters EBADF',
  );
  assert.is(
    failureOf(() => vm.loadBytes(new Uint8Array(1), 0)),
    'loadBytes EBADF',
  );
  assert.is(
    failureOf(() => vm.crashState()),
    'crashState EBADF',
  );
  assert.is(
    failureOf(() => vm.pulseIrq(4)),
    'pulseIrq EBADF',
  );
});

kvmTest('a machine closed by its own argument is refused, not used', () => {
  const vm = boot(assemble(HLT), realMode());
  const trap = {
    ...realMode(),
    get rip(): bigint {
      vm.close();
      return 0n;
    },
  };
  assert.is(
    failureOf(() => vm.setRegisters(trap)),
    'setRegisters EBADF',
  );
});

kvmTest('guest memory cannot be moved away from under the machine', () => {
  const vm = boot(assemble(HLT), realMode());
  for (const buffer of [vm.memory, vm.exit]) {
    try {
      structuredClone(buffer, { transfer: [buffer] }); // Node 20 copies, later ones throw
    } catch (error) {
      assert.is((error as Error).name, 'DataCloneError');
    }
  }
  assert.is(vm.exit.byteLength, EXIT_RECORD_BYTES);
  assert.is(vm.memory.byteLength, 2 ** 20);
  vm.close();
});

kvmTest('200 machines with watchers leave no descriptor behind', () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const cycle = () => {
    const vm = boot(assemble(HLT), realMode());
    const watcher = shim().createWatcher(vm, { inputFd: -1, outputFd: 1, signals: true });
    watcher.close();
    vm.close();
  };
  cycle(); // the process-wide signal eventfd stays
  const before = count();
  for (let i = 0; i < 200; i++) cycle();
  assert.is(count(), before);
});

kvmTest('a failed creation leaves no descriptor behind', () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const before = count();
  for (let i = 0; i < 20; i++) {
    failureOf(() => shim().createVm({ memoryBytes: 2 ** 20, cpuCount: 1, kvmPath: '/dev/null' }));
    // More memory than KVM takes in one slot, though the host maps it.
    failureOf(() => shim().createVm({ memoryBytes: 2 ** 45, cpuCount: 1 }));
  }
  assert.is(count(), before);
});

/** One full collection, and the turn of the event loop in which finalizers run. */
async function collect(): Promise<void> {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  await new Promise((resolve) => setImmediate(resolve));
}

kvmTest('machines that nobody closed are given back when they are collected', async () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const before = count();
  (() => {
    for (let i = 0; i < 20; i++) {
      const vm = boot(assemble(HLT), realMode());
      shim().createWatcher(vm, { inputFd: -1, outputFd: -1, signals: false });
    }
  })();
  assert.ok(count() > before);
  for (let i = 0; i < 50 && count() > before; i++) await collect();
  assert.is(count(), before);
});

kvmTest('a method taken from a machine keeps it usable', async () => {
  const { run, close } = boot(assemble([0xe6, 0x10], HLT), realMode());
  for (let i = 0; i < 5; i++) await collect();
  assert.is(run(), EXIT_IO_WRITE);
  close();
});

test.run();
