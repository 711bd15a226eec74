// What a failed system call of KVM's or of memory means to a user, where it means something. Both
// engines ask here, so that the same miss reads the same.
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
