// What a run needs, validated once at the edge into one frozen object: below it types are trusted.
// Flags and the JSON file of --config use the same names; a flag wins over the file.
import { type ConfineConfig, toConfineConfig } from './confine-config.ts';
import { checkDisk, type DiskConfig, toDisks } from './disk-config.ts';
import type { FaradayError } from './errors.ts';
import { checkNet, type NetBackend, type NetRequest, toNets } from './net-config.ts';
import { checkText, oneOf, type RawSettings, shown, unknownKey, usage } from './settings.ts';
import { formatSize, parseSize } from './size.ts';
import { readSmallFile } from './small-file.ts';

export const MEMORY_MIN_BYTES = 16 * 2 ** 20;
export const MEMORY_MAX_BYTES = 16 * 2 ** 40; // of a machine image
const PAGE_BYTES = 4096;
const CPUS_MAX = 32;

export const ENGINES = ['cell', 'v8'] as const;
export const HUGE_PAGES = ['off', 'transparent', '2M'] as const;
export const ENTRIES = ['auto', 'pvh', 'linux64'] as const;
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;

export interface RunConfig {
  kernel: string; // a path, or a name in the store
  initrd?: string;
  disks: readonly DiskConfig[]; // the root file system first, where there is one
  hasRoot: boolean;
  memoryBytes: number;
  hugePages: (typeof HUGE_PAGES)[number];
  prefault: boolean; // touch all of guest RAM before the guest starts
  cpus: number;
  cmdline?: string; // appended to the default
  cmdlineReplace?: string; // instead of the default
  entry: (typeof ENTRIES)[number];
  bootTimer: boolean;
  engine: (typeof ENGINES)[number];
  netBackend: NetBackend;
  nets: readonly NetRequest[];
  logLevel: (typeof LOG_LEVELS)[number];
  report?: string;
  record?: string; // every call into every cage goes to this file
  detach: boolean; // leave the guest running in a process of its own
  confine: Readonly<ConfineConfig>;
  configFile?: string; // where settings were read from
}

type Kind = 'string' | 'strings' | 'integer' | 'boolean' | 'disk' | 'disks' | 'nets';

/** Every setting a configuration file may hold. */
export const SETTINGS: Record<string, Kind> = {
  kernel: 'string',
  initrd: 'string',
  rootfs: 'disk',
  disk: 'disks',
  memory: 'string',
  'huge-pages': 'string',
  prefault: 'boolean',
  cpus: 'integer',
  cmdline: 'string',
  'cmdline-replace': 'string',
  entry: 'string',
  'net-backend': 'string',
  net: 'nets',
  tap: 'string',
  mac: 'string',
  publish: 'strings',
  'boot-timer': 'boolean',
  engine: 'string',
  'log-level': 'string',
  report: 'string',
  record: 'string',
  detach: 'boolean',
  seccomp: 'string',
  'no-seccomp': 'boolean',
  landlock: 'string',
  'no-landlock': 'boolean',
  'landlock-rules': 'strings',
  'landlock-allow-path': 'strings',
  namespaces: 'string',
  user: 'string',
};

function checkSetting(field: string, kind: Kind, value: unknown): void {
  if (kind === 'disk') return checkDisk(field, value);
  if (kind === 'strings') {
    const all = Array.isArray(value) && value.every((item) => typeof item === 'string');
    if (!all) throw usage(`${field} must be a list of strings, not ${shown(value)}`);
    return;
  }
  if (kind === 'disks' || kind === 'nets') {
    const [what, check] = kind === 'disks' ? ['disks', checkDisk] : ['networks', checkNet];
    if (!Array.isArray(value)) {
      throw usage(`${field} must be a list of ${what}, not ${shown(value)}`);
    }
    return value.forEach((item, i) => {
      check(`${field}[${i}]`, item);
    });
  }
  const fits = kind === 'integer' ? Number.isInteger(value) : typeof value === kind;
  const wanted = kind === 'integer' ? 'a whole number' : `a ${kind}`;
  if (!fits) throw usage(`${field} must be ${wanted}, not ${shown(value)}`);
}

