// What is asked for of a disk: `--rootfs`, `--disk` and their form in a configuration file.
import {
  checkId,
  checkOptions,
  checkQueueSize,
  checkText,
  checkUniqueIds,
  type OptionKeys,
  oneOf,
  parseOptions,
  QUEUE_SIZE_MAX,
  type RawSettings,
  splitCommas,
  usage,
} from './settings.ts';

export const IO_ENGINES = ['sync', 'io_uring'] as const;
export const CACHES = ['writeback', 'writethrough'] as const;
const QUEUE_COUNT_MAX = 8;

export interface DiskConfig {
  path: string;
  readOnly: boolean;
  id: string;
  ioUring: boolean; // else one request after the other
  writeback: boolean; // else the guest is told that every write is on stable storage
  queueCount: number;
  queueSize: number;
}

/** The root disk's path stands alone, and its id is always the same. */
const ROOTFS_KEYS: OptionKeys = {
  ro: 'boolean',
  'io-engine': 'string',
  'num-queues': 'integer',
  cache: 'string',
  'queue-size': 'integer',
};
const DISK_KEYS: OptionKeys = { path: 'string', id: 'string', ...ROOTFS_KEYS };

/** `--rootfs PATH[,ro][,io-engine=...]`. */
export function parseRootfsFlag(text: string): RawSettings {
  const [path, ...options] = splitCommas(text);
  return { path, ...parseOptions('--rootfs', options, ROOTFS_KEYS) };
}

/** `--disk path=...[,ro][,id=...][,io-engine=...]`. */
export function parseDiskFlag(text: string): RawSettings {
  const parts = splitCommas(text);
  const hint = (part: string): string => {
    return part === parts[0] && !part.includes('=') ? `; write path=${part}` : '';
  };
  return parseOptions('--disk', parts, DISK_KEYS, hint);
}

/** Type-checks a disk of a configuration file. */
export function checkDisk(field: string, value: unknown): void {
  if (typeof value === 'string') return;
  const otherwise = 'a path or an object such as {"path": "disk.img", "ro": true}';
  checkOptions(field, value, DISK_KEYS, otherwise);
}

// --- Into the configuration ---------------------------------------------------------------------

function toQueueCount(field: string, count: number): number {
  if (Number.isInteger(count) && count >= 1 && count <= QUEUE_COUNT_MAX) return count;
  throw usage(`${field} num-queues '${count}' must be a whole number from 1 to ${QUEUE_COUNT_MAX}`);
}

function toDisk(field: string, raw: unknown, defaultId: string): DiskConfig {
  const disk = (typeof raw === 'string' ? { path: raw } : raw) as RawSettings;
  if (disk.path === undefined) throw usage(`${field} lacks path=; write path=FILE[,ro][,id=NAME]`);
  const id = checkId(field, (disk.id as string | undefined) ?? defaultId);
  const text = (key: string, standard: string): string => (disk[key] as string) ?? standard;
  return {
    path: checkText(`${field} path`, disk.path as string),
    readOnly: disk.ro === true,
    id,
    ioUring: oneOf(`${field} io-engine`, text('io-engine', 'sync'), IO_ENGINES) === 'io_uring',
    writeback: oneOf(`${field} cache`, text('cache', 'writeback'), CACHES) === 'writeback',
    queueCount: toQueueCount(field, (disk['num-queues'] as number) ?? 1),
    queueSize: checkQueueSize(field, (disk['queue-size'] as number) ?? QUEUE_SIZE_MAX),
  };
}

/** All disks of the settings, the root file system first. */
export function toDisks(settings: RawSettings): DiskConfig[] {
  const disks: DiskConfig[] = [];
  if (settings.rootfs !== undefined) disks.push(toDisk('--rootfs', settings.rootfs, 'rootfs'));
  ((settings.disk as unknown[] | undefined) ?? []).forEach((raw, i) => {
    disks.push(toDisk('--disk', raw, `disk${i}`));
  });
  checkUniqueIds('--disk', 'disk', disks);
  return disks;
}
