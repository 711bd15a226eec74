// The nested lab: runs a command in an emulated AMD-V host with a real /dev/kvm (docs/lab.md).
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FaradayError } from '../../host/errors.ts';
import { REPOSITORY } from '../../tools/cache.ts';
import { findCommand, fullPath } from '../../tools/command.ts';
import { type HostImage, hostImage } from './host-image.ts';
import { splitStream } from './stream.ts';

export interface LabOptions {
  command: string[];
  memoryMiB?: number; // of the emulated host; 4096
  cpus?: number; // emulated; 1, see docs/lab.md before you raise it
  timeoutSeconds?: number; // for the command, without the lab's own start; 240
  workFolder?: string; // shared read-write; the current folder
  environment?: Record<string, string>; // the command's, beside PATH, HOME, TERM, FARADAY_LAB
  input?: string | Uint8Array; // the command's standard input; empty
  onOutput?: (bytes: Uint8Array) => void; // live; starts again from nothing after a death
  deathExpected?: boolean; // do not count it: a test of the lab itself
  onNote?: (text: string) => void; // what the lab itself has to say
}

export interface LabResult {
  status: number; // the command's exit status; -1 when the lab died
  output: string; // standard output and error, as they came
  timedOut: boolean; // the command was stopped at its time limit
  labDied: boolean; // twice: there is no result
  deaths: number; // 0, 1 or 2
  kernelLog: string; // the emulated host's last kernel messages
}

const START_SECONDS = 90; // to the command's start; some three on an idle machine
const GRACE_SECONDS = 30; // the emulated host stops a command at its limit; then we stop the host
const SILENCE_SECONDS = 60; // it says that it is alive every five: then it is frozen
const LOG_LINES = 12;
const ATTEMPTS = 2;
const PANIC = /Kernel panic.*|BUG: .*|Oops: .*/;

/** Every death of a lab is a line of this file: the test runner counts them. */
export const DEATHS_LOG = join(REPOSITORY, 'build/lab/deaths.log');

const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

function writeJob(folder: string, image: HostImage, nonce: string, options: LabOptions): void {
  const work = options.workFolder ?? process.cwd();
  const limit = options.timeoutSeconds ?? 240;
  const job = { WORK: work, MODULES: image.modules, NONCE: nonce, LIMIT: String(limit) };
  const assignments = Object.entries(job).map(([name, value]) => `${name}=${quote(value)}\n`);
  writeFileSync(join(folder, 'job.sh'), assignments.join(''));
  const environment = Object.entries({ PATH: fullPath(), ...options.environment });
  const exports = environment.map(([name, value]) => `export ${name}=${quote(value)}\n`);
  const command = options.command.map(quote).join(' ');
  const script = `${exports.join('')}cd ${quote(work)} || exit 97\n${command}\n`;
  writeFileSync(join(folder, 'command'), script);
  writeFileSync(join(folder, 'input'), options.input ?? '');
}

function qemuArguments(job: string, image: HostImage, options: LabOptions): string[] {
  const share = (tag: string, path: string, more: string) => [
    '-virtfs',
    // A comma in a path is written twice in QEMU's option strings.
    `local,mount_tag=${tag},path=${path.replaceAll(',', ',,')},security_model=none,${more}`,
  ];
  // Not with its check of the timer: on a busy machine it finds none, and panics.
  const kernelLine =
    'console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check mitigations=off ' +
    'lsm=landlock,yama cryptomgr.notests';
  return [
    // Not without XSAVE, though QEMU 7.2 has its flaws (docs/lab.md): Node dies of it in the lab.
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'max'],
    ...['-smp', String(options.cpus ?? 1), '-m', String(options.memoryMiB ?? 4096)],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ...['-kernel', image.vmlinux, '-initrd', image.initramfs, '-append', kernelLine],
    ...['-serial', `file:${join(job, 'kernel.log').replaceAll(',', ',,')}`],
    ...['-device', 'virtio-serial-pci', '-chardev', 'stdio,id=output,signal=off'],
    ...['-device', 'virtserialport,chardev=output,name=output'],
    ...share('root', '/', 'multidevs=remap,readonly=on'),
    ...share('work', options.workFolder ?? process.cwd(), 'multidevs=remap'),
    ...share('job', job, 'multidevs=remap,readonly=on'),
  ];
}

interface Attempt {
  status: number | undefined; // undefined: the lab died
  timedOut: boolean;
  output: string;
  death: string; // why, in a few words
}

