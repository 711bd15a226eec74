// The command as a user meets it: exit codes, one-line errors, signals, console, report. The
// guests are kernels of a few bytes, so everything here runs in milliseconds.
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildProgram } from '../host/main.ts';
import type { RunReport } from '../host/report.ts';
import { shim } from '../host/shim.ts';
import { kvmTest } from './bare-metal.ts';
import { bzImage, pack, vmlinux } from './fake-kernel.ts';
import {
  ACPI_RESET,
  ECHO_UNTIL_Q,
  IDLE_FOR_EVER,
  KEYBOARD_RESET,
  MARKER,
  PANICKED,
  PATIENT_FLOOD,
  POWER_OFF,
  print,
  printPort,
  TRIPLE_FAULT,
  tinyKernel,
} from './tiny-kernel.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const TIME_LIMIT_MS = 60_000;

const folder = mkdtempSync(join(tmpdir(), 'faraday-cli-'));
test.after(() => rmSync(folder, { recursive: true }));

/** The environment of a user who never ran Faraday: own home, own store. */
const environment = { ...process.env, HOME: folder, XDG_DATA_HOME: '', XDG_CACHE_HOME: '' };

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

function faraday(args: string[], input = ''): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, [FARADAY, ...args], {
    input,
    env: environment,
    cwd: folder,
    timeout: TIME_LIMIT_MS,
    killSignal: 'SIGKILL',
    encoding: 'latin1',
  });
  return { status, stdout, stderr };
}

