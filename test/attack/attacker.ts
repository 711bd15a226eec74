// Runs one attack in one cell of the attack build, started as a host starts it, and says what came
// of it.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { imageBeside } from '../../host/boot/image-bytes.ts';
import { type CellConfinement, readConfined, readViolation } from '../../host/confine/confined.ts';
import { type Message, MessageReader } from '../../host/engine/cell-messages.ts';
import { type CellEnd, CellProcess } from '../../host/engine/cell-process.ts';
import { COMMAND_BYTES } from '../../host/engine/cell-protocol.ts';
import { CHILD_CONTROL, CHILD_NULL, shim } from '../../host/shim.ts';
import { writeImage } from '../../host/write-image.ts';
import { REPOSITORY } from '../../tools/cache.ts';
import { type TestDisk, testDisk, WINDOW } from '../cell-disk.ts';
import { bareImage, scratchFolder, scratchPath, within } from '../cell-guest.ts';
import type { Code } from '../machine-code.ts';
import { ATTACK_NAMES, LAYERS, type Layer } from './attacks.ts';
import { buildAttack } from './build-attack.ts';
import { tinyProgram } from './tiny-program.ts';

export const ATTACK_PORT = 0x3e0; // a guest writes the number of an attack there
const ATTACK_COMMAND = 1000; // and the number of an attack: a command of the host
const VICTIM = new URL('./victim.py', import.meta.url).pathname;
const ERRORS_BYTES = 4096;
const BLOCK_BYTES = 4096;

export type Thread = 'vcpu' | 'io';
export type Switches = Record<Layer, boolean>;

export const ALL_ON: Switches = switches((layer) => LAYERS.includes(layer));

export function switches(on: (layer: Layer) => boolean): Switches {
  return Object.fromEntries(LAYERS.map((layer) => [layer, on(layer)])) as Switches;
}

// SETGID, SETUID, SETPCAP, SYS_PTRACE, SYS_ADMIN: root in a container may lack them.
const CAPABILITIES = [6, 7, 8, 19, 21];

/** Root, with the rights that an attack needs to succeed and a layer to be made. */
export const isRoot = ((): boolean => {
  const held = /^CapEff:\s+(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1];
  const has = (bit: number) => ((BigInt(`0x${held}`) >> BigInt(bit)) & 1n) === 1n;
  return process.geteuid!() === 0 && CAPABILITIES.every(has);
})();

/** The cell's words for these switches; the attack build knows more of them than the release. */
function words(on: Switches): string[] {
  return [
    ...['--seccomp', on.seccomp ? 'enforce' : 'off'],
    ...['--landlock', on.landlock ? 'auto' : 'off'],
    ...['--namespaces', on.namespaces ? 'auto' : 'off'],
    // Whoever is no root has no rights to keep, and the kernel wants no_new_privs of them.
    ...(on.user || !isRoot ? [] : ['--user', '0:0', '--attack:off=rights']),
    ...(on.limits ? [] : ['--attack:off=limits']),
  ];
}

// --- What an attacker knows ---------------------------------------------------------------------

export interface World {
  program: string;
  words: string[];
  disks: TestDisk[];
  end(): void;
}

/** Something readable in this process. */
function readableAddress(): string {
  const line = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .find((text) => / r/.test(text));
  return `0x${line!.split('-')[0]}`;
}

/** A program that anybody may execute. */
function publicProgram(): string {
  const folder = scratchFolder();
  chmodSync(folder, 0o755);
  writeFileSync(`${folder}/program`, tinyProgram('attack execve: OK\n'));
  chmodSync(`${folder}/program`, 0o755);
  return `${folder}/program`;
}