/** Starts QEMU and follows it to the status mark, its own end or a time limit. */
function attempt(args: string[], nonce: string, options: LabOptions): Promise<Attempt> {
  // setpriv makes the kernel end QEMU when we end, however we end.
  // Its standard input stays open: at its end QEMU would take the port for unplugged.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, PATH: fullPath() },
  });
  const result: Attempt = { status: undefined, timedOut: false, output: '', death: '' };
  const decoder = new TextDecoder();
  let complaint = '';
  const stop = (death: string) => {
    result.death ||= death;
    child.kill('SIGKILL');
  };
  let limit = setTimeout(() => stop('no sign of life'), START_SECONDS * 1000);
  let silence: NodeJS.Timeout | undefined;
  const onMark = (text: string) => {
    clearTimeout(silence);
    silence = setTimeout(() => stop('it froze'), SILENCE_SECONDS * 1000);
    if (text === 'alive') return;
    clearTimeout(limit);
    if (text === 'started') {
      const seconds = (options.timeoutSeconds ?? 240) + GRACE_SECONDS;
      limit = setTimeout(() => stop('it hangs'), seconds * 1000);
      return;
    }
    const [status, late] = text.split(' ');
    result.status = Number(status);
    result.timedOut = late === 'late';
    stop('');
  };
  const onOutput = (bytes: Uint8Array) => {
    result.output += decoder.decode(bytes, { stream: true });
    options.onOutput?.(bytes);
  };
  child.stdout.on('data', splitStream(nonce, { onOutput, onMark }));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = text.trim().split('\n').at(-1) ?? complaint;
  });
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new FaradayError('host', `lab: ${error.message}`)));
    child.once('close', () => {
      clearTimeout(limit);
      clearTimeout(silence);
      result.death ||= complaint || 'the emulated host ended by itself';
      resolve(result);
    });
  });
}

/** The kernel's last messages, and before them the first one that tells of its end. */
function lastKernelLines(job: string): string {
  try {
    const text = readFileSync(join(job, 'kernel.log'), 'utf8').replaceAll('\r', '').trim();
    const last = text.split('\n').slice(-LOG_LINES);
    const panic = PANIC.exec(text)?.[0];
    return [...(panic ? [panic] : []), ...last].join('\n');
  } catch {
    return ''; // QEMU did not get as far as opening it.
  }
}

function recordDeath(death: string, kernelLog: string, job: string): void {
  mkdirSync(join(REPOSITORY, 'build/lab'), { recursive: true });
  if (existsSync(join(job, 'kernel.log'))) {
    cpSync(join(job, 'kernel.log'), join(REPOSITORY, 'build/lab/kernel.log'));
  }
  const log = kernelLog.replaceAll('\n', ' | ');
  appendFileSync(DEATHS_LOG, `${new Date().toISOString()} ${death}: ${log}\n`);
}

/**
 * Runs a command in the nested lab and returns its status and output. A lab that dies is started
 * once more; when that dies too, `labDied` says so and nothing is known about the command. Throws a
 * FaradayError of code 'host' when the lab cannot be started at all.
 */
export async function runInLab(options: LabOptions): Promise<LabResult> {
  if (!findCommand('qemu-system-x86_64')) {
    throw new FaradayError(
      'host',
      'lab: qemu-system-x86_64 is missing: install the package qemu-system-x86',
    );
  }
  const image = await hostImage(() => options.onNote?.('making the kernel of the lab, once'));
  const job = mkdtempSync(join(tmpdir(), 'faraday-lab-'));
  const removeJob = () => rmSync(job, { recursive: true, force: true });
  process.once('exit', removeJob);
  try {
    const nonce = randomBytes(12).toString('hex');
    writeJob(job, image, nonce, options);
    const args = qemuArguments(job, image, options);
    for (let deaths = 0; ; ) {
      const { status, output, timedOut, ...end } = await attempt(args, nonce, options);
      const kernelLog = lastKernelLines(job);
      if (status !== undefined) {
        return { status, output, timedOut, labDied: false, deaths, kernelLog };
      }
      const death = PANIC.exec(kernelLog)?.[0] ?? end.death;
      deaths += 1;
      if (!options.deathExpected) {
        recordDeath(death, kernelLog, job);
      }
      if (deaths === ATTEMPTS) {
        return { status: -1, output, timedOut, labDied: true, deaths, kernelLog };
      }
      options.onNote?.(`the lab died (${death}): starting it again`);
    }
  } finally {
    process.off('exit', removeJob);
    removeJob();
  }
}