function file(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const kernel = (name: string, ...code: number[][]) => file(name, tinyKernel(...code));
const hello = kernel('hello', print('hello\r\n'), POWER_OFF, IDLE_FOR_EVER);

function readReport(path: string): RunReport {
  return JSON.parse(readFileSync(path, 'utf8'));
}

/** Runs with --report and returns both. */
function reported(args: string[], input = ''): Outcome & { report: RunReport } {
  const path = join(folder, 'report.json');
  rmSync(path, { force: true });
  const outcome = faraday([...args, '--report', path], input);
  return { ...outcome, report: readReport(path) };
}

/** A mistake: exit code 2, one line, nothing on standard output. */
function refusal(args: string[]): string {
  const { status, stdout, stderr } = faraday(args);
  assert.is(status, 2, stderr);
  assert.is(stdout, '');
  assert.match(stderr, /^faraday: [^\n]+\r?\n$/);
  return stderr;
}

// --- What a guest does, and the exit code -------------------------------------------------------

kvmTest('a guest prints, powers off, exit code 0; run is the default verb', () => {
  for (const verb of [[], ['run']]) {
    const { status, stdout, stderr } = faraday([...verb, '--kernel', hello]);
    assert.is(stdout, 'hello\r\n');
    assert.is(stderr, '');
    assert.is(status, 0);
  }
});

kvmTest('the report of a run that powered off', () => {
  const { report } = reported(['--kernel', hello]);
  assert.is(report.schemaVersion, 1);
  assert.is(report.engine, 'cell');
  assert.is(report.entry, 'pvh');
  assert.equal(report.exit, { cause: 'power-off', code: 0, signal: null, detail: null });
  assert.is(report.exits.byDevice.serial, 7);
  assert.is(report.exits.byDevice['acpi-pm'], 1);
  assert.is(report.exits.byKind['io-write'], 8);
  assert.is(report.milliseconds.toMarker, null);
  const { toFirstInstruction, total } = report.milliseconds;
  assert.ok(toFirstInstruction !== null && toFirstInstruction > 0);
  assert.ok(total >= toFirstInstruction);
  assert.equal([report.disks, report.incidents, report.traps, report.crash], [[], {}, {}, null]);
});

const endings: [string, number[], number, string][] = [
  ['the ACPI reset register', ACPI_RESET, 0, 'reboot'],
  ['the i8042', KEYBOARD_RESET, 0, 'reboot'],
  ['a panic told by pvpanic', PANICKED, 4, 'panic'],
  ['a triple fault', TRIPLE_FAULT, 4, 'triple-fault'],
];

for (const [name, code, status, cause] of endings) {
  kvmTest(`${name} ends the run as ${cause}, exit code ${status}`, () => {
    const path = kernel('ending', code, IDLE_FOR_EVER);
    const outcome = reported(['--kernel', path]);
    assert.is(outcome.status, status);
    assert.is(outcome.report.exit.cause, cause);
    assert.is(outcome.report.exit.code, status);
    assert.match(outcome.stderr, status === 0 ? /^$/ : /^faraday: the guest [^\n]+\n$/);
  });
}

kvmTest('a triple fault leaves registers and the instruction bytes in the report', () => {
  const { report } = reported(['--kernel', kernel('fault', [0x90, 0x90], TRIPLE_FAULT)]);
  assert.is(report.crash?.registers.rip, '0x100002');
  assert.match(report.crash?.instructionBytes ?? '', /^0f0b/);
});

kvmTest('the boot timer takes its marker only when it is asked for', () => {
  const path = kernel('marker', MARKER, POWER_OFF, IDLE_FOR_EVER);
  const timed = reported(['--kernel', path, '--boot-timer']);
  const { toMarker, toFirstInstruction } = timed.report.milliseconds;
  assert.ok(toMarker !== null && toMarker >= Number(toFirstInstruction));
  const untimed = reported(['--kernel', path]);
  assert.is(untimed.report.milliseconds.toMarker, null);
  assert.is(untimed.report.exits.byDevice.unclaimed, 1);
});

kvmTest('a port nobody answers reads all ones', () => {
  const path = kernel('absent', printPort(0x2f8), POWER_OFF, IDLE_FOR_EVER);
  assert.is(faraday(['--kernel', path]).stdout, '\xff');
});

kvmTest('what a guest does wrong is counted by device and kind', () => {
  // A word at a byte-wide register: mov dx, 0x3f8; in ax, dx.
  const wide = [0x66, 0xba, 0xf8, 0x03, 0x66, 0xed];
  const { report } = reported(['--kernel', kernel('wide', wide, POWER_OFF, IDLE_FOR_EVER)]);
  assert.equal(report.incidents, { serial: { width: 1 } });
});

// --- Console ------------------------------------------------------------------------------------

kvmTest('standard input reaches the guest through a pipe and its answer comes back', () => {
  // More than one read; Ctrl-A is data here.
  const text = `${'0123456789abcde\n'.repeat(600)}\x01x.q`;
  const path = kernel('echo', ECHO_UNTIL_Q, POWER_OFF, IDLE_FOR_EVER);
  const { status, stdout } = faraday(['--kernel', path], text);
  assert.is(stdout, text);
  assert.is(status, 0);
});

kvmTest('a reader that goes away does not stop the guest', () => {
  const path = kernel('long', print('x'.repeat(9000)), POWER_OFF, IDLE_FOR_EVER);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: this is the shell's variable
  const script = '"$@" | head -c 1; echo " ${PIPESTATUS[0]}"';
  const args = ['-c', script, 'bash', process.execPath, FARADAY, '--kernel', path];
  const { stdout } = spawnSync('bash', args, { env: environment, encoding: 'latin1' });
  assert.is(stdout, 'x 0\n');
});

/** Starts a run, waits for its first output, and then for `ready`; sends `signal`; how it ended. */
async function signalled(
  path: string,
  signal: NodeJS.Signals,
  report: string,
  ready: (pid: number) => Promise<void> = async () => {},
): Promise<number> {
  const args = [FARADAY, '--kernel', path, '--report', report];
  const child = spawn(process.execPath, args, {
    env: environment,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const guard = setTimeout(() => child.kill('SIGKILL'), TIME_LIMIT_MS);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  child.stdout.pause(); // from here on nobody reads
  await ready(child.pid!);
  child.kill(signal);
  const status = await new Promise<number>((resolve) => child.once('exit', resolve));
  clearTimeout(guard);
  return status;
}

/** Waits until a process has written, and then writes no more: its reader's buffer is full. */
async function stalled(pid: number): Promise<void> {
  const written = () => /wchar: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1];
  for (let before: string | undefined; ; ) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = written();
    if (now === before && Number(now) > 4096) return;
    before = now;
  }
}

for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
] as const) {
  kvmTest(
    `${signal} stops an idle guest, writes the report, exit code 128 + ${number}`,
    async () => {
      const report = join(folder, `${signal}.json`);
      const path = kernel('idle', print('.'), IDLE_FOR_EVER);
      assert.is(await signalled(path, signal, report), 128 + number);
      const { exit } = readReport(report);
      assert.equal(exit, { cause: 'signal', code: 128 + number, signal, detail: null });
    },
  );
}