/** Builds the attacker, and starts what it is to reach for. */
export async function prepareWorld(): Promise<World> {
  const program = await buildAttack();
  const socket = scratchPath('socket');
  const victim = spawn('python3', [VICTIM, socket], { stdio: ['pipe', 'pipe', 'inherit'] });
  const [line] = await once(createInterface(victim.stdout), 'line');
  const where: Record<string, string | number> = {
    ...JSON.parse(line),
    program: publicProgram(),
    ...{ socket, victim: victim.pid!, parent: process.pid, address: readableAddress() },
  };
  const slot = { address: WINDOW + BLOCK_BYTES, pin: 6 };
  const disks = [testDisk(), testDisk({ readOnly: true, id: 'readonly', slot })];
  return {
    program,
    words: Object.entries(where).map(([name, value]) => `--attack:${name}=${value}`),
    disks,
    end: () => {
      victim.stdin.end();
      for (const disk of disks) disk.close();
    },
  };
}

// --- One run ------------------------------------------------------------------------------------

export interface Plan {
  name: string;
  thread: Thread;
  on: Switches;
  ring?: 'restricted' | 'unrestricted'; // the writable disk is served by io_uring
  atEnd?: boolean; // once the guest is over
  sendDescriptor?: boolean; // the host sends one
  seccomp?: 'log';
  landlockAbi?: number; // as if the kernel had no later one
  disks?: TestDisk[];
}

export interface AttackEnd extends CellEnd {
  outcome: string; // as in attacks.ts
  thread: string | null; // that the host was told of
  errors: string;
  confinement: CellConfinement | null;
  messages: Message[];
  nonsense: string | null; // what is wrong with its messages
}

function guest({ name, thread, atEnd }: Plan): (code: Code) => void {
  const number = ATTACK_NAMES.indexOf(name);
  if (thread === 'io' && !atEnd) return (code) => code.idle();
  return (code) => (atEnd ? code : code.out(ATTACK_PORT, number)).powerOff();
}

/** A descriptor of the image, and those of the files that it refers to. */
function imageFiles(plan: Plan, world: World): number[] {
  const disks = plan.disks ?? world.disks;
  const virtio = disks.map(({ device }) => {
    return { ...device, ioUring: plan.ring !== undefined && !device.readOnly };
  });
  const bytes = imageBeside(bareImage(guest(plan), { virtio }));
  const path = scratchPath('attacked');
  const fd = openSync(path, 'wx+');
  rmSync(path);
  writeImage(fd, bytes);
  return [fd, ...bytes.files.map((file) => ('fd' in file ? file.fd : -1))];
}

function cellWords(plan: Plan, world: World, folder: string): string[] {
  const number = ATTACK_NAMES.indexOf(plan.name);
  return [
    ...[world.program, '--spawned', ...words(plan.on), ...world.words],
    ...(plan.seccomp ? ['--seccomp', plan.seccomp] : []),
    `--attack:folder=${folder}`,
    ...(plan.landlockAbi ? [`--attack:version=${plan.landlockAbi}`] : []),
    ...(plan.ring === 'unrestricted' ? ['--attack:off=ring'] : []),
    ...(plan.atEnd ? [`--attack:at-end=${number}`] : []),
    ...(plan.sendDescriptor && plan.thread === 'vcpu' ? ['--attack:taking=1'] : []),
  ];
}

function attackCommand(name: string): Buffer {
  const command = Buffer.alloc(COMMAND_BYTES);
  command.writeUInt32LE(ATTACK_COMMAND + ATTACK_NAMES.indexOf(name));
  return command;
}

/** 'OK', an errno, 'kill', 'trap openat', or what is not foreseen. */
function outcomeOf(plan: Plan, end: Omit<AttackEnd, 'outcome'>): string {
  const violation = end.messages.find((message) => message.type === 'violation');
  const line = new RegExp(`^attack ${plan.name}: (\\w+)$`, 'm').exec(end.errors)?.[1];
  if (violation?.type === 'violation') {
    const ended = end.status === 5 && line === undefined;
    const what = `${end.status} ${end.signal} ${line}`;
    return ended ? `trap ${readViolation(violation.record).call}` : `trap, but ${what}`;
  }
  if (end.signal === 'SIGSYS' && line === undefined) return 'kill';
  const failed = end.messages.find((message) => message.type === 'failed');
  if (failed?.type === 'failed') return `not started: ${JSON.stringify(failed.failure)}`;
  return line ?? end.signal ?? `nothing said, status ${end.status}: ${end.errors}`;
}

