// What a run needs, validated once at the edge into one frozen object: below it types are trusted.
// Flags and the JSON file of --config use the same names; a flag wins over the file.
import { FaradayError } from './errors.ts';
import { formatSize, parseSize } from './size.ts';
import { readSmallFile } from './small-file.ts';
import { nearest } from './suggest.ts';

export const MEMORY_MIN_BYTES = 16 * 2 ** 20;
const PAGE_BYTES = 4096;
const CPUS_MAX = 32;

export const ENGINES = ['v8'] as const;
export const ENTRIES = ['auto', 'pvh', 'linux64'] as const;
export const NET_BACKENDS = ['none'] as const;
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;

export interface DiskConfig {
  path: string;
  readOnly: boolean;
  id: string;
}

export interface RunConfig {
  kernel: string; // a path, or a name in the store
  initrd?: string;
  disks: readonly DiskConfig[]; // the root file system first, where there is one
  hasRoot: boolean;
  memoryBytes: number;
  cpus: number;
  cmdline?: string; // appended to the default
  cmdlineReplace?: string; // instead of the default
  entry: (typeof ENTRIES)[number];
  bootTimer: boolean;
  engine: (typeof ENGINES)[number];
  netBackend: (typeof NET_BACKENDS)[number];
  logLevel: (typeof LOG_LEVELS)[number];
  report?: string;
  configFile?: string; // where settings were read from
}

/** The raw settings, by the name they have on the command line without its dashes. */
export type RawSettings = Record<string, unknown>;

type Kind = 'string' | 'integer' | 'boolean' | 'disk' | 'disks';

/** Every setting a configuration file may hold. */
export const SETTINGS: Record<string, Kind> = {
  kernel: 'string',
  initrd: 'string',
  rootfs: 'disk',
  disk: 'disks',
  memory: 'string',
  cpus: 'integer',
  cmdline: 'string',
  'cmdline-replace': 'string',
  entry: 'string',
  'net-backend': 'string',
  'boot-timer': 'boolean',
  engine: 'string',
  'log-level': 'string',
  report: 'string',
};

const DISK_KEYS: Record<string, 'string' | 'boolean'> = {
  path: 'string',
  ro: 'boolean',
  id: 'string',
};

function usage(message: string): FaradayError {
  return new FaradayError('bad-usage', message);
}

function unknownKey(where: string, key: string, known: Iterable<string>): FaradayError {
  const meant = nearest(key, known);
  return usage(`${where} has an unknown key '${key}'${meant ? `; did you mean '${meant}'?` : ''}`);
}

/** Splits 'a,b,,c' at single commas; a doubled comma stands for one in the text. */
function splitCommas(text: string): string[] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
}

/** `--rootfs PATH[,ro]`. */
export function parseRootfsFlag(text: string): RawSettings {
  const [path, ...options] = splitCommas(text);
  for (const option of options) {
    if (option !== 'ro')
      throw usage(`--rootfs option '${option}' is unknown; only ',ro' may follow the path`);
  }
  return { path, ro: options.length > 0 };
}

/** `--disk path=...[,ro][,id=...]`. */
export function parseDiskFlag(text: string): RawSettings {
  const disk: RawSettings = {};
  for (const part of splitCommas(text)) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (!Object.hasOwn(DISK_KEYS, key)) {
      const hint = at < 0 && Object.keys(disk).length === 0 ? `; write path=${part}` : '';
      throw usage(`--disk option '${key}' is unknown; known are path=, ro, id=${hint}`);
    }
    if (at < 0 !== (DISK_KEYS[key] === 'boolean')) {
      throw usage(
        `--disk option '${part}' is malformed; write ${key === 'ro' ? 'ro' : `${key}=VALUE`}`,
      );
    }
    if (Object.hasOwn(disk, key)) throw usage(`--disk names '${key}' twice`);
    disk[key] = at < 0 ? true : part.slice(at + 1);
  }
  return disk;
}

