// The lines of `faraday check` about confinement: what this host offers of each layer, and what
// would bring the rest. A guest runs without any of them but seccomp, hence notes.
import { readFileSync } from 'node:fs';
import type { CheckLine } from '../host-check.ts';
import { type ConfinementProbe, shim } from '../shim.ts';
import { describeLandlock, landlockState } from './landlock.ts';

function checkLandlock({ landlockAbi, landlockErrno }: ConfinementProbe): CheckLine {
  const subject = 'Landlock';
  const state = landlockState(landlockAbi, landlockErrno || null);
  const finding = describeLandlock(state);
  if (state.state === 'full') return { subject, state: 'ok', finding };
  if (state.state === 'partial') {
    return { subject, state: 'note', finding, fix: 'a newer Linux brings the rest' };
  }
  const fix =
    landlockErrno === 'EOPNOTSUPP'
      ? "add 'landlock' to the lsm= boot parameter"
      : "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y and 'landlock' in lsm= brings it";
  return { subject, state: 'note', finding, fix };
}

function checkSeccomp({ seccomp, seccompTrap, seccompLog }: ConfinementProbe): CheckLine {
  const subject = 'seccomp';
  const actions = { kill: seccomp, trap: seccompTrap, log: seccompLog };
  const names = Object.entries(actions);
  const missing = names.filter(([, has]) => !has).map(([name]) => name);
  if (missing.length === 0) {
    return { subject, state: 'ok', finding: 'filters that kill, trap and log' };
  }
  if (missing.length === names.length) {
    const fix = 'use a kernel with CONFIG_SECCOMP_FILTER=y; until then --seccomp off';
    return { subject, state: 'note', finding: 'no filters: no cell starts', fix };
  }
  const finding = `filters, but not those that ${missing.join(', ')}`;
  return { subject, state: 'note', finding, fix: 'Linux 4.14 brings them' };
}

// --- Namespaces ---------------------------------------------------------------------------------

/** The number in a file under /proc/sys; null where there is none. */
export type ReadSetting = (name: string) => number | null;

function readSetting(name: string): number | null {
  try {
    return Number(readFileSync(`/proc/sys/${name.replace('.', '/')}`, 'ascii'));
  } catch {
    return null;
  }
}

/** What keeps this user from making namespaces, by the settings that may do so. */
function namespacesFix(setting: ReadSetting): string {
  if (setting('user.max_user_namespaces') === 0) {
    return "'sysctl user.max_user_namespaces=10000' allows them";
  }
  if (setting('kernel.unprivileged_userns_clone') === 0) {
    return "'sysctl kernel.unprivileged_userns_clone=1' allows them to ordinary users";
  }
  if (setting('kernel.apparmor_restrict_unprivileged_userns') === 1) {
    return (
      "an AppArmor profile with 'userns,' for node allows them, or " +
      "'sysctl kernel.apparmor_restrict_unprivileged_userns=0'"
    );
  }
  return 'something else forbids them, such as the container that this runs in';
}

/** The line for what was tried: an errno name, or '', by namespace. */
export function namespacesLine(tried: Record<string, string>, setting: ReadSetting): CheckLine {
  const subject = 'namespaces';
  const all = Object.entries(tried);
  const missing = all.filter(([, errno]) => errno !== '');
  const made = all.filter(([, errno]) => errno === '').map(([name]) => name);
  if (missing.length === 0) return { subject, state: 'ok', finding: made.join(' ') };
  const misses = missing.map(([name, errno]) => `${name} (${errno})`).join(' ');
  const finding = made.length > 0 ? `${made.join(' ')}; not ${misses}` : `none: ${misses}`;
  return { subject, state: 'note', finding, fix: namespacesFix(setting) };
}

function checkUring({ ioUringErrno }: ConfinementProbe): CheckLine {
  const subject = 'io_uring';
  if (ioUringErrno === '') return { subject, state: 'ok', finding: 'with restrictions' };
  const finding = `not to be had with restrictions (${ioUringErrno}): disks use io-engine=sync`;
  const fix =
    ioUringErrno === 'EPERM'
      ? "'sysctl kernel.io_uring_disabled=0' allows it, where nothing else forbids it"
      : 'Linux 5.10 brings it';
  return { subject, state: 'note', finding, fix };
}

/** A line for each layer. */
export function checkLayers(): CheckLine[] {
  const probe = shim().probeConfinement();
  return [
    checkLandlock(probe),
    checkSeccomp(probe),
    namespacesLine(shim().probeNamespaces(), readSetting),
    checkUring(probe),
  ];
}
