// What Landlock can take away, by the version of its interface (ABI), and which Linux brings it.
// Numbers: include/uapi/linux/landlock.h. The cell has the same table in C (shim/confine.c).

export interface LandlockAbi {
  abi: number;
  linux: string;
  what: string; // that this version adds
}

export const LANDLOCK_ABIS: readonly LandlockAbi[] = [
  { abi: 1, linux: '5.13', what: 'files' },
  { abi: 2, linux: '5.19', what: 'moving files between folders' },
  { abi: 3, linux: '6.2', what: 'truncating files' },
  { abi: 4, linux: '6.7', what: 'TCP' },
  { abi: 5, linux: '6.10', what: 'ioctl on devices' },
  { abi: 6, linux: '6.12', what: 'abstract sockets and signals' },
];

/** From here on there is nothing more that we would take away. */
export const LANDLOCK_ABI_FULL = LANDLOCK_ABIS.length;

export interface LandlockState {
  state: 'full' | 'partial' | 'unavailable' | 'off';
  abi: number; // of the kernel; 0 where it is off or not available
  missing: string[]; // what is not enforced, with the kernel that brings it
  reason: string | null; // why it is not available
}

export const LANDLOCK_OFF: LandlockState = { state: 'off', abi: 0, missing: [], reason: null };

/** The state of a domain that handles all that a kernel of this ABI knows; 0: it has none. */
export function landlockState(abi: number, reason: string | null = null): LandlockState {
  const missing = LANDLOCK_ABIS.filter((row) => row.abi > abi).map(
    ({ what, linux }) => `${what} (Linux ${linux})`,
  );
  if (abi === 0) return { state: 'unavailable', abi, missing, reason };
  return { state: abi >= LANDLOCK_ABI_FULL ? 'full' : 'partial', abi, missing, reason: null };
}

/** One line: 'full (ABI 7)', 'partial (ABI 2): not truncating files (Linux 6.2), ...'. */
export function describeLandlock({ state, abi, missing, reason }: LandlockState): string {
  if (state === 'off') return 'off';
  if (state === 'unavailable') return `not available (${reason ?? 'this kernel has none'})`;
  return missing.length === 0
    ? `full (ABI ${abi})`
    : `partial (ABI ${abi}): not ${missing.join(', ')}`;
}
