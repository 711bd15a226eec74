// What the process says: lines on stderr, below the guest's console on stdout, and the answers of
// verbs other than `run`. Only host/main.ts, host/cli and engines call it.
import type { LOG_LEVELS } from './config.ts';
import { EXIT_HOST } from './errors.ts';

export type LogLevel = (typeof LOG_LEVELS)[number];

const RANK: Record<LogLevel, number> = { error: 0, warn: 1, info: 2, debug: 3 };
const LINE_CHARACTERS_MAX = 1000;
const TAIL_CHARACTERS = 300; // of a line too long: the fix stands at its end

export type Log = (level: LogLevel, message: string) => void;

const UNSAFE = /[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu;

/**
 * JSON for a terminal: what JSON.stringify() leaves as it is and a terminal may obey is escaped in
 * its strings, which mean the same. Line feeds between values stay.
 */
export function plainJson(json: string): string {
  return json.replace(UNSAFE, (character) =>
    character === '\n' ? character : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/**
 * A message as one line for a terminal. What it quotes comes from outside: control characters, and
 * those that turn the direction of text, are spelled out; the middle of a very long line is not.
 */
export function oneLine(message: string): string {
  const plain = message.replace(UNSAFE, (character) => {
    const code = character.codePointAt(0)!.toString(16);
    return code.length > 2 ? `\\u${code}` : `\\x${code.padStart(2, '0')}`;
  });
  if (plain.length <= LINE_CHARACTERS_MAX) return plain;
  const head = plain.slice(0, LINE_CHARACTERS_MAX - TAIL_CHARACTERS);
  return `${head} [...] ${plain.slice(-TAIL_CHARACTERS)}`;
}

function write(stream: NodeJS.WriteStream, text: string, onError: (error: Error) => void): void {
  // Without a listener Node dies of a full disk or a reader that left, with a stack trace.
  if (stream.listenerCount('error') === 0) stream.on('error', onError);
  stream.write(text);
}

/** Writes to stderr. Where that fails there is nobody left to tell. */
export function printError(text: string): void {
  write(process.stderr, text, () => {});
}

/** Writes to stdout. A reader that left has seen enough; anything else makes the run a failure. */
export function printOutput(text: string): void {
  write(process.stdout, text, (error) => {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EPIPE') return;
    printError(`faraday: standard output cannot be written (${code}); the answer is incomplete\n`);
    process.exitCode = EXIT_HOST;
  });
}

/** A log that drops what is less urgent than `threshold`. */
export function createLog(threshold: LogLevel): Log {
  return (level, message) => {
    // While the terminal is raw a bare newline does not return the cursor.
    if (RANK[level] <= RANK[threshold]) printError(`faraday: ${oneLine(message)}\r\n`);
  };
}
