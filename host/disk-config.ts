// What is asked for of a disk: `--rootfs`, `--disk` and their form in a configuration file.
import { FaradayError } from './errors.ts';
import { nearest } from './suggest.ts';

export const IO_ENGINES = ['sync', 'io_uring'] as const;
export const CACHES = ['writeback', 'writethrough'] as const;
const QUEUE_COUNT_MAX = 8;
const QUEUE_SIZE_MIN = 4;
const QUEUE_SIZE_MAX = 256;

export interface DiskConfig {
  path: string;
  readOnly: boolean;
  id: string;
  ioUring: boolean; // else one request after the other
  writeback: boolean; // else the guest is told that every write is on stable storage
  queueCount: number;
  queueSize: number;
}

/** The raw settings, by the name they have on the command line without its dashes. */
export type RawSettings = Record<string, unknown>;

const DISK_KEYS: Record<string, 'string' | 'boolean' | 'integer'> = {
  path: 'string',
  ro: 'boolean',
  id: 'string',
  'io-engine': 'string',
  'num-queues': 'integer',
  cache: 'string',
  'queue-size': 'integer',
};
/** The root disk's path stands alone, and its id is always the same. */
const ROOTFS_KEYS = Object.keys(DISK_KEYS).filter((key) => key !== 'path' && key !== 'id');

export function usage(message: string): FaradayError {
  return new FaradayError('bad-usage', message);
}

export function unknownKey(where: string, key: string, known: Iterable<string>): FaradayError {
  const meant = nearest(key, known);
  return usage(`${where} has an unknown key '${key}'${meant ? `; did you mean '${meant}'?` : ''}`);
}

export function oneOf<T extends string>(field: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((item) => item === value);
  if (found) return found;
  const known = `known ${allowed.length > 1 ? 'are' : 'is'} ${allowed.join(', ')}`;
  throw usage(`${field} '${value}' is unknown; ${known}`);
}

/** A path or id from outside: never empty, no NUL (the kernel would cut it there). */
export function checkText(field: string, value: string): string {
  if (value === '') throw usage(`${field} is empty`);
  if (value.includes('\0')) throw usage(`${field} contains a NUL byte`);
  return value;
}

// --- Flags --------------------------------------------------------------------------------------

/** Splits 'a,b,,c' at single commas; a doubled comma stands for one in the text. */
function splitCommas(text: string): string[] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
}

const written = (key: string): string => (DISK_KEYS[key] === 'boolean' ? key : `${key}=VALUE`);

function optionValue(flag: string, key: string, text: string | undefined): unknown {
  if (DISK_KEYS[key] === 'boolean' || text === undefined) return true;
  if (DISK_KEYS[key] !== 'integer') return text;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw usage(`${flag} ${key} '${text}' must be a whole number, such as ${key}=4`);
}

/** Reads 'ro', 'id=data' and the like; `known` are the keys that may stand here. */
function parseOptions(
  flag: string,
  parts: readonly string[],
  known: readonly string[],
  hint: (part: string) => string,
): RawSettings {
  const disk: RawSettings = {};
  for (const part of parts) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (!known.includes(key)) {
      const names = known.map((name) => (DISK_KEYS[name] === 'boolean' ? name : `${name}=`));
      throw usage(`${flag} option '${key}' is unknown; known are ${names.join(', ')}${hint(part)}`);
    }
    if (at < 0 !== (DISK_KEYS[key] === 'boolean')) {
      throw usage(`${flag} option '${part}' is malformed; write ${written(key)}`);
    }
    if (Object.hasOwn(disk, key)) throw usage(`${flag} names '${key}' twice`);
    disk[key] = optionValue(flag, key, at < 0 ? undefined : part.slice(at + 1));
  }
  return disk;
}

/** `--rootfs PATH[,ro][,io-engine=...]`. */
export function parseRootfsFlag(text: string): RawSettings {
  const [path, ...options] = splitCommas(text);
  return { path, ...parseOptions('--rootfs', options, ROOTFS_KEYS, () => '') };
}

/** `--disk path=...[,ro][,id=...][,io-engine=...]`. */
export function parseDiskFlag(text: string): RawSettings {
  const parts = splitCommas(text);
  const hint = (part: string): string => {
    return part === parts[0] && !part.includes('=') ? `; write path=${part}` : '';
  };
  return parseOptions('--disk', parts, Object.keys(DISK_KEYS), hint);
}

// --- Configuration file -------------------------------------------------------------------------

/** A value of a configuration file for a message: a list or an object may hold anything. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  return JSON.stringify(value);
}

/** Type-checks a disk of a configuration file. */
export function checkDisk(field: string, value: unknown): void {
  if (typeof value === 'string') return;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw usage(`${field} must be a path or an object such as {"path": "disk.img", "ro": true}`);
  }
  for (const [key, item] of Object.entries(value)) {
    if (!Object.hasOwn(DISK_KEYS, key)) throw unknownKey(field, key, Object.keys(DISK_KEYS));
    const kind = DISK_KEYS[key];
    if (kind === 'integer' ? Number.isInteger(item) : typeof item === kind) continue;
    const wanted = kind === 'integer' ? 'whole number' : kind;
    throw usage(`${field}: '${key}' must be a ${wanted}, not ${shown(item)}`);
  }
}

// --- Into the configuration ---------------------------------------------------------------------

function toQueueCount(field: string, count: number): number {
  if (Number.isInteger(count) && count >= 1 && count <= QUEUE_COUNT_MAX) return count;
  throw usage(`${field} num-queues '${count}' must be a whole number from 1 to ${QUEUE_COUNT_MAX}`);
}

function toQueueSize(field: string, size: number): number {
  const isPower = Number.isInteger(size) && (size & (size - 1)) === 0;
  if (isPower && size >= QUEUE_SIZE_MIN && size <= QUEUE_SIZE_MAX) return size;
  const range = `from ${QUEUE_SIZE_MIN} to ${QUEUE_SIZE_MAX}`;
  throw usage(`${field} queue-size '${size}' must be a power of two ${range}`);
}

function toDisk(field: string, raw: unknown, defaultId: string): DiskConfig {
  const disk = (typeof raw === 'string' ? { path: raw } : raw) as RawSettings;
  if (disk.path === undefined) throw usage(`${field} lacks path=; write path=FILE[,ro][,id=NAME]`);
  const id = checkText(`${field} id`, (disk.id as string | undefined) ?? defaultId);
  if (!/^[\x21-\x7e]{1,20}$/.test(id)) {
    throw usage(`${field} id '${id}' must be 1 to 20 printable ASCII characters without spaces`);
  }
  const text = (key: string, standard: string): string => (disk[key] as string) ?? standard;
  return {
    path: checkText(`${field} path`, disk.path as string),
    readOnly: disk.ro === true,
    id,
    ioUring: oneOf(`${field} io-engine`, text('io-engine', 'sync'), IO_ENGINES) === 'io_uring',
    writeback: oneOf(`${field} cache`, text('cache', 'writeback'), CACHES) === 'writeback',
    queueCount: toQueueCount(field, (disk['num-queues'] as number) ?? 1),
    queueSize: toQueueSize(field, (disk['queue-size'] as number) ?? QUEUE_SIZE_MAX),
  };
}

/** All disks of the settings, the root file system first. */
export function toDisks(settings: RawSettings): DiskConfig[] {
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
