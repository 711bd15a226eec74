// The host's side of a cell: what is handed over, what is made of each way to end, and a host that
// never hangs or throws anything but one line. A script stands in for the cell.
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MachineImage } from '../host/boot/image.ts';
import { type CellOptions, runCell } from '../host/engine/cell.ts';
import { startDetached } from '../host/engine/detach.ts';
import { FaradayError } from '../host/errors.ts';
import { openCellRecording } from '../host/replay/cell-recording.ts';
import { kvmTest } from './bare-metal.ts';
import { diskDevice, machineImage } from './machine-image.ts';

const folder = mkdtempSync(join(tmpdir(), 'faraday-cell-'));
test.after(() => rmSync(folder, { recursive: true }));

const PRELUDE = `
const fs = require('node:fs');
const protocol = require(${JSON.stringify(join(folder, 'protocol.json'))});
const say = (type, payload = Buffer.alloc(0)) => {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(type, 0);
  header.writeUInt32LE(payload.length, 4);
  fs.writeSync(3, Buffer.concat([header, payload]));
};
const failed = (exitCode, errno, call, about) => {
  const payload = Buffer.alloc(protocol.FAILED_BYTES);
  payload.writeUInt32LE(exitCode, protocol.FAILED_EXIT_CODE);
  payload.writeUInt32LE(errno, protocol.FAILED_ERRNO);
  payload.write(call, protocol.FAILED_CALL, 'latin1');
  payload.write(about, protocol.FAILED_ABOUT, 'latin1');
  say(protocol.FAILED, payload);
};
const ended = (cause, signal = 0) => {
  const payload = Buffer.alloc(protocol.REPORT_BYTES);
  payload.writeUInt32LE(cause, protocol.REPORT_CAUSE);
  payload.writeUInt32LE(signal, protocol.REPORT_SIGNAL);
  say(protocol.ENDED, payload);
};
const die = (signal) => { process.kill(process.pid, signal); setInterval(() => {}, 1000); };
`;
writeFileSync(
  join(folder, 'protocol.json'),
  JSON.stringify({ ...(await import('../host/engine/cell-protocol.ts')) }),
);

let count = 0;

