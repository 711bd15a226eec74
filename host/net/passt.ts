// The seam to passt, which serves a guest without any rights.
import { FaradayError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { NetRequest } from '../net-config.ts';

/** passt at work: the stream socket to it, and how to end it. The socket is the caller's. */
export interface Passt {
  fd: number;
  close(): void;
}

/** Starts passt for one network. */
export function startPasst(_request: NetRequest, _log: Log): Passt {
  throw new FaradayError('host', '--net-backend user is not available in this build');
}
