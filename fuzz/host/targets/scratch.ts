// Files for parsers that take a path.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Scratch {
  folder: string;
  /** Writes a file of the folder; returns its path. */
  write(name: string, bytes: Uint8Array): string;
  remove(): void;
}

/** A folder of its own, to be removed by whoever asked for it. */
export function scratch(): Scratch {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-fuzz-'));
  return {
    folder,
    write(name, bytes) {
      const path = join(folder, name);
      writeFileSync(path, bytes);
      return path;
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Takes bytes apart into pieces, each behind its kind u8 and its length u16. */
export function pieces(bytes: Uint8Array, countMax: number): [kind: number, body: Uint8Array][] {
  const found: [number, Uint8Array][] = [];
  for (let at = 0; at + 3 <= bytes.length && found.length < countMax; ) {
    const length = bytes[at + 1] | (bytes[at + 2] << 8);
    found.push([bytes[at], bytes.subarray(at + 3, at + 3 + length)]);
    at += 3 + length;
  }
  return found;
}

/** The bytes that pieces() takes apart. */
export function glued(...all: [kind: number, body: Uint8Array][]): Uint8Array {
  const parts = all.map(([kind, body]) => {
    return Buffer.concat([Buffer.of(kind, body.length & 0xff, body.length >> 8), body]);
  });
  return new Uint8Array(Buffer.concat(parts));
}