/** A program in the place of the cell that runs `script`. */
function program(script: string): string {
  count++;
  const path = join(folder, `cell-${count}`);
  writeFileSync(path, `#!${process.execPath}\n${PRELUDE}\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The programs here are Node's, which as the first of a namespace could not die of a signal. */
const confinement = { seccomp: 'enforce', landlock: 'auto', namespaces: 'off' } as const;

interface Outcome {
  lines: string[];
  error: FaradayError | null;
  result: Awaited<ReturnType<typeof runCell>> | null;
}

async function run(
  script: string,
  image: MachineImage = machineImage(),
  recording?: CellOptions['recording'],
): Promise<Outcome> {
  const lines: string[] = [];
  const log = (level: string, text: string) => {
    lines.push(`${level}: ${text}`);
  };
  try {
    const options = { log, program: program(script), confinement, recording };
    const result = await runCell(image, options);
    return { lines, error: null, result };
  } catch (error) {
    assert.instance(error, FaradayError);
    assert.not.match((error as Error).message, '\n');
    return { lines, error: error as FaradayError, result: null };
  }
}

kvmTest('a cell that starts and ends gives a result', async () => {
  const { result } = await run('say(protocol.STARTED); ended(protocol.CAUSE_REBOOT);');
  assert.is(result?.cause, 'reboot');
  assert.ok(result!.endMs > 0);
});

kvmTest('a cell finds its descriptors, no environment, and no folder of ours', async () => {
  const disk = join(folder, 'disk');
  const kernel = join(folder, 'kernel');
  writeFileSync(disk, 'DISK');
  writeFileSync(kernel, 'KERNEL');
  const fd = openSync(disk, 'r+');
  const segment = { name: 'k', address: 0x100000, path: kernel, fileOffset: 0, lengthBytes: 6 };
  const image = machineImage({ segments: [segment], virtio: [diskDevice(fd)] });
  const { error } = await run(
    `const link = (n) => fs.readlinkSync('/proc/self/fd/' + n).replace(/ .*/, '');
     const head = Buffer.alloc(4);
     fs.readSync(4, head, 0, 4, 0);
     const env = Object.keys(process.env).length;
     failed(5, 0, [head, link(5), link(6) === ${JSON.stringify(kernel)},
       link(7) === ${JSON.stringify(disk)}, env, process.argv[2], process.cwd()].join(), '');`,
    image,
  );
  closeSync(fd);
  assert.match(error!.message, /^FRDI,\/dev\/kvm,true,true,0,--spawned,\/ failed/);
});

kvmTest('a cell that dies is one line with the signal, exit code 5', async () => {
  for (const signal of ['SIGSEGV', 'SIGABRT', 'SIGKILL']) {
    const { error } = await run(`die('${signal}');`);
    assert.match(error!.message, `the cell ended by ${signal}`);
    assert.is(error!.exitCode, 5);
  }
  const fault = await run('process.exitCode = 128 + 11;');
  assert.match(fault.error!.message, 'the cell ended by SIGSEGV');
  const killed = await run(`die('SIGSYS');`);
  assert.match(killed.error!.message, 'killed by its seccomp filter for a system call');
  assert.is(killed.error!.exitCode, 5);
  const { error } = await run('process.exitCode = 7;');
  assert.match(error!.message, 'the cell ended with status 7 and no report');
});

kvmTest('a cell that talks nonsense is killed', async () => {
  const { error } = await run('say(77); setInterval(() => {}, 1000);');
  assert.match(error!.message, /unknown type 77/);
  assert.is(error!.exitCode, 5);
  const cut = await run('fs.writeSync(3, Buffer.from([1, 0]));');
  assert.match(cut.error!.message, /in the middle of a message/);
  const late = await run('ended(1); say(protocol.STARTED);');
  assert.match(late.error!.message, /went on after its last message/);
});

kvmTest('a cell that records must say what came of it, and any other may not', async () => {
  const path = join(folder, 'recording');
  const recorded = async (script: string) => {
    const recording = openCellRecording(path, [], machineImage());
    const outcome = await run(script, machineImage(), recording);
    closeSync(recording.fd);
    return outcome;
  };
  const say = (errno: number) => `say(protocol.RECORDED, Buffer.from([${errno}, 0, 0, 0]));`;
  const end = 'ended(protocol.CAUSE_REBOOT);';
  assert.is((await recorded(`${say(0)} ${end}`)).result?.cause, 'reboot');
  const full = await recorded(`${say(28)} ${end}`);
  const line = `--record '${path}' could not be written to its end (ENOSPC)`;
  assert.is(full.error?.message, line);
  assert.is(full.error?.exitCode, 2);
  const lies: [Promise<Outcome>, RegExp][] = [
    [recorded(end), /ended without a word on its recording/],
    [recorded(`${say(0)} ${say(0)} ${end}`), /spoke of a recording that it does not make/],
    [run(`${say(0)} ${end}`), /spoke of a recording that it does not make/],
  ];
  for (const [outcome, message] of lies) {
    const { error } = await outcome;
    assert.match(error!.message, message);
    assert.is(error!.exitCode, 5);
  }
});

kvmTest('a cell that could not start says why, in one line of plain text', async () => {
  const disk = diskDevice(0, { path: 'a.img', id: 'data' });
  const image = machineImage({ virtio: [disk] });
  const cases: [string, number, RegExp][] = [
    ["failed(2, 11, 'lock', 'data')", 2, /^disk 'a\.img' is locked: another Faraday uses it/],
    ["failed(2, 12, 'mmap', 'guest memory')", 2, /^--memory 64M is more than this host can map/],
    ["failed(2, 5, 'loadFile', 'the end')", 2, /^the kernel or initrd changed meanwhile \(the end/],
    ["failed(3, 22, 'KVM_CREATE_VM', '')", 3, /^KVM_CREATE_VM failed \(EINVAL\)/],
    ["failed(3, 1, 'prctl', 'x\\x1b[2J')", 3, /^prctl failed \(EPERM\): x\?\[2J$/],
    ["failed(5, 0, 'image', 'bad')", 5, /^image failed: bad; please report it$/],
    ["failed(143, 0, 'image', '')", 5, /^image failed; please report it$/],
  ];
  for (const [script, code, message] of cases) {
    const { error } = await run(script, image);
    assert.match(error!.message, message);
    assert.is(error!.exitCode, code);
  }
});

kvmTest('a signal is passed on, and ends a cell which does not listen yet too', async () => {
  const obeys = `
    say(protocol.STARTED);
    const command = Buffer.alloc(8);
    fs.readSync(3, command);
    if (command.readUInt32LE(0) === protocol.COMMAND_STOP) ended(6, command.readUInt32LE(4));`;
  const dies = "say(protocol.STARTED); fs.readSync(3, Buffer.alloc(8)); die('SIGTERM');";
  for (const script of [obeys, dies]) {
    const running = run(script);
    setTimeout(() => process.kill(process.pid, 'SIGTERM'), 300);
    const { result } = await running;
    assert.is(result?.cause, 'signal');
    assert.is(result?.signal, 'SIGTERM');
  }
  assert.is(process.listenerCount('SIGTERM'), 0);
});

kvmTest('lines for the log come out as they are, but not without end', async () => {
  const { lines, result } = await run(`
    const line = Buffer.alloc(protocol.LOG_BYTES);
    line.writeUInt32LE(1, 0);
    line.write('device serial trapped', 4);
    for (let i = 0; i < 1200; i++) say(protocol.LOG, line);
    say(protocol.MARKER);
    ended(1);`);
  assert.is(result?.cause, 'power-off');
  assert.is(lines[0], 'warn: device serial trapped');
  assert.is(lines.length, 1002);
  assert.match(lines[1000]!, /the rest is dropped/);
  assert.match(lines[1001]!, /^info: guest reached user space after \d+ ms$/);
});

kvmTest('a program that is not there or does not start is a matter of the host', async () => {
  const options = { log: () => {}, program: join(folder, 'none'), confinement };
  try {
    await runCell(machineImage(), options);
    assert.unreachable();
  } catch (error) {
    assert.instance(error, FaradayError);
    assert.match((error as Error).message, /none is missing; run 'npm run build'/);
    assert.is((error as FaradayError).exitCode, 3);
  }
});

kvmTest('a detached cell runs on in a session of its own', async () => {
  const script = `
    fs.writeFileSync(${JSON.stringify(join(folder, 'args'))}, process.argv.slice(2).join());
    say(protocol.STARTED);
    setTimeout(() => {}, 60000);`;
  const pid = await startDetached(machineImage(), {
    ...{ log: () => {}, program: program(script), confinement },
  });
  assert.ok(pid > 1);
  const session = readFileSync(`/proc/${pid}/stat`, 'utf8');
  process.kill(pid, 'SIGKILL');
  assert.is(session.replace(/^.*\) /, '').split(' ')[3], String(pid));
  const args = readFileSync(join(folder, 'args'), 'utf8');
  assert.match(args, /^--spawned,--detached,--seccomp,enforce,/);
});

kvmTest('a detached cell that fails is an error', async () => {
  const options = {
    log: () => {},
    program: program("failed(3, 22, 'KVM_CREATE_VM', '');"),
    confinement,
  };
  try {
    await startDetached(machineImage(), options);
    assert.unreachable();
  } catch (error) {
    assert.match((error as Error).message, /KVM_CREATE_VM/);
  }
});

test.run();