kvmTest('a guest that floods a console nobody reads can still be stopped', async () => {
  const report = join(folder, 'flood.json');
  assert.is(await signalled(kernel('flood', PATIENT_FLOOD), 'SIGTERM', report, stalled), 143);
  assert.is(readReport(report).incidents.serial?.overrun, undefined, 'nothing was lost');
});

// --- Terminal -----------------------------------------------------------------------------------

/** Runs the command on a terminal of its own, types `keys` after the first output. */
function onTerminal(path: string, keys: string): string {
  const runner = new URL('./on-terminal.py', import.meta.url).pathname;
  const args = [runner, keys, process.execPath, FARADAY, '--kernel', path];
  const { stdout, stderr } = spawnSync('python3', args, {
    env: environment,
    encoding: 'latin1',
    timeout: TIME_LIMIT_MS,
  });
  if (stderr) throw new Error(stderr);
  return stdout;
}

kvmTest('on a terminal Ctrl-A x leaves, the terminal is raw meanwhile and restored after', () => {
  const path = kernel('prompt', print('$ '), ECHO_UNTIL_Q, IDLE_FOR_EVER);
  const seen = onTerminal(path, '\x03a\x01\x01\x01x');
  // Ctrl-C reached the guest as a byte and came back; so did one of two Ctrl-A.
  assert.ok(seen.includes('$ \x03a\x01'), seen);
  assert.match(seen, /status=0 raw=True restored=True\n$/);
});

kvmTest('a signal restores the terminal too', () => {
  const seen = onTerminal(kernel('tty', print('$ '), IDLE_FOR_EVER), 'SIGTERM');
  assert.match(seen, /status=143 raw=True restored=True\n$/);
});

kvmTest('a cell that is killed leaves the terminal as it was', () => {
  const seen = onTerminal(kernel('tty', print('$ '), IDLE_FOR_EVER), 'child:SIGKILL');
  assert.match(seen, /faraday: the cell ended by SIGKILL; please report it\r\n/);
  assert.match(seen, /status=5 raw=True restored=True\n$/);
});

// --- Detached -----------------------------------------------------------------------------------

kvmTest('a detached guest runs on without its host, with its output where that went', async () => {
  const output = join(folder, 'detached-output');
  const path = kernel('detached', print('here'), IDLE_FOR_EVER);
  const fd = openSync(output, 'w');
  const { status, stderr } = spawnSync(process.execPath, [FARADAY, '--kernel', path, '--detach'], {
    env: environment,
    stdio: ['ignore', fd, 'pipe'],
    timeout: TIME_LIMIT_MS,
    encoding: 'latin1',
  });
  closeSync(fd);
  assert.is(status, 0, stderr);
  const pid = Number(/^faraday: the guest runs on in process (\d+)\n$/.exec(stderr)?.[1]);
  const settled = async (check: () => boolean) => {
    const end = Date.now() + TIME_LIMIT_MS;
    while (!check() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 50));
    return check();
  };
  try {
    assert.ok(await settled(() => readFileSync(output, 'latin1') === 'here'));
    assert.ok(existsSync(`/proc/${pid}`));
  } finally {
    process.kill(pid, 'SIGTERM');
  }
  const isGone = () => {
    const state = existsSync(`/proc/${pid}`) && readFileSync(`/proc/${pid}/stat`, 'latin1');
    return !state || / Z /.test(state); // nobody may be there to take its status
  };
  assert.ok(await settled(isGone));
});

