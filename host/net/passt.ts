// The seam to passt, which serves a guest without any rights.
import { FaradayError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { NetRequest } from '../net-config.ts';

/** The guest's MTU where nobody asks for one, in bytes. */
export const PASST_MTU = 65520;

/** The stream socket to passt, which ends when the last copy of it is closed. */
export interface Passt {
  fd: number;
}

/** Starts passt for one network. */
export function startPasst(_request: NetRequest, _log: Log): Passt {
  throw new FaradayError('host', '--net-backend user is not available in this build');
}
