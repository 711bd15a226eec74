// What a failed system call of KVM's or of memory means to a user, where it means something. Both
// engines ask here, so that the same miss reads the same.
import { describeLandlock, type LandlockState, landlockState } from './confine/landlock.ts';
import { FaradayError } from './errors.ts';
import { formatSize } from './size.ts';

/** The error for /dev/kvm that cannot be opened; null where main() knows more about the errno. */
export function explainKvmOpen(errno: string): FaradayError | null {
  if (errno === 'EMFILE' || errno === 'ENFILE') return null;
  const isMissing = errno === 'ENOENT' || errno === 'ENODEV' || errno === 'ENXIO';
  const finding = isMissing ? '/dev/kvm is missing' : `/dev/kvm: ${errno}`;
  return new FaradayError('host', `${finding}; 'faraday check' says what to do`);
}

/** Explains a call by its name, as the shim gives it; null where nothing is known of it. */
export function explainCall(call: string, errno: string, memoryBytes: number): FaradayError | null {
  if (errno === 'EMFILE' || errno === 'ENFILE') return null;
  if (call === 'open') return explainKvmOpen(errno);
  if (call === 'mmap' || call === 'KVM_SET_USER_MEMORY_REGION') {
    const size = formatSize(memoryBytes);
    const finding = `--memory ${size} is more than this host can map (${call}: ${errno})`;
    return new FaradayError('bad-memory', `${finding}; use less`);
  }
  if (!call.startsWith('KVM_')) return null;
  return new FaradayError('host', `${call} failed (${errno}); 'faraday check' says more`);
}

// --- Confinement --------------------------------------------------------------------------------

/** The error for `--landlock required` where Landlock is not all that it should be. */
export function explainLandlock(state: LandlockState): FaradayError {
  const finding = `--landlock required: ${describeLandlock(state)}`;
  const newer = state.missing.at(-1)?.match(/\((Linux [\d.]+)\)/)?.[1];
  const fix = newer ? `use ${newer} or newer, or --landlock auto` : 'use --landlock auto';
  return new FaradayError('host', `${finding}; ${fix}`);
}

/** Explains what a cell says of a layer that it could not have; null for any other call. */
export function explainConfinement(
  call: string,
  errno: string,
  about: string,
): FaradayError | null {
  const why = errno && ` (${errno})`;
  if (call === 'landlock') {
    const abi = Number(/^ABI (\d{1,3}),/.exec(about)?.[1] ?? 0);
    return explainLandlock(landlockState(abi, errno || null));
  }
  if (call === 'namespaces') {
    const finding = `--namespaces required: this user may not make all of them${why}`;
    const fix = "'faraday check' says what to change, or use --namespaces auto";
    return new FaradayError('host', `${finding}; ${fix}`);
  }
  if (call === 'seccomp') {
    const finding = `this kernel takes no seccomp filter${why}`;
    const fix = 'use one with CONFIG_SECCOMP_FILTER=y, or --seccomp off';
    return new FaradayError('host', `${finding}; ${fix}`);
  }
  if (call === 'setresuid') {
    const finding = `the cell cannot become user ${about}${why}`;
    const fix = 'give one that exists here as --user UID:GID';
    return new FaradayError('host', `${finding}; ${fix}`);
  }
  return null;
}
