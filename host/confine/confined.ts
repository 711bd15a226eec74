// What a cell says of its own confinement (CONFINED of cell-protocol.ts), in words. Informative
// only: a cell that lies about it deceives nobody who did not trust it before.
import { errnoName } from '../engine/cell-messages.ts';
import * as protocol from '../engine/cell-protocol.ts';
import { describeLandlock, LANDLOCK_OFF, type LandlockState, landlockState } from './landlock.ts';
import { ROLE_NAMES, ROLE_VCPU } from './roles.ts';
import { syscallName } from './syscalls.ts';

/** Namespaces by bit, in the order in which they are shown. */
const NAMESPACES: readonly (readonly [number, string])[] = [
  [protocol.NAMESPACE_USER, 'user'],
  [protocol.NAMESPACE_MOUNT, 'mount'],
  [protocol.NAMESPACE_PID, 'pid'],
  [protocol.NAMESPACE_NET, 'net'],
  [protocol.NAMESPACE_IPC, 'ipc'],
  [protocol.NAMESPACE_UTS, 'uts'],
  [protocol.NAMESPACE_CGROUP, 'cgroup'],
];

export const NAMESPACE_NAMES: readonly string[] = NAMESPACES.map(([, name]) => name);

const SECCOMP_MODES = ['off', 'log', 'enforce'] as const; // by SECCOMP_*

/** The `confinement` of a run report; docs/cli.md describes it. */
export interface CellConfinement {
  seccomp: (typeof SECCOMP_MODES)[number];
  landlock: LandlockState;
  namespaces: { own: string[]; missing: string[]; reason: string | null };
  capabilities: { held: boolean; ambient: boolean; bounding: boolean }; // true: some are left
  noNewPrivs: boolean;
  dumpable: boolean;
  user: number; // 65534 in a user namespace that its host made
  group: number;
  limits: { processes: number | null; files: number | null; addressSpaceBytes: number | null };
}

const UNLIMITED = 0xffff_ffff_ffff_ffffn;

function limitAt(view: DataView, offset: number): number | null {
  const value = view.getBigUint64(offset, true);
  return value === UNLIMITED ? null : Number(value);
}

function landlockOf(abi: number, errno: number): LandlockState {
  if (abi === 0 && errno === 0) return LANDLOCK_OFF;
  return landlockState(abi, abi === 0 ? errnoName(errno) || 'unknown' : null);
}

/** Takes a CONFINED message apart. Whatever the bytes, the result has the form above. */
export function readConfined(view: DataView): CellConfinement {
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const bits = u32(protocol.CONFINED_NAMESPACES);
  const names = (own: boolean): string[] =>
    NAMESPACES.filter(([bit]) => ((bits & bit) !== 0) === own).map(([, name]) => name);
  const capabilities = u32(protocol.CONFINED_CAPABILITIES);
  const reason = errnoName(u32(protocol.CONFINED_NAMESPACES_ERRNO)) || null;
  return {
    seccomp: SECCOMP_MODES[u32(protocol.CONFINED_SECCOMP)] ?? 'off',
    landlock: landlockOf(
      u32(protocol.CONFINED_LANDLOCK_ABI),
      u32(protocol.CONFINED_LANDLOCK_ERRNO),
    ),
    namespaces: { own: names(true), missing: names(false), reason },
    capabilities: {
      held: (capabilities & protocol.CAPABILITIES_NONE_HELD) === 0,
      ambient: (capabilities & protocol.CAPABILITIES_NONE_AMBIENT) === 0,
      bounding: (capabilities & protocol.CAPABILITIES_NONE_BOUNDING) === 0,
    },
    noNewPrivs: u32(protocol.CONFINED_NO_NEW_PRIVS) === 1,
    dumpable: u32(protocol.CONFINED_DUMPABLE) !== 0,
    user: u32(protocol.CONFINED_USER),
    group: u32(protocol.CONFINED_GROUP),
    limits: {
      processes: limitAt(view, protocol.CONFINED_PROCESSES),
      files: limitAt(view, protocol.CONFINED_FILES),
      addressSpaceBytes: limitAt(view, protocol.CONFINED_ADDRESS_SPACE),
    },
  };
}

function describeNamespaces({ own, missing, reason }: CellConfinement['namespaces']): string {
  if (missing.length === 0) return 'namespaces all';
  const why = reason ? ` (${reason})` : '';
  if (own.length === 0) return `namespaces none${why}`;
  return `namespaces ${own.join(' ')}, not ${missing.join(' ')}${why}`;
}

/** Every layer in one line, for the log. */
export function describeConfinement(confinement: CellConfinement): string {
  const { held, ambient, bounding } = confinement.capabilities;
  const { user, group } = confinement;
  const left = Object.entries({ held, ambient, bounding }).filter(([, some]) => some);
  return [
    `seccomp ${confinement.seccomp}`,
    `Landlock ${describeLandlock(confinement.landlock)}`,
    describeNamespaces(confinement.namespaces),
    ...(user === 0 || group === 0 ? [`STILL ROOT (${user}:${group})`] : []),
    left.length === 0
      ? 'no capabilities'
      : `capabilities left: ${left.map(([name]) => name).join(', ')}`,
    confinement.noNewPrivs ? 'no_new_privs' : 'NO no_new_privs',
  ].join('; ');
}

// --- A forbidden call ---------------------------------------------------------------------------

export interface Violation {
  call: string; // 'openat'
  number: number;
  thread: string; // 'vcpu 0'
  arguments: string[]; // hexadecimal
}

export function readViolation(view: DataView): Violation {
  const number = view.getUint32(protocol.VIOLATION_CALL, true);
  const role = view.getUint32(protocol.VIOLATION_ROLE, true);
  const index = view.getUint32(protocol.VIOLATION_INDEX, true);
  const name = ROLE_NAMES[role] ?? `of unknown role ${role}`;
  return {
    number,
    call: syscallName(number),
    thread: role === ROLE_VCPU ? `${name} ${index}` : name,
    arguments: Array.from({ length: protocol.VIOLATION_ARGUMENT_COUNT }, (_, i) => {
      return `0x${view.getBigUint64(protocol.VIOLATION_ARGUMENTS + 8 * i, true).toString(16)}`;
    }),
  };
}

/** What the user reads of it. */
export function describeViolation({ call, number, thread, arguments: all }: Violation): string {
  const which = call.startsWith('number ') ? call : `${call} (${number})`;
  return (
    `the cell was ended by its seccomp filter: system call ${which} on thread '${thread}', ` +
    `arguments ${all.join(' ')}; nothing was carried out. Either the guest has taken over the ` +
    "cell, or this is our mistake: please report it, and see 'A forbidden call' in docs/sandbox.md"
  );
}
