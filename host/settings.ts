// What all settings share, those of a flag and those of a configuration file: the form
// 'key=value,key,...' of an option, the types of an object's members, and how a mistake is said.
import { FaradayError } from './errors.ts';
import { nearest } from './suggest.ts';

/** The raw settings, by the name they have on the command line without its dashes. */
export type RawSettings = Record<string, unknown>;

/** What an option of a device holds; a size is a number of its unit, or a text such as '10M'. */
export type OptionKind = 'string' | 'boolean' | 'integer' | 'size';

export type OptionKeys = Readonly<Record<string, OptionKind>>;

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

/** The name that a device is known by: a disk's, a network's. */
export function checkId(field: string, text: string): string {
  const id = checkText(`${field} id`, text);
  if (/^[\x21-\x7e]{1,20}$/.test(id)) return id;
  throw usage(`${field} id '${id}' must be 1 to 20 printable ASCII characters without spaces`);
}

/** Refuses an id that two devices have. */
export function checkUniqueIds(flag: string, what: string, all: readonly { id: string }[]): void {
  const ids = new Set<string>();
  for (const { id } of all) {
    if (ids.has(id)) throw usage(`${flag} id '${id}' is used twice; give each ${what} its own id=`);
    ids.add(id);
  }
}

const QUEUE_SIZE_MIN = 4;
export const QUEUE_SIZE_MAX = 256;

/** The entries of a virtqueue. */
export function checkQueueSize(field: string, size: number): number {
  const isPower = Number.isInteger(size) && (size & (size - 1)) === 0;
  if (isPower && size >= QUEUE_SIZE_MIN && size <= QUEUE_SIZE_MAX) return size;
  const range = `from ${QUEUE_SIZE_MIN} to ${QUEUE_SIZE_MAX}`;
  throw usage(`${field} queue-size '${size}' must be a power of two ${range}`);
}

// --- Flags --------------------------------------------------------------------------------------

/** Splits 'a,b,,c' at single commas; a doubled comma stands for one in the text. */
export function splitCommas(text: string): string[] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
}

function optionValue(flag: string, key: string, kind: OptionKind, text?: string): unknown {
  if (kind === 'boolean' || text === undefined) return true;
  if (kind !== 'integer') return text;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw usage(`${flag} ${key} '${text}' must be a whole number, such as ${key}=4`);
}

/** Reads 'ro', 'id=data' and the like; `keys` are those that may stand here. */
export function parseOptions(
  flag: string,
  parts: readonly string[],
  keys: OptionKeys,
  hint: (part: string) => string = () => '',
): RawSettings {
  const settings: RawSettings = {};
  for (const part of parts) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (!Object.hasOwn(keys, key)) {
      const names = Object.keys(keys).map((name) => (keys[name] === 'boolean' ? name : `${name}=`));
      throw usage(`${flag} option '${key}' is unknown; known are ${names.join(', ')}${hint(part)}`);
    }
    const isBoolean = keys[key] === 'boolean';
    if (at < 0 !== isBoolean) {
      const written = isBoolean ? key : `${key}=VALUE`;
      throw usage(`${flag} option '${part}' is malformed; write ${written}`);
    }
    if (Object.hasOwn(settings, key)) throw usage(`${flag} names '${key}' twice`);
    settings[key] = optionValue(flag, key, keys[key], at < 0 ? undefined : part.slice(at + 1));
  }
  return settings;
}

// --- Configuration file -------------------------------------------------------------------------

/** A value of a configuration file for a message: a list or an object may hold anything. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  return JSON.stringify(value);
}

const WANTED: Record<OptionKind, string> = {
  string: 'string',
  boolean: 'boolean',
  integer: 'whole number',
  size: 'whole number or a string such as "10M"',
};

function fits(kind: OptionKind, value: unknown): boolean {
  if (kind === 'integer') return Number.isInteger(value);
  if (kind === 'size') return Number.isInteger(value) || typeof value === 'string';
  return typeof value === kind;
}

/** Type-checks an object of a configuration file; `otherwise` says what else it should be. */
export function checkOptions(
  field: string,
  value: unknown,
  keys: OptionKeys,
  otherwise: string,
): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw usage(`${field} must be ${otherwise}`);
  }
  for (const [key, item] of Object.entries(value)) {
    if (!Object.hasOwn(keys, key)) throw unknownKey(field, key, Object.keys(keys));
    if (fits(keys[key], item)) continue;
    throw usage(`${field}: '${key}' must be a ${WANTED[keys[key]]}, not ${shown(item)}`);
  }
}
