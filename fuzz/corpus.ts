// Corpus and crashes as files. A corpus is one text for each target, programs parted by empty
// lines: fuzz/corpus/TARGET.txt in the repository, and what later searches found in build/fuzz/.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { type Program, parseProgram, printProgram } from './program.ts';
import type { Crash } from './session.ts';

const ROOT = join(import.meta.dirname, '..');
export const CORPUS_FOLDER = join(import.meta.dirname, 'corpus');

/** Where a search leaves what it found. */
export function reportFolder(target: string): string {
  return join(ROOT, 'build/fuzz', target);
}

/** Writes a file whole, or not at all. */
export function writeWhole(path: string, text: string): void {
  writeFileSync(`${path}.${process.pid}`, text);
  renameSync(`${path}.${process.pid}`, path);
}

function parsePrograms(text: string, path: string): Program[] {
  try {
    return text
      .split(/\n{2,}/)
      .filter((part) => part.trim() !== '')
      .map(parseProgram);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new FaradayError('bad-usage', `corpus '${path}': ${error.message}`);
  }
}

/** The programs of a file; none where there is no file. */
export function readPrograms(path: string): Program[] {
  return existsSync(path) ? parsePrograms(readFileSync(path, 'utf8'), path) : [];
}

/** The corpus of the repository, and what searches on this machine added. */
export function readCorpus(target: string): Program[] {
  const places = [join(CORPUS_FOLDER, `${target}.txt`), join(reportFolder(target), 'corpus.txt')];
  return places.flatMap(readPrograms);
}

export function writePrograms(path: string, programs: readonly Program[]): void {
  writeWhole(path, programs.map(printProgram).join('\n'));
}

/** Saves a crash as a program with what is wrong in a comment; returns the path. */
export function saveCrash(crash: Crash): string {
  const folder = reportFolder(crash.target);
  mkdirSync(folder, { recursive: true });
  const text = printProgram(crash.program);
  const id = createHash('sha256').update(text).digest('hex').slice(0, 8);
  const path = join(folder, `crash-${crash.kind}-${id}.txt`);
  writeWhole(path, `# ${crash.target}: ${crash.kind}, ${crash.detail}\n${text}`);
  return path;
}
