// The one error class: what the user sees is `message`, what scripts see is the exit code.

/** Process exit codes, as documented in docs/cli.md. */
export const EXIT_OK = 0; // the guest powered off or rebooted
export const EXIT_USAGE = 2; // bad usage or a bad input file
export const EXIT_HOST = 3; // this host cannot run it
export const EXIT_GUEST = 4; // the guest crashed
export const EXIT_INTERNAL = 5; // our own fault

export type ErrorCode =
  | 'bad-usage' // a flag, a configuration key or a combination of them
  | 'bad-kernel'
  | 'bad-initrd'
  | 'bad-disk'
  | 'bad-memory'
  | 'bad-recording'
  | 'divergence' // an engine did not do again what was recorded
  | 'host' // KVM missing, no rights, no memory, a tool that cannot be had
  | 'internal';

const EXIT_BY_CODE: Record<ErrorCode, number> = {
  'bad-usage': EXIT_USAGE,
  'bad-kernel': EXIT_USAGE,
  'bad-initrd': EXIT_USAGE,
  'bad-disk': EXIT_USAGE,
  'bad-memory': EXIT_USAGE,
  'bad-recording': EXIT_USAGE,
  divergence: EXIT_INTERNAL,
  host: EXIT_HOST,
  internal: EXIT_INTERNAL,
};

/** A failure with one clear line that names the field, the value and the fix. */
export class FaradayError extends Error {
  readonly code: ErrorCode;
  readonly exitCode: number;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.name = 'FaradayError';
    this.code = code;
    this.exitCode = EXIT_BY_CODE[code];
  }
}
