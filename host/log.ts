// Log lines on stderr, below the guest's console on stdout. Only host/cli and engines call it.
import type { LOG_LEVELS } from './config.ts';

export type LogLevel = (typeof LOG_LEVELS)[number];

const RANK: Record<LogLevel, number> = { error: 0, warn: 1, info: 2, debug: 3 };

export type Log = (level: LogLevel, message: string) => void;

/** A log that drops what is less urgent than `threshold`. */
export function createLog(threshold: LogLevel): Log {
  return (level, message) => {
    // While the terminal is raw a bare newline does not return the cursor.
    if (RANK[level] <= RANK[threshold]) process.stderr.write(`faraday: ${message}\r\n`);
  };
}