/** A value of a configuration file for a message: a list or an object may hold anything. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  return JSON.stringify(value);
}

function checkDisk(field: string, value: unknown): void {
  if (typeof value === 'string') return;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw usage(`${field} must be a path or an object such as {"path": "disk.img", "ro": true}`);
  }
  for (const [key, item] of Object.entries(value)) {
    if (!Object.hasOwn(DISK_KEYS, key)) throw unknownKey(field, key, Object.keys(DISK_KEYS));
    if (typeof item !== DISK_KEYS[key]) {
      throw usage(`${field}: '${key}' must be a ${DISK_KEYS[key]}, not ${shown(item)}`);
    }
  }
}

function checkSetting(field: string, kind: Kind, value: unknown): void {
  if (kind === 'disk') return checkDisk(field, value);
  if (kind === 'disks') {
    if (!Array.isArray(value)) throw usage(`${field} must be a list of disks, not ${shown(value)}`);
    return value.forEach((item, i) => {
      checkDisk(`${field}[${i}]`, item);
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

function oneOf<T extends string>(field: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((item) => item === value);
  if (found) return found;
  const known = `known ${allowed.length > 1 ? 'are' : 'is'} ${allowed.join(', ')}`;
  throw usage(`${field} '${value}' is unknown; ${known}`);
}

/** A path or id from outside: never empty, no NUL (the kernel would cut it there). */
function checkText(field: string, value: string): string {
  if (value === '') throw usage(`${field} is empty`);
  if (value.includes('\0')) throw usage(`${field} contains a NUL byte`);
  return value;
}

function toDisk(field: string, raw: unknown, defaultId: string): DiskConfig {
  const disk = (typeof raw === 'string' ? { path: raw } : raw) as RawSettings;
  if (disk.path === undefined) throw usage(`${field} lacks path=; write path=FILE[,ro][,id=NAME]`);
  const id = checkText(`${field} id`, (disk.id as string | undefined) ?? defaultId);
  if (!/^[\x21-\x7e]{1,20}$/.test(id)) {
    throw usage(`${field} id '${id}' must be 1 to 20 printable ASCII characters without spaces`);
  }
  return { path: checkText(`${field} path`, disk.path as string), readOnly: disk.ro === true, id };
}

function toDisks(settings: RawSettings): DiskConfig[] {
  const disks: DiskConfig[] = [];
  if (settings.rootfs !== undefined) disks.push(toDisk('--rootfs', settings.rootfs, 'rootfs'));
  ((settings.disk as unknown[] | undefined) ?? []).forEach((raw, i) => {
    disks.push(toDisk('--disk', raw, `disk${i}`));
  });
  const ids = new Set<string>();
  for (const { id } of disks) {
    if (ids.has(id)) throw usage(`--disk id '${id}' is used twice; give each disk its own id=`);
    ids.add(id);
  }
  return disks;
}

function toMemory(text: string): number {
  const bytes = parseSize('--memory', text);
  if (bytes < MEMORY_MIN_BYTES) {
    throw usage(
      `--memory '${text}' is too small; at least ${formatSize(MEMORY_MIN_BYTES)} is needed`,
    );
  }
  if (bytes % PAGE_BYTES !== 0) throw usage(`--memory '${text}' is not a multiple of 4 KiB`);
  return bytes;
}

function toCpus(value: number, engine: string): number {
  if (!Number.isInteger(value) || value < 1 || value > CPUS_MAX) {
    throw usage(`--cpus '${value}' must be a whole number from 1 to ${CPUS_MAX}`);
  }
  if (engine === 'v8' && value !== 1) {
    throw usage(`--cpus '${value}' is more than engine v8 can run; use --cpus 1`);
  }
  return value;
}

function optionalText(settings: RawSettings, key: string): string | undefined {
  const value = settings[key] as string | undefined;
  return value === undefined ? undefined : checkText(`--${key}`, value);
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
  const engine = oneOf('--engine', (settings.engine as string) ?? 'v8', ENGINES);
  return Object.freeze({
    kernel: checkText('--kernel', settings.kernel as string),
    initrd: optionalText(settings, 'initrd'),
    disks: Object.freeze(toDisks(settings)),
    hasRoot: settings.rootfs !== undefined,
    memoryBytes: toMemory((settings.memory as string) ?? '128M'),
    cpus: toCpus((settings.cpus as number) ?? 1, engine),
    cmdline: settings.cmdline as string | undefined,
    cmdlineReplace: settings['cmdline-replace'] as string | undefined,
    entry: oneOf('--entry', (settings.entry as string) ?? 'auto', ENTRIES),
    bootTimer: settings['boot-timer'] === true,
    engine,
    netBackend: oneOf('--net-backend', (settings['net-backend'] as string) ?? 'none', NET_BACKENDS),
    logLevel: oneOf('--log-level', (settings['log-level'] as string) ?? 'warn', LOG_LEVELS),
    report: optionalText(settings, 'report'),
    configFile,
  });
}