function configText(path: string): string {
  let text: string | null;
  try {
    text = readSmallFile(path);
  } catch (error) {
    throw usage(`--config '${path}' cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  if (text === null)
    throw usage(`--config '${path}' is no file of at most 1 MiB; name a JSON file`);
  if (text === '') throw usage(`--config '${path}' is empty; write one JSON object into it`);
  return text.replace(/^\ufeff/, ''); // the mark some editors put at the start
}

/** Reads and type-checks the file of --config. */
export function readConfigFile(path: string): RawSettings {
  const text = configText(path);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    const reason = (error as Error).message.replace(/\s+/g, ' ').slice(0, 120);
    throw usage(`--config '${path}' is not JSON: ${reason}`);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw usage(`--config '${path}' must hold one JSON object, such as {"kernel": "vmlinux"}`);
  }
  const settings = parsed as RawSettings;
  for (const [key, value] of Object.entries(settings)) {
    if (!Object.hasOwn(SETTINGS, key))
      throw unknownKey(`--config '${path}'`, key, Object.keys(SETTINGS));
    checkSetting(`--config '${path}': '${key}'`, SETTINGS[key], value);
  }
  return settings;
}

function toMemory(text: string): number {
  const bytes = parseSize('--memory', text);
  if (bytes < MEMORY_MIN_BYTES) {
    throw usage(
      `--memory '${text}' is too small; at least ${formatSize(MEMORY_MIN_BYTES)} is needed`,
    );
  }
  if (bytes > MEMORY_MAX_BYTES) {
    const limit = formatSize(MEMORY_MAX_BYTES);
    throw usage(`--memory '${text}' is more than a guest may have; use at most ${limit}`);
  }
  if (bytes % PAGE_BYTES !== 0) throw usage(`--memory '${text}' is not a multiple of 4 KiB`);
  return bytes;
}

function toCpus(value: number, engine: string): number {
  if (!Number.isInteger(value) || value < 1 || value > CPUS_MAX) {
    throw usage(`--cpus '${value}' must be a whole number from 1 to ${CPUS_MAX}`);
  }
  if (engine === 'v8' && value !== 1) {
    throw usage(`--cpus '${value}' is more than engine v8 can run; use --cpus 1 or --engine cell`);
  }
  return value;
}

function optionalText(settings: RawSettings, key: string): string | undefined {
  const value = settings[key] as string | undefined;
  return value === undefined ? undefined : checkText(`--${key}`, value);
}

function toHugePages(settings: RawSettings): RunConfig['hugePages'] {
  return oneOf('--huge-pages', (settings['huge-pages'] as string) ?? 'transparent', HUGE_PAGES);
}

/** The reference engine runs everything on one thread of Node, which is not for every setting. */
function checkForV8(
  settings: RawSettings,
  disks: readonly DiskConfig[],
  netBackend: NetBackend,
): void {
  const needsCell = (what: string, otherwise: string): FaradayError => {
    return usage(`${what} is not for engine v8; use --engine cell${otherwise}`);
  };
  for (const { id, ioUring } of disks) {
    if (ioUring) throw needsCell(`io-engine=io_uring of disk ${id}`, ' or io-engine=sync');
  }
  if (netBackend !== 'none') {
    throw needsCell(`--net-backend ${netBackend}`, ' or leave it out');
  }
  const hugePages = settings['huge-pages'];
  if (hugePages !== undefined && hugePages !== 'transparent') {
    throw needsCell(`--huge-pages '${hugePages}'`, ' or leave it out');
  }
  for (const flag of ['prefault', 'detach']) {
    if (settings[flag] === true) throw needsCell(`--${flag}`, ' or leave it out');
  }
  // What confines a cell, where there is none.
  const { user, namespaces, seccomp } = settings;
  if (user !== undefined) throw needsCell(`--user '${user}'`, ' or leave it out');
  if (namespaces === 'required') throw needsCell('--namespaces required', ' or --namespaces auto');
  if (seccomp === 'log') throw needsCell('--seccomp log', ' or leave it out');
}

function checkRecord(settings: RawSettings): void {
  if (settings.record === undefined) return;
  // Nobody would be there to say that it could not be written.
  if (settings.detach === true) throw usage('--detach and --record exclude each other; keep one');
  if (settings.record === settings.report) {
    throw usage(`--record and --report are both '${settings.record}'; name two files`);
  }
}

/** Turns checked raw settings into the configuration everything below trusts. */
export function toRunConfig(settings: RawSettings, configFile?: string): Readonly<RunConfig> {
  if (settings.kernel === undefined) {
    throw usage(
      "--kernel is missing; name a vmlinux, a bzImage or a stored kernel ('faraday kernel list')",
    );
  }
  if (settings.cmdline !== undefined && settings['cmdline-replace'] !== undefined) {
    throw usage('--cmdline and --cmdline-replace exclude each other; keep one');
  }
  const engine = oneOf('--engine', (settings.engine as string) ?? 'cell', ENGINES);
  const disks = toDisks(settings);
  const cpus = toCpus((settings.cpus as number) ?? 1, engine);
  const { netBackend, nets } = toNets(settings, cpus);
  if (engine === 'v8') checkForV8(settings, disks, netBackend);
  checkRecord(settings);
  if (settings.detach === true && settings.report !== undefined) {
    throw usage('--detach and --report exclude each other; keep one');
  }
  return Object.freeze({
    kernel: checkText('--kernel', settings.kernel as string),
    initrd: optionalText(settings, 'initrd'),
    disks: Object.freeze(disks),
    hasRoot: settings.rootfs !== undefined,
    memoryBytes: toMemory((settings.memory as string) ?? '128M'),
    hugePages: toHugePages(settings),
    prefault: settings.prefault === true,
    cpus,
    cmdline: settings.cmdline as string | undefined,
    cmdlineReplace: settings['cmdline-replace'] as string | undefined,
    entry: oneOf('--entry', (settings.entry as string) ?? 'auto', ENTRIES),
    bootTimer: settings['boot-timer'] === true,
    engine,
    netBackend,
    nets,
    logLevel: oneOf('--log-level', (settings['log-level'] as string) ?? 'warn', LOG_LEVELS),
    report: optionalText(settings, 'report'),
    record: optionalText(settings, 'record'),
    detach: settings.detach === true,
    confine: Object.freeze(toConfineConfig(settings)),
    configFile,
  });
}
