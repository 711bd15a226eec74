// What a user's mistake in the settings of a run must come to, for the tests of configuration.
import * as assert from 'uvu/assert';
import { EXIT_USAGE, FaradayError } from '../host/errors.ts';

/** The message of the usage error `act` must throw: one line, exit code 2. */
export function usageRefusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (!(error instanceof FaradayError)) throw error;
    assert.is(error.exitCode, EXIT_USAGE);
    assert.not.match(error.message, '\n');
    return error.message;
  }
  throw new Error('nothing was thrown');
}