// --- Bad input: one line, exit code 2, nothing written ------------------------------------------

test('an unknown flag, verb or word is refused with the nearest one', () => {
  assert.match(refusal(['--kernal', 'x']), /unknown option '--kernal'; did you mean '--kernel'\?/);
  assert.match(refusal(['run', '--memroy', '1G']), /did you mean '--memory'\?/);
  assert.match(refusal(['chek']), /unknown command 'chek'; did you mean 'check'\?/);
  assert.match(refusal(['--kernel', hello, '--vsock', '3']), /unknown option '--vsock'/);
  assert.match(refusal(['--kernel']), /'--kernel <kernel>' argument missing/);
  assert.match(refusal(['run', 'vmlinux']), /too many arguments/);
});

test('flags that need another one are refused with its name', () => {
  const two = ['--kernel', hello, '--cpus', '2', '--engine', 'v8'];
  assert.match(refusal(two), /--cpus '2' is more than engine v8/);
  assert.match(refusal(['--kernel', hello, '--net-backend', 'tap']), /add --tap NAME/);
  assert.match(refusal(['--kernel', hello, '-p', '80:80']), /is for --net-backend user/);
});

test('kernels that are none are refused', () => {
  assert.match(refusal(['--kernel', join(folder, 'nothing')]), /nothing/);
  assert.match(refusal(['--kernel', folder]), /folder|directory/);
  assert.match(refusal(['--kernel', file('text', 'hello')]), /text/);
  const whole = tinyKernel(POWER_OFF);
  assert.match(refusal(['--kernel', file('short', whole.subarray(0, 100))]), /short/);
  const arm = whole.slice();
  arm[18] = 183;
  assert.match(refusal(['--kernel', file('arm', arm)]), /ARM/i);
});

test('a kernel whose unpacker is not installed ends the run at once, exit code 3', () => {
  const path = file('packed', bzImage(pack(vmlinux(), 'xz')));
  const { status, stderr } = spawnSync(process.execPath, [FARADAY, '--kernel', path], {
    env: { ...environment, PATH: folder },
    timeout: TIME_LIMIT_MS,
    killSignal: 'SIGKILL',
    encoding: 'latin1',
  });
  assert.match(stderr, /needs the program xz, which is missing.*apt install xz-utils\n$/);
  assert.is(status, 3);
});

test('memory that is too small, no size, or more than the host maps is refused', () => {
  assert.match(refusal(['--kernel', hello, '--memory', '8M']), /at least 16M/);
  assert.match(refusal(['--kernel', hello, '--memory', 'lots']), /'lots' is not a size/);
  assert.match(refusal(['--kernel', hello, '--memory', '4000T']), /'4000T' .* use at most 16T/);
});

kvmTest('memory beyond what the host can map is refused', () => {
  for (const engine of ['cell', 'v8']) {
    const args = ['--kernel', hello, '--memory', '16T', '--engine', engine];
    assert.match(refusal(args), /--memory 16T is more than this host can map/);
  }
});

test('an initrd that does not fit or does not exist is refused', () => {
  const big = file('big', '');
  truncateSync(big, 64 * 2 ** 20);
  const args = ['--kernel', hello, '--memory', '32M', '--initrd'];
  assert.match(refusal([...args, big]), /big.*--memory|--memory.*big/);
  assert.match(refusal([...args, join(folder, 'none')]), /none/);
});

function disk(name: string, bytes: number): string {
  const path = file(name, '');
  truncateSync(path, bytes);
  return path;
}

