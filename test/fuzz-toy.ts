// A parser with a planted bug, and one that takes too much, for test/fuzz-host.test.ts. Constants
// are hidden: the dictionary is made of a parser's own, and would give them away.

const hidden = (byte: number): number => byte ^ 0x5a;

/** Throws a TypeError for what begins with 'FUZZ'. */
export function parseToy(bytes: Uint8Array): void {
  if (hidden(bytes[0]) === 0x1c) {
    if (hidden(bytes[1]) === 0x0f) {
      if (hidden(bytes[2]) === 0x00) {
        if (hidden(bytes[3]) === 0x00) {
          throw new TypeError(`planted at ${bytes.length} bytes`);
        }
      }
    }
  }
}

let kept: Uint8Array[] = [];

/** Takes 64 MiB for 'BIG', never ends for 'END'. */
export function parseGreedily(bytes: Uint8Array): void {
  const text = Buffer.from(bytes).toString('latin1');
  kept = text === 'BIG' ? [new Uint8Array(64 * 2 ** 20)] : [];
  for (; text === 'END'; );
}

export const keptBytes = (): number => kept.reduce((sum, { length }) => sum + length, 0);
