// `faraday trace --html`: the built page with a recording put into it. The page takes the recording
// apart by itself, with the same code as the command.
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  openSync,
  readFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { FaradayError } from './errors.ts';
import { checkOutputPath } from './output-path.ts';
import type { Recording } from './replay/recording.ts';

const RECORDING_BYTES_MAX = 256 * 2 ** 20; // what a browser takes without trouble
const PRIVATE = 0o600; // the page holds what the recording holds: guest memory

function bad(path: string, finding: string): FaradayError {
  return new FaradayError('bad-usage', `--html '${path}' ${finding}`);
}

/** Reads to the end, or to where the file is damaged: then the message that says so. */
function readThrough(recording: Recording): { events: number; note: string } {
  let events = 0;
  try {
    for (const _ of recording.events()) events++;
  } catch (error) {
    if (!(error instanceof FaradayError) || events === 0) throw error;
    return { events, note: error.message };
  }
  return { events, note: '' };
}

const forScript = (value: unknown): string => JSON.stringify(value).replaceAll('<', '\\u003c');

function compose(recording: Recording, note: string): string {
  const template = readFileSync(join(import.meta.dirname, '../build/trace.html'), 'latin1');
  const bytes = recording.goodBytes();
  const parts: Record<string, string> = {
    '@ABOUT@': forScript({ name: basename(recording.path), note }),
    '@RECORDING@': deflateRawSync(bytes).toString('base64'),
  };
  return template.replace(/@ABOUT@|@RECORDING@/g, (place) => parts[place]);
}

function write(path: string, text: string): void {
  let fd: number | undefined;
  try {
    const { O_CREAT, O_NONBLOCK, O_TRUNC, O_WRONLY } = constants;
    fd = openSync(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_TRUNC, PRIVATE);
    if (!fstatSync(fd).isFile()) throw bad(path, 'is no regular file; name a file');
    fchmodSync(fd, PRIVATE); // one that was there may be anybody's to read
    const bytes = Buffer.from(text);
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
  } catch (error) {
    if (error instanceof FaradayError) throw error;
    throw bad(path, `cannot be written (${(error as NodeJS.ErrnoException).code})`);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * Writes the page of a recording to `path`; returns a line about it. One that was cut is shown as
 * far as it goes. Throws a FaradayError: 'bad-recording', or 'bad-usage' for the path.
 */
export function writePage(recording: Recording, path: string): string {
  checkOutputPath('--html', path, [recording.path]);
  if (recording.sizeBytes > RECORDING_BYTES_MAX) {
    const size = `${Math.ceil(recording.sizeBytes / 2 ** 20)} MiB`;
    throw recording.bad(`has ${size}, and a page takes 256 MiB; list a part with --from and --to`);
  }
  const { events, note } = readThrough(recording);
  write(path, compose(recording, note));
  return `${path}: ${events} events; open it in a browser${note && `. ${note}`}`;
}