test('disks that cannot be used are refused, each by name', () => {
  const base = ['--kernel', hello, '--disk'];
  mkdirSync(join(folder, 'dir'), { recursive: true });
  assert.match(refusal([...base, 'path=absent.img']), /'absent\.img' does not exist/);
  assert.match(refusal([...base, 'path=dir']), /'dir' is a directory/);
  assert.match(refusal([...base, 'path=/dev/null']), /neither a regular file nor a block device/);
  assert.match(refusal([...base, `path=${disk('odd', 1000)}`]), /truncate -s 1024/);
  assert.match(refusal([...base, `path=${disk('empty', 0)}`]), /is empty/);
  const twice = disk('twice', 1024);
  const again = [...base, `path=${twice}`, '--disk', `path=${folder}/./twice,ro`];
  assert.match(refusal(again), /is given twice/);
});

test('a disk without rights is refused', () => {
  const path = disk('locked-up', 512);
  spawnSync('chmod', ['000', path]);
  if (process.getuid?.() !== 0) {
    assert.match(refusal(['--kernel', hello, '--disk', `path=${path}`]), /may not be written/);
    return;
  }
  // Root may open anything; an immutable or read-only place is what stops even root.
  const message = refusal(['--kernel', hello, '--disk', 'path=/sys/kernel/notes']);
  assert.match(message, /notes' (may not|is empty|has)/);
});

test('a disk another Faraday writes is refused; two readers are not', () => {
  const path = disk('shared', 1024);
  const fd = openSync(path, 'r+');
  assert.ok(shim().lockFile(fd, true));
  assert.match(refusal(['--kernel', hello, '--disk', `path=${path},ro`]), /is locked/);
  closeSync(fd);
  const reader = openSync(path, 'r');
  assert.ok(shim().lockFile(reader, false));
  assert.match(refusal(['--kernel', hello, '--disk', `path=${path}`]), /is locked/);
  closeSync(reader);
});

test('a configuration file with a mistake is refused', () => {
  const path = file('vm.json', '{"kernel": "k", "memmory": "1G"}');
  assert.match(refusal(['--config', path]), /unknown key 'memmory'; did you mean 'memory'\?/);
});

test('a report that cannot be written is refused before the guest starts', () => {
  assert.match(refusal(['--kernel', hello, '--report', folder]), /is a directory/);
  assert.match(refusal(['--kernel', hello, '--report', '/nonexistent/r']), /ENOENT/);
});

test('too many disks for the interrupt pins are refused with the limit', () => {
  const disks = Array.from({ length: 16 }, (_, i) => ['--disk', `path=${disk(`d${i}`, 512)}`]);
  assert.match(refusal(['--kernel', hello, ...disks.flat()]), /16/);
});

test('mistakes leave nothing behind: no store, no half-written file', () => {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  const left = names.filter((name) => /\.tmp|^\.local|tmp-/.test(name));
  assert.equal(left, []);
});

// --- Help and documentation ---------------------------------------------------------------------

test('help and version go to standard output with exit code 0', () => {
  const help = faraday(['--help']);
  assert.is(help.status, 0);
  assert.match(help.stdout, /Usage: faraday/);
  assert.match(faraday(['run', '--help']).stdout, /--kernel <kernel>/);
  assert.match(faraday(['--version']).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('check prints a line for each thing it looks at, and JSON on demand', () => {
  const plain = faraday(['check']);
  assert.match(plain.stdout, /\/dev\/kvm/);
  assert.match(plain.stdout, /Landlock/);
  const { canRun, lines } = JSON.parse(faraday(['check', '--json']).stdout);
  assert.is(plain.status, canRun ? 0 : 3);
  assert.ok(lines.length >= 6);
});

test('docs/cli.md has every flag with its description, and no other', async () => {
  const page = readFileSync(new URL('../docs/cli.md', import.meta.url), 'utf8');
  const program = await buildProgram();
  const commands = program.commands.flatMap((command) => [command, ...command.commands]);
  const rows = commands
    .flatMap((command) => command.options)
    .map((option) => `| \`${option.flags}\` | ${option.description} |`);
  assert.equal(
    rows.filter((row) => !page.includes(row)),
    [],
  );
  const documented = page.match(/^\| `--.*$/gm) ?? [];
  assert.equal(
    documented.filter((row) => !rows.includes(row)),
    [],
  );
  assert.ok(existsSync(FARADAY));
});

test.run();