function collect(child: CellProcess, plan: Plan): Promise<Omit<AttackEnd, 'outcome' | 'errors'>> {
  const reader = new MessageReader();
  const messages: Message[] = [];
  let nonsense: string | null = null;
  const take = (chunk: Uint8Array) => {
    try {
      const fresh = [...reader.push(chunk)];
      messages.push(...fresh);
      const started = fresh.some((message) => message.type === 'started');
      const orders = plan.thread === 'io' && !plan.atEnd && !plan.sendDescriptor;
      if (started && orders) child.send(attackCommand(plan.name));
    } catch (error) {
      nonsense ??= (error as Error).message;
      child.kill('SIGKILL');
    }
  };
  return new Promise((resolve) => {
    child.listen({
      data: take,
      hungUp: () => {},
      ended: (end) => {
        const confined = messages.find((message) => message.type === 'confined');
        const violation = messages.find((message) => message.type === 'violation');
        resolve({
          ...{ ...end, messages, nonsense },
          thread: violation?.type === 'violation' ? readViolation(violation.record).thread : null,
          confinement: confined?.type === 'confined' ? readConfined(confined.record) : null,
        });
      },
    });
  });
}

/** Starts the cell, with `errors` as its standard error. */
export function startAttacked(plan: Plan, world: World, folder: string, errors: number) {
  const kvm = openSync('/dev/kvm', 'r+');
  const [image, ...files] = imageFiles(plan, world);
  const streams = [CHILD_NULL, CHILD_NULL, errors, CHILD_CONTROL];
  const passed = [...streams, image!, kvm, ...files];
  try {
    return shim().startChild(cellWords(plan, world, folder), passed, false, plan.on.namespaces);
  } finally {
    for (const fd of [kvm, image!]) closeSync(fd);
  }
}

export async function attack(plan: Plan, world: World): Promise<AttackEnd> {
  const folder = scratchPath('run');
  mkdirSync(folder);
  writeFileSync(`${folder}/secret`, 'secret', { mode: 0o600 });
  const errors = openSync(`${folder}/errors`, 'wx+');
  const started = startAttacked(plan, world, folder, errors);
  const child = new CellProcess(started);
  if (plan.sendDescriptor) {
    const before = plan.thread === 'io' ? attackCommand(plan.name).toString('hex') : '';
    const stdio = ['ignore', 'ignore', 'inherit', started.control] as const;
    spawnSync('python3', [VICTIM, '--send-descriptor', before], { stdio: [...stdio] });
  }
  const what = `${plan.name} on ${plan.thread}`;
  try {
    const end = await within(collect(child, plan), what);
    const buffer = Buffer.alloc(ERRORS_BYTES);
    const text = buffer.toString('latin1', 0, readSync(errors, buffer, 0, ERRORS_BYTES, 0));
    const known = { ...end, errors: text };
    return { ...known, outcome: outcomeOf(plan, known) };
  } finally {
    child.kill('SIGKILL');
    closeSync(errors);
    rmSync(folder, { recursive: true });
  }
}

// --- The whole command ---------------------------------------------------------------------------

/** Faraday as it is installed, but with the attack build for its cell. */
export function installFaraday(world: World): string {
  const root = REPOSITORY;
  const folder = scratchPath('installed');
  mkdirSync(join(folder, 'build'), { recursive: true });
  for (const name of ['bin', 'package.json']) {
    cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  for (const name of readdirSync(join(root, 'build'))) {
    symlinkSync(join(root, 'build', name), join(folder, 'build', name));
  }
  rmSync(join(folder, 'build/faraday-cell'));
  symlinkSync(world.program, join(folder, 'build/faraday-cell'));
  return join(folder, 'bin/faraday.js');
}
