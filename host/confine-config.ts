// The flags that say how a run is confined: --seccomp, --landlock, --namespaces, --user, and the
// paths that Landlock is to leave open. docs/sandbox.md explains them to users.
import { existsSync } from 'node:fs';
import { checkText, oneOf, type RawSettings, usage } from './settings.ts';
import { readSmallFile } from './small-file.ts';

export const SECCOMP_MODES = ['enforce', 'log', 'off'] as const;
export const LAYER_MODES = ['auto', 'required', 'off'] as const;

export type Access = 'r' | 'w' | 'rw';

/** A path that the control plane may use beside those of its configuration. */
export interface PathRule {
  path: string;
  access: Access;
}

export interface User {
  user: number;
  group: number;
}

export interface ConfineConfig {
  seccomp: (typeof SECCOMP_MODES)[number];
  landlock: (typeof LAYER_MODES)[number];
  namespaces: (typeof LAYER_MODES)[number];
  user?: User; // undefined: for root an unprivileged number, for everybody else their own
  pathRules: readonly PathRule[];
}

const ACCESS = ['r', 'w', 'rw'] as const;

function checkPath(flag: string, path: string): string {
  checkText(flag, path);
  if (!existsSync(path)) throw usage(`${flag}: '${path}' does not exist; name what is there`);
  return path;
}

/** `path=PATH,access=r|w|rw`, the form of Cloud Hypervisor. */
export function parseLandlockRule(text: string): PathRule {
  const fields = new Map(
    text.split(',').map((part) => {
      const [key, ...value] = part.split('=');
      return [key, value.join('=')] as const;
    }),
  );
  const unknown = [...fields.keys()].find((key) => key !== 'path' && key !== 'access');
  const path = fields.get('path');
  const access = fields.get('access');
  if (unknown !== undefined || path === undefined || access === undefined) {
    throw usage(`--landlock-rules '${text}' must be path=PATH,access=r|w|rw`);
  }
  return {
    path: checkPath('--landlock-rules', path),
    access: oneOf('--landlock-rules access', access, ACCESS),
  };
}

/** `PATH[,ro|,rw]`; read-only where nothing is said. */
export function parseAllowPath(text: string): PathRule {
  const found = /^(.*),(ro|rw)$/.exec(text);
  const path = checkPath('--landlock-allow-path', found ? found[1] : text);
  return { path, access: found?.[2] === 'rw' ? 'rw' : 'r' };
}

// --- --user -------------------------------------------------------------------------------------

const ID_MAX = 2 ** 32 - 2; // all ones means 'leave it' to the kernel

function toId(text: string): number | undefined {
  return /^\d{1,10}$/.test(text) && Number(text) <= ID_MAX ? Number(text) : undefined;
}

/** The line of an account in /etc/passwd: NAME:x:UID:GID:... */
function account(name: string): User | undefined {
  const lines = (readSmallFile('/etc/passwd') ?? '').split('\n');
  const fields = lines.map((line) => line.split(':')).find(([first]) => first === name);
  const user = toId(fields?.[2] ?? '');
  const group = toId(fields?.[3] ?? '');
  return user === undefined || group === undefined ? undefined : { user, group };
}

/** `NAME` or `UID:GID`. */
export function parseUser(text: string): User {
  const [user, group, ...more] = text.split(':').map(toId);
  if (user !== undefined && group !== undefined && more.length === 0) return { user, group };
  const found = /^[^:\s]+$/.test(text) ? account(text) : undefined;
  if (found) return found;
  throw usage(`--user '${text}' is no account of /etc/passwd; give one, or numbers as UID:GID`);
}

// --- Together -----------------------------------------------------------------------------------

function layer(settings: RawSettings, key: 'landlock' | 'namespaces'): ConfineConfig['landlock'] {
  return oneOf(`--${key}`, (settings[key] as string) ?? 'auto', LAYER_MODES);
}

/** `--no-X` is `--X off`, and contradicts any other value. */
function withShortForm(settings: RawSettings, key: 'seccomp' | 'landlock'): RawSettings {
  if (settings[`no-${key}`] !== true) return settings;
  const said = settings[key];
  if (said !== undefined && said !== 'off') {
    throw usage(`--${key} ${said} and --no-${key} exclude each other; keep one`);
  }
  return { ...settings, [key]: 'off' };
}

function toPathRules(settings: RawSettings): PathRule[] {
  const rules = (settings['landlock-rules'] ?? []) as string[];
  const paths = (settings['landlock-allow-path'] ?? []) as string[];
  return [...rules.map(parseLandlockRule), ...paths.map(parseAllowPath)];
}

function toUser(settings: RawSettings): User | undefined {
  if (settings.user === undefined) return undefined;
  const user = parseUser(settings.user as string);
  if (process.geteuid?.() !== 0) {
    throw usage(`--user '${settings.user}' is for root to give up its rights; leave it out`);
  }
  return user;
}

/** Checks everything that confines a run. Throws FaradayError('bad-usage'). */
export function toConfineConfig(raw: RawSettings): ConfineConfig {
  const settings = withShortForm(withShortForm(raw, 'seccomp'), 'landlock');
  const landlock = layer(settings, 'landlock');
  const pathRules = toPathRules(settings);
  if (landlock === 'off' && pathRules.length > 0) {
    throw usage('--landlock off and paths for Landlock exclude each other; keep one');
  }
  return {
    seccomp: oneOf('--seccomp', (settings.seccomp as string) ?? 'enforce', SECCOMP_MODES),
    landlock,
    namespaces: layer(settings, 'namespaces'),
    user: toUser(settings),
    pathRules,
  };
}
